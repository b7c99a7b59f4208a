//! `eunoe-lab bench`: mixers against each other.

mod all;
mod merge;
mod mqar;
mod report;
mod texts;
mod throughput;

use anyhow::Result;
use eunoe_lab::bench::Workers;
use eunoe_lab::device::Devices;

/// Compare mixers on a task
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    All(all::Args),
    Mqar(mqar::Args),
    Books(texts::Books),
    Sinks(texts::Sinks),
    Chorales(texts::Chorales),
    Throughput(throughput::Args),
    Merge(merge::Args),
    Report(report::Args),
}

/// How many trainings run at a time.
#[derive(Clone, Copy, Debug, clap::Args)]
struct AtATime {
    /// Trainings at a time, by default one per device; changes no result
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

impl AtATime {
    fn on(self, devices: &Devices) -> Workers<'_> {
        Workers::new(self.workers, devices)
    }
}

/// Values as an option takes them.
fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Phrases as an option gives them, without what is blank between.
fn phrases(given: Option<&[String]>) -> Option<Vec<String>> {
    given.map(|all| {
        all.iter().map(|one| one.trim()).filter(|one| !one.is_empty()).map(str::to_owned).collect()
    })
}

/// Runs the command.
///
/// # Errors
/// Those of the task.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    match &args.task {
        Task::All(args) => all::run(args, devices, json),
        Task::Mqar(args) => mqar::run(args, devices, json),
        Task::Books(args) => texts::books(args, devices, json),
        Task::Sinks(args) => texts::sinks(args, devices, json),
        Task::Chorales(args) => texts::chorales(args, devices, json),
        Task::Throughput(args) => throughput::run(args, devices, json),
        Task::Merge(args) => merge::run(args, json),
        Task::Report(args) => report::run(args, json),
    }
}
