//! What is shown, and the choice at a handshake.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::informers::Host;

/// All that can be shown. One task writes each half, handshakes read.
#[derive(Default)]
pub(super) struct Shown {
    /// The operator's: goes before all else.
    files: RwLock<Option<Arc<CertifiedKey>>>,
    issued: RwLock<Issued>,
    /// Shown where neither files nor an issued one will do.
    fallback: Option<Arc<dyn ResolvesServerCert>>,
}

#[derive(Default)]
struct Issued {
    /// By group; the first one is for everybody whose destination is not known.
    groups: Vec<Option<Arc<CertifiedKey>>>,
    /// Which group names a host.
    places: HashMap<Host, usize>,
}

impl Shown {
    pub(super) fn with_fallback(fallback: Arc<dyn ResolvesServerCert>) -> Self {
        Self {
            fallback: Some(fallback),
            ..Self::default()
        }
    }

    pub(super) fn set_files(&self, key: Option<Arc<CertifiedKey>>) {
        *self.files.write() = key;
    }

    /// Exchanges the certificate of a group.
    pub(super) fn put(&self, group: usize, key: Arc<CertifiedKey>) {
        let groups = &mut self.issued.write().groups;
        if groups.len() <= group {
            groups.resize(group + 1, None);
        }
        if let Some(slot) = groups.get_mut(group) {
            *slot = Some(key);
        }
    }

    pub(super) fn set_places(&self, places: HashMap<Host, usize>) {
        let old = std::mem::replace(&mut self.issued.write().places, places);
        // A large map is taken apart outside of the lock.
        drop(old);
    }

    pub(super) fn place(&self, host: &Host) -> Option<usize> {
        self.issued.read().places.get(host).copied()
    }

    /// The certificate for a destination.
    pub(super) fn get(&self, destination: Option<&Host>) -> Option<Arc<CertifiedKey>> {
        if let Some(key) = &*self.files.read() {
            return Some(key.clone());
        }
        let issued = self.issued.read();
        let of_group = |group: usize| issued.groups.get(group).cloned().flatten();
        let place = destination.and_then(|host| issued.places.get(host));
        place.and_then(|group| of_group(*group)).or_else(|| of_group(0))
    }
}

/// The choice for one connection, or for all.
pub(super) struct Chosen {
    shown: Arc<Shown>,
    destination: Option<Host>,
}

impl Chosen {
    pub(super) const fn new(shown: Arc<Shown>, destination: Option<Host>) -> Self {
        Self { shown, destination }
    }
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A name that the client gives is what it will verify, whatever the way it came.
        let named = hello.server_name().map(Host::parse);
        let chosen = self.shown.get(named.as_ref().or(self.destination.as_ref()));
        match (chosen, &self.shown.fallback) {
            (None, Some(fallback)) => fallback.resolve(hello),
            (chosen, _) => chosen,
        }
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}
