//! A small writer of GGUF version 3: for toy models, and for what a folder's files say.

use eunoe_core::Dtype;

const ALIGNMENT: usize = 32;

/// Collects metadata and tensors; [`GgufWriter::finish`] makes the file.
#[derive(Debug, Default)]
pub struct GgufWriter {
    keys: u64,
    meta: Vec<u8>,
    tensors: u64,
    directory: Vec<u8>,
    data: Vec<u8>,
}

/// A value that can be written.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each names its type")]
pub enum Put<'a> {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    U64(u64),
    Strs(&'a [&'a str]),
    F32s(&'a [f32]),
    I32s(&'a [i32]),
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry.
    #[must_use]
    pub fn put(mut self, key: &str, value: Put<'_>) -> Self {
        self.keys += 1;
        let out = &mut self.meta;
        string(out, key);
        match value {
            Put::U32(n) => tagged(out, 4, &n.to_le_bytes()),
            Put::I32(n) => tagged(out, 5, &n.to_le_bytes()),
            Put::F32(x) => tagged(out, 6, &x.to_le_bytes()),
            Put::Bool(b) => tagged(out, 7, &[u8::from(b)]),
            Put::Str(s) => {
                tagged(out, 8, &[]);
                string(out, s);
            }
            Put::U64(n) => tagged(out, 10, &n.to_le_bytes()),
            Put::Strs(items) => {
                array(out, 8, items.len());
                items.iter().for_each(|s| string(out, s));
            }
            Put::F32s(items) => {
                array(out, 6, items.len());
                items.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Put::I32s(items) => {
                array(out, 5, items.len());
                items.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
        self
    }

    /// Adds a tensor; `shape` is in ggml's order, `bytes` are written as they are.
    #[must_use]
    pub fn tensor(mut self, name: &str, shape: &[u64], dtype: Dtype, bytes: &[u8]) -> Self {
        self.tensors += 1;
        string(&mut self.directory, name);
        self.directory.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|d| self.directory.extend(d.to_le_bytes()));
        self.directory.extend(dtype.ggml().to_le_bytes());
        self.directory.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        pad(&mut self.data);
        self
    }

    /// The bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(self.meta);
        file.extend(self.directory);
        pad(&mut file);
        file.extend(self.data);
        file
    }
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn tagged(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn array(out: &mut Vec<u8>, kind: u32, len: usize) {
    tagged(out, 9, &kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}
