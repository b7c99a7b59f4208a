//! Chores of the repository: `cargo xtask tidy`, `cargo xtask docs [--check]`, `cargo xtask proof`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal")]

mod proof;
mod tidy;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "usage: cargo xtask tidy | docs [--check] | proof --books DIR [PART]...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let done = match args[..] {
        ["tidy"] => check_tidy(&root),
        ["docs"] => docs(&root, false),
        ["docs", "--check"] => docs(&root, true),
        ["proof", ref rest @ ..] => proof::run(&root, rest),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_tidy(root: &Path) -> Result<()> {
    let complaints = tidy::check(root)?;
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    match complaints.len() {
        0 => Ok(()),
        n => bail!("{n} complaint(s); the rules are in CONTRIBUTING.md"),
    }
}

fn docs(root: &Path, check: bool) -> Result<()> {
    for (path, text) in eunoe::docs::generated(root)? {
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            bail!("`{}` is out of date: run `cargo xtask docs`", path.display());
        }
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
