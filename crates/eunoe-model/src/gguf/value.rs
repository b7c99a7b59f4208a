//! Metadata values and typed access to them.

use std::fmt;
use std::ops::Range;

use eunoe_core::{Error, Result};

use super::Gguf;
use super::cursor::Cursor;

/// Arrays inside arrays beyond this depth are refused.
const MAX_DEPTH: usize = 4;

/// The thirteen kinds of metadata value, in the file's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are GGUF's")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(at: &mut Cursor<'_>, key: &str) -> Result<Self> {
        let start = at.offset();
        let id = at.u32("value kind")?;
        let kind = Self::ALL.get(id as usize).copied();
        kind.ok_or_else(|| {
            Error::format(format!("GGUF key `{key}`"), start, format!("unknown value kind {id}"))
        })
    }

    /// Bytes of one value, where that is fixed.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are GGUF's")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array that stays in the file; its items were checked when the file was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The kind of every item.
    pub kind: Kind,
    /// How many there are.
    pub len: u64,
    span: Range<usize>,
}

impl Value {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::U8,
            Self::I8(_) => Kind::I8,
            Self::U16(_) => Kind::U16,
            Self::I16(_) => Kind::I16,
            Self::U32(_) => Kind::U32,
            Self::I32(_) => Kind::I32,
            Self::F32(_) => Kind::F32,
            Self::Bool(_) => Kind::Bool,
            Self::String(_) => Kind::String,
            Self::Array(_) => Kind::Array,
            Self::U64(_) => Kind::U64,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
        }
    }

    /// Its number, if it is one of the eight integer kinds.
    pub fn integer(&self) -> Option<i128> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::I8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::U64(n) => Some(n.into()),
            Self::I64(n) => Some(n.into()),
            _ => None,
        }
    }

    pub(super) fn read(at: &mut Cursor<'_>, key: &str) -> Result<Self> {
        let kind = Kind::read(at, key)?;
        Self::read_kind(at, key, kind)
    }

    fn read_kind(at: &mut Cursor<'_>, key: &str, kind: Kind) -> Result<Self> {
        Ok(match kind {
            Kind::U8 => Self::U8(u8::from_le_bytes(at.array(key)?)),
            Kind::I8 => Self::I8(i8::from_le_bytes(at.array(key)?)),
            Kind::U16 => Self::U16(u16::from_le_bytes(at.array(key)?)),
            Kind::I16 => Self::I16(i16::from_le_bytes(at.array(key)?)),
            Kind::U32 => Self::U32(u32::from_le_bytes(at.array(key)?)),
            Kind::I32 => Self::I32(i32::from_le_bytes(at.array(key)?)),
            Kind::F32 => Self::F32(f32::from_le_bytes(at.array(key)?)),
            Kind::Bool => Self::Bool(at.array::<1>(key)? != [0]),
            Kind::String => Self::String(at.str(key)?.to_owned()),
            Kind::Array => Self::Array(Array::read(at, key, 1)?),
            Kind::U64 => Self::U64(u64::from_le_bytes(at.array(key)?)),
            Kind::I64 => Self::I64(i64::from_le_bytes(at.array(key)?)),
            Kind::F64 => Self::F64(f64::from_le_bytes(at.array(key)?)),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32(x) => write!(f, "{x}"),
            Self::F64(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::String(s) => write!(f, "{s:?}"),
            Self::Array(a) => write!(f, "[{} × {:?}]", a.len, a.kind),
            integer => write!(f, "{}", integer.integer().unwrap_or_default()),
        }
    }
}

impl Array {
    fn read(at: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Self> {
        let kind = Kind::read(at, key)?;
        let len = at.u64("array length")?;
        let start = at.offset();
        let bad = |why: String| Error::format(format!("GGUF key `{key}`"), start, why);
        match kind.bytes() {
            Some(bytes) => {
                let bytes = len.checked_mul(bytes).ok_or_else(|| bad(format!("array of {len} items")))?;
                at.take(bytes, key)?;
            }
            None if kind == Kind::Array && depth == MAX_DEPTH => {
                return Err(bad(format!("arrays nested deeper than {MAX_DEPTH}")));
            }
            None => {
                for _ in 0..len {
                    if kind == Kind::Array {
                        Self::read(at, key, depth + 1)?;
                    } else {
                        at.str(key)?;
                    }
                }
            }
        }
        Ok(Self { kind, len, span: start as usize..at.offset() as usize })
    }
}

/// Typed access: the plain names fail when the key is absent, the `opt_` names return `None`.
/// Every integer kind is taken as any integer that can hold its value.
impl Gguf {
    fn scalar<'a, T>(
        &'a self,
        key: &str,
        want: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.meta.get(key) else { return Ok(None) };
        match read(value) {
            Some(got) => Ok(Some(got)),
            None => {
                let why = format!("expected {want}, found {:?} {value}", value.kind());
                Err(Error::format(format!("GGUF key `{key}`"), 0, why))
            }
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is of another kind.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.scalar(key, "a string", |v| if let Value::String(s) = v { Some(s.as_str()) } else { None })
    }

    /// A whole number below 2^32.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is of another kind or out of range.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.scalar(key, "an integer below 2^32", |v| v.integer()?.try_into().ok())
    }

    /// A whole number below 2^64.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is of another kind or out of range.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        self.scalar(key, "an integer below 2^64", |v| v.integer()?.try_into().ok())
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is of another kind.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.scalar(key, "a float", |v| match *v {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        })
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is of another kind.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.scalar(key, "a bool", |v| if let Value::Bool(b) = *v { Some(b) } else { None })
    }

    /// The strings of an array, read from the file as they are asked for.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is not an array of strings.
    pub fn opt_strs(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = &str> + Clone>> {
        let array = self.scalar(key, "an array of strings", |v| match v {
            Value::Array(a) if a.kind == Kind::String => Some(a),
            _ => None,
        })?;
        Ok(array.map(|a| {
            let mut at = Cursor::new(&self.bytes()[a.span.clone()]);
            (0..a.len as usize).map(move |_| at.str("string").unwrap_or_default())
        }))
    }

    /// The floats of an array.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is not an array of 32-bit floats.
    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let array = self.scalar(key, "an array of f32", |v| match v {
            Value::Array(a) if a.kind == Kind::F32 => Some(a),
            _ => None,
        })?;
        Ok(array.map(|a| {
            let (words, _) = self.bytes()[a.span.clone()].as_chunks();
            words.iter().map(|&w| f32::from_le_bytes(w)).collect()
        }))
    }

    /// The integers of an array of any integer kind; a single integer reads as an array of one.
    ///
    /// # Errors
    /// [`Error::Format`] if the value is something else, or a number is outside ±2^31.
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.scalar(key, "an array of integers within ±2^31", |v| match v {
            Value::Array(a) => {
                let mut at = Cursor::new(&self.bytes()[a.span.clone()]);
                let item = |_| Value::read_kind(&mut at, key, a.kind).ok()?.integer()?.try_into().ok();
                a.kind.bytes()?;
                (0..a.len).map(item).collect()
            }
            one => Some(vec![one.integer()?.try_into().ok()?]),
        })
    }

    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::format("GGUF metadata", 0, format!("key `{key}` is missing")))
    }
}

/// Declares the getter that insists on its key.
macro_rules! required {
    ($($name:ident, $opt:ident -> $out:ty;)*) => {
        impl Gguf {$(
            #[doc = concat!("[`Gguf::", stringify!($opt), "`] of a key that must be there.")]
            ///
            /// # Errors
            /// [`Error::Format`] if the key is missing or the value is of another kind.
            pub fn $name(&self, key: &str) -> Result<$out> {
                self.need(key, self.$opt(key)?)
            }
        )*}
    };
}

required! {
    str, opt_str -> &str;
    u32, opt_u32 -> u32;
    u64, opt_u64 -> u64;
    f32, opt_f32 -> f32;
    bool, opt_bool -> bool;
    strs, opt_strs -> impl ExactSizeIterator<Item = &str> + Clone;
    f32s, opt_f32s -> Vec<f32>;
    i32s, opt_i32s -> Vec<i32>;
}
