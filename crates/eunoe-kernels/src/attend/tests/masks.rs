//! Block-sparse attention: what a mask hides is as if it were not there.

use super::*;

/// Outputs and log-sum-exps of rows that end a strip of `slots` slots.
fn masked(strip: &Strip, group: usize, q: &[f32], tiles: Option<&TileMask>) -> (Vec<f32>, Vec<f32>) {
    let d = strip.layout().head_dim;
    let rows = q.len() / (group * d);
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * group]);
    let first = strip.len() - rows;
    let run = Run { tiles, ..Run::new(strip, 0..rows, first, 0) };
    let shape = Heads { heads: group, group, scale: 0.2 };
    attend(Isa::detect(), &Pool::new(2), &[run], shape, q, &mut out, Some(&mut lse));
    (out, lse)
}

/// Every head, tile of rows and tile of slots.
fn places(group: usize, mask: &TileMask) -> Vec<(usize, usize, usize)> {
    let (rows, slots) = (mask.row_tiles(), mask.slot_tiles());
    (0..group * rows * slots).map(|i| (i / (rows * slots), i / slots % rows, i % slots)).collect()
}

#[test]
fn a_mask_of_tiles_is_the_oracles() {
    let (group, d, rows, n) = (2, 32, 70, 200);
    let q = Noise(4).vec(rows * group * d);
    let mut coin = Noise(77);
    let mut empty = 0;
    for (round, codec) in (0..100).zip(layouts().cycle()) {
        let strip = strip(codec, d, n, 13);
        let oracle = Oracle::rounded(&strip, 0.2);
        let mut mask = TileMask::new(group, rows, n);
        for (h, r, s) in places(group, &mask) {
            mask.set(h, r, s, coin.vec(1)[0] > 0.3);
        }
        let (out, lse) = masked(&strip, group, &q, Some(&mask));
        for line in 0..rows * group {
            let (row, at) = (line / group, line * d..(line + 1) * d);
            let sees = |j: usize| j <= n - rows + row && mask.get(line % group, row / 64, j / 64);
            if !(0..n).any(sees) {
                empty += 1;
                assert!(lse[line] == f32::NEG_INFINITY && out[at].iter().all(|x| *x == 0.0), "line {line}");
                continue;
            }
            let want = oracle.attn(&q[at.clone()], 0, &sees);
            assert!((f64::from(lse[line]) - want.lse).abs() <= F32, "round {round} line {line}");
            let unit = if codec.k == Codec::F32 { 0.0 } else { BF16 };
            let reach = oracle.reach(&want.attn);
            for ((got, want), reach) in out[at].iter().zip(oracle.out(&want.attn)).zip(reach) {
                assert!((f64::from(*got) - want).abs() <= unit * reach + F32, "round {round} line {line}");
            }
        }
    }
    assert!(empty > 0, "some rows see nothing");
}

#[test]
fn a_full_mask_changes_no_bit() {
    for codec in layouts() {
        let (strip, q) = (strip(codec, 64, 1100, 3), Noise(8).vec(130 * 3 * 64));
        let mut mask = TileMask::new(3, 130, 1100);
        for (h, r, s) in places(3, &mask) {
            mask.set(h, r, s, true);
        }
        assert!(masked(&strip, 3, &q, Some(&mask)) == masked(&strip, 3, &q, None), "{codec:?}");
    }
}
