//! `eunoe lab`: starts the lab's own program.

use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::context::Context;

const NAME: &str = "eunoe-lab";

/// Train and compare sequence mixers, and export models for Eunoe: starts `eunoe-lab`
///
/// The lab is a program of its own, which lies beside `eunoe` or on the PATH. What follows `lab` is passed on as it is;
/// `eunoe lab help` shows its commands, and docs/lab.md explains them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe lab list methods
  eunoe lab train run.toml --out runs/first
  eunoe lab export runs/first --out first
  eunoe run -m first 'It is a truth'")]
pub struct Args {
    /// Arguments of `eunoe-lab`
    #[arg(value_name = "ARGS", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Becomes the lab's program. `--json` and `--threads` may stand before `lab` too; what stands behind it counts.
///
/// # Errors
/// It is not there, or cannot be started.
pub fn run(args: &Args, ctx: &Context, threads: Option<u16>) -> Result<()> {
    let file = format!("{NAME}{}", std::env::consts::EXE_SUFFIX);
    let beside =
        std::env::current_exe().ok().map(|own| own.with_file_name(&file)).filter(|path| path.is_file());
    let program = beside.map_or_else(|| file.into(), OsString::from);
    let mut command = Command::new(&program);
    command.args(&args.args);
    let says = |name: &str| args.args.iter().any(|arg| arg.to_string_lossy().split('=').next() == Some(name));
    if ctx.json && !says("--json") {
        command.arg("--json");
    }
    if let Some(threads) = threads.filter(|_| !says("--threads")) {
        command.args(["--threads", &threads.to_string()]);
    }
    become_it(command).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!(
            "`{NAME}` is neither beside `eunoe` nor on the PATH: in Eunoe's source, \
             `cargo install --path crates/{NAME}` builds it and puts it where `cargo install` puts `eunoe`"
        ),
        _ => anyhow!(error).context(format!("cannot start `{}`", program.display())),
    })
}

/// Only a failure comes back: signals and the exit code are the other program's own.
#[cfg(unix)]
fn become_it(mut command: Command) -> Result<(), Error> {
    Err(std::os::unix::process::CommandExt::exec(&mut command))
}

#[cfg(not(unix))]
fn become_it(mut command: Command) -> Result<(), Error> {
    let status = command.status()?;
    std::process::exit(status.code().unwrap_or(1));
}
