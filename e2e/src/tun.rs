//! A TUN interface in a given network namespace: packets as a file. The only unsafe code of this crate.
#![allow(unsafe_code, reason = "TUNSETIFF is an ioctl with a struct")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

const IFF_TUN: u16 = 0x0001;
/// No four bytes of packet information in front of each packet.
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

mod call {
    use super::InterfaceRequest;

    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        InterfaceRequest
    );
}

/// Opens a new TUN interface; it lives as long as the file. With `netns` it is made in that network namespace.
pub(crate) fn open(name: &str, netns: Option<PathBuf>) -> Result<File> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // A thread of its own, because entering a namespace is for a thread's whole life.
    let opened = std::thread::spawn(move || -> Result<File> {
        if let Some(path) = netns {
            let namespace = File::open(&path).with_context(|| format!("{}", path.display()))?;
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).context("setns")?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("/dev/net/tun")?;
        // SAFETY: the descriptor is open for the call, the struct has the layout and size that TUNSETIFF reads, and the
        // kernel keeps no pointer to it.
        unsafe { call::set_interface(file.as_raw_fd(), &raw const request) }.context("TUNSETIFF")?;
        Ok(file)
    });
    opened
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that opens a TUN interface panicked"))?
}
