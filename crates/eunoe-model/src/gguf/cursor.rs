//! A bounds-checked reader of little-endian fields.

use eunoe_core::{Error, Result};

/// A position in a byte slice; every read names what it reads, so that an error can say it.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            let why = format!("{what} of {len} bytes in a file that ends {} bytes later", self.remaining());
            return Err(Error::format("GGUF file", self.offset(), why));
        }
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string with its length in front.
    pub(super) fn str(&mut self, what: &str) -> Result<&'a str> {
        let len = self.u64(what)?;
        let start = self.offset();
        std::str::from_utf8(self.take(len, what)?).map_err(|e| {
            Error::format("GGUF file", start + e.valid_up_to() as u64, format!("{what} is not UTF-8"))
        })
    }
}
