//! Panels: some rows of `a` or columns of `b`, called lanes, side by side for every step of `k`.

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

/// Panels word by word: the reference.
fn pack_words<T: Element>(order: Order, from: Source<'_, T>, to: Panels, out: &mut [f32]) {
    for strip in to.strips(from, to.width) {
        strip.from.words(order, 0..order.words(from.steps), strip.width, &mut out[strip.at..]);
    }
}

/// What products are made of: `f32`, and `bf16` with sums in f32.
pub trait Element: sealed::Sealed {}

impl Element for f32 {}
impl Element for bf16 {}

pub(super) mod sealed {
    use super::{Order, Panels, Source};
    use crate::Isa;

    pub trait Sealed: Copy + Send + Sync + 'static {
        fn order(isa: Isa) -> Order;
        /// Word `word` of a lane whose value at a step `get` gives.
        fn word(order: Order, word: usize, get: impl Fn(usize) -> Option<Self>) -> f32;
        /// Writes panels.
        fn pack(isa: Isa, from: Source<'_, Self>, to: Panels, out: &mut [f32]);
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

    fn pack(isa: Isa, from: Source<'_, Self>, to: Panels, out: &mut [f32]) {
        match isa {
            Isa::Scalar => pack_words(Order::Plain, from, to, out),
            // SAFETY: vector variants of `Isa` are only made where the processor has them.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::pack_floats(from, to, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::pack_floats(from, to, out) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => pack_words(Order::Plain, from, to, out),
        }
    }

    fn plain(data: &[Self]) -> Option<&[f32]> {
        Some(data)
    }
}

impl sealed::Sealed for bf16 {
    fn order(isa: Isa) -> Order {
        if isa < Isa::Avx512Bf16 { Order::Swapped } else { Order::Pairs }
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

    fn pack(isa: Isa, from: Source<'_, Self>, to: Panels, out: &mut [f32]) {
        match isa {
            Isa::Scalar => pack_words(Order::Swapped, from, to, out),
            // SAFETY: vector variants of `Isa` are only made where the processor has them.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::pack_halves(from, to, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::pack_halves(from, to, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => unsafe { avx512bf16::pack_pairs(from, to, out) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => pack_words(Order::Swapped, from, to, out),
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
    /// At most `lanes` lanes from `first` on.
    #[inline(always)]
    pub(super) fn part(self, first: usize, lanes: usize) -> Self {
        Self { data: &self.data[first * self.lane..], lanes: lanes.min(self.lanes - first), ..self }
    }

    /// Words that are whole when `lanes` neighbours are read at each of their steps; the reads stay inside.
    #[inline(always)]
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
    fn words(&self, order: Order, words: Range<usize>, width: usize, out: &mut [f32]) {
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

/// Where panels go.
#[derive(Clone, Copy, Debug)]
pub struct Panels {
    /// Lanes of a panel; the last one may have fewer.
    pub(super) width: usize,
    /// Words of a panel are a multiple of this apart.
    pub(super) unit: usize,
    /// Distance of panels, with room for a vector more than one is long.
    pub(super) room: usize,
}

/// Up to a vector of lanes of one panel, and where in it they go.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a, T> {
    pub(super) from: Source<'a, T>,
    pub(super) at: usize,
    /// Distance of words.
    pub(super) width: usize,
}

impl Panels {
    /// All lanes, at most `lanes` at a time.
    #[inline(always)]
    pub(super) fn strips<T: Element>(
        self,
        from: Source<'_, T>,
        lanes: usize,
    ) -> impl Iterator<Item = Strip<'_, T>> {
        (0..from.lanes).step_by(self.width).flat_map(move |first| {
            let panel = from.part(first, self.width);
            let width = panel.lanes.next_multiple_of(self.unit);
            let at = first / self.width * self.room;
            (0..panel.lanes).step_by(lanes).map(move |i| Strip {
                from: panel.part(i, lanes),
                at: at + i,
                width,
            })
        })
    }
}

/// Words that are written to each panel before the next one's turn, where lanes lie side by side: memory is read in rows,
/// and rows that lie a page apart, which share a place in the cache, are few at a time.
const ROWS: usize = 8;

/// Writes all lanes, vector by vector. Words of the last vector may reach over the next ones, which come later.
#[inline(always)]
pub(super) fn panels<T: Element, P: Packer<T>>(packer: P, from: Source<'_, T>, to: Panels, out: &mut [f32]) {
    let words = P::ORDER.words(from.steps);
    if from.lane == 1 {
        for first in (0..words).step_by(ROWS) {
            for strip in to.strips(from, P::LANES) {
                rows(packer, strip, first..words.min(first + ROWS), &mut out[strip.at..]);
            }
        }
        return;
    }
    for strip in to.strips(from, P::LANES) {
        let out = &mut out[strip.at..];
        let done = if from.step == 1 { squares(packer, strip, out) } else { 0 };
        strip.from.words(P::ORDER, done..words, strip.width, out);
    }
}

/// Writes some words of lanes that lie side by side.
#[inline(always)]
fn rows<T: Element, P: Packer<T>>(packer: P, strip: Strip<'_, T>, words: Range<usize>, out: &mut [f32]) {
    let Strip { from, width, .. } = strip;
    let end = from.readable(P::ORDER, P::LANES).clamp(words.start, words.end);
    assert!(end == 0 || out.len() >= (end - 1) * width + P::LANES, "room for rows of a panel");
    for word in words.start..end {
        // SAFETY: `readable`, and the assertion.
        unsafe { packer.row(from.data.as_ptr(), from.step, word, out.as_mut_ptr().add(word * width)) };
    }
    from.words(P::ORDER, end..words.end, width, out);
}

/// Writes the words of whole squares, where steps lie side by side, and gives their number.
#[inline(always)]
fn squares<T: Element, P: Packer<T>>(packer: P, strip: Strip<'_, T>, out: &mut [f32]) -> usize {
    let Strip { from, width, .. } = strip;
    let squares = from.steps / P::STEPS;
    let done = squares * P::LANES;
    assert!(done == 0 || out.len() >= (done - 1) * width + P::LANES, "room for squares of a panel");
    assert!(from.data.len() >= (from.lanes - 1) * from.lane + squares * P::STEPS, "lanes of a panel");
    for square in 0..squares {
        // SAFETY: the assertions.
        unsafe {
            let at = from.data.as_ptr().add(square * P::STEPS);
            packer.square(at, from.lane, from.lanes, out.as_mut_ptr().add(square * P::LANES * width), width);
        }
    }
    done
}
