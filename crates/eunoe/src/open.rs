//! From `-m MODEL` to a model that is ready to run.

use std::path::Path;

use anyhow::{Context as _, Result};
use eunoe_engine::{Arithmetic, Engine, Options};
use eunoe_model::gguf::{self, Gguf};

use crate::context::Context;
use crate::home::Home;
use crate::{models, progress, pull};

/// Opens a model with a bar; `exact` is slower and for comparisons.
///
/// # Errors
/// An unknown name, a model that is not on this machine, or a file that cannot be read.
pub fn engine(model: &Path, exact: bool, ctx: &Context) -> Result<Engine> {
    let path = file(model)?;
    let arithmetic = if exact { Arithmetic::Exact } else { Arithmetic::Fast };
    let options = Options { threads: ctx.threads, arithmetic, ..Options::default() };
    let bar = progress::bar("loading", 100, "%");
    let engine = Engine::open(&path, options, &mut |share| bar.set_position((100.0 * share) as u64));
    bar.finish_and_clear();
    engine.with_context(|| format!("cannot open `{}`", path.display()))
}

/// Reads the metadata of a model: no weights.
///
/// # Errors
/// Those of [`engine`].
pub fn header(model: &Path) -> Result<Gguf> {
    let path = file(model)?;
    gguf::open(&path).with_context(|| format!("cannot open `{}`", path.display()))
}

/// One for each model and arithmetic: what a kept memory is of.
///
/// # Errors
/// The file cannot be read.
pub fn identity(path: &Path, exact: bool) -> Result<String> {
    Ok(format!("{} {}", sha256(path)?, if exact { "exact" } else { "fast" }))
}

/// The file or folder that a model's name or path means.
///
/// # Errors
/// An unknown name, or a model that is not on this machine.
pub fn file(model: &Path) -> Result<std::path::PathBuf> {
    models::resolve(model, &Home::from_env()?)
}

/// SHA-256 of a model's file; of a folder, that of the list that `sha256sum` makes of the files that are read.
///
/// # Errors
/// A file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return pull::sha256(path);
    }
    let mut list = String::new();
    for file in gguf::files(path)? {
        let name = file.file_name().unwrap_or_default().display().to_string();
        list += &format!("{}  {name}\n", pull::sha256(&file)?);
    }
    Ok(pull::sha256_of_bytes(list.as_bytes()))
}

/// Bytes of a model's files.
///
/// # Errors
/// A folder that is no model, or a file that is not there.
pub fn bytes(path: &Path) -> Result<u64> {
    let sizes = gguf::files(path)?.into_iter().map(|file| Ok(std::fs::metadata(file)?.len()));
    sizes.sum()
}
