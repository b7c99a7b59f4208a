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
  eunoe list                   models that can be pulled
  eunoe pull smollm2-135m      fetch one
  eunoe list methods           what may stand in a memory plan

Models live in $EUNOE_HOME (by default the user's cache folder).
`eunoe COMMAND --help` explains a command.";

/// What `eunoe` does.
#[derive(Debug, Subcommand)]
enum Command {
    Pull(commands::pull::Args),
    Rm(commands::rm::Args),
    List(commands::list::Args),
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
