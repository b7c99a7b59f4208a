//! Where models and what is known of their heads live: `$EUNOE_HOME`, by default the user's cache folder.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// The folder of models, unfinished downloads and head profiles.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// A home at this folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `$EUNOE_HOME`, else `$XDG_CACHE_HOME/eunoe`, else `~/.cache/eunoe`.
    ///
    /// # Errors
    /// None of the variables is set, or the folder is not an absolute path.
    pub fn from_env() -> Result<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("EUNOE_HOME")
            .or_else(|| Some(set("XDG_CACHE_HOME").filter(|p| p.is_absolute())?.join("eunoe")))
            .or_else(|| Some(set("HOME")?.join(".cache/eunoe")));
        match root {
            Some(root) => Ok(Self::new(std::path::absolute(root)?)),
            None => bail!("no place for models: set EUNOE_HOME to a folder"),
        }
    }

    /// The file of a model that was pulled.
    pub fn model(&self, name: &str) -> PathBuf {
        self.root.join("models").join(format!("{name}.gguf"))
    }

    /// The same file while it is being put together.
    pub fn partial(&self, name: &str) -> PathBuf {
        self.root.join("models").join(format!("{name}.gguf.part"))
    }

    /// The terms that were shown for a model.
    pub fn terms(&self, name: &str) -> PathBuf {
        self.root.join("models").join(format!("{name}.terms"))
    }

    /// Packages of a model that were already downloaded.
    pub fn downloads(&self, name: &str) -> PathBuf {
        self.root.join("downloads").join(name)
    }

    /// What is known of the heads of the model file with this checksum.
    pub fn profile(&self, sha256: &str) -> PathBuf {
        self.root.join("profiles").join(format!("{sha256}.json"))
    }

    /// Held by whoever pulls or removes a model; the file stays, the lock goes with its process.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.root.join("downloads").join(format!("{name}.lock"))
    }
}
