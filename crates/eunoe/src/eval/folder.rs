//! The folder of an evaluation: what was run, and one line per item, kept as they come.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use eunoe_report::{ITEMS, Line, MANIFEST, Machine, Manifest};

use crate::wheel::cannot;

/// Plan, task, length, number of the item.
pub(crate) type Key = (String, String, usize, usize);

/// Lines of an evaluation; on disk where a folder was named.
pub(crate) struct Folder {
    file: Option<(PathBuf, Mutex<File>)>,
    lines: Mutex<Vec<Line>>,
    done: HashSet<Key>,
}

pub(crate) fn key(line: &Line) -> Key {
    (line.plan.clone(), line.task.clone(), line.length, line.sample)
}

impl Folder {
    /// Lines that are kept in memory alone.
    pub(crate) fn nowhere() -> Self {
        Self { file: None, lines: Mutex::default(), done: HashSet::new() }
    }

    /// A folder, new or one in which the same evaluation was begun.
    ///
    /// # Errors
    /// It holds another evaluation, somebody else writes to it, or it cannot be read or written.
    pub(crate) fn open(dir: &Path, manifest: &Manifest) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| cannot("create", dir))?;
        let path = dir.join(ITEMS);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| cannot("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("`{}` is being written to by another `eunoe eval`", dir.display())
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| cannot("lock", &path)),
        }
        let lines = read_lines(&mut file, &path)?;
        if !lines.is_empty() && !dir.join(MANIFEST).exists() {
            bail!(
                "`{}` has answers of an unknown evaluation and no manifest: give another --out",
                dir.display()
            );
        }
        begin(&dir.join(MANIFEST), manifest)?;
        let done = lines.iter().map(key).collect();
        Ok(Self { file: Some((path, Mutex::new(file))), lines: Mutex::new(lines), done })
    }

    /// Whether answers outlive the run.
    pub(crate) fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Whether an item was answered before this run.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.done.contains(key)
    }

    /// Items that were answered before this run.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Keeps a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn add(&self, line: Line) -> Result<()> {
        if let Some((path, file)) = &self.file {
            let text = serde_json::to_string(&line)? + "\n";
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let before = file.metadata().map(|m| m.len());
            let written = file.write_all(text.as_bytes());
            if let (Err(_), Ok(before)) = (&written, before) {
                file.set_len(before).ok(); // a half line would stand before the next
            }
            written.with_context(|| {
                format!("{}; what was kept stays: make room and run the same command", cannot("write", path))
            })?;
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(())
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes the manifest, or compares it with the one that is there.
fn begin(path: &Path, manifest: &Manifest) -> Result<()> {
    if path.exists() {
        let text = fs::read_to_string(path).with_context(|| cannot("read", path))?;
        let old: Manifest = serde_json::from_str(&text)
            .with_context(|| format!("`{}` is no manifest: give another --out", path.display()))?;
        if let Some(what) = differs(&old, manifest) {
            bail!(
                "`{}` is of another evaluation ({what}): give another --out, or run what it says",
                path.display()
            );
        }
        return Ok(());
    }
    replace(path, &(serde_json::to_string_pretty(manifest)? + "\n"))
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("part");
    fs::write(&partial, text).with_context(|| cannot("write", &partial))?;
    fs::rename(&partial, path).with_context(|| cannot("write", path))
}

/// The first thing that would make other digits.
fn differs(old: &Manifest, new: &Manifest) -> Option<String> {
    let isa = |m: &Machine| m.isa.clone();
    let say = |what: &str, old: &dyn std::fmt::Debug, new: &dyn std::fmt::Debug| {
        Some(format!("{what}: {old:?} there, {new:?} asked for"))
    };
    match () {
        () if old.eunoe != new.eunoe => say("version", &old.eunoe, &new.eunoe),
        () if old.model.name != new.model.name => say("model", &old.model.name, &new.model.name),
        () if old.model != new.model => say("model file", &old.model.sha256, &new.model.sha256),
        () if old.plans != new.plans => say("plans", &old.plans, &new.plans),
        () if old.tasks != new.tasks => say("tasks", &old.tasks, &new.tasks),
        () if old.lengths != new.lengths => say("lengths", &old.lengths, &new.lengths),
        () if old.samples != new.samples => say("samples", &old.samples, &new.samples),
        () if old.seed != new.seed => say("seed", &old.seed, &new.seed),
        () if old.audit != new.audit => say("audit", &old.audit, &new.audit),
        () if old.exact != new.exact => say("exact", &old.exact, &new.exact),
        () if old.sources != new.sources => say("files", &old.sources, &new.sources),
        () if old.heads != new.heads => say("profile of the heads", &old.heads, &new.heads),
        () if old.first != new.first => {
            Some("other prompts, from another tokenizer or other wordings".into())
        }
        () if isa(&old.machine) != isa(&new.machine) => {
            say("instruction set", &old.machine.isa, &new.machine.isa)
        }
        () => None,
    }
}

/// Lines that were kept; what a killed run left of its last one is cut off.
fn read_lines(file: &mut File, path: &Path) -> Result<Vec<Line>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .with_context(|| cannot("read", path))?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64).with_context(|| cannot("write", path))?;
    }
    eunoe_report::lines(&bytes[..whole], &path.display().to_string())
        .context("these are no answers to go on from: give another --out")
}
