//! Storage types: of weights in a model file, and of keys and values in memory.

use std::fmt;

use crate::{Error, Result};

/// A tensor type of a GGUF file that Eunoe computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are ggml's")]
pub enum Dtype {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Dtype {
    /// Every type, in ggml's order.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::BF16,
    ];

    /// The type behind ggml's number.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the type where its name is known.
    pub fn from_ggml(id: u32) -> Result<Self> {
        const OTHERS: [(u32, &str); 12] = [
            (9, "Q8_1"),
            (10, "Q2_K"),
            (11, "Q3_K"),
            (15, "Q8_K"),
            (16, "IQ2_XXS"),
            (17, "IQ2_XS"),
            (18, "IQ3_XXS"),
            (19, "IQ1_S"),
            (20, "IQ4_NL"),
            (21, "IQ3_S"),
            (22, "IQ2_S"),
            (23, "IQ4_XS"),
        ];
        if let Some(dtype) = Self::ALL.into_iter().find(|d| d.ggml() == id) {
            return Ok(dtype);
        }
        let name = OTHERS.iter().find(|(i, _)| *i == id).map_or("unknown", |(_, n)| n);
        let known = Self::ALL.map(|d| d.name()).join(", ");
        Err(Error::Unsupported(format!("tensor type {id} ({name}) is not supported; supported: {known}")))
    }

    /// ggml's number of this type.
    pub fn ggml(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// ggml's name of this type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Weights in one block along the input dimension, and the block's bytes in a file.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }
}

/// How keys and values are stored in a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    F16,
    /// Blocks of 32 signed bytes with one f16 scale: 34 bytes for 32 values.
    Q8,
    /// Blocks of 32 numbers from 0 to 15 with an f16 scale and an f16 minimum: 20 bytes for 32 values.
    Q4,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// Its id in a plan.
    pub fn id(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Bytes of one key or value vector of `head_dim` values (a multiple of 32 for `Q8` and `Q4`).
    pub fn bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => 4 * head_dim,
            Self::F16 => 2 * head_dim,
            Self::Q8 => head_dim.div_ceil(32) * 34,
            Self::Q4 => head_dim.div_ceil(32) * 20,
        }
    }
}

/// How the keys and how the values of a strip are stored: both in f32, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codecs {
    /// Of keys.
    pub k: Codec,
    /// Of values.
    pub v: Codec,
}

impl From<Codec> for Codecs {
    fn from(both: Codec) -> Self {
        Self { k: both, v: both }
    }
}

impl fmt::Display for Codecs {
    /// As a plan names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.k.id())?;
        if self.v == self.k { Ok(()) } else { write!(f, "(v={})", self.v.id()) }
    }
}
