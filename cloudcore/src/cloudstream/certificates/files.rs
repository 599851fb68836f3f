//! The operator's certificate: shown while it is good, exchanged when the files change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use common::tls::client::{ClientTlsError, certificates, private_key};
use common::tls::server::certified_key;
use proto::join::Validity;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tracing::{info, warn};

use super::CertificateFiles;
use super::chosen::Shown;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate that ends so soon is warned about.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Why files are not used.
#[derive(Debug, Error)]
enum BadFiles {
    #[error("{present} is there but {absent} is not: provide both, or neither to have a certificate issued")]
    Half { present: String, absent: String },
    #[error(transparent)]
    Unreadable(#[from] ClientTlsError),
    #[error("certificate and key do not belong together")]
    Unfit(#[source] rustls::Error),
    #[error("the certificate's dates cannot be read")]
    Undated,
}

struct Good {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

/// The two files of a server.
pub(super) struct Files {
    server: &'static str,
    paths: CertificateFiles,
    seen: Option<[Stamp; 2]>,
    good: Option<Good>,
    /// What the last look said about dates, so that each thing is said once.
    dates: Dates,
}

/// Size, change and identity of a file; `None` when it is not there.
type Stamp = Option<(u64, i64, i64, u64)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dates {
    Good,
    EndSoon,
    Wrong,
}

impl Files {
    pub(super) const fn new(server: &'static str, paths: CertificateFiles) -> Self {
        Self {
            server,
            paths,
            seen: None,
            good: None,
            dates: Dates::Good,
        }
    }

    /// What is to be shown now (Unix time).
    pub(super) fn look(&mut self, now: Duration) -> Option<Arc<CertifiedKey>> {
        let stamps = [stamp(&self.paths.certificate), stamp(&self.paths.key)];
        if self.seen != Some(stamps) {
            self.seen = Some(stamps);
            self.read(stamps);
        }
        let Good { key, validity } = self.good.as_ref()?;
        let dates = match validity {
            validity if !validity.holds(now) => Dates::Wrong,
            validity if validity.until.saturating_sub(now) < SOON => Dates::EndSoon,
            _ => Dates::Good,
        };
        if dates != self.dates {
            self.dates = dates;
            self.tell_dates(*validity, now);
        }
        (dates != Dates::Wrong).then(|| key.clone())
    }

    fn read(&mut self, stamps: [Stamp; 2]) {
        let (server, file) = (self.server, self.paths.certificate.display());
        match read(&self.paths, stamps) {
            Ok(Some(good)) => {
                info!(server, %file, "certificate of the operator's files");
                self.dates = Dates::Good;
                self.good = Some(good);
            }
            Ok(None) => {
                if self.good.take().is_some() {
                    info!(server, %file, "the operator's certificate is gone, an issued one is shown");
                }
            }
            // Often only one of two files was replaced so far.
            Err(error) => warn!(
                server, %file, error = %common::chain(&error),
                "the operator's certificate cannot be used: {} is shown",
                if self.good.is_some() { "the one before it" } else { "an issued one" }
            ),
        }
    }

    fn tell_dates(&self, validity: Validity, now: Duration) {
        let (server, file) = (self.server, self.paths.certificate.display());
        match self.dates {
            Dates::Good => info!(server, %file, "the operator's certificate is good by its dates"),
            Dates::EndSoon => {
                let hours = validity.until.saturating_sub(now).as_secs() / 3600;
                warn!(server, %file, days = hours / 24, hours, "the operator's certificate ends soon: replace the files");
            }
            Dates::Wrong => {
                let what = if now < validity.from {
                    "not valid yet"
                } else {
                    "expired"
                };
                warn!(server, %file, "the operator's certificate is {what}: an issued one is shown until the files are replaced");
            }
        }
    }
}

/// Looks at once, so that the first handshake sees the files, and then for ever.
pub(super) fn keep(mut files: Files, shown: Arc<Shown>, clock: impl Fn() -> Duration + Send + 'static, tasks: &Tasks) {
    shown.set_files(files.look(clock()));
    tasks.spawn("certificate files", async move {
        loop {
            tokio::time::sleep(LOOK).await;
            shown.set_files(files.look(clock()));
        }
    });
}

fn read(paths: &CertificateFiles, stamps: [Stamp; 2]) -> Result<Option<Good>, BadFiles> {
    let half = |present: &Path, absent: &Path| BadFiles::Half {
        present: present.display().to_string(),
        absent: absent.display().to_string(),
    };
    match stamps {
        [None, None] => return Ok(None),
        [Some(_), None] => return Err(half(&paths.certificate, &paths.key)),
        [None, Some(_)] => return Err(half(&paths.key, &paths.certificate)),
        [Some(_), Some(_)] => {}
    }
    let chain = certificates(&paths.certificate)?;
    let key = private_key(&paths.key)?;
    let validity = chain.first().and_then(|leaf| Validity::of_certificate(leaf));
    Ok(Some(Good {
        validity: validity.ok_or(BadFiles::Undated)?,
        key: certified_key(chain, &key).map_err(BadFiles::Unfit)?,
    }))
}

fn stamp(path: &Path) -> Stamp {
    let of = |file: Metadata| (file.len(), file.mtime(), file.mtime_nsec(), file.ino());
    std::fs::metadata(path).ok().map(of)
}
