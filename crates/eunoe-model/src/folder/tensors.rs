//! The safetensors files of a folder: one, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use eunoe_core::{Dtype, Error, Result};
use eunoe_kernels::vm::{MappedFile, map_file};
use safetensors::tensor::Metadata;
use serde::Deserialize;

use super::config::Config;
use super::{broken, json};
use crate::gguf::{Gguf, TensorInfo};

pub(super) const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const EMBED: [&str; 2] = ["model.embed_tokens.weight", "token_embd.weight"];
const HEAD: [&str; 2] = ["lm_head.weight", "output.weight"];
const NORM: [&str; 2] = ["model.norm.weight", "output_norm.weight"];

/// Tensors of a layer, here and in GGUF files.
const LAYER: [[&str; 2]; 9] = [
    ["input_layernorm.weight", "attn_norm.weight"],
    ["self_attn.q_proj.weight", "attn_q.weight"],
    ["self_attn.k_proj.weight", "attn_k.weight"],
    ["self_attn.v_proj.weight", "attn_v.weight"],
    ["self_attn.o_proj.weight", "attn_output.weight"],
    ["post_attention_layernorm.weight", "ffn_norm.weight"],
    ["mlp.gate_proj.weight", "ffn_gate.weight"],
    ["mlp.up_proj.weight", "ffn_up.weight"],
    ["mlp.down_proj.weight", "ffn_down.weight"],
];

/// Those that `qwen2` has besides.
const BIASES: [[&str; 2]; 3] = [
    ["self_attn.q_proj.bias", "attn_q.bias"],
    ["self_attn.k_proj.bias", "attn_k.bias"],
    ["self_attn.v_proj.bias", "attn_v.bias"],
];

/// Which file holds which tensor.
#[derive(Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Mapped files, and where in them tensors lie.
pub(super) struct Tensors {
    files: Vec<MappedFile>,
    by_name: BTreeMap<String, TensorInfo>,
}

/// The files with tensors, each once; with the index where there is one, first.
pub(super) fn files(folder: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let (single, index_file) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() || !index_file.exists() {
        return Ok((vec![single], None));
    }
    let index: Index = json(&index_file)?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let mut files = Vec::new();
    for name in names {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            return Err(broken(&index_file, 0, format!("`{name}` is not the name of a file in this folder")));
        };
        files.push(folder.join(name));
    }
    Ok((files, Some(index)))
}

impl Tensors {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let (paths, index) = files(folder)?;
        let mut tensors = Self { files: Vec::new(), by_name: BTreeMap::new() };
        for path in &paths {
            let file = map_file(path)?;
            for info in directory(path, tensors.files.len(), file.as_ref())? {
                let other = tensors.by_name.insert(info.name.clone(), info);
                if let Some(twice) = other {
                    return Err(broken(path, 0, format!("tensor `{}` is in another file too", twice.name)));
                }
            }
            tensors.files.push(file);
        }
        for (name, file) in index.iter().flat_map(|index| &index.weight_map) {
            let place = tensors.by_name.get(name).and_then(|info| paths[info.file].file_name());
            if place != Some(file.as_ref()) {
                return Err(broken(&folder.join(INDEX), 0, format!("tensor `{name}` is not in `{file}`")));
            }
        }
        Ok(tensors)
    }

    /// The same under GGUF's names: all that the model has, and nothing else.
    pub(super) fn renamed(mut self, config: &Config) -> Result<Self> {
        let mut renamed = BTreeMap::new();
        let mut rename = |here: &str, there: String| match self.by_name.remove(here) {
            Some(info) => {
                renamed.insert(there, info);
                Ok(())
            }
            None => Err(Error::format("safetensors", 0, format!("no tensor `{here}` in this folder"))),
        };
        for [here, there] in [EMBED, NORM].into_iter().chain((!config.is_tied()).then_some(HEAD)) {
            rename(here, there.into())?;
        }
        let biases = if config.model_type == "qwen2" { &BIASES[..] } else { &[] };
        for l in 0..config.num_hidden_layers {
            for [here, there] in LAYER.iter().chain(biases) {
                rename(&format!("model.layers.{l}.{here}"), format!("blk.{l}.{there}"))?;
            }
        }
        if let Some(name) = self.by_name.keys().next() {
            let why =
                format!("tensor `{name}` is not part of this `{}` model as Eunoe runs it", config.model_type);
            return Err(Error::Unsupported(why));
        }
        // the tokenizer is given as many tokens
        let (got, want) = (&renamed[EMBED[1]].shape, [config.hidden_size, config.vocab_size].map(u64::from));
        if *got != want {
            return Err(Error::shape(format!("`{}`", EMBED[0]), want, got));
        }
        Ok(Self { by_name: renamed, ..self })
    }

    pub(super) fn add_to(self, gguf: &mut Gguf) {
        let numbers: Vec<usize> = self.files.into_iter().map(|file| gguf.add(Arc::new(file))).collect();
        for (name, info) in self.by_name {
            let file = numbers[info.file];
            gguf.tensors.insert(name, TensorInfo { file, ..info });
        }
    }
}

/// The tensors of one file, in the order of their bytes.
fn directory(path: &Path, file: usize, bytes: &[u8]) -> Result<Vec<TensorInfo>> {
    let cut = || broken(path, 0, "not a safetensors file, or cut off");
    let (len, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    let len =
        usize::try_from(u64::from_le_bytes(*len)).ok().filter(|len| *len <= rest.len()).ok_or_else(cut)?;
    // Reading it checks that tensors follow one another, each as long as its shape. The crate's own way to open a file
    // adds up lengths that can overflow.
    let metadata: Metadata = serde_json::from_slice(&rest[..len])
        .map_err(|e| broken(path, size_of::<u64>(), format!("the header is not that of safetensors: {e}")))?;
    let data = (size_of::<u64>() + len) as u64;
    let (want, got) = (metadata.data_len(), rest.len() - len);
    if want != got {
        return Err(broken(
            path,
            data as usize,
            format!("tensors take {want} bytes from here, there are {got}"),
        ));
    }
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(tensor) = metadata.info(&name) else { continue };
        let (start, end) = tensor.data_offsets;
        let offset = data + start as u64;
        let dtype = match tensor.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            other => {
                let why = format!(
                    "tensor `{name}` is {other:?}, which is not supported; supported: F32, F16, BF16"
                );
                return Err(Error::Unsupported(why));
            }
        };
        if tensor.shape.contains(&0) {
            return Err(broken(path, offset as usize, format!("tensor `{name}` holds no values")));
        }
        let shape = tensor.shape.iter().rev().map(|n| *n as u64).collect();
        tensors.push(TensorInfo { name, shape, dtype, file, offset, len: (end - start) as u64 });
    }
    Ok(tensors)
}
