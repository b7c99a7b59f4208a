//! The slot that a row looks at most.

use super::*;

/// Slots of the last rows under every instruction set, all equal.
fn best(strip: &Strip, group: usize, q: &[f32], window: Option<u32>, tiles: Option<&TileMask>) -> Vec<u32> {
    let rows = q.len() / (group * strip.layout().head_dim);
    let first = strip.len() - rows;
    let shape = Heads { heads: group, group, scale: 0.2 };
    let of = |isa: Isa| {
        let run = Run { window, tiles, ..Run::new(strip, 0..rows, first, 0) };
        let mut slots = vec![12345; rows * group];
        arg_max(isa, &Pool::new(2), &[run], shape, q, &mut slots);
        slots
    };
    let want = of(Isa::Scalar);
    for isa in Isa::available() {
        assert_eq!(of(isa), want, "{isa:?}");
    }
    want
}

#[test]
fn the_highest_weight_is_the_oracles() {
    for codec in layouts() {
        for (n, group, window) in [(1, 1, None), (65, 3, Some(9)), (700, 7, None), (1100, 6, Some(600))] {
            let (strip, rows) = (strip(codec, 64, n, 5), n.min(70));
            let q = Noise(6).vec(rows * group * 64);
            let oracle = Oracle::rounded(&strip, 0.2);
            let slots = best(&strip, group, &q, window, None);
            for (line, slot) in slots.iter().enumerate() {
                let row = oracle.row(&q[line * 64..][..64], n - rows + line / group, window);
                let most = row.attn.iter().copied().fold(0.0, f64::max);
                assert!(row.attn[*slot as usize] >= most * (1.0 - F32), "{codec:?} {n} line {line}: {slot}");
            }
        }
    }
}

#[test]
fn of_equals_the_first_and_of_nothing_none() {
    let layout = SlotLayout { codec: Codec::F16.into(), head_dim: 32, column: false };
    let mut strip = Strip::new(layout, 130).expect("address space");
    // Slots 3, 70 and 129 hold the same key, the others nothing.
    for i in 0..130 {
        let key = if [3, 70, 129].contains(&i) { 1.0 } else { 0.0 };
        strip.push(&[key; 32], &[0.0; 32], i);
    }
    let q = vec![1.0; 32];
    assert_eq!(best(&strip, 1, &q, None, None), [3]);
    assert_eq!(best(&strip, 1, &q, Some(100), None), [70]);
    let mut mask = TileMask::new(1, 1, 130);
    assert_eq!(best(&strip, 1, &q, None, Some(&mask)), [u32::MAX]);
    mask.set(0, 0, 1, true);
    assert_eq!(best(&strip, 1, &q, None, Some(&mask)), [70]);
}
