//! Tiny random models, written as GGUF, so that laws are tested without any download.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test binary uses its part"
)]

use eunoe_core::Dtype;
use eunoe_engine::{Arithmetic, Engine, Length, Options, Session};
use eunoe_kv::{Claim, Plan};
use eunoe_model::gguf::write::{GgufWriter, Put};

/// Architecture and head counts of a toy.
#[derive(Clone, Copy, Debug)]
pub struct Toy {
    pub arch: &'static str,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub context: u32,
}

pub const LLAMA: Toy = Toy { arch: "llama", layers: 3, heads: 6, kv_heads: 2, context: 4096 };
pub const HEAD_DIM: u64 = 32;
pub const VOCAB: u64 = 257;
const D_MODEL: u64 = 64;
const D_FF: u64 = 96;

/// The printable stand-ins of bytes in byte-level BPE vocabularies.
fn byte_tokens() -> Vec<String> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let stand_in = |b: u32| {
        let c = if plain(b) { b } else { next };
        next += u32::from(!plain(b));
        char::from_u32(c).unwrap_or(' ').to_string()
    };
    (0..256).map(stand_in).collect()
}

struct Noise(fastrand::Rng);

impl Noise {
    /// About normal, deviation `scale`.
    fn next(&mut self, scale: f32) -> f32 {
        (0..4).map(|_| self.0.f32() - 0.5).sum::<f32>() * 1.7 * scale
    }

    fn f16(&mut self, len: u64, scale: f32) -> Vec<u8> {
        (0..len).flat_map(|_| half::f16::from_f32(self.next(scale)).to_le_bytes()).collect()
    }

    /// Q8_0 blocks: an f16 scale and 32 signed bytes.
    fn q8(&mut self, len: u64, scale: f32) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..len / 32 {
            out.extend(half::f16::from_f32(scale / 40.0).to_le_bytes());
            out.extend((0..32).map(|_| (self.next(40.0)).clamp(-127.0, 127.0) as i8 as u8));
        }
        out
    }
}

impl Toy {
    /// The bytes of the model file.
    pub fn gguf(self) -> Vec<u8> {
        let key = |k: &str| format!("{}.{k}", self.arch);
        let tokens = byte_tokens();
        let mut names: Vec<&str> = tokens.iter().map(String::as_str).collect();
        names.push("<|end|>");
        let types: Vec<i32> = (0..VOCAB).map(|t| if t == 256 { 3 } else { 1 }).collect();
        let mut w = GgufWriter::new()
            .put("general.architecture", Put::Str(self.arch))
            .put(&key("block_count"), Put::U32(self.layers as u32))
            .put(&key("context_length"), Put::U32(self.context))
            .put(&key("embedding_length"), Put::U32(D_MODEL as u32))
            .put(&key("feed_forward_length"), Put::U32(D_FF as u32))
            .put(&key("attention.head_count"), Put::U32(self.heads as u32))
            .put(&key("attention.head_count_kv"), Put::U32(self.kv_heads as u32))
            .put(&key("attention.key_length"), Put::U32(HEAD_DIM as u32))
            .put(&key("attention.value_length"), Put::U32(HEAD_DIM as u32))
            .put(&key("attention.layer_norm_rms_epsilon"), Put::F32(1e-5))
            .put(&key("attention.sliding_window"), Put::U32(24))
            .put(&key("rope.freq_base"), Put::F32(10_000.0))
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.pre", Put::Str("default"))
            .put("tokenizer.ggml.tokens", Put::Strs(&names))
            .put("tokenizer.ggml.token_type", Put::I32s(&types))
            .put("tokenizer.ggml.merges", Put::Strs(&[]))
            .put("tokenizer.ggml.eos_token_id", Put::U32(256));
        let mut noise = Noise(fastrand::Rng::with_seed(self.heads * 31 + self.layers));
        let (q, kv) = (self.heads * HEAD_DIM, self.kv_heads * HEAD_DIM);
        let ones =
            |n: u64| vec![1.0f32; n as usize].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        w = w.tensor("token_embd.weight", &[D_MODEL, VOCAB], Dtype::F16, &noise.f16(D_MODEL * VOCAB, 1.0));
        w = w.tensor("output_norm.weight", &[D_MODEL], Dtype::F32, &ones(D_MODEL));
        for l in 0..self.layers {
            let name = |part: &str| format!("blk.{l}.{part}.weight");
            for norm in ["attn_norm", "ffn_norm"] {
                w = w.tensor(&name(norm), &[D_MODEL], Dtype::F32, &ones(D_MODEL));
            }
            if self.arch == "gemma3" {
                for (norm, len) in [
                    ("attn_q_norm", HEAD_DIM),
                    ("attn_k_norm", HEAD_DIM),
                    ("post_attention_norm", D_MODEL),
                    ("post_ffw_norm", D_MODEL),
                ] {
                    w = w.tensor(&name(norm), &[len], Dtype::F32, &ones(len));
                }
            }
            for (part, cols, rows, scale) in [
                ("attn_q", D_MODEL, q, 0.3),
                ("attn_k", D_MODEL, kv, 0.3),
                ("attn_v", D_MODEL, kv, 0.2),
                ("attn_output", q, D_MODEL, 0.1),
                ("ffn_gate", D_MODEL, D_FF, 0.15),
                ("ffn_up", D_MODEL, D_FF, 0.15),
                ("ffn_down", D_FF, D_MODEL, 0.1),
            ] {
                w = w.tensor(&name(part), &[cols, rows], Dtype::Q8_0, &noise.q8(cols * rows, scale));
            }
        }
        w.finish()
    }

    /// The model, opened.
    pub fn open(self, threads: usize, chunk: usize) -> Engine {
        self.open_as(threads, chunk, Arithmetic::Fast)
    }

    pub fn open_as(self, threads: usize, chunk: usize, arithmetic: Arithmetic) -> Engine {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.gguf()).unwrap();
        Engine::open(file.path(), Options { threads, chunk, arithmetic }, &mut |_| {}).unwrap()
    }
}

/// A text of any tokens, with repetitions as texts have them.
pub fn text(len: usize) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(11);
    let words: Vec<u32> = (0..40).map(|_| random.u32(..256)).collect();
    (0..len).map(|_| if random.f32() < 0.7 { words[random.usize(..40)] } else { random.u32(..256) }).collect()
}

pub fn plan(text: &str) -> Plan {
    Plan::parse(text).unwrap()
}

/// Reads a whole text under a plan.
pub fn read(engine: &Engine, plan_text: &str, tokens: &[u32]) -> Session {
    let len = tokens.len() as u32;
    let mut session = engine.session(&plan(plan_text), Length { prompt: len, longest: len }).unwrap();
    engine.read(&mut session, tokens, &mut |_| true).unwrap();
    session
}

/// The bits of the logits after the newest row.
pub fn bits(session: &Session) -> Vec<u32> {
    session.logits().iter().map(|l| l.to_bits()).collect()
}

/// Positions kept per layer and KV head.
pub fn kept(engine: &Engine, session: &Session) -> Vec<Vec<u32>> {
    let c = engine.config();
    let strips = (0..c.layers).flat_map(|l| (0..c.kv_heads).map(move |h| (l, h)));
    strips
        .map(|(l, h)| {
            let mut pos = Vec::new();
            session.kv.strip(l, h).positions(&mut pos);
            pos
        })
        .collect()
}

/// Policies whose strips all share the budget: what they forget depends on it alone.
pub fn shared() -> Vec<&'static str> {
    let shares = |id: &&str| plan(id).make_policy(64).unwrap().claim(0, 0, u32::MAX) == Claim::Share;
    eunoe_kv::policies::LIST.iter().map(|e| e.card.id).filter(shares).collect()
}

/// Every policy that shares the budget and the ways in which parts combine, at `slots` slots per strip.
pub fn plans(slots: usize) -> Vec<String> {
    let mut plans: Vec<String> = shared().into_iter().map(str::to_owned).collect();
    plans.extend(
        [
            "a2sf(pos=rank)",
            "a2sf(step=1, recent=3)",
            "h2o(sinks=2) | pyramid",
            "a2sf | ada",
            "snapkv(fold=max, pooling=avg) | ada | q8",
            "sirllm(gamma=0.7) | q8",
            "streaming_llm(sinks=0) | f32",
        ]
        .map(String::from),
    );
    plans.into_iter().map(|p| format!("{p} @ {slots}tok")).collect()
}
