use super::*;
use crate::noise::Noise;
use eunoe_core::Error;
use half::bf16;

/// What a test needs of an element.
trait Value: Element + PartialEq + std::fmt::Debug {
    const KIND: &'static str;
    /// Steps in the order in which the two of a pair are added.
    const FIRST: usize;
    fn of(x: f32) -> Self;
    fn float(self) -> f32;
}

impl Value for f32 {
    const KIND: &'static str = "f32";
    const FIRST: usize = 0;
    fn of(x: f32) -> Self {
        x
    }
    fn float(self) -> f32 {
        self
    }
}

impl Value for bf16 {
    const KIND: &'static str = "bf16";
    const FIRST: usize = 1;
    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }
    fn float(self) -> f32 {
        self.to_f32()
    }
}

/// A matrix with data of its own.
#[derive(Clone, Debug)]
struct Own<T> {
    data: Vec<T>,
    size: [usize; 2],
    strides: [usize; 2],
}

/// Row-major, column-major, both with gaps, and both strides above 1.
const LAYOUTS: usize = 5;

impl<T: Value> Own<T> {
    fn new(noise: &mut Noise, [rows, cols]: [usize; 2], layout: usize) -> Self {
        let strides = match layout {
            0 => [cols, 1],
            1 => [1, rows],
            2 => [cols + 3, 1],
            3 => [1, rows + 5],
            _ => [2 * cols + 1, 2],
        };
        let len = if rows * cols == 0 { 0 } else { (rows - 1) * strides[0] + (cols - 1) * strides[1] + 1 };
        Self { data: (0..len).map(|_| T::of(noise.next())).collect(), size: [rows, cols], strides }
    }

    fn view(&self) -> Mat<'_, T> {
        Mat::new(&self.data, self.size, self.strides).unwrap()
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.strides[0] + j * self.strides[1]].float()
    }
}

/// The order of sums, literally: parts of at most 256 steps, about equal, multiples of 32; each a chain from 0.
fn chain<T: Value>(a: &Own<T>, b: &Own<T>, i: usize, j: usize, before: Option<f32>) -> f32 {
    let k = a.size[1];
    let mut out = before;
    if k > 0 {
        let each = k.div_ceil(k.div_ceil(256)).next_multiple_of(32);
        for start in (0..k).step_by(each) {
            let mut sum = 0.0f32;
            for step in 0..each.min(k - start).next_multiple_of(2) {
                let step = start + (step ^ T::FIRST);
                if step < k {
                    sum = a.at(i, step).mul_add(b.at(step, j), sum);
                }
            }
            out = Some(out.map_or(sum, |out| out + sum));
        }
    }
    out.unwrap_or(0.0)
}

/// Runs a product into rows with a gap of two, and checks that nobody touched the gaps.
fn run<T: Value>(isa: Isa, pool: &Pool, a: &Own<T>, b: &Own<T>, before: Option<f32>) -> Vec<f32> {
    let (rows, cols) = (a.size[0], b.size[1]);
    let stride = cols + 2;
    let mut data = vec![f32::NAN; rows * stride];
    if let Some(x) = before {
        data.chunks_mut(stride).for_each(|row| row[..cols].fill(x));
    }
    let out = if before.is_some() { Out::add(&mut data, stride) } else { Out::set(&mut data, stride) };
    gemm(isa, pool, a.view(), b.view(), out).unwrap();
    assert!(data.chunks(stride).all(|row| row[cols..].iter().all(|x| x.is_nan())), "gaps stay as they were");
    data.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// [1 2; 3 4] [5 6; 7 8] = [5 + 14, 6 + 16; 15 + 28, 18 + 32] = [19 22; 43 50]; transposed left, [1 3; 2 4] [5 6; 7 8] =
/// [26 30; 38 44]; transposed right, [1 2; 3 4] [5 7; 6 8] = [17 23; 39 53]. Added to 100.
fn two_by_two<T: Value>() {
    let [a, b] = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]].map(|x| x.map(T::of));
    let [a, b] = [&a, &b].map(|x| Mat::row_major(x, 2, 2).unwrap());
    let want = [[19.0, 22.0, 43.0, 50.0], [26.0, 30.0, 38.0, 44.0], [17.0, 23.0, 39.0, 53.0]];
    for isa in Isa::available() {
        for ((a, b), want) in [(a, b), (a.t(), b), (a, b.t())].into_iter().zip(want) {
            let mut out = [f32::NAN; 4];
            gemm(isa, &Pool::new(1), a, b, Out::set(&mut out, 2)).unwrap();
            assert_eq!(out, want, "{isa:?} {}", T::KIND);
            let mut out = [100.0; 4];
            gemm(isa, &Pool::new(1), a, b, Out::add(&mut out, 2)).unwrap();
            assert_eq!(out, want.map(|x| x + 100.0), "{isa:?} {}", T::KIND);
        }
    }
}

#[test]
fn two_by_two_by_hand() {
    two_by_two::<f32>();
    two_by_two::<bf16>();
}

/// Rows, steps, columns: nothing, one, odd, past a tile, past a part of k, past the rows of a task.
const SIZES: [[usize; 3]; 14] = [
    [0, 3, 2],
    [3, 0, 2],
    [2, 3, 0],
    [1, 1, 1],
    [1, 70, 40],
    [40, 70, 1],
    [5, 2, 8],
    [7, 33, 17],
    [13, 257, 31],
    [16, 64, 48],
    [29, 300, 65],
    [64, 64, 64],
    [130, 270, 90],
    [410, 40, 21],
];

fn all_ways<T: Value>() {
    let pools = [1, 3].map(Pool::new);
    let mut noise = Noise(1);
    for [m, k, n] in SIZES {
        for layout in 0..LAYOUTS * LAYOUTS {
            let a = Own::<T>::new(&mut noise, [m, k], layout % LAYOUTS);
            let b = Own::<T>::new(&mut noise, [k, n], layout / LAYOUTS);
            let before = (layout % 2 == 1).then_some(0.3);
            let cells = (0..m).flat_map(|i| (0..n).map(move |j| (i, j)));
            let want: Vec<f32> = cells.map(|(i, j)| chain(&a, &b, i, j, before)).collect();
            for isa in Isa::available() {
                for pool in &pools {
                    let got = run(isa, pool, &a, &b, before);
                    let threads = pool.threads();
                    assert!(
                        bits(&got) == bits(&want),
                        "{} {isa:?} {m} x {k} x {n}, layout {layout}, {threads} threads",
                        T::KIND
                    );
                }
            }
        }
    }
}

#[test]
fn every_element_is_its_chain_whatever_the_layout_the_threads_and_the_instruction_set() {
    all_ways::<f32>();
}

#[test]
fn every_element_in_bf16_is_its_chain_too() {
    all_ways::<bf16>();
}

#[test]
fn every_size_of_a_tile_is_right() {
    let mut noise = Noise(2);
    for m in 1..=15 {
        for n in 1..=34 {
            let a = Own::<f32>::new(&mut noise, [m, 5], n % LAYOUTS);
            let b = Own::<f32>::new(&mut noise, [5, n], m % LAYOUTS);
            let want: Vec<f32> = (0..m * n).map(|i| chain(&a, &b, i / n, i % n, None)).collect();
            for isa in Isa::available() {
                assert_eq!(bits(&run(isa, &Pool::new(1), &a, &b, None)), bits(&want), "{isa:?} {m} x {n}");
            }
        }
    }
}

/// More rows and columns than are packed at a time.
#[test]
fn long_sides_are_cut() {
    let (mut noise, pool) = (Noise(3), Pool::new(2));
    for [m, k, n] in [[2100, 10, 16], [9, 20, 2100], [1, 1000, 3]] {
        let (a, b) = (Own::<f32>::new(&mut noise, [m, k], 0), Own::new(&mut noise, [k, n], 1));
        let want: Vec<f32> = (0..m * n).map(|i| chain(&a, &b, i / n, i % n, None)).collect();
        for isa in Isa::available() {
            assert_eq!(bits(&run(isa, &pool, &a, &b, None)), bits(&want), "{isa:?} {m} x {k} x {n}");
        }
    }
}

/// A chain of 256 roundings of half a unit each, at worst; sums of random terms stay far below.
const TOLERANCE: f64 = 4e-6;

fn near_f64<T: Value>() {
    let (mut noise, pool) = (Noise(4), Pool::new(2));
    for _ in 0..60 {
        let [m, k, n] = [noise.below(70), noise.below(700), noise.below(90)];
        let a = Own::<T>::new(&mut noise, [m, k], m % LAYOUTS);
        let b = Own::<T>::new(&mut noise, [k, n], n % LAYOUTS);
        for isa in Isa::available() {
            let got = run(isa, &pool, &a, &b, Some(-0.5));
            for (at, got) in got.into_iter().enumerate() {
                let terms = (0..k).map(|s| f64::from(a.at(at / n, s)) * f64::from(b.at(s, at % n)));
                let (want, size) = terms.fold((-0.5, 0.5), |(sum, size), x| (sum + x, size + x.abs()));
                let off = (f64::from(got) - want).abs();
                assert!(off <= TOLERANCE * size, "{isa:?} {m} x {k} x {n} at {at}: {got} for {want}");
            }
        }
    }
}

#[test]
fn products_match_f64() {
    near_f64::<f32>();
    near_f64::<bf16>();
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for isa in Isa::available() {
        for (bad, k) in [(f32::NAN, 7), (f32::INFINITY, 300)] {
            let mut a = vec![1.0; 9 * k];
            a[4 * k + 5] = bad;
            let b = vec![1.0; k * 19];
            let mut out = vec![f32::NAN; 9 * 19];
            let [a, b] = [(&a, 9, k), (&b, k, 19)].map(|(x, m, n)| Mat::row_major(x, m, n).unwrap());
            gemm(isa, &Pool::new(1), a, b, Out::set(&mut out, 19)).unwrap();
            for (i, row) in out.chunks(19).enumerate() {
                let is_right = |x: &f32| if i == 4 { !x.is_finite() } else { *x == k as f32 };
                assert!(row.iter().all(is_right), "{isa:?} row {i}");
            }
        }
    }
}

/// Two texts of heads side by side in a row, three queries for each key head: outputs go back to `[b, t, h, d]`.
fn heads<T: Value>([t, d]: [usize; 2]) {
    let (texts, kv_heads, group) = (2, 2, 3);
    let (heads, mut noise) = (kv_heads * group, Noise(5));
    let mut values = |len: usize| -> Vec<T> { (0..len).map(|_| T::of(noise.next())).collect() };
    let (weights, v) = (values(texts * heads * t * t), values(texts * t * kv_heads * d));
    let levels = [
        Level { count: texts, a: heads * t * t, b: t * kv_heads * d, out: t * heads * d },
        Level { count: kv_heads, a: group * t * t, b: d, out: group * d },
        Level { count: group, a: t * t, b: 0, out: d },
    ];
    let a = Mat::row_major(&weights, t, t).unwrap();
    let b = Mat::new(&v, [t, d], [kv_heads * d, 1]).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let mut out = vec![f32::NAN; texts * t * heads * d];
            gemm_batch(isa, &Pool::new(threads), &levels, a, b, Out::set(&mut out, heads * d)).unwrap();
            for (text, h) in (0..texts * heads).map(|i| (i / heads, i % heads)) {
                let mut one = vec![f32::NAN; t * d];
                let a = Mat::row_major(&weights[(text * heads + h) * t * t..], t, t).unwrap();
                let from = text * t * kv_heads * d + h / group * d;
                let b = Mat::new(&v[from..], [t, d], [kv_heads * d, 1]).unwrap();
                gemm(isa, &Pool::new(1), a, b, Out::set(&mut one, d)).unwrap();
                for i in 0..t {
                    let got = &out[(text * t + i) * heads * d + h * d..][..d];
                    assert_eq!(bits(got), bits(&one[i * d..][..d]), "{isa:?} text {text} head {h} row {i}");
                }
            }
        }
    }
}

#[test]
fn a_batch_is_its_products() {
    for size in [[1, 1], [7, 5], [64, 64], [130, 40]] {
        heads::<f32>(size);
        heads::<bf16>(size);
    }
}

/// Few products that are each large enough for all threads.
#[test]
fn large_products_of_a_batch_are_shared() {
    let (m, k, n) = (96, 80, 80);
    let (mut noise, pool) = (Noise(6), Pool::new(3));
    let a: Vec<Own<f32>> = (0..2).map(|_| Own::new(&mut noise, [m, k], 0)).collect();
    let b = Own::<f32>::new(&mut noise, [k, n], 1);
    let both = [&a[0].data[..], &a[1].data[..]].concat();
    let levels = [Level { count: 2, a: m * k, b: 0, out: m * n }];
    for isa in Isa::available() {
        let mut out = vec![1.0; 2 * m * n];
        let first = Mat::row_major(&both, m, k).unwrap();
        gemm_batch(isa, &pool, &levels, first, b.view(), Out::add(&mut out, n)).unwrap();
        for (i, out) in out.iter().enumerate() {
            let want = chain(&a[i / (m * n)], &b, i % (m * n) / n, i % n, Some(1.0));
            assert_eq!(out.to_bits(), want.to_bits(), "{isa:?} at {i}");
        }
    }
}

#[test]
fn products_inside_tasks_are_right() {
    let pool = Pool::new(3);
    let x = vec![1.0f32; 40 * 40];
    let mut out = vec![f32::NAN; 20 * 1600];
    let shared = crate::pool::Shards::new(&mut out);
    pool.run(20, &|i| {
        let x = Mat::row_major(&x, 40, 40).unwrap();
        // SAFETY: part `i` is task `i`'s, and `out` outlives the loop.
        let out = unsafe { shared.part(i * 1600, 1600) };
        gemm(Isa::detect(), &pool, x, x.t(), Out::set(out, 40)).unwrap();
    });
    assert!(out.iter().all(|x| *x == 40.0));
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = [1.0f32; 24];
    assert!(Mat::row_major(&x, 5, 5).is_err());
    assert!(Mat::new(&x, [usize::MAX, 2], [usize::MAX, 1]).is_err());
    assert!(Mat::new(&x, [0, 9], [usize::MAX, 1]).is_ok(), "nothing is anywhere");
    let (a, b) = (Mat::row_major(&x, 2, 3).unwrap(), Mat::row_major(&x, 3, 4).unwrap());
    let pool = Pool::new(1);
    let run = |a, b, len: usize, stride, levels: &[Level]| {
        gemm_batch(Isa::Scalar, &pool, levels, a, b, Out::set(&mut vec![0.0; len], stride))
    };
    assert!(matches!(run(a, b.t(), 99, 4, &[]), Err(Error::Shape { .. })), "inner sizes");
    assert!(run(a, b, 7, 4, &[]).is_err(), "outputs too short");
    assert!(run(a, b, 8, 4, &[]).is_ok());
    assert!(run(a, b, 99, 3, &[]).is_err(), "rows overlap");
    let level = |count, a, b, out| Level { count, a, b, out };
    assert!(run(a, b, 99, 4, &[level(4, 6, 0, 8)]).is_ok());
    assert!(run(a, b, 99, 16, &[level(4, 6, 0, 4)]).is_ok(), "side by side in a row");
    assert!(run(a, b, 99, 15, &[level(4, 6, 0, 4)]).is_err(), "the fourth reaches into the next row");
    assert!(run(a, b, 99, 4, &[level(4, 6, 0, 7)]).is_err(), "outputs overlap");
    assert!(run(a, b, 31, 4, &[level(4, 6, 0, 8)]).is_err(), "outputs past the end");
    assert!(run(a, b, 99, 4, &[level(5, 6, 0, 8)]).is_err(), "left operands past the end");
    assert!(run(a, b, 99, 4, &[level(3, 0, 12, 8)]).is_err(), "right operands past the end");
    assert!(run(a, b, 99, 4, &[level(0, 6, 0, 8)]).is_ok(), "no product");
    assert!(run(a, b, 99, 4, &[level(1, 0, 0, 8); 5]).is_err(), "too many levels");
    assert!(run(a, b, 99, 4, &[level(usize::MAX, 0, 0, 0), level(usize::MAX, 0, 0, 0)]).is_err());
}
