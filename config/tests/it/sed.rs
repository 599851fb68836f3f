//! Walk-throughs edit the printed files by line position; the edits must hit what they mean.

use std::collections::BTreeMap;

use config::{CloudCore, EdgeCore};

use crate::golden::leaves;
use crate::{CLOUD_DEFAULT, EDGE_DEFAULT, cloud, edge, host};

/// `sed '/PATTERN/{n;s/FROM/TO/;}'`, with as many `n` or `N` as `below` says.
fn line_below(text: &str, pattern: &str, below: usize, from: &str, to: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let hits: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, l)| l.contains(pattern))
        .map(|(at, _)| at + below)
        .collect();
    for at in hits {
        if let Some(line) = lines.get_mut(at) {
            *line = line.replacen(from, to, 1);
        }
    }
    lines.join("\n") + "\n"
}

fn changes(before: &str, after: &str) -> BTreeMap<String, String> {
    let before = leaves(before);
    leaves(after)
        .into_iter()
        .filter(|(key, value)| before.get(key) != Some(value))
        .collect()
}

#[test]
fn edits_of_the_walk_throughs_change_just_what_they_mean() {
    let go = (CLOUD_DEFAULT.to_owned(), EDGE_DEFAULT.to_owned());
    let ours = (CloudCore::default_yaml(&host()), EdgeCore::default_yaml(&host()));
    for (cloud_text, edge_text) in [go, ours] {
        for (module, below) in [
            ("cloudStream:", 1),
            ("dynamicController:", 1),
            ("quic:", 2),
            ("router:", 2),
        ] {
            let off = line_below(&cloud_text, module, below, "true", "false");
            let on = line_below(&off, module, below, "false", "true");
            let changed = changes(&off, &on);
            assert_eq!(changed.len(), 1, "{module} {changed:?}");
            assert!(
                changed
                    .keys()
                    .all(|key| key.contains(module.trim_end_matches(':')) && key.ends_with(".enable"))
            );
            assert!(cloud(&on).is_ok());
        }
        for module in ["edgeStream:", "serviceBus:", "quic:", "websocket:"] {
            let off = line_below(&edge_text, module, 1, "true", "false");
            let on = line_below(&off, module, 1, "false", "true");
            let changed = changes(&off, &on);
            assert_eq!(changed.len(), 1, "{module} {changed:?}");
            assert!(
                changed
                    .keys()
                    .all(|key| key.contains(module.trim_end_matches(':')) && key.ends_with(".enable"))
            );
        }
        let quic = line_below(
            &line_below(&edge_text, "quic:", 1, "false", "true"),
            "websocket:",
            1,
            "true",
            "false",
        );
        let hub = edge(&quic).expect("loads").config.modules.edge_hub;
        assert!(hub.quic.enable && !hub.web_socket.enable);
        let dns = edge_text.replace(
            "      clusterDomain: cluster.local\n",
            "      clusterDomain: cluster.local\n      clusterDNS:\n      - 10.96.0.10\n",
        );
        assert_eq!(
            edge(&dns)
                .expect("loads")
                .config
                .modules
                .edged
                .tailored_kubelet_config
                .cluster_dns,
            ["10.96.0.10"]
        );
    }
}
