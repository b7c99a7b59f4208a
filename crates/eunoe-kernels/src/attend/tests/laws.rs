//! One row, one answer: bits do not depend on company.

use super::*;

/// What a sequence of rows leaves behind.
#[derive(PartialEq)]
struct Bits {
    out: Vec<u32>,
    lse: Vec<u32>,
    columns: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Case {
    codec: Codecs,
    head_dim: usize,
    group: usize,
    rows: usize,
    window: Option<u32>,
    ranked: bool,
}

const F16: Codecs = Codecs { k: Codec::F16, v: Codec::F16 };
const CASE: Case = Case { codec: F16, head_dim: 64, group: 3, rows: 1100, window: None, ranked: false };

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// `sequences` texts grow by `chunk` rows a call, as the engine lets them; each has two strips. The first one's bits.
fn grow(isa: Isa, threads: usize, chunk: usize, sequences: usize, case: Case) -> Bits {
    let Case { codec, head_dim: d, group, rows, window, ranked } = case;
    let (pool, heads) = (Pool::new(threads), 2 * group);
    let rope = Rope::new(Style::Neox, d, 10_000.0, 1.0, None).expect("even");
    let rank = ranked.then_some(&rope);
    let shape = Heads { heads, group, scale: 0.2 };
    let layout = SlotLayout { codec, head_dim: d, column: true };
    let mut strips: Vec<_> =
        (0..2 * sequences).map(|_| Strip::new(layout, rows).expect("address space")).collect();
    let noises = |from: usize| move |s: usize| Noise((from + s) as u64);
    let mut query_noise: Vec<_> = (0..sequences).map(noises(0)).collect();
    let mut strip_noise: Vec<_> = (0..2 * sequences).map(noises(100)).collect();
    let mut bits_of = Bits { out: Vec::new(), lse: Vec::new(), columns: Vec::new() };
    for start in (0..rows).step_by(chunk) {
        let fresh = chunk.min(rows - start);
        for (strip, noise) in strips.iter_mut().zip(&mut strip_noise) {
            (start..start + fresh).for_each(|i| strip.push(&noise.vec(d), &noise.vec(d), position(i)));
        }
        let mut q = Vec::new();
        query_noise.iter_mut().for_each(|noise| q.extend(noise.vec(fresh * heads * d)));
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len() / d]);
        let place = |s: usize| ((s / 2) * fresh..(s / 2 + 1) * fresh, s % 2 * group);
        let run = |(s, strip)| {
            let (rows, head) = place(s);
            Run { window, rank, ..Run::new(strip, rows, start, head) }
        };
        let runs: Vec<_> = strips.iter().enumerate().map(run).collect();
        attend(isa, &pool, &runs, shape, &q, &mut out, Some(&mut lse));
        let mut records: Vec<_> = strips
            .iter_mut()
            .enumerate()
            .map(|(s, strip)| {
                let (rows, head) = place(s);
                RecordRun { strip, rows, first: start, head, window, rank }
            })
            .collect();
        let rule = Rule { decay: 0.9, fold: if ranked { Fold::Max } else { Fold::Sum } };
        record(isa, &pool, &mut records, shape, &q, &lse, rule);
        bits_of.out.extend(bits(&out[..fresh * heads * d]));
        bits_of.lse.extend(bits(&lse[..fresh * heads]));
    }
    let mut columns = Vec::new();
    strips[..2].iter().for_each(|strip| strip.columns(&mut columns));
    assert!(columns.iter().all(|c| c.is_finite()));
    Bits { columns: bits(&columns), ..bits_of }
}

#[test]
fn chunks_threads_and_batch_mates_change_no_bit() {
    let isa = Isa::detect();
    for case in [CASE, Case { window: Some(700), ranked: true, group: 4, ..CASE }] {
        let want = grow(isa, 1, case.rows, 1, case);
        assert!(want.out.iter().all(|b| !f32::from_bits(*b).is_nan()), "every output is written");
        for (threads, chunk, sequences) in
            [(1, 1, 1), (1, 7, 1), (2, 64, 1), (2, 1, 2), (3, 7, 2), (3, 64, 1), (2, case.rows, 3)]
        {
            let got = grow(isa, threads, chunk, sequences, case);
            assert!(got.out == want.out, "outputs: {threads} threads, chunk {chunk}, {sequences} sequences");
            assert!(got.lse == want.lse, "log-sum-exps: {threads} threads, chunk {chunk}");
            assert!(got.columns == want.columns, "columns: {threads} threads, chunk {chunk}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for codec in layouts() {
        for (head_dim, group, window, ranked) in
            [(64, 3, None, false), (96, 7, Some(90), true), (160, 1, None, true)]
        {
            let case = Case { codec, head_dim, group, window, ranked, rows: 130 };
            let want = grow(Isa::Scalar, 1, 65, 1, case);
            for isa in Isa::available() {
                assert!(grow(isa, 1, 65, 1, case) == want, "{isa:?} {codec:?} d {head_dim} group {group}");
            }
        }
    }
}

#[test]
fn last_rows_do_not_depend_on_threads_or_instructions() {
    let strip = strip(Codec::Q8, 64, 700, 4);
    let pos: Vec<u32> = (660..700).map(position).collect();
    let q = Noise(3).vec(40 * 3 * 64);
    let last = LastRows { strip: &strip, q: &q, pos: &pos, scale: 0.3, fold: Fold::Sum, rank: None };
    let run = |isa, threads| {
        let mut out = vec![f32::NAN; 700];
        last_rows(isa, &Pool::new(threads), &last, &mut out);
        bits(&out)
    };
    let want = run(Isa::Scalar, 1);
    for isa in Isa::available() {
        for threads in [1, 3] {
            assert_eq!(run(isa, threads), want, "{isa:?} {threads} threads");
        }
    }
}

#[test]
fn later_slots_cannot_reach_a_row_even_when_broken() {
    let (d, group, n) = (64, 3, 150);
    let q = Noise(6).vec(n * group * d);
    let answer = |codec: Codecs, broken: f32| {
        let mut noise = Noise(7);
        let layout = SlotLayout { codec, head_dim: d, column: false };
        let mut strip = Strip::new(layout, n).expect("address space");
        for i in 0..n {
            let (mut k, mut v) = (noise.vec(d), noise.vec(d));
            if i >= 99 {
                (k, v) = (vec![broken; d], vec![broken; d]);
            }
            strip.push(&k, &v, i as u32);
        }
        let mut out = vec![f32::NAN; q.len()];
        let run = Run::new(&strip, 0..n, 0, 0);
        attend(
            Isa::detect(),
            &Pool::new(1),
            &[run],
            Heads { heads: group, group, scale: 0.1 },
            &q,
            &mut out,
            None,
        );
        bits(&out[..99 * group * d])
    };
    for codec in layouts() {
        let want = answer(codec, 0.5);
        for broken in [f32::INFINITY, f32::NAN, -3e38] {
            assert!(answer(codec, broken) == want, "{codec:?} {broken}");
        }
    }
}

#[test]
fn ranks_that_equal_positions_change_no_bit() {
    let mut strip = Strip::new(SlotLayout { codec: Codec::F16.into(), head_dim: 64, column: false }, 200)
        .expect("memory");
    let mut noise = Noise(8);
    (0..200).for_each(|i| strip.push(&noise.vec(64), &noise.vec(64), i));
    let (rope, q) = (Rope::new(Style::Norm, 64, 10_000.0, 1.0, None).expect("even"), noise.vec(5 * 64));
    let answer = |rank| {
        let mut out = vec![f32::NAN; q.len()];
        let run = Run { rank, ..Run::new(&strip, 0..5, 195, 0) };
        attend(
            Isa::detect(),
            &Pool::new(1),
            &[run],
            Heads { heads: 1, group: 1, scale: 0.5 },
            &q,
            &mut out,
            None,
        );
        bits(&out)
    };
    assert_eq!(answer(None), answer(Some(&rope)));
}

#[test]
fn only_named_rows_and_heads_are_written() {
    let strip = strip(Codec::F16, 64, 10, 1);
    let q = Noise(2).vec(3 * 4 * 64);
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; 12]);
    let run = Run::new(&strip, 1..2, 9, 2);
    attend(
        Isa::detect(),
        &Pool::new(2),
        &[run],
        Heads { heads: 4, group: 2, scale: 0.1 },
        &q,
        &mut out,
        Some(&mut lse),
    );
    for line in 0..12 {
        let written = line == 6 || line == 7;
        assert_eq!(lse[line].is_nan(), !written);
        assert!(out[line * 64..][..64].iter().all(|x| x.is_nan() != written), "line {line}");
    }
}

#[test]
#[should_panic(expected = "two runs write the same row and head")]
fn overlapping_runs_are_refused() {
    let strip = strip(Codec::F16, 64, 10, 1);
    let run = |rows| Run::new(&strip, rows, 0, 0);
    let (q, mut out) = (vec![0.0; 5 * 64], vec![0.0; 5 * 64]);
    attend(
        Isa::Scalar,
        &Pool::new(1),
        &[run(0..3), run(2..5)],
        Heads { heads: 1, group: 1, scale: 1.0 },
        &q,
        &mut out,
        None,
    );
}
