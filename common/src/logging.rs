//! Logs on standard error, one line an event.

use tracing_subscriber::EnvFilter;

/// Sets up the process's log. `verbosity` is klog's `-v`: 0 to 1 information, 2 to 4 debugging, above that everything;
/// the environment variable `RUST_LOG` wins over it.
pub fn init(verbosity: u8) {
    let default = match verbosity {
        // The client's own line for each failed connection repeats what the caller reports with the object and the cure.
        0 | 1 => "info,kube_client::client::builder=off",
        2..=4 => "debug,hyper=info,h2=info,tower=info,rustls=info,tungstenite=info,kube=info,kube_client=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second call (tests in one process) keeps the first subscriber.
    let _ = logs.try_init();
}
