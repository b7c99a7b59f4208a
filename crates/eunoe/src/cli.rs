//! The command line as clap sees it: global options and the list of commands.

use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};

use crate::commands;
use crate::context::Context;
use crate::home::Home;

/// `eunoe`.
#[derive(Debug, Parser)]
#[command(
    name = "eunoe",
    version,
    about = "Runs language models inside a memory you set, and tells what the forgetting cost",
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    propagate_version = false
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON document instead of text
    #[arg(long, global = true, action = ArgAction::SetTrue, help_heading = "Global options")]
    json: bool,

    /// Never touch the network; say where a missing file is expected
    #[arg(long, global = true, action = ArgAction::SetTrue, help_heading = "Global options")]
    offline: bool,

    /// Threads to compute with [default: all cores]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const EXAMPLES: &str = "Examples:
  eunoe demo                   the main job on real input; fetches a small model if it is missing
  eunoe list                   models that can be pulled
  eunoe pull smollm2-135m      fetch one
  eunoe plan -m smollm2-135m   bytes that a text takes, and the plans that fit
  eunoe run -m smollm2-135m --kv 'a2sf @ 25%' --file report.txt 'What was decided?'

Models live in $EUNOE_HOME (by default the user's cache folder).
`eunoe COMMAND --help` explains a command.";

/// What `eunoe` does.
#[derive(Debug, Subcommand)]
enum Command {
    Demo(commands::demo::Args),
    Pull(commands::pull::Args),
    Rm(commands::rm::Args),
    List(commands::list::Args),
    Run(commands::run::Args),
    Chat(commands::chat::Args),
    Serve(commands::serve::Args),
    Score(commands::score::Args),
    Logits(commands::logits::Args),
    Tokenize(commands::tokenize::Args),
    Plan(commands::plan::Args),
    Bench(commands::bench::Args),
    Probe(commands::probe::Args),
    Eval(commands::eval::Args),
    Audit(commands::audit::Args),
    Report(commands::report::Args),
    Lab(commands::lab::Args),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> Result<()> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let ctx = Context {
            json: self.json,
            offline: self.offline,
            threads: self.threads.map_or_else(cores, usize::from),
        };
        match self.command {
            Command::Pull(args) => commands::pull::run(&args, &ctx, &Home::from_env()?),
            Command::Rm(args) => commands::rm::run(&args, &ctx, &Home::from_env()?),
            Command::List(args) => commands::list::run(&args, &ctx),
            Command::Demo(args) => commands::demo::run(&args, &ctx, &Home::from_env()?),
            Command::Run(args) => commands::run::run(&args, &ctx),
            Command::Chat(args) => commands::chat::run(&args, &ctx),
            Command::Serve(args) => commands::serve::run(&args, &ctx),
            Command::Score(args) => commands::score::run(&args, &ctx),
            Command::Logits(args) => commands::logits::run(&args, &ctx),
            Command::Tokenize(args) => commands::tokenize::run(&args, &ctx),
            Command::Plan(args) => commands::plan::run(&args, &ctx),
            Command::Bench(args) => commands::bench::run(&args, &ctx),
            Command::Probe(args) => commands::probe::run(&args, &ctx),
            Command::Eval(args) => commands::eval::run(&args, &ctx),
            Command::Audit(args) => commands::audit::run(&args, &ctx),
            Command::Report(args) => commands::report::run(&args, &ctx),
            Command::Lab(args) => commands::lab::run(&args, &ctx, self.threads),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
