//! The command line as scripts see it: exit codes, one line of error, JSON, closed pipes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use common::Bench;

#[test]
fn help_is_an_answer_and_no_arguments_are_not() {
    let bench = Bench::new();
    let help = bench.run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    assert!(String::from_utf8(help.stdout).unwrap().contains("Examples:"));
    let nothing = bench.run(&[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(nothing.stdout.is_empty() && !nothing.stderr.is_empty());
}

#[test]
fn a_wrong_argument_is_one_line_and_exit_code_2() {
    let bench = Bench::new();
    for args in
        [&["lst"][..], &["list", "--jsn"], &["list", "--threads", "0"], &["list", "mehtods"], &["pull"]]
    {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(common::failure(&output).ends_with("; see `--help`"), "{args:?}");
    }
    assert!(bench.fails(&["lst"]).contains("'list'"));
}

#[test]
fn an_argument_that_is_not_utf8_is_a_clear_error() {
    let bench = Bench::new();
    let output = bench.eunoe(&["pull"]).arg(OsStr::from_bytes(b"\xff\xfe")).output().unwrap();
    assert!(common::failure(&output).contains("invalid UTF-8"));
}

#[test]
fn lists_have_the_shape_of_the_contract() {
    let bench = Bench::new();
    let json = |args: &[&str]| -> serde_json::Value {
        let output = bench.run(args);
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let pulled = bench.path("home/models/gemma3-270m.gguf");
    fs::create_dir_all(pulled.parent().unwrap()).unwrap();
    fs::write(&pulled, "x").unwrap();
    let models = json(&["list", "models", "--json"]);
    assert_eq!(models[0]["name"], "smollm2-135m");
    assert!(models[0]["path"].is_null());
    assert_eq!(models[0]["bytes"], 98_362_432);
    assert_eq!(models[1]["path"], pulled.display().to_string());
    assert_eq!(models, json(&["--json", "list"]));

    let methods = json(&["list", "methods", "--json"]);
    for method in methods.as_array().unwrap() {
        let mut fields: Vec<&str> = method.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields.len(), 5, "{fields:?}");
        assert!(["id", "shelf", "name", "paper", "idea"].iter().all(|f| fields.contains(f)));
    }
    assert!(methods.as_array().unwrap().iter().any(|m| m["id"] == "full" && m["shelf"] == "policy"));
}

#[test]
fn methods_can_be_listed_without_a_home() {
    let bench = Bench::new();
    let mut command = bench.eunoe(&["list", "methods"]);
    command.env_remove("EUNOE_HOME").env_remove("XDG_CACHE_HOME").env_remove("HOME");
    assert!(command.output().unwrap().status.success());
    let mut command = bench.eunoe(&["list"]);
    command.env_remove("EUNOE_HOME").env_remove("XDG_CACHE_HOME").env_remove("HOME");
    assert_eq!(
        common::failure(&command.output().unwrap()),
        "no place for models: set EUNOE_HOME to a folder"
    );
}

#[test]
fn standard_output_closed_early_is_no_panic() {
    let bench = Bench::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = bench.eunoe(&["list", "methods"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert!(output.stderr.is_empty());
    assert_eq!(output.status.code(), Some(141));
}
