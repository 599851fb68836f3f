//! keadm: joins a machine to the cluster as an edge node, prints the token for it, takes it out again.
//!
//! A command line tool only: it never reaches into a core, talks to them as any peer does, and leaves no secret behind.
//! Source: spec 06 §2.

mod cli;
mod gettoken;
mod join;
mod paths;
mod process;
mod reset;
mod service;
mod steps;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, ResetTarget};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Gettoken(options) => gettoken::run(&options).await,
        Command::Join(options) => join::run(&options).await,
        Command::Reset(options) => match options.target {
            Some(ResetTarget::Edge(target)) => reset::run(&target, options.force || target.force),
            None => reset::run(&options.edge, options.force),
        },
        Command::Version(options) => version::run(&options),
    }
}
