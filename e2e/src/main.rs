//! `e2e`: whole systems from the command line. See `e2e/demo`, `e2e/test` and `e2e/bench`, which call it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::settings::Settings;

#[derive(Parser)]
#[command(about = "Starts, tests and measures whole KubeEdge systems on one machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole-system scenarios; the last line counts them
    System {
        /// Only scenarios whose name contains one of these
        filters: Vec<String>,
        /// Also the scenarios and forms that take minutes
        #[arg(long)]
        long: bool,
        /// Print the names and end
        #[arg(long)]
        list: bool,
        /// Run that many at a time, each beside a system of its own
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
        lanes: u8,
        /// Take whole names from the standard input, one a line
        #[arg(long, hide = true)]
        lane: bool,
    },
    /// Start a cluster, a cloudcore and an edge, run a workload on it and leave all of it running
    Demo {
        /// Stop the demo and remove all that it started
        #[arg(long)]
        down: bool,
        /// Use the cluster of this file instead of starting one
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Take measurements: one line each, `name value unit`
    Bench {
        /// The marks to take (all, without)
        names: Vec<String>,
        /// Measure the programs in this folder in the same run and add the ratio
        #[arg(long, value_name = "DIR")]
        peer: Option<PathBuf>,
    },
    /// Remove what runs left behind whose process is gone
    Sweep,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    if let Command::System { list: true, long, .. } = &command {
        for scenario in e2e::scenarios::all().iter().filter(|one| *long || !one.long) {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::find()?;
    if matches!(command, Command::System { lanes: 1, .. } | Command::Bench { .. }) {
        e2e::hosts::isolate()?;
    }
    match command {
        Command::System { lane: true, long, .. } => {
            let all = e2e::scenarios::all();
            let names = std::io::stdin().lines().map_while(Result::ok);
            let list = names.filter_map(|name| all.iter().find(|one| one.name == name).copied());
            e2e::system::run(&settings, list, long)?;
        }
        Command::System {
            filters, long, lanes, ..
        } => {
            let list = e2e::system::chosen(&filters, long)?;
            println!("cloud: {}\nedge: {}", settings.cloud.display(), settings.edge.display());
            let count = if lanes == 1 {
                e2e::system::run(&settings, list.into_iter(), long)?
            } else {
                e2e::lanes::run(list.iter().map(|one| one.name.to_owned()).collect(), lanes, long)?
            };
            println!("{count}");
            let strict = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
            return Ok(ExitCode::from(u8::from(
                count.failed > 0 || (strict && count.skipped > 0),
            )));
        }
        Command::Demo { down: true, .. } => e2e::demo::down(&settings)?,
        Command::Demo { kubeconfig, .. } => e2e::demo::up(&settings, kubeconfig.as_deref())?,
        Command::Bench { names, peer } => e2e::bench::run(&settings, &names, peer.as_deref())?,
        Command::Sweep => e2e::run::sweep(&settings)?,
    }
    Ok(ExitCode::SUCCESS)
}
