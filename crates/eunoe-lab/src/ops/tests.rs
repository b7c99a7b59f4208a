//! Every kernel beside its plain form, which runs in f64: results and gradients.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use eunoe_kernels::rope::{Rope, Style};

use super::*;
use crate::nets::Params;

/// Of the largest entry: sums of some hundred terms in f32.
const TOLERANCE: f64 = 2e-5;

fn draws(shapes: &[&[usize]], dtype: DType) -> Vec<Var> {
    let mut params = Params::new(5, dtype, &Device::Cpu);
    let mut init = params.init();
    let draw =
        |(i, shape): (usize, &&[usize])| Var::from_tensor(&init.normal(&i.to_string(), shape, 1.0).unwrap());
    shapes.iter().enumerate().map(draw).map(Result::unwrap).collect()
}

/// The result of `op` and the gradients of Σ sin(i) y_i, in f64.
fn all(shapes: &[&[usize]], dtype: DType, op: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
    let vars = draws(shapes, dtype);
    let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&inputs).unwrap();
    let weights: Vec<f64> = (0..y.elem_count()).map(|i| (i as f64).sin()).collect();
    let weights = Tensor::from_vec(weights, y.shape(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|var| grads.get(var).unwrap().clone());
    [y.detach()].into_iter().chain(grads).map(|t| t.to_dtype(DType::F64).unwrap()).collect()
}

fn check(what: &str, shapes: &[&[usize]], op: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    let largest =
        |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    for (i, (got, want)) in all(shapes, DType::F32, op).iter().zip(all(shapes, DType::F64, op)).enumerate() {
        assert_eq!(got.dims(), want.dims(), "{what}, {i}");
        let (off, scale) = (largest(&(got - &want).unwrap()), largest(&want));
        assert!(off <= TOLERANCE * scale, "{what}, {i}: {off} of {scale}");
    }
}

#[test]
fn products() {
    check("linear", &[&[2, 5, 33], &[17, 33]], &|x| linear(&x[0], &x[1], Precision::F32));
    check("matmul", &[&[2, 3, 5, 33], &[2, 3, 33, 7]], &|x| matmul(&x[0], &x[1]));
    check("matmul of transposed", &[&[2, 3, 33, 5], &[2, 3, 7, 33]], &|x| matmul(&x[0].t()?, &x[1].t()?));
    check("matmul of swapped heads", &[&[2, 5, 3, 4], &[2, 6, 3, 4]], &|x| {
        matmul(&x[0].transpose(1, 2)?, &x[1].transpose(1, 2)?.t()?)
    });
    check("matmul of broadcast", &[&[1, 3, 5, 4], &[2, 3, 4, 6]], &|x| {
        matmul(&x[0].broadcast_as((2, 3, 5, 4))?, &x[1])
    });
    check("matmul of a part", &[&[2, 9, 4], &[2, 4, 6]], &|x| matmul(&x[0].narrow(1, 3, 5)?, &x[1]));
}

#[test]
fn attention() {
    for (window, t_q, t_k, kv_heads) in
        [(None, 9, 9, 4), (None, 1, 7, 2), (Some(4), 70, 70, 1), (Some(3), 5, 8, 4)]
    {
        let kv = [2, kv_heads, t_k, 8];
        for weights in [Weights::Softmax, Weights::Sigmoid] {
            let what = format!("{weights:?} {window:?} {t_q} {t_k}");
            check(&what, &[&[2, 4, t_q, 8], &kv, &kv], &|x| attend(&x[0], &x[1], &x[2], window, weights));
        }
    }
}

#[test]
fn rows() {
    check("norm", &[&[3, 5, 19], &[19]], &|x| rms_norm(&x[0], Some(&x[1]), 1e-5));
    check("norm without a gain", &[&[3, 5, 19]], &|x| rms_norm(&x[0], None, 1e-6));
    check("bias", &[&[3, 5, 19], &[19]], &|x| add_bias(&x[0], &x[1]));
    check("gate", &[&[3, 57], &[3, 57]], &|x| silu_mul(&x[0], &x[1]));
    check("silu", &[&[3, 57]], &|x| silu(&x[0]));
    check("sigmoid", &[&[3, 57]], &|x| sigmoid(&x[0]));
    let targets = Tensor::new(&[3u32, IGNORE, 0, 18], &Device::Cpu).unwrap();
    check("nll", &[&[4, 19]], &|x| nll(&x[0], &targets));
    check("cross-entropy", &[&[4, 19]], &|x| cross_entropy(&x[0], &targets)?.unsqueeze(0));
}

#[test]
fn short_convolutions() {
    for (t, kernel) in [(9, 3), (1, 4), (300, 1)] {
        check("short convolution", &[&[2, kernel - 1 + t, 40], &[kernel, 40]], &|x| short_conv(&x[0], &x[1]));
    }
    for kernel in [0, 4] {
        let shapes = [(1, 2, 5), (1, kernel, 5)].map(|shape| Tensor::zeros(shape, DType::F32, &Device::Cpu));
        let [x, weight] = shapes.map(Result::unwrap);
        assert!(short_conv(&x, &weight.squeeze(0).unwrap()).is_err(), "{kernel}");
    }
}

#[test]
fn a_lookup_by_product_is_a_lookup() {
    let index = Tensor::new(&[3u32, 0, 3, 4], &Device::Cpu).unwrap();
    let own = all(&[&[5, 7]], DType::F64, &|x| picked(&x[0], &index));
    let want = all(&[&[5, 7]], DType::F64, &|x| embed(&x[0], &index));
    for (own, want) in own.iter().zip(&want) {
        assert_eq!(own.to_vec2::<f64>().unwrap(), want.to_vec2::<f64>().unwrap());
    }
}

#[test]
fn who_may_look_at_whom() {
    let rows =
        |t_q, t_k, window| causal(t_q, t_k, window, &Tensor::new(0f64, &Device::Cpu).unwrap()).unwrap();
    let rows = |t_q, t_k, window| rows(t_q, t_k, window).to_vec2::<f64>().unwrap();
    assert_eq!(rows(2, 3, None), [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]);
    assert_eq!(rows(2, 3, Some(2)), [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]);
    assert_eq!(rows(3, 3, Some(usize::MAX))[2], [1.0; 3]);
}

#[test]
fn rotation() {
    let rope = Arc::new(Rope::new(Style::Neox, 8, 1e4, 1.0, None).unwrap());
    check("rotate", &[&[2, 3, 5, 8]], &|x| rotate(&x[0], &rope, 1e4, 7));
}

#[test]
fn decay() {
    let state: &[usize] = &[2, 2, 6, 4];
    for (t, chunk) in [(1, 64), (9, 4), (130, 16)] {
        let (key, value): (&[usize], &[usize]) = (&[2, 2, t, 6], &[2, 2, t, 4]);
        let both = |x: &[Tensor], start: Option<Tensor>| {
            let (o, s) = decay_attend(&x[0], &x[1], &x[2], &[0.9, 1.0], start, chunk)?;
            Tensor::cat(&[&o, &s], 2)
        };
        check("decay", &[key, key, value], &|x| both(x, None));
        check("decay from a state", &[key, key, value, state], &|x| both(x, Some(x[3].clone())));
    }
}

#[test]
fn prefixes() {
    for (t, chunk) in [(2, 64), (9, 4), (130, 16), (130, 2)] {
        check("prefixes", &[&[2, 2, t, 1], &[2, 2, t, 6]], &|x| {
            ratio(&prefix_softmax(&x[0], &with_ones(&x[1])?, chunk)?)
        });
    }
}

#[test]
fn chunks_are_the_whole_in_order() {
    let x = draws(&[&[2, 13, 3]], DType::F64).remove(0);
    for (chunk, open, lens) in [
        (4, 0, vec![4, 4, 4, 1]),
        (4, 3, vec![1, 4, 4, 4]),
        (5, 1, vec![4, 5, 4]),
        (1, 0, vec![1; 13]),
        (13, 0, vec![13]),
        (64, 9, vec![13]),
    ] {
        let parts = chunks(&x, 1, chunk, open).unwrap();
        assert_eq!(parts.iter().map(|p| p.dim(1).unwrap()).collect::<Vec<_>>(), lens, "{chunk} {open}");
        let mut from = 0;
        // Σ n x² over chunk n, from 1: the gradient 2 n x says whose each row was
        let mut sums = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let len = part.dim(1).unwrap();
            let same = x.narrow(1, from, len).unwrap().sub(part).unwrap().abs().unwrap();
            assert_eq!(same.sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
            sums.push((part.sqr().unwrap().sum_all().unwrap() * (n + 1) as f64).unwrap());
            from += len;
        }
        let grads = Tensor::stack(&sums, 0).unwrap().sum_all().unwrap().backward().unwrap();
        let n: Vec<f64> = lens.iter().enumerate().flat_map(|(n, len)| vec![(n + 1) as f64; *len]).collect();
        let n = Tensor::from_vec(n, (1, 13, 1), &Device::Cpu).unwrap();
        let want = (x.broadcast_mul(&n).unwrap() * 2.0).unwrap();
        let off = (grads.get(&x).unwrap() - want).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(off.to_scalar::<f64>().unwrap(), 0.0, "{chunk} {open}");
    }
}

#[test]
fn a_target_that_is_no_class_is_an_error() {
    let logits = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    let target = Tensor::new(&[3u32], &Device::Cpu).unwrap();
    assert!(nll(&logits, &target).is_err());
    assert!(nll(&logits.to_dtype(DType::F64).unwrap(), &target).is_err());
}

#[test]
fn products_in_bf16_round_what_goes_in_and_nothing_else() {
    let matrix = |rows: usize, cols: usize, of: fn(usize) -> f32| {
        let values: Vec<f32> = (0..rows * cols).map(of).collect();
        Var::from_tensor(&Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()).unwrap()
    };
    let run = |x: &Var, w: &Var, precision| {
        let y = linear(x, w, precision).unwrap();
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        [y, grads.get(x).unwrap().clone(), grads.get(w).unwrap().clone()]
            .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    // small whole numbers have 8 bits of mantissa, and so have their products here
    let (x, w) = (matrix(3, 4, |n| (n % 3) as f32 - 1.0), matrix(2, 4, |n| (n % 2) as f32));
    assert_eq!(run(&x, &w, Precision::Bf16), run(&x, &w, Precision::F32));
    // 1 + 1/256 needs one bit more: it becomes 1 on the way in, and sums of it do not
    let odd = matrix(3, 4, |_| 1.0 + 1.0 / 256.0);
    let ones = matrix(2, 4, |_| 1.0);
    assert_eq!(run(&odd, &ones, Precision::Bf16)[0], [4.0; 6]);
    assert_eq!(run(&odd, &ones, Precision::F32)[0], [4.015_625; 6]);
}
