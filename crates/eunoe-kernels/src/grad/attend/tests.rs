use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
use super::*;
use crate::{Isa, Pool};

fn plain(weights: Weights) -> Attention {
    let (batch, heads, kv_heads, t_q, t_k, head_dim, value_dim) = (1, 1, 1, 2, 2, 1, 1);
    Attention { batch, heads, kv_heads, t_q, t_k, head_dim, value_dim, scale: 1.0, window: None, weights }
}

struct Given {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Given {
    fn noise(of: &Attention, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let [q, k, v, dout] = [of.q_len(), of.k_len(), of.v_len(), of.out_len()].map(|len| noise.vec(len));
        Self { q, k, v, dout }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs { q: &self.q, k: &self.k, v: &self.v }
    }
}

/// out, lse, dq, dk, dv.
fn run(isa: Isa, pool: &Pool, of: &Attention, given: &Given) -> Vec<Vec<f32>> {
    let lens = [of.out_len(), of.lse_len(), of.q_len(), of.k_len(), of.v_len()];
    let mut outs = lens.map(|len| vec![f32::NAN; len]);
    let [out, lse, dq, dk, dv] = &mut outs;
    of.forward(isa, pool, given.inputs(), out, lse).expect("sizes agree");
    let outputs = Outputs { out, lse, dout: &given.dout };
    of.backward(isa, pool, given.inputs(), outputs, Grads { dq, dk, dv }).expect("sizes agree");
    outs.into()
}

/// Queries (1, 2), keys (0, ln 2), values (1, 4), d 1. Row 0 sees key 0: out 1, lse 0. Row 1 has scores 0 and 2 ln 2,
/// weights 1/5 and 4/5: out (1 + 16) / 5 = 3.4, lse ln 5. With dout = (7, 5): row 0 has one weight, which is 1 whatever
/// the score, and gives dv₀ = 7 alone. Row 1: dv = (7 + 1, 4); dattn = (5, 20), Σ out dout = 17, dscores =
/// (0.2 (5 - 17), 0.8 (20 - 17)) = (-2.4, 2.4); dq₁ = 2.4 ln 2, dk = 2 (-2.4, 2.4).
#[test]
fn softmax_by_hand() {
    let ln2 = std::f32::consts::LN_2;
    let given = Given { q: vec![1.0, 2.0], k: vec![0.0, ln2], v: vec![1.0, 4.0], dout: vec![7.0, 5.0] };
    let got = same_everywhere(|isa, pool| run(isa, pool, &plain(Weights::Softmax), &given));
    let want = [
        vec![1.0, 3.4],
        vec![0.0, 5f64.ln()],
        vec![0.0, 2.4 * f64::from(ln2)],
        vec![-4.8, 4.8],
        vec![8.0, 4.0],
    ];
    got.iter().zip(&want).for_each(|(got, want)| assert_near(got, want, 1e-6, "softmax"));
}

/// The same numbers: row 0 has the weight 1/2, row 1 the weights 1/2 and 4/5. out = (0.5, 0.5 + 3.2). dv = (7/2 + 5/2,
/// 4); dscores of row 0: 1/4 · 7 · 1 = 1.75; of row 1: 1/4 · 5 · 1 = 1.25, 0.16 · 5 · 4 = 3.2; dq = (0, 3.2 ln 2);
/// dk = (1.75 + 2 · 1.25, 2 · 3.2).
#[test]
fn sigmoid_by_hand() {
    let ln2 = std::f32::consts::LN_2;
    let given = Given { q: vec![1.0, 2.0], k: vec![0.0, ln2], v: vec![1.0, 4.0], dout: vec![7.0, 5.0] };
    let got = same_everywhere(|isa, pool| run(isa, pool, &plain(Weights::Sigmoid), &given));
    let want = [vec![0.5, 3.7], vec![], vec![0.0, 3.2 * f64::from(ln2)], vec![4.25, 6.4], vec![6.0, 4.0]];
    got.iter().zip(&want).for_each(|(got, want)| assert_near(got, want, 1e-6, "sigmoid"));
}

/// The equation in f64: out, lse.
fn oracle(of: &Attention, q: &[f64], k: &[f64], v: &[f64]) -> [Vec<f64>; 2] {
    let (d, d_v) = (of.head_dim, of.value_dim);
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for row in 0..of.batch * of.heads * of.t_q {
        let (head, i) = (row / of.t_q, (row % of.t_q) as i64);
        let (batch, head) = (head / of.heads, head % of.heads);
        let first = (batch * of.kv_heads + head / (of.heads / of.kv_heads)) * of.t_k;
        let last = i + of.t_k as i64 - of.t_q as i64;
        let sees = |j: i64| j <= last && of.window.is_none_or(|w| j > last - w as i64);
        let seen: Vec<usize> = (0..of.t_k).filter(|j| sees(*j as i64)).map(|j| first + j).collect();
        let score =
            |j: &usize| (0..d).map(|c| q[row * d + c] * k[j * d + c]).sum::<f64>() * f64::from(of.scale);
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let total = scores.iter().map(|s| s.exp()).sum::<f64>();
        let weight = |s: f64| match of.weights {
            Weights::Softmax => s.exp() / total,
            Weights::Sigmoid => 1.0 / (1.0 + (-s).exp()),
        };
        let value =
            |c: usize| seen.iter().zip(&scores).map(|(j, s)| weight(*s) * v[j * d_v + c]).sum::<f64>();
        outs.extend((0..d_v).map(value));
        lses.push(total.ln());
    }
    [outs, if of.weights == Weights::Softmax { lses } else { Vec::new() }]
}

/// b, h, h_kv, t_q, t_k, d, d_v, window.
const SMALL: [([usize; 7], Option<usize>); 9] = [
    ([1, 1, 1, 1, 1, 1, 1], None),
    ([2, 2, 2, 5, 5, 3, 3], None),
    ([1, 4, 2, 3, 7, 4, 2], None),
    ([1, 3, 1, 7, 3, 2, 5], None),
    ([2, 2, 1, 6, 9, 3, 3], Some(1)),
    ([1, 2, 2, 9, 9, 2, 4], Some(4)),
    ([1, 1, 1, 2, 70, 3, 3], Some(66)),
    ([1, 1, 1, 4, 4, 2, 2], Some(0)),
    ([1, 2, 1, 67, 68, 1, 1], None),
];

const LARGE: [([usize; 7], Option<usize>); 7] = [
    ([0, 2, 1, 3, 3, 2, 2], None),
    ([1, 2, 1, 0, 3, 2, 2], None),
    ([1, 2, 1, 3, 0, 2, 2], None),
    ([1, 2, 1, 5, 5, 0, 3], None),
    ([2, 4, 2, 130, 130, 32, 32], None),
    ([1, 2, 2, 100, 227, 17, 20], None),
    ([1, 6, 2, 200, 200, 16, 48], Some(70)),
];

fn attention(sizes: [usize; 7], window: Option<usize>, weights: Weights) -> Attention {
    let [batch, heads, kv_heads, t_q, t_k, head_dim, value_dim] = sizes;
    Attention { batch, heads, kv_heads, t_q, t_k, head_dim, value_dim, scale: 0.7, window, weights }
}

#[test]
fn outputs_agree_with_f64_everywhere() {
    for (n, (sizes, window)) in (0..).zip(SMALL.into_iter().chain(LARGE)) {
        for weights in [Weights::Softmax, Weights::Sigmoid] {
            let of = attention(sizes, window, weights);
            let given = Given::noise(&of, n);
            let got = same_everywhere(|isa, pool| run(isa, pool, &of, &given));
            let [out, lse] = oracle(&of, &f64s(&given.q), &f64s(&given.k), &f64s(&given.v));
            assert_near(&got[0], &out, 5e-6, &format!("{sizes:?} {window:?} {weights:?} out"));
            assert_near(&got[1], &lse, 5e-6, &format!("{sizes:?} {window:?} {weights:?} lse"));
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for (n, (sizes, window)) in (0..).zip(SMALL) {
        for weights in [Weights::Softmax, Weights::Sigmoid] {
            let of = attention(sizes, window, weights);
            let given = Given::noise(&of, n);
            let got = run(Isa::detect(), &Pool::new(1), &of, &given);
            let [q, k, v] = [&given.q, &given.k, &given.v].map(|x| f64s(x));
            let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&oracle(&of, q, k, v)[0], &given.dout);
            let what = format!("{sizes:?} {window:?} {weights:?}");
            assert_near(&got[2], &slopes(&q, |q| loss(q, &k, &v)), 3e-6, &format!("{what} dq"));
            assert_near(&got[3], &slopes(&k, |k| loss(&q, k, &v)), 3e-6, &format!("{what} dk"));
            assert_near(&got[4], &slopes(&v, |v| loss(&q, &k, v)), 3e-6, &format!("{what} dv"));
        }
    }
}

/// What differences would take too long for: the textbook's backward pass in f64.
#[test]
fn gradients_over_many_tiles_agree_with_f64() {
    for (n, (sizes, window)) in (0..).zip(LARGE) {
        for weights in [Weights::Softmax, Weights::Sigmoid] {
            let of = attention(sizes, window, weights);
            let given = Given::noise(&of, n);
            let got = run(Isa::detect(), &Pool::new(2), &of, &given);
            let want = backward(&of, &given);
            for (what, (got, want)) in ["dq", "dk", "dv"].iter().zip(got[2..].iter().zip(&want)) {
                assert_near(got, want, 1e-5, &format!("{sizes:?} {window:?} {weights:?} {what}"));
            }
        }
    }
}

fn backward(of: &Attention, given: &Given) -> [Vec<f64>; 3] {
    let [q, k, v, dout] = [&given.q, &given.k, &given.v, &given.dout].map(|x| f64s(x));
    let (d, d_v, scale) = (of.head_dim, of.value_dim, f64::from(of.scale));
    let [outs, lses] = oracle(of, &q, &k, &v);
    let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| vec![0.0; len]);
    for row in 0..of.batch * of.heads * of.t_q {
        let (head, i) = (row / of.t_q, (row % of.t_q) as i64);
        let first = (head / of.heads * of.kv_heads + head % of.heads / (of.heads / of.kv_heads)) * of.t_k;
        let last = i + of.t_k as i64 - of.t_q as i64;
        let delta = (0..d_v).map(|c| outs[row * d_v + c] * dout[row * d_v + c]).sum::<f64>();
        for j in 0..of.t_k {
            if j as i64 > last || of.window.is_some_and(|w| j as i64 <= last - w as i64) {
                continue;
            }
            let j = first + j;
            let score = (0..d).map(|c| q[row * d + c] * k[j * d + c]).sum::<f64>() * scale;
            let dweight = (0..d_v).map(|c| dout[row * d_v + c] * v[j * d_v + c]).sum::<f64>();
            let (weight, dscore) = match of.weights {
                Weights::Softmax => {
                    let weight = (score - lses[row]).exp();
                    (weight, weight * (dweight - delta))
                }
                Weights::Sigmoid => {
                    let weight = 1.0 / (1.0 + (-score).exp());
                    (weight, weight * (1.0 - weight) * dweight)
                }
            };
            for c in 0..d {
                dq[row * d + c] += dscore * scale * k[j * d + c];
                dk[j * d + c] += dscore * scale * q[row * d + c];
            }
            for c in 0..d_v {
                dv[j * d_v + c] += weight * dout[row * d_v + c];
            }
        }
    }
    [dq, dk, dv]
}

#[test]
fn far_scores_neither_overflow_nor_leak_from_behind_the_mask() {
    // a masked key with a huge score, and scores that differ by 2000
    for weights in [Weights::Softmax, Weights::Sigmoid] {
        let of = plain(weights);
        let given =
            Given { q: vec![1.0, 1.0], k: vec![-1000.0, 1000.0], v: vec![2.0, 3.0], dout: vec![1.0, 1.0] };
        let got = same_everywhere(|isa, pool| run(isa, pool, &of, &given));
        let out: [f64; 2] = if weights == Weights::Softmax { [2.0, 3.0] } else { [0.0, 3.0] };
        assert_near(&got[0], &out, 1e-6, "out");
        for grad in &got[2..4] {
            assert_near(grad, &[0.0, 0.0], 1e-6, "dq and dk");
        }
    }
}

#[test]
fn a_key_that_is_not_seen_changes_no_bit() {
    for weights in [Weights::Softmax, Weights::Sigmoid] {
        let of = attention([1, 1, 1, 20, 20, 16, 16], Some(5), weights);
        let (given, mut other) = (Given::noise(&of, 3), Given::noise(&of, 3));
        // key 10 is seen by rows 10 to 14
        other.k[160..176].fill(1e3);
        other.v[160..176].fill(-1e6);
        let [a, b] = [&given, &other].map(|given| run(Isa::detect(), &Pool::new(1), &of, given));
        for out in [0, 2] {
            assert_eq!(a[out][..160], b[out][..160], "{weights:?} rows before");
            assert_eq!(a[out][240..], b[out][240..], "{weights:?} rows after");
            assert_ne!(a[out][160..240], b[out][160..240], "{weights:?} rows that see it");
        }
    }
}

#[test]
fn sizes_that_disagree_are_refused() {
    let (isa, pool, of) = (Isa::Scalar, &Pool::new(1), plain(Weights::Softmax));
    let two = [0.0; 2];
    let inputs = Inputs { q: &two, k: &two, v: &two };
    let [out, lse, dq, dk, dv] = &mut [[0.0; 2]; 5];
    assert!(of.forward(isa, pool, inputs, out, lse).is_ok());
    assert!(of.forward(isa, pool, Inputs { k: &[0.0], ..inputs }, out, lse).is_err());
    assert!(of.forward(isa, pool, inputs, &mut out[..1], lse).is_err());
    assert!(of.forward(isa, pool, inputs, out, &mut []).is_err());
    for kv_heads in [0, 2] {
        let uneven = Attention { kv_heads, ..of };
        assert!(uneven.forward(isa, pool, inputs, out, lse).is_err());
    }
    let outputs = Outputs { out, lse, dout: &two };
    assert!(of.backward(isa, pool, inputs, Outputs { lse: &[], ..outputs }, Grads { dq, dk, dv }).is_err());
    assert!(of.backward(isa, pool, inputs, outputs, Grads { dq: &mut dq[..1], dk, dv }).is_err());
}
