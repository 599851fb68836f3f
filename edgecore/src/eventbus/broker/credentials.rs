//! Who may come in by user name and password.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use config::Secret;
use proto::mqtt::Connect;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Why the passwords cannot be used.
#[derive(Debug, Error)]
pub enum BadPasswords {
    /// The file cannot be read.
    #[error("modules.eventBus.broker.passwordFile: cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("modules.eventBus.broker.passwordFile: {path} may be read by others (mode {mode:o}): chmod 600 {path}")]
    Mode {
        /// Which.
        path: String,
        /// As it is.
        mode: u32,
    },
    /// A line is no `name:password`.
    #[error("modules.eventBus.broker.passwordFile: line {line} of {path} is not name:password")]
    Line {
        /// Which file.
        path: String,
        /// From 1.
        line: usize,
    },
}

/// Users and digests of their passwords: comparing digests takes the same time whatever is wrong with a password.
#[derive(Clone, Default)]
pub(super) struct Users(HashMap<String, [u8; 32]>);

impl Users {
    /// Those of the configuration, and those of a file with a line `name:password` for each.
    pub(super) fn load(inline: &BTreeMap<String, Secret>, file: Option<&Path>) -> Result<Self, BadPasswords> {
        let mut users: HashMap<_, _> = inline
            .iter()
            .map(|(name, password)| (name.clone(), digest(password.expose().as_bytes())))
            .collect();
        if let Some(file) = file {
            let path = file.display().to_string();
            let failed = |source| BadPasswords::Read {
                path: path.clone(),
                source,
            };
            let mode = std::fs::metadata(file).map_err(failed)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(BadPasswords::Mode { path, mode });
            }
            let text = std::fs::read_to_string(file).map_err(failed)?;
            for (index, line) in text.lines().enumerate() {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let Some((name, password)) = line.split_once(':').filter(|(name, _)| !name.is_empty()) else {
                    return Err(BadPasswords::Line { path, line: index + 1 });
                };
                users.insert(name.to_owned(), digest(password.as_bytes()));
            }
        }
        Ok(Self(users))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client may come in; anybody, where no user was named.
    pub(super) fn admit(&self, connect: &Connect) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let given = digest(connect.password.as_deref().unwrap_or_default());
        let known = connect.user.as_deref().and_then(|user| self.0.get(user));
        known.is_some_and(|known| *known == given)
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn digest(password: &[u8]) -> [u8; 32] {
    Sha256::digest(password).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn connect(user: &str, password: &str) -> Connect {
        Connect {
            old: false,
            client: "c".into(),
            clean: true,
            keep_alive: 0,
            will: None,
            user: Some(user.into()),
            password: Some(bytes::Bytes::copy_from_slice(password.as_bytes())),
        }
    }

    #[test]
    fn names_and_passwords() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("users");
        std::fs::write(&file, "# mappers\nb:two:2\n\n")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let users = Users::load(&BTreeMap::from([("a".to_owned(), "one".into())]), Some(&file))?;
        assert!(users.admit(&connect("a", "one")) && users.admit(&connect("b", "two:2")));
        assert!(!users.admit(&connect("a", "two:2")) && !users.admit(&connect("", "")));
        assert!(Users::default().admit(&connect("x", "y")));

        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
        let error = Users::load(&BTreeMap::new(), Some(&file))
            .expect_err("others may read it")
            .to_string();
        assert!(error.contains("chmod 600"), "{error}");
        Ok(())
    }
}
