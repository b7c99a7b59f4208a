//! The files that are checked: Rust sources and manifests, in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Paths from the root, with `/`, and the text of each file.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Every `.rs` and `Cargo.toml` below the root.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        for folder in ["crates", "xtask", "examples", "bench", "fuzz"] {
            tree.add(root, folder)?;
        }
        Ok(tree)
    }

    fn add(&mut self, root: &Path, folder: &str) -> Result<()> {
        let path = root.join(folder);
        if !path.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&path).with_context(|| format!("cannot read `{}`", path.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let inside = format!("{folder}/{name}");
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    self.add(root, &inside)?;
                }
            } else if name.ends_with(".rs") || name == "Cargo.toml" {
                let text = fs::read_to_string(entry.path());
                self.files.insert(inside, text.with_context(|| format!("`{}`", entry.path().display()))?);
            }
        }
        Ok(())
    }

    /// Rust sources: path and text.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Manifests of crates: the crate's folder and the text.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter_map(|(path, text)| Some((path.strip_suffix("/Cargo.toml")?, text)))
    }

    /// The text of one file.
    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// A made-up tree.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_manifests_are_found_and_build_output_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["crates/a/src/lib.rs", "crates/a/Cargo.toml", "crates/a/target/x.rs", "crates/a/note.md"]
        {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), path).unwrap();
        }
        let tree = Tree::read(dir.path()).unwrap();
        assert_eq!(tree.sources().map(|(p, _)| p).collect::<Vec<_>>(), ["crates/a/src/lib.rs"]);
        assert_eq!(tree.manifests().map(|(p, _)| p).collect::<Vec<_>>(), ["crates/a"]);
    }
}
