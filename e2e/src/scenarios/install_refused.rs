//! What `keadm join` refuses and edgecore complains of, and in which words. Only ours: the Go tool wants an image registry.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;

use super::Entry;
use super::install::{boot, forget, keadm_join, one_line, uplink_for};
use crate::api::{self, text};
use crate::edge::{FreshHost, Init, PROGRAMS, Uplink};
use crate::process;
use crate::system::{Context, System};

pub(super) const LIST: &[Entry] = &[("install_refused", false, refused)];

/// What cannot work is refused in one line that names it, by keadm before anything is written, by edgecore as it runs.
fn refused(context: &mut Context) -> Result<()> {
    let host = boot(context, "install-3", Init::Plain)?;
    let shared = context.system()?;
    let uplink = uplink_for(shared, &host)?;
    let token = |token: String| Uplink {
        token,
        ..uplink.clone()
    };
    let expired = sign(shared, 1_700_000_000)?;
    let forged = forge(&uplink.token)?;
    let elsewhere = uplink
        .token
        .split_once('.')
        .map(|(_, jwt)| format!("{}.{jwt}", "0".repeat(64)))
        .context("the token has two halves")?;
    let socket = ["--remote-runtime-endpoint", "unix:///run/nothing.sock"];
    let rows: &[(&str, Uplink, &[&str], &str)] = &[
        (
            "token of another cloud",
            token(elsewhere.clone()),
            &[],
            "the token belongs to another cloudcore",
        ),
        (
            "forged token",
            token(forged.clone()),
            &[],
            "cloudcore refuses the token",
        ),
        (
            "mistyped token",
            token("abc".into()),
            &[],
            "was a piece lost in copying?",
        ),
        ("expired token", token(expired.clone()), &[], "the token expired"),
        (
            "a name that is taken",
            uplink.clone(),
            &["--edgenode-name", shared.edge.name()],
            "node already exists",
        ),
        (
            "wrong hub port",
            Uplink {
                websocket: 1,
                ..uplink.clone()
            },
            &[],
            "hub",
        ),
        (
            "wrong certificate port",
            Uplink {
                https: 1,
                ..uplink.clone()
            },
            &[],
            "unreachable",
        ),
        (
            "no runtime socket",
            uplink.clone(),
            &socket,
            "no container runtime answers",
        ),
    ];
    for (what, uplink, more, says) in rows {
        let output = keadm_join(&host, uplink, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{what}: {}\n{said}", output.status);
        one_line(what, said.lines().filter(|line| line.starts_with("Error")), says)?;
        ensure!(
            !host.exists("/etc/kubeedge/config")? && !host.exists("/usr/local/bin/edgecore")?,
            "{what}: something was installed"
        );
        ensure!(api_has_no(shared, &host)?, "{what}: the node was registered");
    }
    let config = |uplink: &Uplink, runtime: &str| edgecore_yaml(&host, uplink, runtime);
    let (runtime, closed) = (host.runtime(), format!("{}:1", host.cloud_address()));
    let rows: [(&str, String, &str); 6] = [
        ("token of another cloud", config(&token(elsewhere), &runtime), "token"),
        ("forged token", config(&token(forged), &runtime), "token"),
        ("expired token", config(&token(expired), &runtime), "token"),
        (
            "wrong certificate port",
            config(
                &Uplink {
                    https: 1,
                    ..uplink.clone()
                },
                &runtime,
            ),
            &closed,
        ),
        (
            "wrong hub port",
            config(
                &Uplink {
                    websocket: 1,
                    ..uplink.clone()
                },
                &runtime,
            ),
            &closed,
        ),
        (
            "no runtime socket",
            config(&uplink, "unix:///run/nothing.sock"),
            "/run/nothing.sock",
        ),
    ];
    for (what, text, says) in rows {
        let (ended, said) = edgecore_until(&host, &text, says)?;
        // Pods may run on this node: edgecore goes on for them, whatever is wrong with the way to the cloud or the runtime.
        ensure!(!ended, "edgecore, {what}: ended\n{said}");
        let complaints = said
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .filter(|line| line.contains(says));
        one_line(what, complaints, says).with_context(|| format!("edgecore said:\n{said}"))?;
    }
    forget(shared, &host)
}

fn api_has_no(system: &System, host: &FreshHost) -> Result<bool> {
    Ok(system.api().get(&api::node_path(host.name()))?.is_none())
}

/// A token with the right key and this end.
fn sign(system: &System, expires: u64) -> Result<String> {
    let engine = base64::engine::general_purpose::STANDARD;
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let secret = system.api().must("/api/v1/namespaces/kubeedge/secrets/casecret")?;
    let key = engine.decode(text(&secret, "/data/cakeydata"))?;
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let header = url.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = url.encode(format!(r#"{{"exp":{expires}}}"#));
    let mut command = Command::new("openssl");
    command.args([
        "dgst",
        "-sha256",
        "-mac",
        "HMAC",
        "-macopt",
        &format!("hexkey:{hex}"),
        "-r",
    ]);
    let printed = process::feed(&mut command, &format!("{header}.{claims}"))?;
    let digest = printed.split_whitespace().next().unwrap_or_default();
    let bytes: Vec<u8> = (0..digest.len() / 2)
        .filter_map(|index| u8::from_str_radix(digest.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect();
    let token = system.cloud.token()?;
    let authority = token.split_once('.').context("the token has two halves")?.0;
    Ok(format!("{authority}.{header}.{claims}.{}", url.encode(bytes)))
}

/// The same token with another signature.
fn forge(token: &str) -> Result<String> {
    let (rest, signature) = token.rsplit_once('.').context("the token has parts")?;
    let turned: String = signature.chars().rev().collect();
    Ok(format!("{rest}.{turned}"))
}

/// edgecore.yaml as somebody writes it by hand.
fn edgecore_yaml(host: &FreshHost, uplink: &Uplink, runtime: &str) -> String {
    let (cloud, name) = (host.cloud_address(), host.name());
    let Uplink {
        websocket,
        https,
        token,
        ..
    } = uplink;
    format!(
        r#"apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
modules:
  edgeHub:
    httpServer: https://{cloud}:{https}
    token: "{token}"
    websocket: {{enable: true, server: "{cloud}:{websocket}"}}
  edged:
    hostnameOverride: {name}
    tailoredKubeletConfig: {{containerRuntimeEndpoint: "{runtime}", imageServiceEndpoint: "{runtime}"}}
"#
    )
}

/// Runs edgecore on a host without certificates until it complains of something, and a moment longer: whether it ended by itself, and
/// what it said.
fn edgecore_until(host: &FreshHost, yaml: &str, says: &str) -> Result<(bool, String)> {
    const SCRIPT: &str = r#"rm -rf /etc/kubeedge /var/lib/kubeedge; mkdir -p /etc/kubeedge/config; umask 077
printf %s "$1" > /etc/kubeedge/config/edgecore.yaml
"$2/edgecore" > /tmp/edgecore.log 2>&1 & pid=$!
for ((look = 0; look < 500; look++)); do
  grep -E ' (WARN|ERROR) ' /tmp/edgecore.log | grep -qF -- "$3" && break
  kill -0 $pid 2> /dev/null || break
  sleep 0.1
done
sleep 2 # in which it would say it again
ended=0; kill -TERM $pid 2> /dev/null || ended=1
wait $pid
cat /tmp/edgecore.log; rm -rf /etc/kubeedge /var/lib/kubeedge; exit $ended"#;
    let output = host.output("bash", &["-c", SCRIPT, "edgecore", yaml, PROGRAMS, says])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((!output.status.success(), said))
}
