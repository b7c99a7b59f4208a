use super::*;
use half::f16;

/// Deterministic bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn floats(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, len * 2).chunks(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 9000.0).collect()
}

/// Random weights in the file's layout with scales of ordinary size.
fn weights(dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    let (block, size) = dtype.block();
    let mut bytes = noise(dtype.ggml().into(), rows * cols / block * size);
    let halves: &[usize] = match dtype {
        Dtype::F32 => {
            let values = floats(3, rows * cols);
            return values.iter().flat_map(|v| v.to_le_bytes()).collect();
        }
        Dtype::F16 => {
            return floats(3, rows * cols).iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        }
        Dtype::BF16 => {
            return floats(3, rows * cols)
                .iter()
                .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
                .collect();
        }
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => &[0, 2],
        Dtype::Q6_K => &[208],
        _ => &[0],
    };
    for (i, b) in bytes.chunks_mut(size).enumerate() {
        for at in halves {
            let d = (i % 7 + 1) as f32 * if i % 3 == 0 { -0.001 } else { 0.002 };
            b[*at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        }
    }
    bytes
}

fn run(isa: Isa, threads: usize, w: &Packed, x: &[f32], arithmetic: Arithmetic) -> Vec<f32> {
    let pool = Pool::new(threads);
    let acts = Acts::new(isa, &pool, x, w.cols(), arithmetic.inputs(w));
    let mut out = vec![f32::NAN; acts.rows() * w.rows()];
    matmul(isa, &pool, &[w], &acts, &mut [&mut out]);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Q4_1, one row: d = 0.5, m = -1, quants 3 for the first 16 inputs and 5 for the last 16 gives weights 0.5 and 1.5.
/// Inputs 2 and -4: d_x = 4/127, so q_x = 63.5 -> 64 and -127.
/// Exact: 16 * (0.5 * 2) + 16 * (1.5 * -4) = -80.
/// Fast: integer sum 16 * (3 * 64 - 5 * 127) = -7088, sum(q_x) = 16 * (64 - 127) = -1008;
/// 4/127 * (0.5 * -7088 + -1 * -1008) = 4/127 * -2536 = -79.874...
#[test]
fn a_block_by_hand() {
    let mut bytes = vec![];
    bytes.extend(f16::from_f32(0.5).to_le_bytes());
    bytes.extend(f16::from_f32(-1.0).to_le_bytes());
    bytes.extend([0x53; 16]);
    let w = Packed::new(&Pool::new(1), Dtype::Q4_1, 1, 32, &bytes).unwrap();
    let x: Vec<f32> = (0..32).map(|k| if k < 16 { 2.0 } else { -4.0 }).collect();
    for isa in Isa::available() {
        assert_eq!(run(isa, 1, &w, &x, Arithmetic::Exact), [-80.0]);
        let fast = run(isa, 1, &w, &x, Arithmetic::Fast)[0];
        assert!((fast - 4.0 / 127.0 * -2536.0).abs() < 1e-5, "{fast}");
    }
}

#[test]
fn exact_products_match_f64_over_the_dequantised_rows() {
    for dtype in Dtype::ALL {
        for (rows, cols, batch) in [(1, 256, 1), (17, 512, 3), (40, 768, 13)] {
            let w = Packed::new(&Pool::new(2), dtype, rows, cols, &weights(dtype, rows, cols)).unwrap();
            let x = floats(5, batch * cols);
            let out = run(Isa::detect(), 2, &w, &x, Arithmetic::Exact);
            let mut row = vec![f32::NAN; cols];
            let all = w.floats();
            for r in 0..rows {
                w.row(r, &mut row);
                assert_eq!(all[r * cols..][..cols], row, "{dtype:?}, row {r} of {rows}");
                for t in 0..batch {
                    let terms = row.iter().zip(&x[t * cols..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (want, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                    let got = f64::from(out[t * rows + r]);
                    assert!((got - want).abs() <= 1e-5 * size, "{dtype:?} row {r}: {got} for {want}");
                }
            }
        }
    }
}

#[test]
fn fast_products_are_within_the_rounding_of_eight_bit_inputs() {
    for dtype in Dtype::ALL {
        let (rows, cols, batch) = (33, 1024, 9);
        let w = Packed::new(&Pool::new(1), dtype, rows, cols, &weights(dtype, rows, cols)).unwrap();
        let x = floats(6, batch * cols);
        let (exact, fast) = (
            run(Isa::detect(), 1, &w, &x, Arithmetic::Exact),
            run(Isa::detect(), 1, &w, &x, Arithmetic::Fast),
        );
        let error: f32 = exact.iter().zip(&fast).map(|(a, b)| (a - b).powi(2)).sum();
        let size: f32 = exact.iter().map(|a| a.powi(2)).sum();
        assert!(error <= size * 1e-4, "{dtype:?}: relative error {}", (error / size).sqrt());
    }
}

#[test]
fn one_row_has_one_answer_whatever_runs_beside_it() {
    for dtype in Dtype::ALL {
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            let (rows, cols, batch) = (50, 512, 11);
            let w = Packed::new(&Pool::new(1), dtype, rows, cols, &weights(dtype, rows, cols)).unwrap();
            let x = floats(7, batch * cols);
            let all = run(Isa::Scalar, 1, &w, &x, arithmetic);
            for isa in Isa::available() {
                for (threads, chunk) in [(1, 1), (2, 3), (3, 5), (2, 11)] {
                    for (i, x) in x.chunks(chunk * cols).enumerate() {
                        let some = run(isa, threads, &w, x, arithmetic);
                        let want = &all[i * chunk * rows..][..some.len()];
                        assert_eq!(bits(&some), bits(want), "{dtype:?} {arithmetic:?} {isa:?} by {chunk}");
                    }
                }
            }
        }
    }
}

#[test]
fn inputs_that_are_not_finite_stay_so() {
    let w = Packed::new(&Pool::new(1), Dtype::Q8_0, 1, 32, &weights(Dtype::Q8_0, 1, 32)).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = floats(1, 32);
        x[3] = bad;
        assert!(!run(Isa::detect(), 1, &w, &x, Arithmetic::Fast)[0].is_finite());
    }
}

#[test]
fn inputs_too_small_to_divide_by_count_as_zero() {
    let w = Packed::new(&Pool::new(1), Dtype::Q8_0, 1, 32, &weights(Dtype::Q8_0, 1, 32)).unwrap();
    assert_eq!(run(Isa::detect(), 1, &w, &[1e-38; 32], Arithmetic::Fast), [0.0]);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let pool = Pool::new(1);
    for (rows, cols, len) in [(1, 33, 18), (0, 32, 0), (2, 32, 35), (usize::MAX, 32, 18)] {
        assert!(Packed::new(&pool, Dtype::Q4_0, rows, cols, &vec![0; len]).is_err(), "{rows} {cols} {len}");
    }
}

/// Weights 1, 2, 3 and inputs that bf16 holds: products in any order are exact. A third input alone in its pair, zeros, and
/// what is too small to count.
#[test]
fn pairs_by_hand() {
    let pack = |w: &[f32]| {
        let bytes: Vec<u8> = w.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        Packed::new(&Pool::new(1), Dtype::BF16, 1, w.len(), &bytes).unwrap()
    };
    let w = pack(&[1.0, 2.0, 3.0]);
    for isa in Isa::available() {
        for x in [[4.0, -8.0, 16.0], [0.0, -0.0, 0.0], [1e-39, 1e-20, -2.0]] {
            let want = if x[2] == -2.0 { -6.0 } else { x[0] + 2.0 * x[1] + 3.0 * x[2] };
            assert_eq!(run(isa, 1, &w, &x, Arithmetic::Fast), [want], "{isa:?} {x:?}");
        }
        assert_eq!(run(isa, 1, &pack(&[1e-39, 1e-17]), &[1e38, 1.0], Arithmetic::Exact), [0.0], "{isa:?}");
        let infinite = run(isa, 1, &w, &[f32::INFINITY, 0.0, 1.0], Arithmetic::Fast);
        assert_eq!(infinite, [f32::INFINITY], "{isa:?}");
        assert!(run(isa, 1, &w, &[0.0, f32::NAN, 1.0], Arithmetic::Fast)[0].is_nan(), "{isa:?}");
    }
}

#[test]
fn bf16_rows_of_odd_length_have_one_answer() {
    let (rows, cols, batch) = (19, 77, 9);
    let w = Packed::new(&Pool::new(1), Dtype::BF16, rows, cols, &weights(Dtype::BF16, rows, cols)).unwrap();
    let x = floats(8, batch * cols);
    let want = bits(&run(Isa::Scalar, 1, &w, &x, Arithmetic::Fast));
    for isa in Isa::available() {
        assert_eq!(bits(&run(isa, 2, &w, &x, Arithmetic::Fast)), want, "{isa:?}");
        let one = run(isa, 1, &w, &x[..cols], Arithmetic::Fast);
        assert_eq!(bits(&one), want[..rows], "{isa:?} alone");
    }
}
