//! From `-m MODEL` to a model that is ready to run.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
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

/// One for each model file and arithmetic: what a kept memory is of.
///
/// # Errors
/// The file cannot be read.
pub fn identity(path: &Path, exact: bool) -> Result<String> {
    Ok(format!("{} {}", pull::sha256(path)?, if exact { "exact" } else { "fast" }))
}

/// The file that a model's name or path means.
///
/// # Errors
/// An unknown name, a model that is not on this machine, or a folder.
pub fn file(model: &Path) -> Result<std::path::PathBuf> {
    let path = models::resolve(model, &Home::from_env()?)?;
    if path.is_dir() {
        bail!("`{}` is a folder; give a `.gguf` file in it", path.display());
    }
    Ok(path)
}
