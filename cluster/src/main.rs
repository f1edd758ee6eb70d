//! The `damask` binary: a cluster in one process, a loader, a control, a simulator. Wiring only.

use clap::{Parser, Subcommand};
use damask_cluster::cli::{ctl, load, playground, trace};
use std::process::ExitCode;

/// Rows become small pieces of many threads: TiKV's allocator, which takes and gives these without
/// a lock that they share.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One replicated log, two readings: rows for transactions, columns for analytics.
#[derive(Parser)]
#[command(name = "damask", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster in this process until Ctrl-C.
    Playground(playground::Options),
    /// Load a data set into a running cluster.
    #[command(subcommand)]
    Load(LoadCommand),
    /// Run a whole cluster from a seed, with faults, and check everything it did.
    #[command(disable_help_flag = true)]
    Sim {
        /// See `damask sim --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What column stores were told, recorded by `[trace]` in the configuration.
    #[command(subcommand)]
    Trace(trace::Command),
    /// Look at a running cluster's stores, regions and operators, and have some done.
    Ctl(ctl::Options),
}

#[derive(Subcommand)]
enum LoadCommand {
    /// The eight TPC-H tables.
    Tpch(load::LoadTpch),
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DAMASK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match Arguments::parse().command {
        Command::Playground(options) => playground::run(options),
        Command::Load(LoadCommand::Tpch(options)) => load::run(&options),
        Command::Trace(command) => trace::run(&command),
        Command::Ctl(options) => ctl::run(&options),
        Command::Sim { arguments } => {
            return ExitCode::from(damask_sim::main(&arguments).clamp(0, 255) as u8);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("damask: {e}");
            ExitCode::FAILURE
        }
    }
}
