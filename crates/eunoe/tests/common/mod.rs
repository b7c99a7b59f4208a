//! A home of its own, a `python3` of its own, and the binary.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a broken test bench should stop the test")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A `python3` whose `pip download` copies wheels from a folder and writes down what it was asked for.
const PYTHON: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    --dest) dest="$2"; shift ;;
    *==*) spec="$1" ;;
  esac
  shift
done
echo "$spec" >> "$BENCH/asked"
test -e "$BENCH/hang" && { echo half > "$dest/half.tmp"; exec sleep 30; }
if test -e "$BENCH/wheels/$spec.whl"; then
  cp "$BENCH/wheels/$spec.whl" "$dest/some_name-py3-none-any.whl"
else
  cat "$BENCH/fails" >&2
  exit 1
fi
"#;

/// One test's world.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    /// An empty home, and a package index without packages.
    pub(crate) fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["bin", "wheels", "home"] {
            fs::create_dir(bench.path(folder)).unwrap();
        }
        bench.pip_says("ERROR: No matching distribution found for x");
        let python = bench.path("bin/python3");
        fs::write(&python, PYTHON).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    /// A path in this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `pip` says about packages that are not there.
    pub(crate) fn pip_says(&self, text: &str) {
        fs::write(self.path("fails"), text).unwrap();
    }

    /// Puts a wheel with these files into the index.
    pub(crate) fn serve(&self, spec: &str, files: &[(&str, &[u8])]) {
        write_wheel(&self.path(&format!("wheels/{spec}.whl")), files);
    }

    /// The packages that `pip` was asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.path("asked"));
        text.lines().map(String::from).collect()
    }

    /// The binary with these arguments, in this world.
    pub(crate) fn eunoe(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eunoe"));
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command
            .args(args)
            .env("BENCH", self.dir.path())
            .env("EUNOE_HOME", self.path("home"))
            .env("PATH", path);
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.eunoe(args).output().unwrap()
    }

    /// Runs the binary, which must fail with one line; returns that line without `error: `.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        failure(&self.run(args))
    }

    /// The names of all files in the home, locks left out.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        collect(&self.path("home"), &mut names);
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        names
    }
}

/// The one line that a failed command left, without `error: `.
pub(crate) fn failure(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "succeeded: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("no `error: ` in {stderr}")).trim_end().into()
}

/// A zip file with these files, deflated.
pub(crate) fn write_wheel(path: &Path, files: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn collect(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => collect(&path, names),
            _ => names.push(entry.file_name().into_string().unwrap()),
        }
    }
}
