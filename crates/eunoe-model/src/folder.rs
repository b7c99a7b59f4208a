//! Folders as Hugging Face's libraries write them: `config.json`, `tokenizer.json` and safetensors files.
//!
//! A folder is read as the GGUF file that its conversion would make: what its JSON says becomes metadata under GGUF's
//! keys, and its tensors get GGUF's names and stay where they are. What that file could not say is refused by name.

mod config;
mod tensors;
mod tokenizer;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use eunoe_core::{Error, Result};
use serde::de::DeserializeOwned;

use crate::gguf::Gguf;
use crate::gguf::write::GgufWriter;
use config::Config;
use tensors::Tensors;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Files that a folder can do without.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Maps the files of a folder and checks all that they say.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] naming the file, [`Error::Unsupported`] naming what Eunoe does not run.
pub(crate) fn open(folder: &Path) -> Result<Gguf> {
    let config = Config::read(folder)?;
    let tensors = Tensors::read(folder)?.renamed(&config)?;
    let says = config.write(GgufWriter::new());
    let says = tokenizer::write(folder, &config, says)?;
    let mut gguf = Gguf::parse(says.finish())?;
    tensors.add_to(&mut gguf);
    Ok(gguf)
}

/// The files of a folder that [`open`] reads.
///
/// # Errors
/// A folder that is no model.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![folder.join(CONFIG), folder.join(TOKENIZER)];
    let others = [TOKENIZER_CONFIG, GENERATION_CONFIG, CHAT_TEMPLATE].map(|name| folder.join(name));
    files.extend(others.into_iter().filter(|file| file.exists()));
    files.extend(tensors::files(folder)?.0);
    Ok(files)
}

/// What a JSON file says.
fn json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    match opt_json(file)? {
        Some(value) => Ok(value),
        None => Err(Error::Invalid(format!(
            "`{}` is missing: a model is a `.gguf` file, or a folder with `{CONFIG}`, `{TOKENIZER}` and `{}`",
            file.display(),
            tensors::SINGLE,
        ))),
    }
}

/// What a JSON file says, if it is there.
fn opt_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    let Some(bytes) = opt_bytes(file)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        let lines = bytes.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1));
        let before: usize = lines.map(<[u8]>::len).sum();
        let why = e.to_string();
        let why = why.split_once(" at line ").map_or(&*why, |(why, _)| why);
        broken(file, before + e.column(), why)
    })
}

fn opt_bytes(file: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(file, e)),
    }
}

fn broken(file: &Path, offset: usize, why: impl Into<String>) -> Error {
    Error::format(format!("`{}`", file.display()), offset as u64, why)
}

/// Refuses what a file of the folder asks for.
fn unsupported(file: &str, what: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("{what} in `{file}` is not supported"))
}
