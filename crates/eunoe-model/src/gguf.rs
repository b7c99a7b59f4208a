//! GGUF files, versions 2 and 3, little-endian: metadata, and a directory of tensors.
//!
//! The whole directory is checked when the file is opened; after that a tensor is a slice of the mapped bytes.
//!
//! A folder (`crate::folder`) is read as the file that its conversion would make, so that all else knows one form.

mod cursor;
mod value;
pub mod write;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eunoe_core::{Dtype, Error, Result};
use eunoe_kernels::vm::{MappedFile, map_file};

use crate::folder;
use cursor::Cursor;
pub use value::{Array, Kind, Value};

/// The bytes of a file: a memory map in production, a `Vec<u8>` in tests.
pub trait Bytes: Send + Sync + 'static {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that a part will hardly be read again: its memory may go.
    fn release(&self, _start: usize, _len: usize) {}
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Bytes for MappedFile {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }

    fn release(&self, start: usize, len: usize) {
        MappedFile::release(self, start, len);
    }
}

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: u32 = 4;

/// One opened file, or a folder read as one.
#[derive(Clone)]
pub struct Gguf {
    /// The file with the metadata, then others with tensors.
    files: Vec<Arc<dyn Bytes>>,
    /// 2 or 3.
    pub version: u32,
    /// Every tensor starts at a multiple of this many bytes.
    pub alignment: u64,
    /// Metadata by key.
    pub meta: BTreeMap<String, Value>,
    /// Directory by tensor name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Where a tensor lies, and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Lengths of its axes in ggml's order: the axis that varies fastest comes first.
    pub shape: Vec<u64>,
    /// How its values are stored.
    pub dtype: Dtype,
    /// In which of the files it lies.
    pub file: usize,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes it takes.
    pub len: u64,
}

/// A tensor's directory entry and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The directory entry.
    pub info: &'a TensorInfo,
    /// Its `info.len` bytes.
    pub bytes: &'a [u8],
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (meta, tensors) = (self.meta.len(), self.tensors.len());
        write!(f, "Gguf {{ version: {}, {meta} keys, {tensors} tensors }}", self.version)
    }
}

/// Maps a file, or those of a folder, and reads the directory.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened or mapped, those of [`Gguf::parse`], and for folders [`Error::Unsupported`]
/// naming what Eunoe does not run.
pub fn open(path: &Path) -> Result<Gguf> {
    if path.is_dir() { folder::open(path) } else { Gguf::parse(map_file(path)?) }
}

/// The files that [`open`] reads of a path: itself, or some of a folder's, in a fixed order.
///
/// # Errors
/// A folder that is no model.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() { folder::files(path) } else { Ok(vec![path.to_owned()]) }
}

impl Gguf {
    /// Reads and checks the metadata and the tensor directory.
    ///
    /// # Errors
    /// [`Error::Format`] with the offset of whatever breaks the format, [`Error::Unsupported`] for another
    /// version, byte order or tensor type.
    pub fn parse(bytes: impl Bytes) -> Result<Self> {
        let bytes: Arc<dyn Bytes> = Arc::new(bytes);
        let file = bytes.bytes();
        let mut at = Cursor::new(file);
        let version = header(&mut at)?;
        let (tensor_count, key_count) = (at.u64("tensor count")?, at.u64("key count")?);
        let meta = metadata(&mut at, key_count)?;
        let alignment = alignment(&meta)?;
        let mut directory = Vec::new();
        for _ in 0..tensor_count {
            directory.push(tensor_info(&mut at)?);
        }
        let data = at.offset().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        let tensors = place(directory, data, alignment, file.len() as u64)?;
        Ok(Self { version, alignment, meta, tensors, files: vec![bytes] })
    }

    /// Adds a file with tensors; gives its number, for their [`TensorInfo::file`].
    pub(crate) fn add(&mut self, file: Arc<dyn Bytes>) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// The file with the metadata.
    fn bytes(&self) -> &[u8] {
        self.files[0].bytes()
    }

    /// Gives back the memory of a tensor's bytes; they can still be read, from the file.
    pub fn release(&self, tensor: &TensorInfo) {
        self.files[tensor.file].release(tensor.offset as usize, tensor.len as usize);
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// [`Error::Format`] if the file has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::format("GGUF tensors", 0, format!("no tensor `{name}` in this file")));
        };
        let file = self.files[info.file].bytes();
        Ok(Tensor { info, bytes: &file[info.offset as usize..][..info.len as usize] })
    }
}

/// Magic and version.
fn header(at: &mut Cursor<'_>) -> Result<u32> {
    let magic = at.take(4, "magic")?;
    if magic != MAGIC {
        return Err(Error::format(
            "GGUF header",
            0,
            format!("expected `GGUF`, got {magic:02x?}: not a GGUF file"),
        ));
    }
    let version = at.u32("version")?;
    match version {
        2 | 3 => Ok(version),
        v if v.swap_bytes() <= 3 => {
            Err(Error::Unsupported("big-endian GGUF file; convert it to little-endian".to_owned()))
        }
        v => Err(Error::Unsupported(format!("GGUF version {v} is not supported; supported: 2, 3"))),
    }
}

fn metadata(at: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>> {
    let mut meta = BTreeMap::new();
    for _ in 0..count {
        let start = at.offset();
        let key = at.str("metadata key")?.to_owned();
        let value = Value::read(at, &key)?;
        if meta.contains_key(&key) {
            return Err(Error::format("GGUF metadata", start, format!("key `{key}` appears twice")));
        }
        meta.insert(key, value);
    }
    Ok(meta)
}

fn alignment(meta: &BTreeMap<String, Value>) -> Result<u64> {
    let Some(value) = meta.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match value.integer() {
        Some(n) if n > 0 && (n as u128).is_power_of_two() && n <= i128::from(u32::MAX) => Ok(n as u64),
        _ => {
            let why = format!("`{ALIGNMENT_KEY}` must be a power of two, got {value}");
            Err(Error::format("GGUF metadata", 0, why))
        }
    }
}

/// One directory entry; `offset` still counts from the start of the data section.
fn tensor_info(at: &mut Cursor<'_>) -> Result<TensorInfo> {
    let start = at.offset();
    let name = at.str("tensor name")?.to_owned();
    let bad = |why: String| Error::format(format!("tensor `{name}`"), start, why);
    let dims = at.u32("tensor dimensions")?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(bad(format!("expected 1 to {MAX_DIMS} dimensions, got {dims}")));
    }
    let shape = (0..dims).map(|_| at.u64("tensor shape")).collect::<Result<Vec<_>>>()?;
    let dtype = Dtype::from_ggml(at.u32("tensor type")?)
        .map_err(|e| Error::Unsupported(format!("tensor `{name}`: {e}")))?;
    let offset = at.u64("tensor offset")?;
    let (weights, block_bytes) = dtype.block();
    let count = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
    let Some(count) = count else {
        return Err(bad(format!("shape {shape:?} holds no values, or more than 2^64")));
    };
    if shape[0] % weights as u64 != 0 {
        let why = format!("first axis of {shape:?} must be a multiple of {weights} for {}", dtype.name());
        return Err(bad(why));
    }
    let Some(len) = (count / weights as u64).checked_mul(block_bytes as u64) else {
        return Err(bad(format!("shape {shape:?} takes more than 2^64 bytes")));
    };
    Ok(TensorInfo { name, shape, dtype, file: 0, offset, len })
}

/// Turns offsets into file offsets and checks that tensors are inside the file, apart, and named once.
fn place(
    mut directory: Vec<TensorInfo>,
    data: u64,
    alignment: u64,
    file_len: u64,
) -> Result<BTreeMap<String, TensorInfo>> {
    directory.sort_by_key(|t| t.offset);
    let mut names = HashSet::new();
    let mut free = data;
    for t in &mut directory {
        let bad =
            |why: String| Error::format(format!("tensor `{}`", t.name), data.saturating_add(t.offset), why);
        if !names.insert(t.name.clone()) {
            return Err(bad("appears twice".to_owned()));
        }
        if !t.offset.is_multiple_of(alignment) {
            return Err(bad(format!("offset {} is not a multiple of the alignment {alignment}", t.offset)));
        }
        let span = data.checked_add(t.offset).and_then(|start| Some((start, start.checked_add(t.len)?)));
        let Some((start, end)) = span.filter(|&(_, end)| end <= file_len) else {
            return Err(bad(format!("{} bytes from here pass the end of the file at {file_len}", t.len)));
        };
        if start < free {
            return Err(bad("overlaps the tensor before it".to_owned()));
        }
        (t.offset, free) = (start, end);
    }
    Ok(directory.into_iter().map(|t| (t.name.clone(), t)).collect())
}
