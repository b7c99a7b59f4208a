//! `eunoe-lab bench`: mixers against each other.

mod mqar;
mod throughput;

use anyhow::Result;

/// Compare mixers on a task
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    Mqar(mqar::Args),
    Throughput(throughput::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the task.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    match &args.task {
        Task::Mqar(args) => mqar::run(args, json),
        Task::Throughput(args) => throughput::run(args, json),
    }
}
