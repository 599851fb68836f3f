//! The threads that the program runs on.

use std::process::ExitCode;

use anyhow::Context as _;
use tracing::error;

/// More do not make it faster.
const MAX_WORKERS: usize = 8;

/// Runs the program to its end on a few threads; it says whether it ended well.
pub(crate) fn serve(program: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    let outcome = runtime
        .context("cannot start the worker threads")
        .and_then(|runtime| runtime.block_on(program));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
