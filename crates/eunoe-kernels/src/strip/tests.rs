use eunoe_core::{Codec, Codecs};

use super::{Push, SlotLayout, Strip, push};
use crate::vm::page_bytes;
use crate::{Isa, Pool};
use std::ops::Range;

/// Keys and values in one codec each, and values in another than keys.
fn layouts() -> impl Iterator<Item = Codecs> {
    let apart = [(Codec::Q8, Codec::Q4), (Codec::F16, Codec::Q8), (Codec::Q4, Codec::F16)];
    Codec::ALL.map(Codecs::from).into_iter().chain(apart.map(|(k, v)| Codecs { k, v }))
}

fn layout(codec: impl Into<Codecs>, head_dim: usize, column: bool) -> SlotLayout {
    SlotLayout { codec: codec.into(), head_dim, column }
}

/// Slot i holds key i + 0.5, value -i, position 10 i, column i / 4.
fn numbered(codec: impl Into<Codecs>, slots: usize) -> Strip {
    let mut strip = Strip::new(layout(codec, 32, true), slots).expect("address space");
    for i in 0..slots {
        strip.push(&[i as f32 + 0.5; 32], &[-(i as f32); 32], 10 * i as u32);
        strip.set_column(i, i as f32 / 4.0);
    }
    strip
}

fn key_and_value(strip: &Strip, i: usize) -> (Vec<f32>, Vec<f32>) {
    let d = strip.layout().head_dim;
    let (mut k, mut v) = (vec![f32::NAN; d], vec![f32::NAN; d]);
    strip.read_k(i, &mut k);
    strip.read_v(i, &mut v);
    (k, v)
}

#[test]
fn bytes_of_a_slot_by_hand() {
    // d = 64: f32 2 · 256, f16 2 · 128, q8 2 · 2 · 34, q4 2 · 2 · 20; keys in q8 and values in q4 2 · 34 + 2 · 20;
    // + 4 for the position, + 4 for a column.
    let apart = Codecs { k: Codec::Q8, v: Codec::Q4 };
    let same = [(Codec::F32, 516), (Codec::F16, 260), (Codec::Q8, 140), (Codec::Q4, 84)];
    for (codec, want) in same.map(|(codec, want)| (codec.into(), want)).into_iter().chain([(apart, 112)]) {
        assert_eq!(layout(codec, 64, false).bytes(), want);
        assert_eq!(layout(codec, 64, true).bytes(), want + 4);
    }
}

#[test]
fn f16_rounds_to_nearest_even() {
    // Halves near 1 are 2^-10 apart: 1 + 2^-11 is a tie and goes down to the even 1; 1 + 3 · 2^-11 is a tie and goes
    // up to 1 + 2^-9. Halves near 2048 are 2 apart: 2049 goes to 2048, 2051 to 2052.
    let x = |n: f32| 1.0 + n / 2048.0;
    let mut k = [0.25; 32];
    k[..5].copy_from_slice(&[x(1.0), x(3.0), 2049.0, 2051.0, -6e-8]);
    let mut strip = Strip::new(layout(Codec::F16, 32, false), 1).expect("address space");
    strip.push(&k, &k, 0);
    let (got, _) = key_and_value(&strip, 0);
    // The least half is 2^-24 = 5.96e-8.
    assert_eq!(got[..6], [1.0, 1.0 + 1.0 / 512.0, 2048.0, 2052.0, -(2f32.powi(-24)), 0.25]);
}

#[test]
fn q8_by_hand() {
    // Largest 2: scale 2 / 127 = 0.0157480 is stored as the half 0.0157471 = 258 · 2^-14. 1 / 0.0157471 = 63.504 → 64;
    // -2 / 0.0157471 = -127.008 → -127; 0.007 / 0.0157471 = 0.445 → 0;
    // 1.99205 / 0.0157471 = 126.503 → 127, where the unrounded scale would give 126.495. A block of zeros has scale 0.
    let scale = 258.0 / 16384.0;
    let mut k = [0.0; 64];
    k[..4].copy_from_slice(&[1.0, -2.0, 0.007, 1.99205]);
    let mut strip = Strip::new(layout(Codec::Q8, 64, false), 1).expect("address space");
    strip.push(&k, &k, 0);
    let (k, v) = key_and_value(&strip, 0);
    assert_eq!(k[..4], [64.0 * scale, -127.0 * scale, 0.0, 127.0 * scale]);
    assert_eq!(k[32..], [0.0; 32]);
    assert_eq!(k, v);
}

#[test]
fn q4_by_hand() {
    // Minimum -1. The scale (2 + 1) / 15 = 0.2 is stored as the half 819 / 4096 = 0.199951 (0x3266). 2: 3 / 0.199951 =
    // 15.004 → 15; 0: 5.001 → 5; -0.5: 2.5006 → 3 and 1.8996: 14.5015 → 15, where the unrounded scale would give 2.5
    // and 14.498.
    let scale = 819.0 / 4096.0;
    let mut first = ([-1.0f32; 32], [-1.0f32; 32]);
    for (i, x, n) in [(0, 2.0, 15.0), (1, 0.0, 5.0), (2, 1.8996, 15.0), (16, -0.5, 3.0)] {
        (first.0[i], first.1[i]) = (x, n * scale - 1.0);
    }
    // Halves near 1000 are 0.5 apart: 1000.2 gives the minimum 1000, and the same scale (1003 - 1000) / 15, where the
    // unrounded minimum would give 0.187. 1000.2: 0.2 / 0.199951 → 1; 1003 → 15.
    let mut second = ([1000.2; 32], [1000.0 + scale; 32]);
    (second.0[31], second.1[31]) = (1003.0, 1000.0 + 15.0 * scale);
    // 1000.3 gives the minimum 1000.5, below which nothing is: -0.2 → 0. Scale 3.75 / 15 = 1 / 4. Ties go to even
    // numbers: 0.375 · 4 = 1.5 → 2, and 0.625 · 4 = 2.5 → 2.
    let mut third = ([1000.3; 32], [1000.5; 32]);
    for (i, x, n) in [(4, 1004.25, 15.0), (15, 1000.875, 2.0), (30, 1001.125, 2.0)] {
        (third.0[i], third.1[i]) = (x, 1000.5 + n / 4.0);
    }
    // 20 / 15 of the least half, 2^-24, is stored as that half: 20 → 15, the highest. A block of equals has scale 0.
    let least = 2f32.powi(-24);
    let mut fourth = ([0.0; 32], [0.0; 32]);
    (fourth.0[1], fourth.1[1]) = (20.0 * least, 15.0 * least);
    let blocks = [first, second, third, fourth, ([7.0; 32], [7.0; 32])];
    let (x, want): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
    let (k, want_k) = (x.concat(), want.concat());
    let (v, want_v) = ([&k[96..], &k[..96]].concat(), [&want_k[96..], &want_k[..96]].concat());
    let mut strip = Strip::new(layout(Codec::Q4, 160, false), 1).expect("address space");
    strip.push(&k, &v, 0);
    assert_eq!(key_and_value(&strip, 0), (want_k, want_v));
    // Scale, minimum, then value i and i + 16 in the low and high half of a byte: 15 and 3, 5 and 0, 15 and 0, …
    let (halves, nibbles) = strip.records(0..1)[..20].split_at(4);
    assert_eq!(halves, [0x3266u16.to_ne_bytes(), 0xBC00u16.to_ne_bytes()].as_flattened());
    assert_eq!((&nibbles[..3], &nibbles[3..]), (&[0x3F, 0x05, 0x0F][..], &[0; 13][..]));
    assert_eq!(strip.bytes(), 2 * 5 * 20 + 4);
}

#[test]
fn keys_and_values_are_stored_each_in_its_codec() {
    let k: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 20.0) / 7.0).collect();
    let v: Vec<f32> = k.iter().rev().map(|x| x * 3.0).collect();
    let stored = |codec: Codecs| {
        let mut strip = Strip::new(layout(codec, 64, true), 1).expect("address space");
        strip.push(&k, &v, 5);
        (key_and_value(&strip, 0), strip.pos(0))
    };
    for codec in layouts() {
        let want = (stored(codec.k.into()).0.0, stored(codec.v.into()).0.1);
        assert_eq!(stored(codec), (want, 5), "{codec}");
    }
}

#[test]
fn many_rows_at_once_are_stored_as_row_by_row() {
    // 700 rows of 3 heads of 64: several tasks per strip; wild values, one row of them not finite
    let value = |i: usize| ((i * 7919 % 10_007) as f32 - 5000.0) * 10f32.powi((i % 11) as i32 - 6);
    let mut k: Vec<f32> = (0..700 * 3 * 64).map(value).collect();
    let v: Vec<f32> = k.iter().rev().copied().collect();
    k[5 * 192..5 * 192 + 3].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let rows = [3..700, 650..653];
    for codec in layouts() {
        let empty =
            || [2, 0].map(|head| (head, Strip::new(layout(codec, 64, true), 1000).expect("address space")));
        let mut want = empty();
        for ((head, strip), rows) in want.iter_mut().zip(&rows) {
            for row in rows.clone() {
                let at = (row * 3 + *head) * 64;
                strip.push(&k[at..at + 64], &v[at..at + 64], 100 + (row - rows.start) as u32);
            }
        }
        for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
            let mut got = empty();
            // in two parts, so that strips are not empty before
            for part in
                [|r: &Range<usize>| (r.start..r.start + 2, 100), |r: &Range<usize>| (r.start + 2..r.end, 102)]
            {
                let mut pushes: Vec<_> = got
                    .iter_mut()
                    .zip(&rows)
                    .map(|((head, strip), rows)| (strip, *head, part(rows)))
                    .map(|(strip, head, (rows, pos))| Push { strip, rows, head, pos })
                    .collect();
                push(isa, &Pool::new(threads), &mut pushes, 3, &k, &v);
            }
            for ((_, got), (_, want)) in got.iter().zip(&want) {
                assert!(got.slots() == want.slots(), "{codec:?} {isa:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn everything_follows_its_slot_through_eviction() {
    for codec in layouts() {
        let mut strip = numbered(codec, 9);
        let before: Vec<_> = (0..9).map(|i| key_and_value(&strip, i)).collect();
        strip.evict(&[0, 3, 4, 8]);
        let kept = [1, 2, 5, 6, 7];
        let (mut positions, mut columns) = (Vec::new(), Vec::new());
        strip.positions(&mut positions);
        strip.columns(&mut columns);
        assert_eq!(positions, [10, 20, 50, 60, 70]);
        assert_eq!(columns, [0.25, 0.5, 1.25, 1.5, 1.75]);
        for (i, old) in kept.into_iter().enumerate() {
            assert_eq!(key_and_value(&strip, i), before[old]);
        }
        strip.push(&[9.0; 32], &[9.0; 32], 99);
        assert_eq!((strip.len(), strip.pos(5), strip.column(5)), (6, 99, 0.0), "a new slot starts at mass 0");
    }
}

#[test]
fn evicting_nothing_and_everything() {
    let mut strip = numbered(Codec::F16, 5);
    strip.evict(&[]);
    assert_eq!(strip.len(), 5);
    strip.evict(&[0, 1, 2, 3, 4]);
    assert!(strip.is_empty());
    assert_eq!(strip.bytes(), 0);
}

#[test]
fn resident_pages_agree_with_live_bytes_within_one_page() {
    for codec in layouts() {
        for column in [false, true] {
            let mut strip = Strip::new(layout(codec, 64, column), 1 << 20).expect("address space");
            let agrees = |strip: &Strip, at: &str| {
                let Some(pages) = strip.resident_pages() else { return };
                let (bytes, page) = (strip.bytes(), page_bytes());
                assert!(
                    pages * page >= bytes && pages * page < bytes + page,
                    "{codec:?} {at}: {pages} pages"
                );
            };
            for i in 0..1000 {
                strip.push(&[1.0; 64], &[1.0; 64], i);
            }
            agrees(&strip, "after push");
            strip.evict(&(0..900).collect::<Vec<_>>());
            agrees(&strip, "after eviction");
            agrees(&strip.fork(strip.capacity(), strip.len()).expect("address space"), "of a fork");
            strip.truncate(3);
            agrees(&strip, "after truncate");
            strip.truncate(0);
            agrees(&strip, "after all went");
            strip.push(&[127.0; 64], &[2.0; 64], 7);
            agrees(&strip, "after use again");
            assert_eq!((strip.pos(0), key_and_value(&strip, 0).0), (7, vec![127.0; 64]));
        }
    }
}

#[test]
fn a_reset_strip_keeps_its_pages_until_it_is_cut() {
    let mut strip = Strip::new(layout(Codec::F32, 64, true), 1000).expect("address space");
    (0..1000).for_each(|i| strip.push(&[1.0; 64], &[1.0; 64], i));
    strip.set_column(0, 3.0);
    let pages = strip.resident_pages();
    strip.reset();
    assert_eq!((strip.len(), strip.bytes(), strip.resident_pages()), (0, 0, pages));
    strip.push(&[2.0; 64], &[5.0; 64], 7);
    assert_eq!((strip.pos(0), strip.column(0)), (7, 0.0));
    assert_eq!(key_and_value(&strip, 0), (vec![2.0; 64], vec![5.0; 64]));
    strip.truncate(0);
    assert_eq!(strip.resident_pages(), pages.map(|_| 0));
}

#[test]
fn a_fork_is_its_own() {
    let strip = numbered(Codec::Q8, 4);
    let mut copy = strip.fork(strip.capacity(), strip.len()).expect("address space");
    copy.evict(&[0]);
    copy.set_column(0, 77.0);
    assert_eq!((strip.len(), strip.pos(0), strip.column(1)), (4, 0, 0.25));
    assert_eq!((copy.len(), copy.pos(0), copy.column(0)), (3, 10, 77.0));
}

#[test]
fn impossible_strips_are_errors() {
    assert!(Strip::new(layout(Codec::F16, 48, false), 1).is_err());
    assert!(Strip::new(layout(Codec::F16, 0, false), 1).is_err());
    assert!(Strip::new(layout(Codec::F16, 64, false), usize::MAX).is_err());
}

/// A strip of a request, and the same slots in plain vectors: position, and the number that key and value hold.
struct Modelled {
    strip: Strip,
    slots: Vec<(u32, f32)>,
    read: u32,
}

impl Modelled {
    fn grow(&mut self, rows: u32) {
        for _ in 0..rows {
            let x = (self.read % 1999) as f32;
            self.strip.push(&[x; 64], &[-x; 64], self.read);
            self.slots.push((self.read, x));
            self.read += 1;
        }
    }

    /// Drops each slot with a chance of `of` in 16.
    fn evict(&mut self, random: &mut impl FnMut(u64) -> u64, of: u64) {
        let gone: Vec<u32> = (0..self.slots.len() as u32).filter(|_| random(16) < of).collect();
        self.strip.evict(&gone);
        let mut i = 0;
        self.slots.retain(|_| {
            i += 1;
            gone.binary_search(&(i - 1)).is_err()
        });
    }

    fn agrees(&self, at: &str) {
        let Self { strip, slots, .. } = self;
        assert_eq!((strip.len(), strip.bytes()), (slots.len(), slots.len() * 260), "{at}");
        for (i, (pos, x)) in slots.iter().enumerate() {
            assert_eq!(
                (strip.pos(i), key_and_value(strip, i)),
                (*pos, (vec![*x; 64], vec![-x; 64])),
                "{at}, slot {i}"
            );
        }
    }
}

#[test]
fn a_schedule_of_requests_holds_their_slots_and_a_page_more_per_strip() {
    for batch in 4..=8 {
        let mut state = batch as u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut all: Vec<Modelled> = Vec::new();
        for step in 0..200 {
            let at = format!("batch {batch}, step {step}");
            match random(8) {
                0 | 1 if all.len() < batch => {
                    let strip = Strip::new(layout(Codec::F16, 64, false), 4000).expect("address space");
                    all.push(Modelled { strip, slots: Vec::new(), read: random(1000) as u32 });
                }
                2 if all.len() > 2 => drop(all.swap_remove(random(all.len() as u64) as usize)),
                3 if !all.is_empty() => {
                    let (i, of) = (random(all.len() as u64) as usize, 1 + random(16));
                    all[i].evict(&mut random, of);
                }
                what => {
                    // one token each, as in a step of writing, or the rows of a prompt
                    let most = if what < 6 { 1 } else { 150 };
                    for m in all.iter_mut().filter(|m| m.slots.len() < 3800) {
                        m.grow(1 + random(most) as u32);
                    }
                }
            }
            let (page, asked) = (page_bytes(), all.iter().map(|m| m.strip.bytes()));
            let most: usize = asked.map(|bytes| bytes.div_ceil(page) + 1).sum();
            let held: Option<usize> = all.iter().map(|m| m.strip.resident_pages()).sum();
            assert!(held.is_none_or(|pages| pages <= most), "{at}: {held:?} pages, at most {most}");
            if step % 20 == 19 {
                all.iter().for_each(|m| m.agrees(&at));
            }
        }
        assert!(all.iter().any(|m| m.slots.len() > 100), "the schedule filled something");
    }
}
