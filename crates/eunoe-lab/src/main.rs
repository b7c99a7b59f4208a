//! The command line of the lab.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eunoe_lab::device::Devices;

/// Trains, proves and compares sequence mixers: what stands between the tokens of a language model
#[derive(Debug, Parser)]
#[command(
    name = "eunoe-lab",
    version,
    after_help = "Examples:
  eunoe-lab list methods                       the mixers, with what each does
  eunoe-lab train run.toml --out runs/first    train a model; the same command goes on after a stop
  eunoe-lab eval runs/first --file book.txt    its loss on a text
  eunoe-lab bench mqar --quick --out recall    which mixers find again what they were told
  eunoe-lab bench all --quick --out lab        recall and throughput, small, on one page
  eunoe-lab export runs/first --out folder     softmax attention as a model that `eunoe` runs"
)]
struct Cli {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Threads; by default all of the machine
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where tensors are computed: cpu, cuda, cuda:1; a grid takes several, with `,` between them
    #[arg(long, global = true, default_value = "cpu")]
    device: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(commands::list::Args),
    Train(commands::train::Args),
    Eval(commands::eval::Args),
    Bench(Box<commands::bench::Args>),
    Export(commands::export::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    eunoe_lab::process::calm();
    if let Some(threads) = cli.threads {
        eunoe_lab::ops::set_threads(threads.into());
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // whoever read has read enough
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            commands::out::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let devices = Devices::parse(&cli.device)?;
    match &cli.command {
        Command::List(args) => commands::list::run(args, cli.json),
        Command::Train(args) => commands::train::run(args, &devices.one()?, cli.json),
        Command::Eval(args) => commands::eval::run(args, &devices.one()?, cli.json),
        Command::Bench(args) => commands::bench::run(args, &devices, cli.json),
        Command::Export(args) => commands::export::run(args, cli.json),
    }
}
