//! Panels: some rows of `a` or columns of `b`, called lanes, side by side for every step of `k`.

use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avx512bf16};
use crate::Isa;
use half::bf16;
use std::ops::Range;

/// How the values of a lane follow each other in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are.
    Plain,
    /// The odd one of a pair before the even one, as the BF16 instruction takes them.
    Swapped,
    /// Two in one word.
    Pairs,
}

impl Order {
    /// Words of a lane of `steps` values; what is missing in the last pair is 0.
    pub(super) fn words(self, steps: usize) -> usize {
        match self {
            Self::Plain => steps,
            Self::Swapped => steps.next_multiple_of(2),
            Self::Pairs => steps.div_ceil(2),
        }
    }

    /// Words that take all their values from the first `steps`.
    fn whole_words(self, steps: usize) -> usize {
        match self {
            Self::Plain => steps,
            Self::Swapped => steps / 2 * 2,
            Self::Pairs => steps / 2,
        }
    }
}

/// What products are made of: `f32`, and `bf16` with sums in f32.
pub trait Element: sealed::Sealed {}

impl Element for f32 {}
impl Element for bf16 {}

pub(super) mod sealed {
    use super::{Order, Source};
    use crate::Isa;

    pub trait Sealed: Copy + Send + Sync + 'static {
        fn order(isa: Isa) -> Order;
        /// Word `word` of a lane whose value at a step `get` gives.
        fn word(order: Order, word: usize, get: impl Fn(usize) -> Option<Self>) -> f32;
        /// Writes a panel whose words are `width` apart.
        fn pack(isa: Isa, from: Source<'_, Self>, width: usize, out: &mut [f32]);
        /// The values as a kernel reads them without packing, where it can.
        fn plain(data: &[Self]) -> Option<&[f32]>;
    }
}

impl sealed::Sealed for f32 {
    fn order(_: Isa) -> Order {
        Order::Plain
    }

    #[inline(always)]
    fn word(_: Order, word: usize, get: impl Fn(usize) -> Option<Self>) -> f32 {
        get(word).unwrap_or(0.0)
    }

    fn pack(isa: Isa, from: Source<'_, Self>, width: usize, out: &mut [f32]) {
        match isa {
            Isa::Scalar => scalar::pack(Order::Plain, from, width, out),
            // SAFETY: vector variants of `Isa` are only made where the processor has them.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::pack_floats(from, width, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::pack_floats(from, width, out) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::pack(Order::Plain, from, width, out),
        }
    }

    fn plain(data: &[Self]) -> Option<&[f32]> {
        Some(data)
    }
}

impl sealed::Sealed for bf16 {
    fn order(isa: Isa) -> Order {
        if matches!(isa, Isa::Scalar) || isa < Isa::Avx512Bf16 { Order::Swapped } else { Order::Pairs }
    }

    #[inline(always)]
    fn word(order: Order, word: usize, get: impl Fn(usize) -> Option<Self>) -> f32 {
        let bits = |step| get(step).map_or(0, |x| u32::from(x.to_bits()));
        f32::from_bits(match order {
            Order::Plain => bits(word) << 16,
            Order::Swapped => bits(word ^ 1) << 16,
            Order::Pairs => bits(2 * word) | bits(2 * word + 1) << 16,
        })
    }

    fn pack(isa: Isa, from: Source<'_, Self>, width: usize, out: &mut [f32]) {
        match isa {
            Isa::Scalar => scalar::pack(Order::Swapped, from, width, out),
            // SAFETY: vector variants of `Isa` are only made where the processor has them.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::pack_halves(from, width, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::pack_halves(from, width, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => unsafe { avx512bf16::pack_pairs(from, width, out) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::pack(Order::Swapped, from, width, out),
        }
    }

    fn plain(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// The lanes of a panel: value `k` of lane `i` at `data[i * lane + k * step]`.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a, T> {
    pub(super) data: &'a [T],
    pub(super) lane: usize,
    pub(super) step: usize,
    pub(super) lanes: usize,
    pub(super) steps: usize,
}

impl<T: Element> Source<'_, T> {
    /// From lane `i` on.
    fn from(self, i: usize) -> Self {
        Self { data: &self.data[i * self.lane..], lanes: self.lanes - i, ..self }
    }

    /// Words that are whole when `lanes` neighbours are read at each of their steps; the reads stay inside.
    fn readable(&self, order: Order, lanes: usize) -> usize {
        let steps = match self.data.len().checked_sub(lanes) {
            None => 0,
            Some(_) if self.step == 0 => self.steps,
            Some(last) => (last / self.step + 1).min(self.steps),
        };
        order.whole_words(steps)
    }

    /// Writes some words one by one.
    #[inline(always)]
    pub(super) fn words(&self, order: Order, words: Range<usize>, width: usize, out: &mut [f32]) {
        for word in words {
            for i in 0..self.lanes {
                let get = |k: usize| (k < self.steps).then(|| self.data[i * self.lane + k * self.step]);
                out[word * width + i] = T::word(order, word, get);
            }
        }
    }
}

/// How one instruction set moves values to a panel.
pub(super) trait Packer<T>: Copy {
    /// Values of a vector.
    const LANES: usize;
    /// Steps of a square of lanes and words.
    const STEPS: usize;
    const ORDER: Order;

    /// One word of `LANES` lanes that lie side by side.
    ///
    /// # Safety
    /// `LANES` values are there at each step of the word, and room for as many words.
    unsafe fn row(self, from: *const T, step: usize, word: usize, out: *mut f32);

    /// `LANES` words of `lanes` lanes (at least one) whose steps lie side by side. What it writes as the lanes above is
    /// anything.
    ///
    /// # Safety
    /// `STEPS` values are there in each lane, and room for `LANES` words at each of `LANES` places `width` apart.
    unsafe fn square(self, from: *const T, lane: usize, lanes: usize, out: *mut f32, width: usize);
}

/// Writes all lanes, vector by vector. Words of the last vector may reach over the next ones, which come later: `out`
/// has room for a vector more than the panel is long.
#[inline(always)]
pub(super) fn panel<T: Element, P: Packer<T>>(packer: P, from: Source<'_, T>, width: usize, out: &mut [f32]) {
    let words = P::ORDER.words(from.steps);
    for first in (0..from.lanes).step_by(P::LANES) {
        let (mut from, out) = (from.from(first), &mut out[first..]);
        from.lanes = from.lanes.min(P::LANES);
        let mut done = 0;
        if from.lane == 1 {
            done = from.readable(P::ORDER, P::LANES);
            assert!(done == 0 || out.len() >= (done - 1) * width + P::LANES, "room for rows of a panel");
            for word in 0..done {
                // SAFETY: `readable`, and the assertion.
                unsafe {
                    packer.row(from.data.as_ptr(), from.step, word, out.as_mut_ptr().add(word * width))
                };
            }
        } else if from.step == 1 {
            let squares = from.steps / P::STEPS;
            done = squares * P::LANES;
            assert!(done == 0 || out.len() >= (done - 1) * width + P::LANES, "room for squares of a panel");
            assert!(from.data.len() >= (from.lanes - 1) * from.lane + squares * P::STEPS, "lanes of a panel");
            for square in 0..squares {
                // SAFETY: the assertions.
                unsafe {
                    let at = from.data.as_ptr().add(square * P::STEPS);
                    let out = out.as_mut_ptr().add(square * P::LANES * width);
                    packer.square(at, from.lane, from.lanes, out, width);
                }
            }
        }
        from.words(P::ORDER, done..words, width, out);
    }
}
