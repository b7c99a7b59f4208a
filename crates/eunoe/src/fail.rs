//! The end of every command: an exit code, and for a failure one line on standard error.

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::interrupt::{self, Interrupted};
use crate::out;

/// The request could not be understood.
const USAGE: u8 = 2;
/// What a filter ends with when its reader went away (128 + SIGPIPE).
const PIPE: u8 = 141;

/// Parses the command line, does the work, and says what went wrong.
pub fn main() -> ExitCode {
    let done = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(e) => return usage(&e),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<out::Closed>() => ExitCode::from(PIPE),
        Err(e) => {
            eprintln!("error: {}", one_line(&format!("{e:#}")));
            if e.is::<Interrupted>() { ExitCode::from(interrupt::EXIT) } else { ExitCode::FAILURE }
        }
    }
}

/// Prints the help that was asked for, or says in one line what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match out::text(&error.to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(PIPE),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{error}");
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("{}", usage_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// The message and the tips of clap's report on one line; its usage lines make way for a pointer to the help.
fn usage_line(report: &str) -> String {
    let report = report.split("\n\nUsage:").next().unwrap_or(report);
    let report = report.split("\n\nFor more information").next().unwrap_or(report);
    format!("{}; see `--help`", one_line(report))
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_clap_becomes_one_line() {
        let report = "error: unexpected argument '--jsn' found\n\n  tip: a similar argument exists: '--json'\n\n\
                      Usage: eunoe list\n\nFor more information, try '--help'.\n";
        let line =
            "error: unexpected argument '--jsn' found; a similar argument exists: '--json'; see `--help`";
        assert_eq!(usage_line(report), line);
    }
}
