//! The laws of the shelf, over every entry. They run in f64, where only a wrong formula is wrong in the ninth digit.

use candle_core::{DType, Device, Tensor};

use crate::mixers::{LIST, Spec, build, parse};
use crate::nets::{Config, Linear, Params};
use crate::{Ctx, Mixer, Split, State};

/// Phrases that the laws are held against: every mixer, every form of it, chunks far shorter than the texts.
const CASES: &[&str] = &[
    "softmax_attention",
    "softmax_attention(window=5)",
    "softmax_attention(window=1)",
    "gated_conv",
    "gated_conv(kernel=1)",
    "linear_attention(chunk=4)",
    "lightning_attention(chunk=8)",
    "lightning_attention(decay=off, chunk=5)",
    "based(features=4, chunk=8)",
    "delta_rule(chunk=4)",
    "aaren(chunk=8)",
    "music_transformer(span=10)",
    "music_transformer(span=10, beyond=clip)",
    "sink_attention(form=softmax)",
    "sink_attention(form=off_by_one)",
    "sink_attention(form=k_bias)",
    "sink_attention(form=kv_bias)",
    "sink_attention(form=v_bias)",
    "sink_attention(form=sigmoid)",
    "sink_attention(form=sigmoid_norm)",
    "sink_attention(form=elu)",
    "sink_attention(form=elu_norm)",
    "titans(wiring=memory, chunk=4)",
    "titans(wiring=memory, layers=1, chunk=1)",
    "titans(wiring=mag, chunk=4, window=6)",
    "titans(wiring=mal, chunk=4, window=6, persistent=0)",
    "titans(wiring=mac, chunk=4, window=8)",
];

/// Tokens of the texts: no multiple of any chunk.
const T: usize = 27;

/// A small model's sizes and parameters, for tests.
pub(crate) struct Lab {
    pub(crate) spec: Spec,
    pub(crate) params: Params,
}

impl Lab {
    /// Heads of `d_model / heads`, weights of N(0, 1 / d_model) so that scores are neither flat nor sharp.
    pub(crate) fn f64(d_model: usize, heads: usize, kv_heads: usize) -> Self {
        let init_std = (d_model as f64).powf(-0.5);
        let config = Config { d_model, heads, kv_heads, init_std, ..Config::default() };
        let spec = Spec { out_std: init_std, ..Spec::of(&config, 0) };
        Self { spec, params: Params::new(7, DType::F64, &Device::Cpu) }
    }

    /// `[b, t, m]` of N(0, 1).
    pub(crate) fn input(&self, b: usize, t: usize) -> Tensor {
        let mut params = Params::new(11, DType::F64, &Device::Cpu);
        params.init().normal("x", &[b, t, self.spec.d_model], 1.0).unwrap().detach()
    }

    /// What a linear map makes of rows, entry by entry.
    pub(crate) fn rows(linear: &Linear, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let weight: Vec<Vec<f64>> = linear.weight.to_vec2().unwrap();
        let bias: Vec<f64> =
            linear.bias.as_ref().map_or(vec![0.0; weight.len()], |bias| bias.to_vec1().unwrap());
        let row = |x: &Vec<f64>| {
            let dot = |w: &Vec<f64>| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            weight.iter().zip(&bias).map(|(w, b)| dot(w) + b).collect()
        };
        x.iter().map(row).collect()
    }
}

/// A head's row, rotated by hand to where it stands at `pos`.
pub(crate) fn turned(row: &[f64], pos: usize, base: f64) -> Vec<f64> {
    let half = row.len() / 2;
    let angle = |i: usize| pos as f64 * base.powf(-(i as f64) / half as f64);
    let at = |i: usize| match i < half {
        true => row[i] * angle(i).cos() - row[i + half] * angle(i).sin(),
        false => row[i - half] * angle(i - half).sin() + row[i] * angle(i - half).cos(),
    };
    (0..row.len()).map(at).collect()
}

/// Equal within `tolerance` of the largest entry.
pub(crate) fn close(got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().flatten().fold(1e-3, |m: f64, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len());
        for (c, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * scale, "row {i}, column {c}: {g} for {w}");
        }
    }
}

fn same(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    let (off, scale) = (largest(&(got - want).unwrap()), largest(want).max(1e-3));
    assert!(off <= tolerance * scale, "{what}: {off} of {scale}");
}

/// Every case with a model of 2 heads on 16.
fn each(law: impl Fn(&str, &Lab, &dyn Mixer)) {
    for phrase in CASES {
        let mut lab = Lab::f64(16, 2, 2);
        // the second of three layers: neither the first nor the last, which some mixers treat apart
        lab.spec.layer = 1;
        lab.spec.layers = 3;
        let mixer = build(phrase, &lab.spec, &mut lab.params.init()).unwrap();
        law(phrase, &lab, mixer.as_ref());
    }
}

fn run(mixer: &dyn Mixer, x: &Tensor, state: State) -> (Tensor, State) {
    mixer.run(x, state, &mut Ctx::default()).unwrap()
}

/// Outputs of `x` in pieces that begin at `cuts`, and the state behind them.
fn in_pieces(mixer: &dyn Mixer, x: &Tensor, cuts: &[usize]) -> (Tensor, State) {
    let t = x.dim(1).unwrap();
    let (mut state, mut outputs, mut from) = (State::default(), Vec::new(), 0);
    for to in cuts.iter().copied().chain([t]) {
        let (y, after) = run(mixer, &x.narrow(1, from, to - from).unwrap(), state);
        (state, from) = (after, to);
        outputs.push(y);
    }
    (Tensor::cat(&outputs, 1).unwrap(), state)
}

#[test]
fn every_mixer_stands_before_the_laws() {
    for entry in LIST {
        let stands = |phrase: &&&str| parse(phrase).unwrap().0.card.id == entry.card.id;
        assert!(CASES.iter().any(|phrase| stands(&phrase)), "{}", entry.card.id);
    }
}

#[test]
fn no_output_depends_on_a_later_token() {
    each(|phrase, lab, mixer| {
        let x = lab.input(1, T);
        let (want, _) = run(mixer, &x, State::default());
        for p in [1, 7, 8, T - 1] {
            let tail = (x.narrow(1, p, T - p).unwrap() * -3.0).unwrap();
            let changed = Tensor::cat(&[&x.narrow(1, 0, p).unwrap(), &tail], 1).unwrap();
            let (got, _) = run(mixer, &changed, State::default());
            let before = |y: &Tensor| y.narrow(1, 0, p).unwrap();
            same(&before(&got), &before(&want), 1e-13, &format!("{phrase}, changed from {p}"));
            let at = |y: &Tensor| y.narrow(1, p, 1).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_ne!(at(&got), at(&want), "{phrase}: a token does not reach its own output");
        }
    });
}

#[test]
fn a_text_may_be_cut_where_the_mixer_says() {
    each(|phrase, lab, mixer| {
        let grid = match mixer.split() {
            Split::Anywhere => 1,
            Split::Grid(n) => n,
        };
        let x = lab.input(2, T);
        let (want, end) = run(mixer, &x, State::default());
        assert_eq!(end.pos, T, "{phrase}");
        for cuts in [vec![1], vec![8], vec![5, 6, 19], vec![26], (1..T).collect()] {
            let cuts: Vec<usize> = cuts.into_iter().filter(|c| c.is_multiple_of(grid)).collect();
            let (got, after) = in_pieces(mixer, &x, &cuts);
            same(&got, &want, 1e-10, &format!("{phrase}, cut at {cuts:?}"));
            assert_eq!((after.pos, after.bytes()), (end.pos, end.bytes()), "{phrase}, cut at {cuts:?}");
        }
    });
}

#[test]
fn rows_of_a_batch_are_alone() {
    each(|phrase, lab, mixer| {
        let x = lab.input(3, T);
        let (all, state) = in_pieces(mixer, &x, &[]);
        for b in 0..3 {
            let (own, _) = run(mixer, &x.narrow(0, b, 1).unwrap(), State::default());
            same(&all.narrow(0, b, 1).unwrap(), &own, 1e-12, phrase);
        }
        let rows = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
        let next = lab.input(3, 4).index_select(&rows, 0).unwrap();
        let (picked, _) = run(mixer, &next, state.pick(&rows).unwrap());
        let (plain, _) = run(mixer, &lab.input(3, 4), state);
        same(&picked, &plain.index_select(&rows, 0).unwrap(), 1e-12, &format!("{phrase}, picked"));
    });
}

#[test]
fn the_state_is_as_large_as_the_formula_says() {
    each(|phrase, lab, mixer| {
        for t in [1, 2, 7, 8, 9, T, 64] {
            let (_, state) = run(mixer, &lab.input(2, t), State::default());
            let bytes = state.compact().unwrap().bytes();
            assert_eq!(bytes, 2 * 8 * mixer.cost(t).state, "{phrase} after {t}");
        }
    });
}

/// Σ y ⊙ r with fixed r: a loss in which every output counts.
fn weigh(lab: &Lab, y: &Tensor) -> Tensor {
    let (b, t, _) = y.dims3().unwrap();
    let r = lab.input(b, t).sin().unwrap();
    (y * r).unwrap().sum_all().unwrap()
}

#[test]
fn gradients_are_finite_differences() {
    const STEP: f64 = 1e-6;
    each(|phrase, lab, mixer| {
        let x = lab.input(2, T);
        let loss = || weigh(lab, &run(mixer, &x, State::default()).0);
        let grads = loss().backward().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        for (name, param) in lab.params.iter() {
            let Some(grad) = grads.get(&param.var) else { panic!("{phrase}: no gradient reaches `{name}`") };
            let grad = grad.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let old = param.var.as_tensor().copy().unwrap();
            let values = old.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for _ in 0..4 {
                let n = rng.usize(..values.len());
                let at = |value: f64| {
                    let mut moved = values.clone();
                    moved[n] = value;
                    param.var.set(&Tensor::from_vec(moved, old.dims(), &Device::Cpu).unwrap()).unwrap();
                    loss().to_scalar::<f64>().unwrap()
                };
                let slope = (at(values[n] + STEP) - at(values[n] - STEP)) / (2.0 * STEP);
                let off = (slope - grad[n]).abs();
                assert!(
                    off <= 1e-6 * (1.0 + slope.abs()),
                    "{phrase}, `{name}`[{n}]: {} for {slope}",
                    grad[n]
                );
            }
            param.var.set(&old).unwrap();
        }
    });
}

#[test]
fn gradients_pass_through_a_carried_state() {
    each(|phrase, lab, mixer| {
        let cut = match mixer.split() {
            Split::Anywhere => 11,
            Split::Grid(n) => n,
        };
        let x = lab.input(1, T);
        let whole = weigh(lab, &run(mixer, &x, State::default()).0).backward().unwrap();
        let parts = weigh(lab, &in_pieces(mixer, &x, &[cut]).0).backward().unwrap();
        for (name, param) in lab.params.iter() {
            let (a, b) = (parts.get(&param.var).unwrap(), whole.get(&param.var).unwrap());
            same(a, b, 1e-9, &format!("{phrase}, `{name}`"));
        }
    });
}

#[test]
fn kernels_give_what_the_plain_forms_give() {
    // the same model in f32, where kernels run, and in f64, where none does
    let of = |phrase: &str, dtype: DType| {
        let mut params = Params::new(7, dtype, &Device::Cpu);
        let lab = Lab::f64(16, 2, 2);
        let mixer = build(phrase, &lab.spec, &mut params.init()).unwrap();
        let x = lab.input(2, T).to_dtype(dtype).unwrap();
        let (y, _) = run(mixer.as_ref(), &x, State::default());
        let loss = (&y * lab.input(2, T).sin().unwrap().to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let grads = params.iter().map(|(name, p)| (name.to_owned(), wide(grads.get(&p.var).unwrap())));
        (wide(&y.detach()), grads.collect::<Vec<_>>())
    };
    for phrase in CASES {
        let ((y, grads), (want, want_grads)) = (of(phrase, DType::F32), of(phrase, DType::F64));
        same(&y, &want, 1e-4, phrase);
        let largest =
            |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max_all().unwrap().to_scalar::<f64>();
        let scale = want_grads.iter().map(|(_, grad)| largest(grad).unwrap()).fold(0.0, f64::max);
        for ((name, grad), (_, want)) in grads.iter().zip(&want_grads) {
            let off = largest(&(grad - want).unwrap()).unwrap();
            assert!(off <= 1e-4 * scale, "{phrase}, `{name}`: {off} of {scale}");
        }
    }
}

#[test]
fn a_phrase_that_cannot_be_is_refused_where_it_is_wrong() {
    for (phrase, why) in [
        ("", "mixer ``, character 1: expected a mixer"),
        ("sotfmax_attention", "did you mean `softmax_attention`?"),
        ("softmax_attention(window=-1)", "character 26: `window`: expected a whole number"),
        ("softmax_attention(w=1)", "has no argument `w`"),
        ("softmax_attention @ 4", "character 19: expected the end"),
    ] {
        let error = parse(phrase).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{phrase}: {error}");
    }
}
