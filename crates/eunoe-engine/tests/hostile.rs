//! Model files that lie, are cut off or were hit by a cosmic ray: an error that names the thing, never a panic.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod toy;

use eunoe_core::Dtype;
use eunoe_engine::{Engine, Length, Options};
use eunoe_model::gguf::write::{GgufWriter, Put};
use toy::{LLAMA, plan};

fn open(bytes: &[u8]) -> eunoe_core::Result<Engine> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Engine::open(file.path(), Options { threads: 1, ..Options::default() }, &mut |_| {})
}

/// The toy with one string of its bytes replaced by another of the same length.
fn with(from: &str, to: &str) -> String {
    assert_eq!(from.len(), to.len());
    let mut bytes = LLAMA.gguf();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    open(&bytes).err().unwrap().to_string()
}

#[test]
fn what_is_not_supported_is_named() {
    let error = with("llama", "mamba");
    assert!(error.contains("`mamba`") && error.contains("qwen2"), "{error}");
    let error = with("default", "unheard");
    assert!(error.contains("unheard") && error.contains("qwen2"), "{error}");
    let error = with("blk.1.attn_q.weight", "blk.1.attn_z.weight");
    assert!(error.contains("blk.1.attn_q.weight"), "{error}");
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = LLAMA.gguf();
    for len in (0..bytes.len()).step_by(997).chain(0..64) {
        assert!(open(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn flipped_bits_never_panic() {
    let whole = LLAMA.gguf();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 4 {
            // most of the structure lies in front of the data
            let at = if round % 5 == 0 { random.usize(..bytes.len()) } else { random.usize(..9000) };
            bytes[at] ^= 1 << random.u32(..8);
        }
        let Ok(engine) = open(&bytes) else { continue };
        let Ok(mut session) = engine.session(&plan("a2sf @ 16tok"), Length { prompt: 40, longest: 40 })
        else {
            continue;
        };
        // weights that were hit give other numbers, or none: still no panic
        let _ = engine.read(&mut session, &(0..40).collect::<Vec<_>>(), &mut |_| true);
        let _ = engine.tokenizer.encode("any text");
    }
}

#[test]
fn a_tensor_that_would_be_ignored_is_refused() {
    let extra = GgufWriter::new().put("general.architecture", Put::Str("llama"));
    let lonely = extra.tensor("token_embd.weight", &[32, 4], Dtype::F32, &[0; 512]).finish();
    assert!(open(&lonely).is_err());
    let mut bytes = LLAMA.gguf();
    let at = bytes.windows(6).rposition(|w| w == b"blk.2.").unwrap();
    bytes[at + 4] = b'7';
    assert!(open(&bytes).err().unwrap().to_string().contains("blk.2."));
}
