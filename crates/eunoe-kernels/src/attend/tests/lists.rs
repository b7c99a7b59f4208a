//! Runs over listed slots: as if these lay side by side.

use super::*;

#[test]
fn a_list_is_the_strip_of_its_slots() {
    let (group, d, rows) = (3, 64, 5);
    let shape = Heads { heads: group, group, scale: 0.2 };
    let q = Noise(9).vec(rows * group * d);
    // shorter than a tile, at its end, past it, and past a partition
    for (codec, listed) in layouts().flat_map(|codec| [5, 64, 70, 1100].map(|n| (codec, n))) {
        let strip = strip(codec, d, 2300, 21);
        let list: Vec<u32> = (0..listed as u32 - 5).map(|i| 2 * i + i % 2).chain(2295..2300).collect();
        let mut side_by_side = Strip::new(strip.layout(), listed).expect("address space");
        for slot in &list {
            let slot = *slot as usize;
            side_by_side.append(1).copy_from_slice(strip.records(slot..slot + 1));
        }
        let attended = |isa: Isa, strip: &Strip, list: Option<&[u32]>| {
            let first = listed - rows;
            let run = || Run { list, ..Run::new(strip, 0..rows, first, 0) };
            let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * group]);
            let mut peaks = vec![0; rows * group];
            attend(isa, &Pool::new(2), &[run()], shape, &q, &mut out, Some(&mut lse));
            arg_max(isa, &Pool::new(2), &[run()], shape, &q, &mut peaks);
            (out.iter().chain(&lse).map(|x| x.to_bits()).collect::<Vec<_>>(), peaks)
        };
        let want = attended(Isa::Scalar, &side_by_side, None);
        for isa in Isa::available() {
            assert!(attended(isa, &strip, Some(&list)) == want, "{isa:?} {codec:?} {listed}");
        }
    }
}

#[test]
#[should_panic(expected = "listed slots exist")]
fn a_slot_past_the_strip_is_refused() {
    let strip = strip(Codec::F16, 32, 10, 1);
    let (q, mut out) = ([0.5; 32], [f32::NAN; 32]);
    let list = Some(&[3, 10][..]);
    let run = Run { list, ..Run::new(&strip, 0..1, 1, 0) };
    attend(
        Isa::detect(),
        &Pool::new(1),
        &[run],
        Heads { heads: 1, group: 1, scale: 1.0 },
        &q,
        &mut out,
        None,
    );
}

#[test]
fn products_with_single_keys_are_the_oracles() {
    for (codec, queries) in layouts().flat_map(|codec| [1, 3].map(|n| (codec, n))) {
        let strip = strip(codec, 96, 40, 3);
        let q = Noise(2).vec(96 * queries);
        let slots: Vec<u32> = (0..40).rev().step_by(3).chain([7, 7]).collect();
        let products = |isa: Isa| {
            let mut out = vec![f32::NAN; slots.len() * queries];
            dots(isa, &strip, &q, 0.5, &slots, &mut out);
            out
        };
        let plain = products(Isa::Scalar);
        for (got, slot) in plain.chunks(queries).zip(&slots) {
            let mut key = vec![f32::NAN; 96];
            strip.read_k(*slot as usize, &mut key);
            for (got, q) in got.iter().zip(q.chunks(96)) {
                let want: f64 = key.iter().zip(q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                assert!((f64::from(*got) - 0.5 * want).abs() < F32, "{codec:?} slot {slot}: {got} {want}");
            }
        }
        for isa in Isa::available() {
            let same = products(isa).iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa:?} {codec:?}");
        }
    }
}
