//! The cloud host: the machine itself, with a mount namespace of its own so that /etc/kubeedge and /var/lib/kubeedge are the
//! run's, and the cloudcore under test.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use base64::Engine as _;

use crate::api::{Api, text};
use crate::cluster::{Cluster, free_ports};
use crate::edge::Uplink;
use crate::fleet;
use crate::process::{self, Daemon};
use crate::run;
use crate::settings::{self, Settings, program};
use crate::{wait, way_in};

/// Cloudcore itself keeps the redirect rules of the run's network namespace.
pub const REDIRECTS: &str = "enable: true, mode: internal";

/// The ports of one cloudcore; several may run on a machine.
#[derive(Clone, Copy, Debug)]
struct Ports {
    websocket: u16,
    monitor: u16,
}

impl Ports {
    fn quic(self) -> u16 {
        self.websocket + 1
    }

    fn https(self) -> u16 {
        self.websocket + 2
    }

    fn stream(self) -> u16 {
        self.websocket + 3
    }

    fn tunnel(self) -> u16 {
        self.websocket + 4
    }

    fn webhook(self) -> u16 {
        self.websocket + 6
    }
}

/// A cloudcore. Dropping it stops it.
pub struct CloudHost {
    folder: PathBuf,
    settings: Settings,
    api: Api,
    ports: Ports,
    kubeconfig: PathBuf,
    advertise: Vec<String>,
    node_limit: u32,
    hub_keys: String,
    stream_keys: String,
    device_keys: String,
    redirects: String,
    webhook: bool,
    cloudcore: Option<Daemon>,
    keep: bool,
}

impl CloudHost {
    /// Prepares a cloudcore below `run`: its folders, ports and what it needs in the API.
    pub fn new(settings: &Settings, run: &Path, cluster: &Cluster) -> Result<Self> {
        let folder = run.join("cloud");
        for part in ["etc/config", "var"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        std::fs::create_dir_all(run::base())?;
        let _lock = process::lock(&run::base().join("lock"))?;
        let ports = Ports {
            websocket: free_ports(10000, 10, 7)?,
            monitor: free_ports(9091, 1, 1)?,
        };
        apply_crds(settings, cluster)?;
        Ok(Self {
            folder,
            settings: settings.clone(),
            api: cluster.api().clone(),
            ports,
            kubeconfig: cluster.kubeconfig().to_owned(),
            // Every edge reaches the cloud at its own end of its own link.
            advertise: (0..8).map(|number| format!("10.250.{number}.1")).collect(),
            node_limit: 500,
            hub_keys: String::new(),
            stream_keys: String::new(),
            device_keys: String::new(),
            redirects: REDIRECTS.to_owned(),
            webhook: true,
            cloudcore: None,
            keep: false,
        })
    }

    /// Uses another kubeconfig than the administrator's, for example a service account's.
    pub fn set_kubeconfig(&mut self, kubeconfig: &Path) {
        kubeconfig.clone_into(&mut self.kubeconfig);
    }

    /// Advertises this address before all others from the next start on.
    pub fn advertise_first(&mut self, address: String) {
        self.advertise.retain(|known| *known != address);
        self.advertise.insert(0, address);
    }

    /// Sets `nodeLimit` from the next start on.
    pub fn set_node_limit(&mut self, limit: u32) {
        self.node_limit = limit;
    }

    /// Adds a line to the section cloudHub from the next start on; empty for none.
    pub fn set_hub_key(&mut self, line: &str) {
        line.clone_into(&mut self.hub_keys);
    }

    /// Adds a line to the section cloudStream from the next start on; empty for none.
    pub fn set_stream_key(&mut self, line: &str) {
        line.clone_into(&mut self.stream_keys);
    }

    /// Sets keys of the section deviceController that only ours has, from the next start on; empty for none.
    pub fn set_device_keys(&mut self, keys: &str) {
        keys.clone_into(&mut self.device_keys);
    }

    /// Sets the keys of the section iptablesManager from the next start on.
    pub fn set_redirects(&mut self, keys: &str) {
        keys.clone_into(&mut self.redirects);
    }

    /// Whether the webhook of devices runs, from the next start on.
    pub fn set_webhook(&mut self, enable: bool) {
        self.webhook = enable;
    }

    /// Address of the stream server.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("127.0.0.1:{}", self.ports.stream())
    }

    /// Port for an egress endpoint, where a scenario wants one.
    #[must_use]
    pub fn egress_port(&self) -> u16 {
        self.ports.websocket + 5
    }

    /// Port of the webhook of devices.
    #[must_use]
    pub fn webhook_port(&self) -> u16 {
        self.ports.webhook()
    }

    /// The log of cloudcore so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("cloudcore.log")).unwrap_or_default()
    }

    /// Makes sure that an edge's address is advertised; true if cloudcore has to be started again for it.
    pub fn advertise(&mut self, address: String) -> bool {
        let new = !self.advertise.contains(&address);
        if new {
            self.advertise.push(address);
        }
        new
    }

    /// Leaves it running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Its folder: `etc` is its /etc/kubeedge.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Address of /healthz, /readyz and /metrics.
    #[must_use]
    pub fn monitor(&self) -> String {
        format!("127.0.0.1:{}", self.ports.monitor)
    }

    /// `ours`: Go's QUIC is another protocol.
    fn config(&self, ours: bool) -> String {
        let (kubeconfig, monitor, limit) = (self.kubeconfig.display(), self.monitor(), self.node_limit);
        let (websocket, quic, https) = (self.ports.websocket, self.ports.quic(), self.ports.https());
        let (stream, tunnel) = (self.ports.stream(), self.ports.tunnel());
        let advertise: Vec<String> = self.advertise.iter().map(|address| format!("{address:?}")).collect();
        let (advertise, more, stream_keys) = (advertise.join(", "), &self.hub_keys, &self.stream_keys);
        let redirects = &self.redirects;
        // Go's warns of keys that it does not know, and has rules. The API server is on this machine, as a rule.
        let (port, enable) = (self.ports.webhook(), self.webhook);
        let module = if ours {
            format!(
                "webhook: {{enable: {enable}, address: 127.0.0.1, port: {port}, url: \"https://127.0.0.1:{port}\"}}"
            )
        } else {
            "router: {enable: true}".to_owned()
        };
        let devices = match self.device_keys.as_str() {
            keys if ours && !keys.is_empty() => format!("deviceController: {{enable: true, {keys}}}"),
            _ => String::new(),
        };
        format!(
            r#"apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
commonConfig:
  monitorServer:
    bindAddress: {monitor}
kubeAPIConfig:
  kubeConfig: {kubeconfig}
modules:
  cloudHub:
    advertiseAddress: [{advertise}]
    nodeLimit: {limit}
    {more}
    https:
      port: {https}
    quic:
      enable: {ours}
      port: {quic}
    websocket:
      enable: true
      port: {websocket}
  cloudStream:
    enable: true
    streamPort: {stream}
    tunnelPort: {tunnel}
    {stream_keys}
  dynamicController:
    enable: false
  iptablesManager: {{{redirects}}}
  {module}
  {devices}
"#
        )
    }

    /// Starts cloudcore from the folder of the cloud's programs and waits until it serves edges.
    pub fn start(&mut self) -> Result<()> {
        const SCRIPT: &str = r#"mkdir -p "$1"/overlay/{etc,etc-work,lib,lib-work}
overlay() { mount -t overlay -o "lowerdir=$1,upperdir=$3/overlay/$2,workdir=$3/overlay/$2-work" overlay "$1"; }
overlay /etc etc "$1"; overlay /var/lib lib "$1"
mkdir -p /etc/kubeedge /var/lib/kubeedge
mount --bind "$1/etc" /etc/kubeedge; mount --bind "$1/var" /var/lib/kubeedge
shift; exec "$@""#;
        let program = program(&self.settings.cloud, "cloudcore")?;
        let ours = settings::is_ours(&program);
        std::fs::write(self.folder.join("etc/config/cloudcore.yaml"), self.config(ours))?;
        if !ours {
            way_in::stream_certificate(&self.folder.join("etc"))?;
        }
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "bash", "-ec", SCRIPT, "cloud"])
            .arg(&self.folder);
        command
            .arg(program)
            .args(["--config", "/etc/kubeedge/config/cloudcore.yaml"]);
        let mut daemon = Daemon::start(&self.folder, "cloudcore", &mut command)?;
        let ready = wait::until("cloudcore ready", wait::seconds(120), || {
            if !daemon.alive() {
                return Ok(Some(false));
            }
            Ok((!self.token()?.is_empty() && self.ready()).then_some(true))
        });
        let ready = ready.and_then(|alive| {
            anyhow::ensure!(alive, "cloudcore ended");
            Ok(())
        });
        let tail = daemon.tail();
        self.cloudcore = Some(daemon);
        ready.with_context(|| format!("cloudcore's log ends with:\n{tail}"))
    }

    /// /readyz where there is one (Go's cloudcore has none), else open ports.
    fn ready(&self) -> bool {
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let status = http_status(&self.monitor(), "/readyz");
        match status.as_deref() {
            Ok("200") => true,
            Ok("404") | Err(_) => open(self.ports.websocket) && open(self.ports.https()),
            Ok(_) => false,
        }
    }

    /// The running cloudcore.
    pub fn cloudcore(&mut self) -> Result<&mut Daemon> {
        self.cloudcore.as_mut().context("cloudcore was not started")
    }

    /// `kill -9` of cloudcore.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.cloudcore.take() {
            daemon.kill();
        }
    }

    /// Stops cloudcore in the orderly way.
    pub fn stop(&mut self) -> Result<()> {
        self.cloudcore
            .take()
            .map_or(Ok(()), |mut daemon| daemon.stop(wait::seconds(30)))
    }

    /// The join token, from the secret where operators find it.
    pub fn token(&self) -> Result<String> {
        let secret = self.api.must("/api/v1/namespaces/kubeedge/secrets/tokensecret")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text(&secret, "/data/tokendata"))?;
        Ok(String::from_utf8(bytes)?)
    }

    /// What an edge needs to join.
    pub fn uplink(&self) -> Result<Uplink> {
        Ok(Uplink {
            websocket: self.ports.websocket,
            https: self.ports.https(),
            stream: self.ports.stream(),
            tunnel: self.ports.tunnel(),
            token: self.token()?,
        })
    }

    /// The cloud as a fleet of simulated edges needs to know it, with the key of its CA.
    pub fn authority(&self) -> Result<fleet::Cloud> {
        let secret = self.api.must("/api/v1/namespaces/kubeedge/secrets/casecret")?;
        let bytes = |path| base64::engine::general_purpose::STANDARD.decode(text(&secret, path));
        let name = self.advertise.first().context("no address is advertised")?;
        Ok(fleet::Cloud {
            port: self.ports.websocket,
            name: name.parse().with_context(|| name.clone())?,
            ca: bytes("/data/cadata")?,
            ca_key: bytes("/data/cakeydata")?,
        })
    }

    /// End of its log, for a failure's report.
    #[must_use]
    pub fn log_tails(&self) -> Vec<(String, String)> {
        vec![(
            "cloudcore".to_owned(),
            process::tail(&self.folder.join("cloudcore.log")),
        )]
    }
}

impl Drop for CloudHost {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}

/// Applies config/crds. Where a cloudcore has put its URL in the place of the Service, a CRD cannot be applied, only replaced.
fn apply_crds(settings: &Settings, cluster: &Cluster) -> Result<()> {
    let folder = settings.root.join("config/crds");
    if !folder.is_dir() {
        return Ok(());
    }
    let folder = folder.to_string_lossy();
    let applied = cluster.kubectl(&["apply", "--server-side", "-R", "-f", &folder]);
    applied
        .or_else(|_| cluster.kubectl(&["replace", "-R", "-f", &folder]))
        .map(drop)
}

/// Stops the cloudcore of a folder, whoever started it.
pub fn teardown(folder: &Path) {
    if let Some(mut daemon) = Daemon::find(folder, "cloudcore")
        && daemon.stop(wait::seconds(10)).is_err()
    {
        eprintln!("e2e: cloudcore had to be killed");
    }
}

/// Body of a plain HTTP GET.
pub fn http_body(address: &str, path: &str) -> Result<String> {
    let answer = http_get(address, path)?;
    Ok(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

/// Status of a plain HTTP GET.
fn http_status(address: &str, path: &str) -> Result<String> {
    let answer = http_get(address, path)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(wait::seconds(20)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
