//! Chance that can be repeated: every item has its own generator, whatever was drawn before it.

use fastrand::Rng;
use rand_mt::Mt;

use crate::Draw;

/// A generator that only (seed, task, length, sample) decide.
pub(crate) fn rng(draw: &Draw<'_>, id: &str) -> Rng {
    Rng::with_seed(hash(draw, id, draw.sample as u64))
}

/// A place from 0 to 1 that a run's samples spread evenly: `frac(offset + sample * golden ratio)`.
pub(crate) fn even(draw: &Draw<'_>, id: &str) -> f64 {
    let offset = (hash(draw, id, u64::MAX) >> 11) as f64 / (1_u64 << 53) as f64;
    golden(offset, draw.sample)
}

/// The `i`-th of places from 0 to 1 that begin at `offset` and are even from the first on.
pub(crate) fn golden(offset: f64, i: usize) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (offset + i as f64 * GOLDEN).fract()
}

/// `count` places from 0 to 1, one in each of `count` equal parts, moved on together by `place`.
pub(crate) fn strata(place: f64, count: usize) -> Vec<f64> {
    (0..count).map(|k| (place + k as f64 / count as f64).fract()).collect()
}

fn hash(draw: &Draw<'_>, id: &str, sample: u64) -> u64 {
    seed(draw.seed, id, draw.length, sample)
}

/// A seed of its own for each item of a run: FNV-1a, which no release of a library changes.
pub fn seed(run: u64, id: &str, length: usize, sample: u64) -> u64 {
    let numbers = [run, length as u64, sample];
    let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).chain(id.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// A random version 4 UUID.
pub(crate) fn uuid(rng: &mut Rng) -> String {
    let bits = rng.u128(..) & !(0xf << 76 | 0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Python's `random.Random(seed).shuffle(items)`, to the place.
pub(crate) fn python_shuffle<T>(seed: u32, items: &mut [T]) {
    let mut twister = Mt::new_with_key([seed]);
    for i in (1..items.len()).rev() {
        let below = i as u32 + 1;
        let bits = u32::BITS - below.leading_zeros();
        let mut draws = std::iter::repeat_with(|| twister.next_u32() >> (u32::BITS - bits));
        let j = draws.find(|j| *j < below).unwrap_or(0);
        items.swap(i, j as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;

    #[test]
    fn index_0_lands_where_python_puts_it() {
        // python3 -c "import random; x = list(range(n)); random.Random(42).shuffle(x); print(x.index(0))"
        for (n, want) in [(24, 21), (200, 55), (800, 625)] {
            let mut items: Vec<usize> = (0..n).collect();
            python_shuffle(42, &mut items);
            assert_eq!(items.iter().position(|i| *i == 0), Some(want), "{n}");
        }
    }

    #[test]
    fn a_shuffle_is_pythons_whole() {
        // python3 -c "import random; x = list(range(10)); random.Random(42).shuffle(x); print(x)"
        let mut items: Vec<usize> = (0..10).collect();
        python_shuffle(42, &mut items);
        assert_eq!(items, [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]);
        python_shuffle::<u8>(42, &mut []);
    }

    #[test]
    fn places_are_even_and_strata_hold_one_each() {
        let sources = Sources::default();
        let draw =
            |sample| Draw { length: 512, overhead: 0, seed: 1, sample, count: &str::len, sources: &sources };
        // Three-distance theorem: 21 steps leave no gap above golden^6 + golden^7 = 0.0557 + 0.0344.
        let mut places: Vec<f64> = (0..21).map(|sample| even(&draw(sample), "a")).collect();
        places.sort_by(f64::total_cmp);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] < 0.0902));
        let parts = strata(places[3], 4);
        let mut quarters: Vec<usize> = parts.iter().map(|place| (place * 4.0) as usize).collect();
        quarters.sort_unstable();
        assert_eq!(quarters, [0, 1, 2, 3]);
        assert_ne!(even(&draw(0), "a"), even(&draw(0), "b"));
    }

    #[test]
    fn uuids_are_of_version_4() {
        let id = uuid(&mut Rng::with_seed(1));
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
    }
}
