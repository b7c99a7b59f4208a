//! `eunoe lab` starts the lab's program with what it was given.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use common::Bench;

/// One test at a time: a program that one has just written cannot be started while another forks with its file open.
static ALONE: Mutex<()> = Mutex::new(());

/// A copy of `eunoe`, so that what lies beside it is the test's.
fn eunoe(bench: &Bench, args: &[&str]) -> Output {
    let own = bench.path("own/eunoe");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    if !own.exists() {
        fs::copy(env!("CARGO_BIN_EXE_eunoe"), &own).unwrap();
    }
    Command::new(own).args(args).env("PATH", bench.path("bin")).output().unwrap()
}

/// A lab that says where it is and what it got, one thing a line, and ends with 7.
fn put_lab(at: &Path) {
    fs::write(at, "#!/bin/sh\necho \"$0\"\nfor arg; do echo \"$arg\"; done\nexit 7\n").unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_lab_beside_eunoe_stands_before_that_on_the_path() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    let [path, beside] = ["bin/eunoe-lab", "own/eunoe-lab"].map(|at| bench.path(at));
    let lines = |args: &[&str]| -> Vec<String> {
        let output = eunoe(&bench, args);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
    };
    put_lab(&path);
    let got = lines(&["lab", "train", "a b.toml", "--out", "x", "--json", "--threads"]);
    assert_eq!(got[1..], ["train", "a b.toml", "--out", "x", "--json", "--threads"]);
    assert_eq!(Path::new(&got[0]), path);
    put_lab(&beside);
    assert_eq!(lines(&["--json", "lab", "list"]), [&*beside.display().to_string(), "list", "--json"]);
    assert_eq!(lines(&["--json", "lab", "list", "--json"])[1..], ["list", "--json"]);
    assert_eq!(lines(&["--threads", "2", "lab", "list"])[1..], ["list", "--threads", "2"]);
    assert_eq!(lines(&["--threads", "2", "lab", "list", "--threads=4"])[1..], ["list", "--threads=4"]);
}

#[test]
fn a_lab_that_is_not_there_is_told_with_what_to_do() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    let why = common::failure(&eunoe(&bench, &["lab", "list"]));
    assert!(why.contains("neither beside `eunoe` nor on the PATH") && why.contains("cargo install"), "{why}");
    put_lab(&bench.path("bin/eunoe-lab"));
    fs::set_permissions(bench.path("bin/eunoe-lab"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(common::failure(&eunoe(&bench, &["lab", "list"])).contains("cannot start `eunoe-lab`"));
    let help = eunoe(&bench, &["lab", "--help"]);
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("eunoe lab export"));
}
