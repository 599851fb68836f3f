//! The files of an edge host, and the process that holds its mount namespace.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Keys, PAUSE, Uplink};
use crate::hosts::HostNumber;
use crate::process::Daemon;
use crate::wait;

/// edgecore.yaml with the keys that every KubeEdge understands. `ipv6`: the host has nothing else towards the cloud.
pub(super) fn edgecore(
    folder: &Path,
    name: &str,
    (number, ipv6): (HostNumber, bool),
    uplink: &Uplink,
    keys: &Keys,
    quic: bool,
) -> String {
    let quic_port = uplink.quic();
    let folder = folder.display();
    let cgroup = number.cgroup().root();
    let (cloud, address) = if ipv6 {
        (format!("[{}]", number.cloud_address_v6()), number.address_v6())
    } else {
        (number.cloud_address(), number.address())
    };
    let address = if keys.without_address {
        String::new()
    } else {
        format!("    nodeIP: \"{address}\"\n")
    };
    let Uplink {
        websocket,
        https,
        stream: _,
        tunnel,
        token,
    } = uplink;
    let lines = |all: &[String], indent| -> String { all.iter().map(|line| format!("{indent}{line}\n")).collect() };
    let (edged, kubelet) = (lines(&keys.edged, "    "), lines(&keys.kubelet, "      "));
    let twin = match lines(&keys.twin, "    ") {
        keys if keys.is_empty() => keys,
        keys => format!("  deviceTwin:\n{keys}"),
    };
    let internal = ["mqttMode: 0".to_owned()];
    let bus = lines(if keys.bus.is_empty() { &internal } else { &keys.bus }, "    ");
    format!(
        r#"apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
database:
  dataSource: /var/lib/kubeedge/edgecore.db
modules:
  edgeHub:
    httpServer: "https://{cloud}:{https}"
    token: "{token}"
    quic:
      enable: {quic}
      server: "{cloud}:{quic_port}"
    websocket:
      enable: true
      server: "{cloud}:{websocket}"
  edgeStream:
    enable: true
    server: "{cloud}:{tunnel}"
  edged:
    hostnameOverride: {name}
{address}    podSandboxImage: {PAUSE}
    # v1.12 looks for docker without these three; later releases have no use for them.
    containerRuntime: remote
    remoteRuntimeEndpoint: unix://{folder}/containerd.sock
    remoteImageEndpoint: unix://{folder}/containerd.sock
    rootDirectory: {folder}/kubelet
{edged}    tailoredKubeletConfig:
      containerRuntimeEndpoint: unix://{folder}/containerd.sock
      imageServiceEndpoint: unix://{folder}/containerd.sock
      cgroupDriver: cgroupfs
      cgroupRoot: {cgroup}
      podLogsDir: {folder}/logs/pods
      readOnlyPort: 10350
      evictionHard:
        imagefs.available: 1%
        imagefs.inodesFree: 1%
        memory.available: 50Mi
        nodefs.available: 1%
        nodefs.inodesFree: 1%
      failSwapOn: false
      imageGCHighThresholdPercent: 100
      makeIPTablesUtilChains: false
      maxOpenFiles: 4096
      oomScoreAdj: 0
{kubelet}{twin}  eventBus:
{bus}"#
    )
}

/// The CNI network of an edge's containerd.
pub(super) fn network(folder: &Path, number: HostNumber) -> Result<()> {
    let pods = number.pod_prefix();
    std::fs::write(
        folder.join("cni/conf/10-edge.conflist"),
        format!(
            r#"{{"cniVersion": "0.4.0", "name": "edge", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{pods}.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#
        ),
    )?;
    Ok(())
}

/// containerd's configuration, with the folder of its CNI networks.
pub(super) fn containerd(folder: &Path, networks: &Path) -> Result<()> {
    let (path, networks) = (folder.display(), networks.display());
    let bin = std::env::var("CNI_BIN").unwrap_or_else(|_| "/usr/lib/cni".to_owned());
    // nri: from 1.7 on, a socket that all on the machine would share.
    // restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE refuses negative scores, and with them every sandbox.
    std::fs::write(
        folder.join("containerd.toml"),
        format!(
            r#"version = 2
root = "{path}/containerd"
state = "{path}/state"
[grpc]
  address = "{path}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{path}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{bin}"
  conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"#
        ),
    )?;
    Ok(())
}

/// Starts the process that holds the host's mount namespace; all others enter it by this one's pid. A new mount namespace
/// copies the mounts of other nodes' pods and would keep them alive, so it drops those first. /etc and /var/lib are overlays, because a
/// mount vanishes when somebody on the machine removes the folder under it.
pub(super) fn start_holder(folder: &Path, number: HostNumber) -> Result<Daemon> {
    const SCRIPT: &str = r#"echo $$ > "$2"; edge=$1
tac /proc/self/mounts | while read -r _ path type _; do
  case $type:$path in nsfs:*|*/io.containerd.*|*:/var/lib/kubelet/*|*/kubelet/pods/*) umount -l "$path" || true ;; esac
done
mkdir -p "$edge"/overlay/{etc,etc-work,lib,lib-work}
overlay() { mount -t overlay -o "lowerdir=$1,upperdir=$edge/overlay/$2,workdir=$edge/overlay/$2-work" overlay "$1"; }
overlay /etc etc; overlay /var/lib lib
mkdir -p /run/netns /run/containerd /var/lib/cni /var/lib/kubelet /var/log/containers /etc/kubeedge /var/lib/kubeedge
mount -t tmpfs -o mode=755 tmpfs /run/netns; mount -t tmpfs -o mode=711 tmpfs /run/containerd
mount --bind "$edge/cni/lib" /var/lib/cni
mount --bind "$edge/kubelet" /var/lib/kubelet
mount --bind "$edge/logs/containers" /var/log/containers
mount --bind "$edge/etc" /etc/kubeedge
mount --bind "$edge/var" /var/lib/kubeedge
mount --make-rshared /
echo ready > "$edge/ready"
exec sleep infinity"#;
    for leftover in ["state", "ready", "containerd.sock", "containerd.sock.ttrpc"] {
        let path = folder.join(leftover);
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
    }
    number.cgroup().create()?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", number.netns_path().display()));
    command.args([
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-ec",
        SCRIPT,
        "hold",
    ]);
    command.arg(folder).arg(number.cgroup().system_procs());
    let mut holder = Daemon::start(folder, "host", &mut command)?;
    let ready = wait::quietly("the edge's mount namespace", wait::seconds(60), || {
        anyhow::ensure!(holder.alive(), "the process that makes it ended");
        Ok(folder.join("ready").exists().then_some(()))
    });
    ready.with_context(|| holder.tail())?;
    Ok(holder)
}
