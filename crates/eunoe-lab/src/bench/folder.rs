//! The folder of a benchmark: what was run, and one line per result, kept as they come.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use eunoe_core::{Error, Result};
use eunoe_report::{ITEMS, MANIFEST, Machine};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Workers;
use crate::device::CUDA;
use crate::difference;
use crate::train::write_whole;

/// What was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest<S> {
    /// Name of the benchmark.
    pub benchmark: String,
    /// Version of the program.
    pub version: String,
    /// All that results depend on.
    pub settings: S,
    /// Where it was begun; seconds depend on it.
    pub machine: Machine,
}

impl<S> Manifest<S> {
    /// Of a benchmark that begins here with so many trainings at a time.
    pub fn here(benchmark: &str, settings: S, workers: Workers<'_>) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let machine = Machine {
            cpu: name.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            isa: workers.devices.isa(),
            jobs: workers.count,
            threads: crate::ops::threads(),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { benchmark: benchmark.to_owned(), version, settings, machine }
    }
}

/// Lines on disk, written by one process at a time.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    file: Mutex<File>,
}

impl Folder {
    /// A folder, empty or one in which the same benchmark was begun, its manifest, and the lines that are there. What a killed
    /// run left of its last line is cut off.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it holds something else or somebody writes to it, [`Error::Format`] for lines that are none,
    /// [`Error::Io`].
    pub fn open<S: Serialize + DeserializeOwned, L: DeserializeOwned>(
        dir: &Path,
        manifest: Manifest<S>,
    ) -> Result<(Self, Manifest<S>, Vec<L>)> {
        fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
        if let Some(other) = in_the_way(dir).map_err(|error| Error::io(dir, error))? {
            let why = format!("`{}` holds `{other}` and no benchmark: give a new folder", dir.display());
            return Err(Error::Invalid(why));
        }
        let path = dir.join(ITEMS);
        let fail = |error| Error::io(&path, error);
        let mut file = File::options().read(true).append(true).create(true).open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!("`{}` is being written to by another run", dir.display());
                return Err(Error::Invalid(why));
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let manifest = begin(dir, manifest)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = read(&bytes[..whole], &path)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(fail)?;
        }
        Ok((Self { path, file: Mutex::new(file) }, manifest, lines))
    }

    /// Keeps lines, all or none.
    ///
    /// # Errors
    /// [`Error::Io`]: what was kept before stays.
    pub fn add(&self, lines: &[impl Serialize]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(line).map_err(|error| Error::Invalid(error.to_string()))?;
            text.push('\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.metadata().map(|m| m.len());
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let (Err(_), Ok(before)) = (&written, before) {
            // a half line would stand before the next
            file.set_len(before).ok();
        }
        written.map_err(|error| Error::io(&self.path, error))
    }
}

/// What somebody else left in a folder without a manifest. A run that was killed at once leaves no lines, and hidden files.
fn in_the_way(dir: &Path) -> std::io::Result<Option<String>> {
    if dir.join(MANIFEST).exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.starts_with('.') || name == ITEMS && entry.metadata()?.len() == 0;
        if !is_ours {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Writes the manifest, or compares it with the one that is there, which is the run's then.
fn begin<S: Serialize + DeserializeOwned>(dir: &Path, manifest: Manifest<S>) -> Result<Manifest<S>> {
    let path = dir.join(MANIFEST);
    let invalid = |error: serde_json::Error| Error::Invalid(format!("`{}`: {error}", path.display()));
    let new = serde_json::to_value(&manifest).map_err(invalid)?;
    if !path.exists() {
        let text = serde_json::to_string_pretty(&new).map_err(invalid)? + "\n";
        return write_whole(&path, text.as_bytes()).map(|()| manifest);
    }
    let old = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let old: Value = serde_json::from_slice(&old).map_err(invalid)?;
    for part in ["benchmark", "version", "settings"] {
        if let Some(what) = difference(part, &old[part], &new[part]) {
            let why = format!(
                "`{}` is of another run ({what}): run what it says, or give another folder",
                path.display()
            );
            return Err(Error::Invalid(why));
        }
    }
    match [&old, &new].map(on_card) {
        [true, false] => {
            Err(Error::Invalid(format!("`{}` was begun on a card: see `--device`", path.display())))
        }
        [false, true] => {
            Err(Error::Invalid(format!("`{}` was begun on a processor, not on a card", path.display())))
        }
        _ => serde_json::from_value(old).map_err(invalid),
    }
}

/// Whether a manifest is of a run on cards, which sum in other orders than kernels; these give the same bits on every
/// processor.
pub(super) fn on_card(manifest: &Value) -> bool {
    manifest["machine"]["isa"] == CUDA
}

pub(super) fn read<L: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<Vec<L>> {
    let (mut lines, mut start) = (Vec::new(), 0);
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let parsed = serde_json::from_slice(line);
        let what = || format!("`{}`, line {}", path.display(), at + 1);
        lines.push(parsed.map_err(|error| Error::format(what(), start, error.to_string()))?);
        start += line.len() as u64;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Devices;

    fn manifest(vocab: usize) -> Manifest<Value> {
        here(serde_json::json!({ "vocab": vocab, "lrs": [0.1, 0.2] }), 1)
    }

    fn here(settings: Value, count: usize) -> Manifest<Value> {
        Manifest::here("made up", settings, Workers { count, devices: &Devices::parse("cpu").unwrap() })
    }

    fn open(dir: &Path, vocab: usize) -> Result<(Folder, Vec<u32>)> {
        let (folder, _, lines) = Folder::open(dir, manifest(vocab))?;
        Ok((folder, lines))
    }

    #[test]
    fn lines_come_back_and_a_torn_one_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ITEMS);
        let (folder, lines) = open(dir.path(), 8).unwrap();
        assert!(lines.is_empty());
        folder.add(&[1, 22]).unwrap();
        drop(folder);
        fs::write(&path, "1\n22\n3").unwrap();
        let (folder, lines) = open(dir.path(), 8).unwrap();
        assert_eq!(lines, [1, 22]);
        folder.add(&[4]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n22\n4\n");
    }

    #[test]
    fn another_run_is_refused_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("report.md");
        fs::write(&mine, "mine").unwrap();
        let error = open(dir.path(), 8).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("holds `report.md` and no benchmark"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
        fs::remove_file(mine).unwrap();
        // a run that was killed before its manifest was whole
        fs::write(dir.path().join(ITEMS), "").unwrap();
        fs::write(dir.path().join(".tmpx"), "{").unwrap();
        let (folder, _) = open(dir.path(), 8).unwrap();
        let error = open(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("written to by another run"), "{error}");
        folder.add(&[1]).unwrap();
        drop(folder);
        let error = open(dir.path(), 9).unwrap_err().to_string();
        assert!(error.contains("(`vocab`: 8 there, 9 asked for)"), "{error}");
        // how many trainings run at a time changes no result; what is told is how the folder was begun
        let wide = here(manifest(8).settings, 7);
        let (_, told, lines) = Folder::open::<_, u32>(dir.path(), wide).unwrap();
        assert_eq!((told.machine.jobs, lines), (1, vec![1]));
        // nor does the kind of processor, but cards sum in other orders
        let mut there = manifest(8);
        for (isa, is_ours) in [("another", true), (CUDA, false)] {
            there.machine.isa = isa.into();
            let path = dir.path().join(MANIFEST);
            fs::write(&path, serde_json::to_string(&there).unwrap()).unwrap();
            let opened = open(dir.path(), 8).map(|_| ());
            assert_eq!(opened.is_ok(), is_ours, "{isa}");
            let back = Folder::open::<_, u32>(dir.path(), there.clone());
            assert!(back.is_ok(), "{isa}");
        }
        fs::write(dir.path().join(MANIFEST), serde_json::to_string(&manifest(8)).unwrap()).unwrap();
        fs::write(dir.path().join(ITEMS), "1\nx\n").unwrap();
        let error = open(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        let error = open(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("holds `items.jsonl` and no benchmark"), "{error}");
    }
}
