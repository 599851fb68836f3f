//! No input makes the loader panic, and what it accepts it can print and read again.

use proptest::prelude::*;

use crate::{CLOUD_DEFAULT, EDGE_DEFAULT, cloud, edge};

/// Texts that mean something to YAML or to the decoder.
const PIECES: &[&str] = &[
    ":",
    "- ",
    "\n",
    "  ",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|\n",
    ">\n",
    "&a ",
    "*a",
    "!!str ",
    "!!int ",
    "<<: ",
    "? ",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "null",
    "~",
    "yes",
    "off",
    "-1",
    "0",
    "0x",
    "1e999",
    ".nan",
    "9223372036854775808",
    "-0",
    "1h",
    "9999999h",
    "\u{0}",
    "\u{feff}",
    "ä",
    "\u{2028}",
    "modules",
    "enable",
    "token",
    ",",
    "unix://",
    "docker",
    "runtimeType: ",
    "clusterDNS: ",
];

const OLD: &[&str] = &[
    CLOUD_DEFAULT,
    EDGE_DEFAULT,
    include_str!("../../golden/edgecore-v1.8-default.yaml"),
    include_str!("../../golden/edgecore-v1.12-default.yaml"),
    include_str!("../../golden/cloudcore-v1.8-default.yaml"),
    include_str!("../../golden/cloudcore-v1.12-chart.yaml"),
];

#[derive(Clone, Debug)]
enum Change {
    Insert(usize, usize),
    Delete(usize, usize),
    SwapLines(usize, usize),
    Indent(usize, usize),
    Value(usize, usize),
    Byte(usize, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    prop_oneof![
        (at(), 0..PIECES.len()).prop_map(|(a, p)| Change::Insert(a, p)),
        (at(), 1..40_usize).prop_map(|(a, n)| Change::Delete(a, n)),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (at(), 0..6_usize).prop_map(|(a, n)| Change::Indent(a, n)),
        (at(), 0..PIECES.len()).prop_map(|(a, p)| Change::Value(a, p)),
        (at(), any::<u8>()).prop_map(|(a, b)| Change::Byte(a, b)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let boundary = |at: usize| {
        let wanted = at % (text.len() + 1);
        (0..=wanted).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len().max(1);
    match *change {
        Change::Insert(at, piece) => {
            let at = boundary(at);
            return format!("{}{}{}", &text[..at], PIECES[piece], &text[at..]);
        }
        Change::Delete(at, length) => {
            let from = boundary(at);
            let to = (from + length..=text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(text.len());
            return format!("{}{}", &text[..from], &text[to..]);
        }
        Change::Byte(at, byte) => {
            let mut bytes = text.as_bytes().to_vec();
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Change::SwapLines(a, b) => {
            if !lines.is_empty() {
                lines.swap(a % count, b % count);
            }
        }
        Change::Indent(at, columns) => {
            if let Some(line) = lines.get_mut(at % count) {
                *line = format!("{}{}", " ".repeat(columns), line.trim_start());
            }
        }
        Change::Value(at, piece) => {
            if let Some(line) = lines.get_mut(at % count)
                && let Some((key, _)) = line.split_once(':')
            {
                *line = format!("{key}: {}", PIECES[piece]);
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Loads as both kinds; a result must print to something that loads to the same.
fn exercise(text: &str) {
    if let Ok(loaded) = cloud(text) {
        let printed = loaded.config.to_yaml();
        let again = cloud(&printed).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
        assert_eq!(again.config.to_yaml(), printed);
    }
    if let Ok(loaded) = edge(text) {
        let printed = loaded.config.to_yaml();
        let again = edge(&printed).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
        assert_eq!(again.config.to_yaml(), printed);
    }
}

proptest! {
    // CONFIG_MUTATIONS sets the number of files for a long run.
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("CONFIG_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
    ))]

    #[test]
    fn mutated_files_never_panic(base in 0..OLD.len(), changes in prop::collection::vec(change(), 1..12)) {
        let text = changes.iter().fold(OLD[base].to_owned(), |text, change| apply(&text, change));
        exercise(&text);
    }

    #[test]
    fn any_text_never_panics(pieces in prop::collection::vec((0..PIECES.len(), "\\PC{0,6}"), 0..40)) {
        let text: String = pieces.iter().map(|(piece, free)| format!("{}{free}", PIECES[*piece])).collect();
        exercise(&text);
    }

    #[test]
    fn any_string_is_printed_so_that_it_reads_back(value in "\\PC{0,12}|[ -~\n\t]{0,12}") {
        let mut config = config::EdgeCore::defaults(&crate::host());
        config.modules.event_bus.mqtt_username = value.clone();
        let again = edge(&config.to_yaml()).expect("loads");
        prop_assert_eq!(again.config.modules.event_bus.mqtt_username, value);
    }
}
