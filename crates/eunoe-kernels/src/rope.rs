//! Rotary position embedding, and the rotation that moves a stored key from one position to another.
//!
//! Angle of pair i at position p: `p · scale · base^(-2i/dims) / factors[i]`. Rotations use plain products and
//! sums, no fused ones, so that the compiler's widest vectors give the same bits everywhere.

use eunoe_core::{Error, Result};

/// Which values of a head form pair i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Neighbours: 2i and 2i + 1.
    Norm,
    /// Halves: i and i + dims / 2.
    Neox,
}

/// Entries of one table: one byte of the distance.
const ENTRIES: usize = 256;
/// Four bytes reach every distance up to 2^32.
const LEVELS: usize = 4;

/// The rotation of one model (or one kind of layer).
pub struct Rope {
    style: Style,
    /// Angle per position of each pair, scale and factors included.
    rates: Vec<f64>,
    /// `[level, byte, cos then sin, pair]`: the rotation by `byte · 256^level` positions.
    tables: Vec<f32>,
}

impl Rope {
    /// Rotates the first `dims` values of each head.
    ///
    /// # Errors
    /// [`Error::Shape`] when `dims` is odd or 0, or `factors` are not one per pair.
    pub fn new(style: Style, dims: usize, base: f64, scale: f64, factors: Option<&[f32]>) -> Result<Self> {
        if dims == 0 || !dims.is_multiple_of(2) {
            return Err(Error::shape("rotated dimensions", "an even number", dims));
        }
        if let Some(factors) = factors.filter(|f| f.len() != dims / 2) {
            return Err(Error::shape("frequency factors", dims / 2, factors.len()));
        }
        let rate = |i: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            scale * base.powf(-2.0 * i as f64 / dims as f64) / factor
        };
        let mut rope = Self { style, rates: (0..dims / 2).map(rate).collect(), tables: Vec::new() };
        rope.tables = vec![0.0; LEVELS * ENTRIES * dims];
        for (n, entry) in rope.tables.chunks_exact_mut(dims).enumerate() {
            let positions = (n % ENTRIES) << (8 * (n / ENTRIES));
            fill(&rope.rates, positions as f64, entry);
        }
        Ok(rope)
    }

    /// Values of a head that are rotated; also the length of a cos/sin buffer.
    #[inline(always)]
    pub fn dims(&self) -> usize {
        2 * self.rates.len()
    }

    /// Cosines, then sines, of position `pos`: `[dims]`, computed in f64.
    ///
    /// # Panics
    /// When `out` is not `dims` long.
    pub fn angles(&self, pos: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.dims(), "cosines and sines");
        fill(&self.rates, f64::from(pos), out);
    }

    /// Cosines, then sines, of a move by `delta` positions: `[dims]`, from tables, within 1e-6.
    ///
    /// # Panics
    /// When `out` is not `dims` long or |delta| ≥ 2^32.
    pub fn shift(&self, delta: i64, out: &mut [f32]) {
        let (pairs, dims) = (self.rates.len(), self.dims());
        assert_eq!(out.len(), dims, "cosines and sines");
        let distance = delta.unsigned_abs();
        assert!(distance < 1 << 32, "a move by {delta} positions");
        let entry = |level: usize| {
            let byte = (distance >> (8 * level)) as usize % ENTRIES;
            &self.tables[(level * ENTRIES + byte) * dims..][..dims]
        };
        out.copy_from_slice(entry(0));
        let (cos, sin) = out.split_at_mut(pairs);
        for level in 1..LEVELS {
            if distance >> (8 * level) == 0 {
                break;
            }
            let (far_cos, far_sin) = entry(level).split_at(pairs);
            for i in 0..pairs {
                let (c, s) = (cos[i], sin[i]);
                cos[i] = c * far_cos[i] - s * far_sin[i];
                sin[i] = s * far_cos[i] + c * far_sin[i];
            }
        }
        if delta < 0 {
            sin.iter_mut().for_each(|s| *s = -*s);
        }
    }

    /// Rotates one head in place by what `angles` or `shift` gave.
    ///
    /// # Panics
    /// When the head is shorter than `dims`.
    #[inline(always)]
    pub fn rotate(&self, x: &mut [f32], cos_sin: &[f32]) {
        let (cos, sin) = cos_sin.split_at(self.rates.len());
        let x = &mut x[..self.dims()];
        match self.style {
            Style::Norm => {
                for ((pair, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    *pair = turn(pair[0], pair[1], *c, *s);
                }
            }
            Style::Neox => {
                let (low, high) = x.split_at_mut(self.rates.len());
                for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    [*a, *b] = turn(*a, *b, *c, *s);
                }
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
}

fn fill(rates: &[f64], positions: f64, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(rates.len());
    for (i, rate) in rates.iter().enumerate() {
        let (s, c) = (positions * rate).sin_cos();
        (cos[i], sin[i]) = (c as f32, s as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(style: Style, dims: usize) -> Rope {
        Rope::new(style, dims, 10_000.0, 1.0, None).expect("even")
    }

    #[test]
    fn a_quarter_turn_by_hand() {
        // Pair 0 turns by 1 rad per position: with scale π/2, position 1 is a quarter turn, (1, 0) → (0, 1).
        // Pair 1 turns 100 times slower and a factor of 2 halves that: π/400, cos 0.999969, sin 0.0078539.
        let half_pi = std::f64::consts::FRAC_PI_2;
        for (style, input, want) in [
            (Style::Norm, [1.0, 0.0, 1.0, 0.0, 9.0], [0.0, 1.0, 0.999_969_2, 0.007_853_9, 9.0]),
            (Style::Neox, [1.0, 1.0, 0.0, 0.0, 9.0], [0.0, 0.999_969_2, 1.0, 0.007_853_9, 9.0]),
        ] {
            let rope = Rope::new(style, 4, 10_000.0, half_pi, Some(&[1.0, 2.0])).expect("even");
            let (mut turn, mut x) = ([f32::NAN; 4], input);
            rope.angles(1, &mut turn);
            rope.rotate(&mut x, &turn);
            for (got, want) in x.iter().zip(want) {
                assert!((got - want).abs() < 1e-6, "{style:?}: {x:?}");
            }
        }
    }

    #[test]
    fn shift_agrees_with_f64() {
        let rope = rope(Style::Neox, 64);
        let mut out = [f32::NAN; 64];
        for n in [0i64, 1, 2, 255, 256, 257, 1000, 65_535, 65_536, 123_456, 999_999, 1_000_000, 1 << 31] {
            for delta in [n, -n] {
                rope.shift(delta, &mut out);
                for i in 0..32 {
                    let angle = delta as f64 * 10_000f64.powf(-(i as f64) / 32.0);
                    let error = (f64::from(out[i]) - angle.cos())
                        .abs()
                        .max((f64::from(out[32 + i]) - angle.sin()).abs());
                    assert!(error <= 1e-6, "pair {i} of a move by {delta}: {error}");
                }
            }
        }
    }

    #[test]
    fn no_move_changes_no_bit() {
        let rope = rope(Style::Norm, 64);
        let (mut turn, mut x) = ([f32::NAN; 64], std::array::from_fn::<f32, 80, _>(|i| (i as f32).sin()));
        let before = x;
        rope.shift(0, &mut turn);
        rope.rotate(&mut x, &turn);
        assert_eq!(x, before);
    }

    #[test]
    fn shapes_that_cannot_rotate_are_refused() {
        assert!(Rope::new(Style::Norm, 7, 1e4, 1.0, None).is_err());
        assert!(Rope::new(Style::Norm, 0, 1e4, 1.0, None).is_err());
        assert!(Rope::new(Style::Norm, 8, 1e4, 1.0, Some(&[1.0; 3])).is_err());
    }
}
