//! The GGUF reader against files made here: whole, truncated, flipped, and built to mislead.

use eunoe_core::{Dtype, Error};
use eunoe_model::gguf::write::{GgufWriter, Put};
use eunoe_model::gguf::{Gguf, Value};
use proptest::prelude::*;

fn small() -> Vec<u8> {
    GgufWriter::new()
        .put("general.architecture", Put::Str("toy"))
        .put("toy.layers", Put::U32(2))
        .put("toy.scale", Put::F32(0.5))
        .put("toy.big", Put::U64(1 << 40))
        .put("toy.low", Put::I32(-1))
        .put("toy.on", Put::Bool(true))
        .put("toy.names", Put::Strs(&["a", "", "né"]))
        .put("toy.scores", Put::F32s(&[1.0, -2.5]))
        .put("toy.kinds", Put::I32s(&[1, -3]))
        .tensor("w", &[32, 2], Dtype::Q8_0, &[7; 68])
        .tensor("b", &[3], Dtype::F32, &[1; 12])
        .finish()
}

fn error(bytes: Vec<u8>) -> Error {
    Gguf::parse(bytes).expect_err("must be refused")
}

/// `small()` with the first occurrence of `from` replaced by the equally long `to`.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut file = small();
    let at = file.windows(from.len()).position(|w| w == from).expect("pattern is in the file");
    file[at..at + to.len()].copy_from_slice(to);
    file
}

/// `small()` with the bytes `skip` after the name of tensor `w` replaced.
fn patched_tensor(skip: usize, to: &[u8]) -> Vec<u8> {
    let mut file = small();
    let at = file.windows(9).position(|w| w == b"\x01\0\0\0\0\0\0\0w").expect("tensor w") + 9 + skip;
    file[at..at + to.len()].copy_from_slice(to);
    file
}

#[test]
fn what_was_written_is_read() {
    let g = Gguf::parse(small()).unwrap();
    assert_eq!((g.version, g.alignment), (3, 32));
    assert_eq!(g.str("general.architecture").unwrap(), "toy");
    assert_eq!(g.u32("toy.layers").unwrap(), 2);
    assert_eq!(g.u64("toy.big").unwrap(), 1 << 40);
    assert_eq!(g.f32("toy.scale").unwrap(), 0.5);
    assert!(g.bool("toy.on").unwrap());
    assert_eq!(g.strs("toy.names").unwrap().collect::<Vec<_>>(), ["a", "", "né"]);
    assert_eq!(g.f32s("toy.scores").unwrap(), [1.0, -2.5]);
    assert_eq!(g.i32s("toy.kinds").unwrap(), [1, -3]);
    assert_eq!(g.i32s("toy.layers").unwrap(), [2]);
    assert_eq!(g.meta["toy.low"], Value::I32(-1));
    let w = g.tensor("w").unwrap();
    assert_eq!((w.info.shape.as_slice(), w.info.dtype, w.bytes), (&[32, 2][..], Dtype::Q8_0, &[7; 68][..]));
    assert_eq!(g.tensor("b").unwrap().bytes, [1; 12]);
    assert_eq!(g.tensor("b").unwrap().info.offset % 32, 0);
}

#[test]
fn a_getter_names_the_key_and_what_it_found() {
    let g = Gguf::parse(small()).unwrap();
    let message = |e: Error| e.to_string();
    assert_eq!(
        message(g.str("toy.layers").unwrap_err()),
        "GGUF key `toy.layers`: expected a string, found U32 2 (at byte 0)"
    );
    assert!(message(g.u32("toy.big").unwrap_err()).contains("`toy.big`: expected an integer below 2^32"));
    assert!(message(g.u32("toy.low").unwrap_err()).contains("found I32 -1"));
    assert!(message(g.f32s("toy.names").unwrap_err()).contains("found Array [3 × String]"));
    assert!(message(g.i32s("toy.names").unwrap_err()).contains("array of integers"));
    assert!(message(g.bool("toy.absent").unwrap_err()).contains("key `toy.absent` is missing"));
    assert!(message(g.tensor("v").unwrap_err()).contains("no tensor `v`"));
    assert_eq!(g.opt_str("toy.absent").unwrap(), None);
    assert!(g.opt_str("toy.on").is_err());
}

#[test]
fn other_formats_are_refused_by_name() {
    assert!(matches!(error(b"GGML\x03\0\0\0".to_vec()), Error::Format { offset: 0, .. }));
    assert!(error(patched(b"GGUF\x03", b"GGUF\x04")).to_string().contains("version 4"));
    assert!(error(patched(b"GGUF\x03", b"GGUF\x01")).to_string().contains("version 1"));
    assert!(error(patched(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03")).to_string().contains("big-endian"));
    let unknown = error(patched_tensor(4 + 16, &[99])).to_string();
    assert!(unknown.contains("tensor `w`") && unknown.contains("99"), "{unknown}");
}

#[test]
fn misleading_tensors_are_refused() {
    let says = |file: Vec<u8>, what: &str| {
        let e = error(file);
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(what), "{e}");
    };
    says(patched_tensor(0, &[0]), "dimensions, got 0");
    says(patched_tensor(0, &[5]), "dimensions, got 5");
    says(patched_tensor(4, &[33]), "multiple of 32 for Q8_0");
    says(patched_tensor(4, &[0]), "holds no values");
    says(patched_tensor(4, &(1_u64 << 63).to_le_bytes()), "more than 2^64");
    says(patched_tensor(4, &(1_u64 << 62).to_le_bytes()), "pass the end");
    says(patched_tensor(24, &(1_u64 << 40).to_le_bytes()), "pass the end");
    says(patched_tensor(24, &u64::MAX.to_le_bytes()), "not a multiple of the alignment");
    says(patched_tensor(24, &[1]), "not a multiple of the alignment");
    says(patched_tensor(24, &[32]), "overlaps");
    let twice =
        GgufWriter::new().tensor("w", &[1], Dtype::F32, &[0; 4]).tensor("w", &[1], Dtype::F32, &[0; 4]);
    says(twice.finish(), "appears twice");
}

#[test]
fn misleading_metadata_is_refused() {
    let says = |file: Vec<u8>, what: &str| {
        let e = error(file);
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(what), "{e}");
    };
    for bad in [0, 3, 48] {
        says(GgufWriter::new().put("general.alignment", Put::U32(bad)).finish(), "power of two");
    }
    says(GgufWriter::new().put("general.alignment", Put::Str("8")).finish(), "power of two");
    says(GgufWriter::new().put("k", Put::U32(1)).put("k", Put::U32(2)).finish(), "`k` appears twice");
    says(patched("né".as_bytes(), b"n\xff"), "not UTF-8");
    let huge = (1_u64 << 60).to_le_bytes();
    says(patched(&[3, 0, 0, 0, 0, 0, 0, 0, b't'], &huge), "of 1152921504606846976 bytes");
    for (item, len) in [(8, 3_u64), (6, 2), (5, 2)] {
        let head = |len: u64| [&[item, 0, 0, 0][..], &len.to_le_bytes()].concat();
        assert!(matches!(error(patched(&head(len), &head(1 << 60))), Error::Format { .. }));
        assert!(matches!(error(patched(&head(len), &head(u64::MAX))), Error::Format { .. }));
    }
    says(patched(&[7, 0, 0, 0, 1], &[13, 0, 0, 0, 1]), "unknown value kind 13");
}

#[test]
fn arrays_do_not_nest_without_end() {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0_u64.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend(b"\x01\0\0\0\0\0\0\0k\x09\0\0\0");
    for _ in 0..100_000 {
        file.extend(b"\x09\0\0\0\x01\0\0\0\0\0\0\0");
    }
    assert!(error(file).to_string().contains("nested deeper"));
}

#[test]
fn a_larger_alignment_moves_the_data() {
    let file =
        GgufWriter::new().put("general.alignment", Put::U32(64)).tensor("w", &[1], Dtype::F32, &[9; 4]);
    let mut file = file.finish();
    file.resize(file.len() + 64, 0);
    let g = Gguf::parse(file).unwrap();
    assert_eq!((g.alignment, g.tensors["w"].offset % 64), (64, 0));
}

#[test]
fn every_truncation_is_an_error_and_none_a_panic() {
    let file = small();
    let data_end = {
        let g = Gguf::parse(file.clone()).unwrap();
        g.tensors.values().map(|t| t.offset + t.len).max().unwrap() as usize
    };
    for len in 0..data_end {
        error(file[..len].to_vec());
    }
    assert!(Gguf::parse(file[..data_end].to_vec()).is_ok());
}

/// Touches everything that a parsed file offers.
fn walk(g: &Gguf) {
    for key in g.meta.keys() {
        let _ = (g.str(key), g.u32(key), g.u64(key), g.f32(key), g.bool(key));
        let _ = (g.f32s(key), g.i32s(key), g.strs(key).map(Iterator::count));
    }
    for name in g.tensors.keys() {
        let t = g.tensor(name).expect("it is in the directory");
        assert_eq!(t.bytes.len() as u64, t.info.len);
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((0_usize..640, 0_u8..8), 1..8)) {
        let mut file = small();
        for (at, bit) in flips {
            let at = at % file.len();
            file[at] ^= 1 << bit;
        }
        if let Ok(g) = Gguf::parse(file) {
            walk(&g);
        }
    }

    #[test]
    fn random_bytes_never_panic(mut file in prop::collection::vec(any::<u8>(), 0..400), real in any::<bool>()) {
        if real && file.len() > 8 {
            file[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        }
        if let Ok(g) = Gguf::parse(file) {
            walk(&g);
        }
    }
}
