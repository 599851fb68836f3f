//! `keadm version`, in the forms that the Go tool prints.

use config::version::{KUBEEDGE_VERSION, OWN_VERSION};
use serde_json::json;

use crate::cli::{Version, VersionForm};

pub(crate) fn run(options: &Version) -> anyhow::Result<()> {
    println!("{}", text(options.output)?);
    Ok(())
}

fn text(form: Option<VersionForm>) -> anyhow::Result<String> {
    let mut numbers = KUBEEDGE_VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let compiler = format!("rust {OWN_VERSION}");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = format!("linux/{architecture}");
    let fields = [
        ("buildDate", ""),
        ("compiler", compiler.as_str()),
        ("gitCommit", ""),
        ("gitTreeState", ""),
        ("gitVersion", KUBEEDGE_VERSION),
        ("goVersion", ""),
        ("major", major),
        ("minor", minor),
        ("platform", platform.as_str()),
    ];
    Ok(match form {
        None => format!(
            "version: version.Info{{Major:\"{major}\", Minor:\"{minor}\", GitVersion:\"{KUBEEDGE_VERSION}\", GitCommit:\"\", \
             GitTreeState:\"\", BuildDate:\"\", GoVersion:\"\", Compiler:\"{compiler}\", Platform:\"{platform}\"}}"
        ),
        Some(VersionForm::Short) => KUBEEDGE_VERSION.to_owned(),
        Some(VersionForm::Yaml) => {
            let lines = fields.map(|(key, value)| format!("{key}: {}", json!(value)));
            lines.join("\n")
        }
        Some(VersionForm::Json) => {
            let map: serde_json::Map<_, _> = fields
                .map(|(key, value)| (key.to_owned(), value.into()))
                .into_iter()
                .collect();
            serde_json::to_string_pretty(&map)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let text = |form| text(form).expect("it is text");
        assert!(text(None).starts_with("version: version.Info{Major:\"1\", Minor:\"23\", GitVersion:\"v1.23.1\""));
        assert_eq!(text(Some(VersionForm::Short)), "v1.23.1");
        assert!(text(Some(VersionForm::Yaml)).contains("\ngitVersion: \"v1.23.1\"\n"));
        let json: serde_json::Value = serde_json::from_str(&text(Some(VersionForm::Json))).expect("it is JSON");
        assert_eq!(json["major"], "1");
    }
}
