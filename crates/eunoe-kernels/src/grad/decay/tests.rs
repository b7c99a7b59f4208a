use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
use super::*;

struct Given {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    start: Option<Vec<f32>>,
    dout: Vec<f32>,
    dend: Option<Vec<f32>>,
}

impl Given {
    fn noise(of: &Lightning<'_>, seed: u64, states: bool) -> Self {
        let mut noise = Noise(seed);
        let [q, k] = [(); 2].map(|()| noise.vec(of.rows(of.key_dim)));
        let [v, dout] = [(); 2].map(|()| noise.vec(of.rows(of.value_dim)));
        let [start, dend] = [(); 2].map(|()| states.then(|| noise.vec(of.states())));
        Self { q, k, v, start, dout, dend }
    }
}

/// out, end, dq, dk, dv, dstart.
fn run(isa: Isa, pool: &Pool, of: &Lightning<'_>, given: &Given) -> Vec<Vec<f32>> {
    let (keys, values, states) = (of.rows(of.key_dim), of.rows(of.value_dim), of.states());
    let mut outs = [values, states, keys, keys, values, states].map(|len| vec![f32::NAN; len]);
    let [out, end, dq, dk, dv, dstart] = &mut outs;
    let inputs = Inputs { q: &given.q, k: &given.k, v: &given.v, start: given.start.as_deref() };
    of.forward(isa, pool, inputs, out, end).expect("sizes agree");
    let outputs = Outputs { dout: &given.dout, dend: given.dend.as_deref() };
    let grads = Grads { dq, dk, dv, dstart: Some(dstart) };
    of.backward(isa, pool, inputs, outputs, grads).expect("sizes agree");
    outs.into()
}

/// λ 1/2, q = (1, 2), k = (3, 4), v = (5, 6), start 8. KV_1 = 4 + 15 = 19, o_1 = 19; KV_2 = 9.5 + 24 = 33.5, o_2 = 67.
/// With dout = (1, 10) and dend 2: dKV_2 = 10 · 2 + 2 = 22, dKV_1 = 1 · 1 + 22 / 2 = 12; dq = (19, 335),
/// dk = dKV v = (60, 132), dv = dKV k = (36, 88), dstart = 12 / 2 = 6.
#[test]
fn two_steps_by_hand() {
    let of = Lightning { batch: 1, heads: 1, t: 2, key_dim: 1, value_dim: 1, decay: &[0.5] };
    let given = Given {
        q: vec![1.0, 2.0],
        k: vec![3.0, 4.0],
        v: vec![5.0, 6.0],
        start: Some(vec![8.0]),
        dout: vec![1.0, 10.0],
        dend: Some(vec![2.0]),
    };
    let got = same_everywhere(|isa, pool| run(isa, pool, &of, &given));
    let want: [&[f32]; 6] = [&[19.0, 67.0], &[33.5], &[19.0, 335.0], &[60.0, 132.0], &[36.0, 88.0], &[6.0]];
    assert_eq!(got, want);
}

/// The recurrence, step by step: out, then end.
fn oracle(of: &Lightning<'_>, [q, k, v, start]: [&[f64]; 4]) -> Vec<f64> {
    let [n, d] = [of.key_dim, of.value_dim];
    let (mut state, mut out) = (start.to_vec(), Vec::new());
    for head in 0..of.batch * of.heads {
        let decay = f64::from(of.decay[head % of.heads]);
        let state = &mut state[head * n * d..][..n * d];
        for step in head * of.t..(head + 1) * of.t {
            for i in 0..n * d {
                state[i] = decay * state[i] + k[step * n + i / d] * v[step * d + i % d];
            }
            out.extend((0..d).map(|c| (0..n).map(|r| q[step * n + r] * state[r * d + c]).sum::<f64>()));
        }
    }
    out.extend(state);
    out
}

/// b, h, t, n, d.
const SHAPES: [[usize; 5]; 10] = [
    [0, 2, 3, 2, 2],
    [1, 2, 0, 3, 2],
    [1, 1, 1, 1, 1],
    [2, 3, 5, 4, 3],
    [1, 2, 70, 2, 3],
    [1, 1, 130, 1, 2],
    [1, 2, 3, 0, 2],
    [1, 2, 3, 2, 0],
    [2, 2, 64, 16, 32],
    [1, 3, 200, 33, 17],
];

#[test]
fn chunks_agree_with_the_recurrence_and_its_differences() {
    for (seed, [batch, heads, t, key_dim, value_dim]) in (0..).zip(SHAPES) {
        for (states, decay) in [(true, [0.9, 1.0, 0.3]), (false, [1.0, 0.01, 0.99])] {
            let of = Lightning { batch, heads, t, key_dim, value_dim, decay: &decay[..heads] };
            let given = Given::noise(&of, seed, states);
            let got = same_everywhere(|isa, pool| run(isa, pool, &of, &given));
            let zero = vec![0.0; of.states()];
            let start = given.start.as_ref().unwrap_or(&zero);
            let grads = [&*given.dout, given.dend.as_ref().unwrap_or(&zero)].concat();
            let all = [&given.q, &given.k, &given.v, start].map(|x| f64s(x));
            let parts = || all.each_ref().map(|x| x.as_slice());
            let what = format!("{:?} {states} {decay:?}", SHAPES[seed as usize]);
            assert_near(&got[..2].concat(), &oracle(&of, parts()), 1e-5, &what);
            if of.rows(key_dim + value_dim) > 1000 {
                continue;
            }
            for i in 0..4 {
                let loss = |x: &[f64]| {
                    let mut parts = parts();
                    parts[i] = x;
                    dot(&oracle(&of, parts), &grads)
                };
                assert_near(&got[2 + i], &slopes(&all[i], loss), 1e-5, &format!("{what} gradient {i}"));
            }
        }
    }
}

/// <dout, out> is linear in q, in (k, start) and in (v, start): the gradients times what they belong to give it back.
/// Holds at sizes that differences cannot reach.
#[test]
fn gradients_of_long_sequences_are_those_of_a_product() {
    let decay = [0.99, 1.0];
    let of = Lightning { batch: 1, heads: 2, t: 300, key_dim: 24, value_dim: 40, decay: &decay };
    let mut given = Given::noise(&of, 5, true);
    given.dend = None;
    let got = run(Isa::detect(), &Pool::new(2), &of, &given);
    let of = |a: &[f32], b: &[f32]| dot(&f64s(a), b);
    let total = of(&got[0], &given.dout);
    let from_start = of(&got[5], given.start.as_deref().expect("a start"));
    for (what, sum) in [
        ("q", of(&got[2], &given.q)),
        ("k", of(&got[3], &given.k) + from_start),
        ("v", of(&got[4], &given.v) + from_start),
    ] {
        assert!((sum - total).abs() < 1e-4 * total.abs().max(100.0), "{what}: {sum}, expected {total}");
    }
}

#[test]
fn sizes_and_decays_that_disagree_are_refused() {
    let of = Lightning { batch: 1, heads: 1, t: 2, key_dim: 1, value_dim: 1, decay: &[0.5] };
    let (isa, pool, two) = (Isa::Scalar, &Pool::new(1), [0.0; 2]);
    let inputs = Inputs { q: &two, k: &two, v: &two, start: None };
    let ([out, dq, dk, dv], end) = (&mut [[0.0; 2]; 4], &mut [0.0]);
    assert!(of.forward(isa, pool, inputs, out, end).is_ok());
    assert!(of.forward(isa, pool, Inputs { start: Some(&two), ..inputs }, out, end).is_err());
    assert!(of.forward(isa, pool, inputs, out, &mut []).is_err());
    for decay in [[0.0], [1.1], [f32::NAN]] {
        assert!(Lightning { decay: &decay, ..of }.forward(isa, pool, inputs, out, end).is_err());
    }
    let outputs = Outputs { dout: &two, dend: Some(&two) };
    assert!(of.backward(isa, pool, inputs, outputs, Grads { dq, dk, dv, dstart: None }).is_err());
    let outputs = Outputs { dend: None, ..outputs };
    assert!(of.backward(isa, pool, inputs, outputs, Grads { dq, dk, dv, dstart: None }).is_ok());
}
