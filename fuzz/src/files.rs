//! Readers of configuration files: any text gives a configuration or a list of problems, and what is printed is read again.

use config::{CloudCore, EdgeCore, HostFacts, LookOnly};

/// cloudcore.yaml.
pub fn cloudcore_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(loaded) = CloudCore::parse(text, &facts(), &LookOnly) else {
        return;
    };
    let _ = loaded.config.to_yaml();
}

/// edgecore.yaml.
pub fn edgecore_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(loaded) = EdgeCore::parse(text, &facts(), &LookOnly) else {
        return;
    };
    let _ = loaded.config.to_yaml();
}

fn facts() -> HostFacts {
    HostFacts {
        hostname: "edge-1".into(),
        local_ip: "192.0.2.2".into(),
    }
}
