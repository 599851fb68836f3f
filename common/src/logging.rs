//! Logs on standard error, one line an event.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sets up the process's log. `verbosity` is klog's `-v`: 0 to 1 information, 2 to 4 debugging, above that everything that was built
/// in (released programs have no trace lines); the environment variable `RUST_LOG`, a level or `target=level` separated by commas, wins
/// over it.
pub fn init(verbosity: u8) {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| of_verbosity(verbosity));
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(logs).with(filter).try_init();
}

/// Says of each 5xx answer of an API server that it is one; whoever asked says so too, with the reason.
const REFUSALS: &str = "kube_client::client::builder";

fn of_verbosity(verbosity: u8) -> Targets {
    use tracing::level_filters::LevelFilter;
    let libraries = ["hyper", "h2", "tower", "rustls", "tungstenite", "kube"];
    match verbosity {
        0 | 1 => Targets::new()
            .with_target(REFUSALS, LevelFilter::OFF)
            .with_default(LevelFilter::INFO),
        2..=4 => Targets::new()
            .with_targets(libraries.map(|name| (name, LevelFilter::INFO)))
            .with_default(LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::TRACE),
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::{REFUSALS, of_verbosity};

    #[test]
    fn libraries_stay_quiet_until_everything_is_asked_for() {
        let says = |verbosity, target, level| of_verbosity(verbosity).would_enable(target, &level);
        assert!(says(0, "edgecore::edged", Level::INFO) && !says(0, "edgecore::edged", Level::DEBUG));
        assert!(!says(0, REFUSALS, Level::ERROR) && says(3, REFUSALS, Level::ERROR));
        assert!(says(3, "edgecore::edged", Level::DEBUG) && !says(3, "h2::codec", Level::DEBUG));
        assert!(says(6, "h2::codec", Level::TRACE));
    }
}
