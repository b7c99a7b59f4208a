//! Memory of one thread, kept between calls.

/// One cache line, so that vectors do not straddle two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "seen as plain floats or words")] [f32; 16]);

/// Grows to the most that was asked for, and stays.
#[derive(Default)]
pub(crate) struct Memory(Vec<CacheLine>);

impl Memory {
    /// `len` numbers, left over from earlier uses; aligned to 64 bytes.
    pub(crate) fn get<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, CacheLine([0.0; 16]));
        }
        // SAFETY: `CacheLine` is 64 bytes, aligned for `T`, of which any bits are one; at least `len` are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// A number of which any bits are a value.
pub(crate) trait Plain {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for u8 {}
