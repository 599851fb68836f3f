use std::collections::HashMap;
use std::path::Path;

use futures::future::BoxFuture;
use proto::join::{Token, verify_jwt};

use super::*;
use crate::cloudhub::tests::settings;

/// Secrets in memory, with versions.
#[derive(Default)]
pub(crate) struct Memory {
    secrets: Mutex<HashMap<String, Stored>>,
}

impl SecretStore for Memory {
    fn ensure_namespace(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stored>, SecretError>> {
        Box::pin(async move { Ok(self.secrets.lock().get(name).cloned()) })
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        stored: Option<&'a Stored>,
        data: &'a Data,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        Box::pin(async move {
            let mut secrets = self.secrets.lock();
            if secrets.get(name).map(|present| &present.version) != stored.map(|stored| &stored.version) {
                return Err(SecretError::Changed);
            }
            let version = stored.map_or_else(|| "1".to_owned(), |stored| format!("{}1", stored.version));
            secrets.insert(
                name.to_owned(),
                Stored {
                    version,
                    data: data.clone(),
                },
            );
            Ok(())
        })
    }
}

impl Memory {
    fn get(&self, name: &str, key: &str) -> Vec<u8> {
        self.secrets
            .lock()
            .get(name)
            .expect("secret is there")
            .data
            .get(key)
            .expect("key is there")
            .clone()
    }
}

#[tokio::test]
async fn makes_three_secrets_and_keeps_them_over_a_restart() {
    let secrets = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    Identity::load(&settings, secrets.clone()).await.unwrap();
    let ca = secrets.get(CA_SECRET, "cadata");
    let key = secrets.get(CA_SECRET, "cakeydata");
    let server = secrets.get(SERVER_SECRET, "cloudcoredata");
    let token = String::from_utf8(secrets.get(TOKEN_SECRET, "tokendata")).unwrap();
    let token = Token::parse(&token).unwrap();
    assert!(token.names_ca(&ca));
    assert_eq!(verify_jwt(token.jwt(), &key, unix_now().as_secs()), Ok(()));

    let again = Identity::load(&settings, secrets.clone()).await.unwrap();
    assert_eq!(secrets.get(CA_SECRET, "cadata"), ca);
    assert_eq!(secrets.get(SERVER_SECRET, "cloudcoredata"), server);
    assert_eq!(
        verify_jwt(token.jwt(), again.authority().key(), unix_now().as_secs()),
        Ok(())
    );

    settings.advertise_addresses = vec!["192.0.2.9".parse().unwrap()];
    Identity::load(&settings, secrets.clone()).await.unwrap();
    let names = ServerNames::of_certificate(&secrets.get(SERVER_SECRET, "cloudcoredata")).unwrap();
    assert_eq!(
        names.addresses.len(),
        2,
        "the old address stays for the other replicas: {names:?}"
    );
}

#[tokio::test]
async fn an_address_that_comes_later_is_named_while_serving() {
    let secrets = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::load(&settings(folder.path()), secrets.clone()).await.unwrap();
    let server = || secrets.get(SERVER_SECRET, "cloudcoredata");
    let first = server();
    identity.reload(&[]).await.unwrap();
    assert_eq!(server(), first);
    let own: [IpAddr; 2] = ["192.0.2.9", "fd00::9"].map(|ip| ip.parse().unwrap());
    identity.reload(&own).await.unwrap();
    let second = server();
    let names = ServerNames::of_certificate(&second).unwrap();
    assert!(own.iter().all(|ip| names.addresses.contains(ip)), "{names:?}");
    let stored = secrets.read(SERVER_SECRET).await.unwrap().unwrap();
    let pair = pair_of(SERVER_SECRET, &stored, "cloudcoredata", "cloudcorekeydata").unwrap();
    assert!(!identity.shared.server.replace(&pair).unwrap(), "it is served already");
    identity.reload(&own[..1]).await.unwrap();
    assert_eq!(server(), second, "the name of an address that went stays");
}

#[tokio::test]
async fn replicas_that_start_at_once_agree() {
    let secrets = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let (one, two) = tokio::join!(
        Identity::load(&settings, secrets.clone()),
        Identity::load(&settings, secrets.clone())
    );
    assert_eq!(one.unwrap().ca(), two.unwrap().ca());
}

#[tokio::test]
async fn local_files_go_first_and_half_a_pair_is_an_error() {
    let secrets = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let authority = Authority::generate(unix_now()).unwrap();
    let pem = |kind: &str, der: &[u8]| {
        use base64::Engine as _;
        format!(
            "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
            base64::engine::general_purpose::STANDARD.encode(der)
        )
    };
    let write = |path: &Path, text: String| std::fs::write(path, text).unwrap();
    write(&settings.ca_file, pem("CERTIFICATE", authority.certificate()));
    let half = Identity::load(&settings, secrets.clone()).await;
    assert!(matches!(half.err(), Some(IdentityError::Half { .. })));
    write(&settings.ca_key_file, pem("EC PRIVATE KEY", authority.key()));
    let identity = Identity::load(&settings, secrets.clone()).await.unwrap();
    assert_eq!(identity.ca(), authority.certificate());
    assert_eq!(secrets.get(CA_SECRET, "cakeydata"), authority.key());
}
