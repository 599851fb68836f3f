//! What the command lines of both cores have in common: the printed texts, the flags of older releases.

use std::ffi::OsString;

use crate::Warning;

/// Above the body of `--defaultconfig`.
const DEFAULT_HEADER: &str = "\
# The full configuration: every key with the value that holds when the key is absent.
# A file needs only the keys that differ from these.
# For a short form to start from, see --minconfig.
";

/// Above the body of `--minconfig`.
const MIN_HEADER: &str = "\
# A short configuration to start from: fill in the addresses and the token.
# A key that is absent has the value that --defaultconfig prints.
# Every key is explained there by its section.
";

/// What `--defaultconfig` prints around the body: three comment lines and an empty one.
#[must_use]
pub fn default_config(body: &str) -> String {
    format!("{DEFAULT_HEADER}\n{body}")
}

/// What `--minconfig` prints around the body.
#[must_use]
pub fn min_config(body: &str) -> String {
    format!("{MIN_HEADER}\n{body}")
}

/// What `--check-config` prints for a file that is good.
#[must_use]
pub fn check_report(path: &str, warnings: &[Warning]) -> String {
    let mut report: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    report.push_str(&format!("{path}: good\n"));
    report
}

/// The rest of a command line after the flags of older releases have been taken out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// For the flag parser, the program's name first.
    pub kept: Vec<OsString>,
    /// One line for each flag that was accepted without effect.
    pub warnings: Vec<String>,
}

/// Takes out the logging flags that units of older releases carry, and turns the forms that Go's flag parser accepts for ours
/// (`--v=4`, `--minconfig=true`) into the plain ones.
#[must_use]
pub fn without_legacy_flags(arguments: impl IntoIterator<Item = OsString>) -> Arguments {
    let mut result = Arguments::default();
    let mut rest = arguments.into_iter().peekable();
    result.kept.extend(rest.next());
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str().filter(|text| text.starts_with("--") && *text != "--") else {
            result.kept.push(argument);
            continue;
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let plain = name.trim_start_matches('-').replace('_', "-");
        match (plain.as_str(), value) {
            ("v", Some(value)) => result.kept.extend(["-v".into(), value.into()]),
            ("v", None) => result.kept.push("-v".into()),
            ("minconfig" | "defaultconfig" | "version" | "check-config", Some("true")) => result.kept.push(name.into()),
            ("minconfig" | "defaultconfig" | "version" | "check-config", Some("false")) => {}
            (known, _) if LEGACY_SWITCHES.contains(&known) => result.warnings.push(without_effect(name)),
            (known, Some(_)) if LEGACY_VALUES.contains(&known) => result.warnings.push(without_effect(name)),
            (known, None) if LEGACY_VALUES.contains(&known) => {
                result.warnings.push(without_effect(name));
                rest.next_if(|next| !next.to_string_lossy().starts_with('-'));
            }
            _ => result.kept.push(argument),
        }
    }
    result
}

/// Environment variables of older releases that mean nothing any more; `get` reads one.
#[must_use]
pub fn environment_warnings(get: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let set = get("DEPLOY_MQTT_CONTAINER").is_some_and(|value| !value.is_empty() && value != "false");
    let text = "DEPLOY_MQTT_CONTAINER has no effect since v1.21: mqttMode 0 in edgecore.yaml gives a broker without a container";
    if set { vec![text.to_owned()] } else { Vec::new() }
}

fn without_effect(name: &str) -> String {
    format!("flag {name} is accepted for older units and has no effect: logs go to standard error, -v sets their level")
}

/// Flags of klog that are on or off.
const LEGACY_SWITCHES: &[&str] = &[
    "logtostderr",
    "alsologtostderr",
    "skip-headers",
    "skip-log-headers",
    "add-dir-header",
    "one-output",
];
/// Flags of klog with a value.
const LEGACY_VALUES: &[&str] = &[
    "log-dir",
    "log-file",
    "log-file-max-size",
    "log-backtrace-at",
    "log-flush-frequency",
    "stderrthreshold",
    "vmodule",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (String, usize) {
        let result = without_legacy_flags(line.split(' ').map(OsString::from));
        let kept: Vec<String> = result.kept.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        (kept.join(" "), result.warnings.len())
    }

    #[test]
    fn flags_of_older_units_are_taken_out() {
        for (line, kept, warnings) in [
            ("edgecore", "edgecore", 0),
            ("edgecore --config /e.yaml -v 4", "edgecore --config /e.yaml -v 4", 0),
            (
                "edgecore --logtostderr=false --log_dir /var/log --log-file=x -v=2",
                "edgecore -v=2",
                3,
            ),
            (
                "edgecore --alsologtostderr --config=/e.yaml",
                "edgecore --config=/e.yaml",
                1,
            ),
            ("edgecore --v=4 --vmodule a=1", "edgecore -v 4", 1),
            (
                "edgecore --minconfig=true --defaultconfig=false",
                "edgecore --minconfig",
                0,
            ),
            ("edgecore --log_dir --version", "edgecore --version", 1),
            ("edgecore --unknown", "edgecore --unknown", 0),
        ] {
            assert_eq!(split(line), (kept.to_owned(), warnings), "{line}");
        }
    }

    #[test]
    fn the_old_mqtt_variable_is_warned_about() {
        assert_eq!(environment_warnings(|_| Some("true".into())).len(), 1);
        assert_eq!(environment_warnings(|_| None).len(), 0);
    }
}
