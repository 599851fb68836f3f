//! Hostname and `/etc/hosts` of a pod (spec 05 §6, row 26).

use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::volumes::make_dirs;

/// The pod's host name and, when it has a subdomain, its domain.
pub(super) fn host_and_domain(ctx: &PodContext) -> Result<(String, String), SpecError> {
    let spec = ctx.spec();
    let mut hostname = ctx.name().to_owned();
    if let Some(name) = spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        check_label("Hostname", name)?;
        name.clone_into(&mut hostname);
    }
    if hostname.len() > MAX_HOSTNAME {
        hostname.truncate(MAX_HOSTNAME);
        hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
        if hostname.is_empty() {
            return Err(SpecError::config(format!(
                "hostname for pod {:?} was invalid",
                ctx.name()
            )));
        }
    }
    let domain = match spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            check_label("Subdomain", name)?;
            format!("{name}.{}.svc.{}", ctx.namespace(), ctx.settings.cluster_domain)
        }
        None => String::new(),
    };
    Ok((hostname, domain))
}

/// The name that the kernel of the sandbox gets.
pub(super) fn kernel_hostname(ctx: &PodContext) -> Result<String, SpecError> {
    let (hostname, domain) = host_and_domain(ctx)?;
    if domain.is_empty() || ctx.spec().set_hostname_as_fqdn != Some(true) {
        return Ok(hostname);
    }
    let name = format!("{hostname}.{domain}");
    if name.len() > MAX_FQDN {
        let length = name.len();
        return Err(SpecError::config(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({MAX_FQDN} characters is the \
             max, {length} characters requested)"
        )));
    }
    Ok(name)
}

/// Writes the file that containers get as `/etc/hosts` and returns its path.
pub(super) fn write_hosts(ctx: &PodContext, pod_ips: &[IpAddr]) -> Result<PathBuf, SpecError> {
    let text = if ctx.host_network() {
        let path = &ctx.settings.hosts_file;
        let host = std::fs::read_to_string(path).map_err(|error| SpecError::file("read", path, &error))?;
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        managed_hosts(ctx, pod_ips)?
    };
    let text = text + &aliases(ctx);
    let path = ctx.dir().join("etc-hosts");
    let write = || {
        make_dirs(&ctx.dir())?;
        // Written in place: the containers that run already have this very file mounted.
        std::fs::write(&path, &text)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644))
    };
    write().map_err(|error| SpecError::file("write", &path, &error))?;
    Ok(path)
}

fn managed_hosts(ctx: &PodContext, pod_ips: &[IpAddr]) -> Result<String, SpecError> {
    let (hostname, domain) = host_and_domain(ctx)?;
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        let _ = if domain.is_empty() {
            writeln!(text, "{ip}\t{hostname}")
        } else {
            writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}")
        };
    }
    Ok(text)
}

fn aliases(ctx: &PodContext) -> String {
    let aliases = ctx.spec().host_aliases.as_deref().unwrap_or_default();
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

fn check_label(field: &str, name: &str) -> Result<(), SpecError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let valid = name.len() <= MAX_HOSTNAME
        && name.chars().all(|c| inner(c) || c == '-')
        && name.starts_with(inner)
        && name.ends_with(inner);
    if valid {
        return Ok(());
    }
    Err(SpecError::config(format!(
        "pod {field} {name:?} is not a valid DNS label: at most {MAX_HOSTNAME} lower case letters, digits and '-', with a letter or \
         digit at both ends"
    )))
}

/// The kernel takes 64 bytes, one of them for the end.
const MAX_HOSTNAME: usize = 63;
const MAX_FQDN: usize = 64;
