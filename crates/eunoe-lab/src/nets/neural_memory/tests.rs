use candle_core::{DType, Device};

use super::*;
use crate::laws::{Lab, close};
use crate::mixers::delta_rule;

/// Rows `[t, ·]`.
pub(crate) type Rows = Vec<Vec<f64>>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Weights of up to two layers for the literal loop.
pub(crate) type Net = Vec<Rows>;

fn forward(net: &Net, x: &[f64]) -> Vec<f64> {
    let first: Vec<f64> = net[0].iter().map(|row| dot(row, x)).collect();
    match net.get(1) {
        None => first,
        Some(second) => {
            let a: Vec<f64> = first.into_iter().map(silu).collect();
            second.iter().map(|row| dot(row, &a)).collect()
        }
    }
}

/// ∇‖M(k) − v‖² by central differences: no formula is shared with what is tested.
fn gradient(net: &Net, k: &[f64], v: &[f64]) -> Net {
    let loss = |net: &Net| forward(net, k).iter().zip(v).map(|(y, v)| (y - v).powi(2)).sum::<f64>();
    let mut moved = net.clone();
    let mut grad = net.clone();
    for l in 0..net.len() {
        for i in 0..net[l].len() {
            for j in 0..net[l][i].len() {
                let mut at = |x: f64| {
                    moved[l][i][j] = x;
                    loss(&moved)
                };
                let w = net[l][i][j];
                grad[l][i][j] = (at(w + 1e-5) - at(w - 1e-5)) / 2e-5;
                moved[l][i][j] = w;
            }
        }
    }
    grad
}

/// The length of all of it together.
fn length(net: &Net) -> f64 {
    net.iter().flatten().flatten().map(|x| x * x).sum::<f64>().sqrt()
}

/// The loop over tokens, and the weights behind it; gradients at the weights of the chunk's start. `gates` are 1 − α, η, θ
/// per token.
fn literal(net: Net, [q, k, v]: [&Rows; 3], gates: &[[f64; 3]], (chunk, clip): (usize, f64)) -> (Rows, Net) {
    let zero: Net = net.iter().map(|l| l.iter().map(|r| vec![0.0; r.len()]).collect()).collect();
    let (mut m, mut s, mut start) = (net.clone(), zero, net);
    let mut step = |t: usize| {
        if t.is_multiple_of(chunk) {
            start = m.clone();
        }
        let grad = gradient(&start, &k[t], &v[t]);
        let share = if grad.len() == 2 { (clip / length(&grad)).min(1.0) } else { 1.0 };
        let [kept, momentum, step] = gates[t];
        for l in 0..m.len() {
            for i in 0..m[l].len() {
                for j in 0..m[l][i].len() {
                    s[l][i][j] = momentum * s[l][i][j] - step * share * grad[l][i][j];
                    m[l][i][j] = kept * m[l][i][j] + s[l][i][j];
                }
            }
        }
        forward(&m, &q[t])
    };
    let reads = (0..q.len()).map(&mut step).collect();
    (reads, m)
}

/// What the loop reads for the rows of a text, `[t, m]`, and the weights per head behind them.
pub(crate) fn slow(memory: &NeuralMemory, x: &Rows) -> (Rows, Vec<Net>) {
    let net = |h: usize| memory.first.iter().map(|w| w.get(h).unwrap().to_vec2().unwrap()).collect::<Net>();
    if x.is_empty() {
        return (Vec::new(), (0..memory.heads).map(net).collect());
    }
    let x = Tensor::new(x.clone(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let [q, k, v] = memory.projected(&x, &mut State::default()).unwrap();
    let gates = memory.gates_of(&x).unwrap();
    let mut rows = vec![Vec::new(); x.dim(1).unwrap()];
    let of_head = |h: usize| {
        let gates: Vec<[f64; 3]> = head(&gates, h).iter().map(|g| [g[0].exp(), g[1].exp(), g[2]]).collect();
        assert!(gates.iter().all(|[_, momentum, _]| *momentum <= MOST_MOMENTUM));
        let heads = [&head(&q, h), &head(&k, h), &head(&v, h)];
        let (reads, net) = literal(net(h), heads, &gates, (memory.chunk, memory.clip));
        rows.iter_mut().zip(reads).for_each(|(row, read)| row.extend(read));
        net
    };
    let nets = (0..memory.heads).map(of_head).collect();
    (rows, nets)
}

/// What `nets`, one per head, give for the queries of `x` without the convolution.
pub(crate) fn recalled(memory: &NeuralMemory, nets: &[Net], x: &Rows) -> Rows {
    let row = |q: Vec<f64>| {
        let q: Vec<f64> = q.into_iter().map(silu).collect();
        let heads = q.chunks(q.len() / nets.len()).zip(nets);
        let read = |(q, net): (&[f64], &Net)| {
            let norm = (dot(q, q) + 1e-6).sqrt();
            forward(net, &q.iter().map(|x| x / norm).collect::<Vec<f64>>())
        };
        heads.flat_map(read).collect()
    };
    Lab::rows(&memory.qkv[0].0, x).into_iter().map(row).collect()
}

/// Among the gradients of random rows: some are longer, some are not.
const CLIP: f64 = 1.0;

fn memory(lab: &mut Lab, layers: usize, chunk: usize) -> NeuralMemory {
    NeuralMemory::new(&lab.spec, (layers, 2), chunk, (0.5, CLIP), &mut lab.params.init()).unwrap()
}

/// The rows of head `h` of `[1, h, t, d]`.
fn head(x: &Tensor, h: usize) -> Rows {
    x.get(0).unwrap().get(h).unwrap().to_vec2().unwrap()
}

#[test]
fn chunks_are_the_loop_over_tokens() {
    for (layers, chunk, t) in [(1, 1, 5), (1, 4, 11), (2, 1, 4), (2, 4, 11), (2, 16, 7)] {
        let mut lab = Lab::f64(6, 2, 2);
        let memory = memory(&mut lab, layers, chunk);
        let x = lab.input(1, t);
        let y = memory.run(&x, &mut State::default()).unwrap();
        let (want, _) = slow(&memory, &x.get(0).unwrap().to_vec2().unwrap());
        close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-7);
    }
}

#[test]
fn some_gradients_of_random_rows_are_clipped() {
    let mut lab = Lab::f64(6, 2, 2);
    let memory = memory(&mut lab, 2, 4);
    let x = lab.input(1, 11);
    let [_, k, v] = memory.projected(&x, &mut State::default()).unwrap();
    let net: Net = memory.first.iter().map(|w| w.get(0).unwrap().to_vec2().unwrap()).collect();
    let (k, v) = (head(&k, 0), head(&v, 0));
    let clipped = (0..11).filter(|&t| length(&gradient(&net, &k[t], &v[t])) > CLIP).count();
    assert!((1..11).contains(&clipped), "{clipped} of 11");
}

/// The largest weight behind the same token over and over, NaN where one is.
fn grown(clip: f64) -> f64 {
    let mut lab = Lab::f64(8, 2, 3);
    let memory = NeuralMemory::new(&lab.spec, (2, 2), 16, (0.5, clip), &mut lab.params.init()).unwrap();
    let x = lab.input(1, 1).broadcast_as((1, 512, 8)).unwrap().contiguous().unwrap();
    let mut state = State::default();
    memory.run(&x, &mut state).unwrap();
    let w = state.take("w1").unwrap().abs().unwrap().flatten_all().unwrap();
    w.to_vec1::<f64>().unwrap().into_iter().max_by(f64::total_cmp).unwrap()
}

#[test]
fn a_deep_memory_diverges_unless_it_is_clipped() {
    let unbounded = grown(1e6);
    assert!(unbounded.is_nan() || unbounded > 1e3, "{unbounded}");
    // steps of θ < 0.5 along η's geometric sum, kept by 1 − α ≈ 0.98: 0.5 · 1 / (1 − 0.9) / 0.02
    let bounded = grown(1.0);
    assert!(bounded < 250.0, "{bounded}");
}

#[test]
fn without_forgetting_and_momentum_half_a_step_is_the_delta_rule() {
    let mut lab = Lab::f64(6, 1, 1);
    let memory = memory(&mut lab, 1, 1);
    let x = lab.input(1, 9);
    let [q, k, v] = memory.projected(&x, &mut State::default()).unwrap();
    let zeros = Tensor::zeros((1, 1, 6, 6), DType::F64, &Device::Cpu).unwrap();
    let mut weights = Weights { now: vec![zeros.clone()], momentum: vec![zeros] };
    let mut rows = Vec::new();
    for t in 0..9 {
        let at = |x: &Tensor| x.narrow(2, t, 1).unwrap();
        // ln(1 − α) = 0, ln η = −∞ in effect, θ = ½
        let gates = Tensor::new(&[[[[0.0f64, -1e9, 0.5]]]], &Device::Cpu).unwrap();
        let (y, after) = memory.chunk(&at(&q), &Written { k: at(&k), v: at(&v), gates }, &weights).unwrap();
        weights = after;
        rows.extend(head(&y, 0));
    }
    let want = delta_rule::tests::recurrence(&head(&q, 0), &head(&k, 0), &head(&v, 0), &[1.0; 9]);
    close(&rows, &want, 1e-12);
}

#[test]
fn one_surprise_by_hand() {
    // M = 0, k = (1, 0), v = (2, 0): the gradient is 2 (0 − 2) = −4 at the first entry. With θ = 0.1 it writes 0.4, and
    // reads 0.4. The second token has k = (0, 1), v = 0 and so no surprise: η = 0.5 carries 0.2 on, 1 − α = 0.5 leaves 0.2
    // of the memory, so that q = (1, 0) reads 0.4 again.
    let rows = |a: [[f64; 2]; 2]| Tensor::new(&[[a]], &Device::Cpu).unwrap();
    let mut lab = Lab::f64(2, 1, 1);
    let memory = memory(&mut lab, 1, 2);
    let zeros = Tensor::zeros((1, 1, 2, 2), DType::F64, &Device::Cpu).unwrap();
    let weights = Weights { now: vec![zeros.clone()], momentum: vec![zeros] };
    let gates =
        Tensor::new(&[[[[0.5f64.ln(), 0.5f64.ln(), 0.1], [0.5f64.ln(), 0.5f64.ln(), 0.1]]]], &Device::Cpu);
    let written = Written {
        k: rows([[1.0, 0.0], [0.0, 1.0]]),
        v: rows([[2.0, 0.0], [0.0, 0.0]]),
        gates: gates.unwrap(),
    };
    let (y, after) = memory.chunk(&rows([[1.0, 0.0], [1.0, 0.0]]), &written, &weights).unwrap();
    close(&head(&y, 0), &[vec![0.4, 0.0], vec![0.4, 0.0]], 1e-15);
    close(&head(&after.now[0], 0), &[vec![0.4, 0.0], vec![0.0, 0.0]], 1e-15);
    close(&head(&after.momentum[0], 0), &[vec![0.2, 0.0], vec![0.0, 0.0]], 1e-15);
}
