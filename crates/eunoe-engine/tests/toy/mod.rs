//! Tiny random models, written as GGUF, so that laws are tested without any download.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test binary uses its part"
)]

pub mod folder;

use eunoe_core::{Codec, Codecs, Dtype};
use eunoe_engine::{Arithmetic, Engine, Length, Options, Session};
use eunoe_kv::{Budget, Claim, Column, Fate, Plan};
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
/// One global layer, the sixth; the others slide.
pub const GEMMA: Toy = Toy { arch: "gemma3", layers: 7, heads: 4, kv_heads: 1, context: 4096 };
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
        self.gguf_with(None)
    }

    /// The same with a chat template.
    pub fn gguf_with(self, template: Option<&str>) -> Vec<u8> {
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
        if let Some(template) = template {
            w = w.put("tokenizer.chat_template", Put::Str(template));
        }
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

/// Every policy that shares the budget and the ways in which parts combine, at a budget.
pub fn plans(budget: &str) -> Vec<String> {
    let mut plans: Vec<String> = shared().into_iter().map(str::to_owned).collect();
    plans.extend(
        [
            "a2sf(pos=rank)",
            "a2sf(step=1, recent=3)",
            "h2o(sinks=2) | pyramid",
            "a2sf | ada",
            "snapkv(fold=max, pooling=avg) | ada | q8",
            "sirllm(gamma=0.7) | q8(v=q4)",
            "streaming_llm(sinks=0) | f32",
        ]
        .map(String::from),
    );
    plans.into_iter().map(|p| format!("{p} @ {budget}")).collect()
}

/// A plan of a policy whose strips size themselves, and what they hold at most of [`TOKENS`] tokens, worked out by hand.
pub struct Own {
    pub plan: &'static str,
    /// Slots of global strip `i` of `n`, layer-major; LLAMA has 6, GEMMA 1. Profiles rise: the last score highest.
    pub slots: fn(u64, u64) -> u64,
    /// Slots per KV head in which layer after layer gathers what comes back.
    pub far: u64,
}

pub const TOKENS: usize = 300;
const ALL: u64 = TOKENS as u64;

/// Those that split heads, say what rows see, or keep everything.
pub const VIEWS: [Own; 11] = [
    Own { plan: "full", slots: |_, _| ALL, far: 0 },
    Own { plan: "full | q8(v=q4)", slots: |_, _| ALL, far: 0 },
    // half of the strips keep everything (0.5 rounds up); the others sinks, recent, and 15 until 16 leave
    Own {
        plan: "duo_attention(sinks=4, recent=16)",
        slots: |i, n| if i >= n / 2 { ALL } else { 4 + 16 + 15 },
        far: 0,
    },
    // 0.3 · 6 = 1.8 rounds to 2, 0.3 to none
    Own {
        plan: "duo_attention(ratio=0.3, sinks=0, recent=9, step=7)",
        slots: |i, n| if n == 6 && i >= 4 { ALL } else { 9 + 6 },
        far: 0,
    },
    // 0.3 · 6 and 0.2 · 6 round to 2 and 1, the same; the buffer is max(20, 300 / 50)
    Own {
        plan: "razor_attention(induction=0.3, echo=0.2, sinks=2, least=20, share=50) | q8",
        slots: |i, n| if n == 6 && i >= 4 { ALL } else { 2 + 20 + 15 },
        far: 0,
    },
    // 0.14 · 6 = 0.84 rounds to 1, 0.01 · 6 to none
    Own {
        plan: "razor_attention(compensation=plain, least=30, share=99, step=5)",
        slots: |i, n| if n == 6 && i == 5 { ALL } else { 4 + 30 + 4 },
        far: 0,
    },
    Own { plan: "recycled_attention(k=24, every=5)", slots: |_, _| ALL, far: 0 },
    Own { plan: "recycled_attention(k=24, every=3, similarity=0.9)", slots: |_, _| ALL, far: 0 },
    Own {
        plan: "hip_attention(k=16, block=2, window=12, sinks=3, dense_layers=1) | q8",
        slots: |_, _| ALL,
        far: 0,
    },
    // 16 + 9 + 3 tokens are seen whole, which ends within a block of rows
    Own {
        plan: "hip_attention(k=16, block=2, window=9, sinks=3, dense_layers=0, mask=kv_head)",
        slots: |_, _| ALL,
        far: 0,
    },
    // The first layer keeps everything. Of 19 blocks 2 are in the window; of the 17 before, head 0 sees 0, 4, 8, 12, 16,
    // and head 1 sees 2, 6, 10, 14 and the first.
    Own {
        plan: "s2_attention(block=16, window=2, stride=4)",
        slots: |i, n| if n == 1 || i < 2 { ALL } else { (2 + 5) * 16 },
        far: 0,
    },
];

/// Plans of the same policies that hold all of 150 tokens: full memory, bit for bit.
pub const WIDE_VIEWS: [&str; 9] = [
    "full @ 150tok",
    "duo_attention",
    "duo_attention(ratio=1, sinks=1, recent=2)",
    "razor_attention",
    "recycled_attention(k=150)",
    "recycled_attention(k=1, every=1)",
    "hip_attention",
    "s2_attention",
    "s2_attention(window=1, stride=1, block=16)",
];

/// Those that recall blocks. A strip holds an unfinished block under landmarks, else sinks, local, pass and a block; far
/// lie sinks, what comes back, a block and a pass.
pub const RECALLS: [Own; 6] = [
    Own { plan: "landmark_attention(block=16, blocks=2)", slots: |_, _| 16, far: 32 + 16 + 16 },
    Own {
        plan: "landmark_attention(block=32, blocks=1, gate=plain, tier=disk) | q8",
        slots: |_, _| 32,
        far: 32 + 32 + 32,
    },
    Own {
        plan: "inf_llm(sinks=4, local=40, pass=32, block=16, memory=32)",
        slots: |_, _| 4 + 40 + 32 + 16,
        far: 4 + 32 + 16 + 32,
    },
    Own {
        plan: "inf_llm(sinks=0, local=64, pass=64, block=8, memory=24, tier=disk) | q8",
        slots: |_, _| 64 + 64 + 8,
        far: 24 + 8 + 64,
    },
    Own {
        plan: "em_llm(sinks=4, local=48, pass=32, block=20, memory=40)",
        slots: |_, _| 4 + 48 + 32 + 20,
        far: 4 + 40 + 20 + 32,
    },
    Own {
        plan: "em_llm(sinks=2, local=48, pass=48, least=3, memory=30, block=16, gamma=0.5, refine=modularity) | q8",
        slots: |_, _| 2 + 48 + 48 + 16,
        far: 2 + 30 + 16 + 48,
    },
];

/// Plans of the same policies that recall nothing of 150 tokens: full memory, bit for bit.
pub const WIDE_RECALLS: [&str; 5] = [
    "inf_llm",
    "em_llm",
    "landmark_attention(block=150)",
    "inf_llm(local=150, pass=7)",
    "em_llm(sinks=0, local=160, pass=99, refine=conductance)",
];

/// Bytes of a slot: key, value, position, and a column where one travels along.
fn slot_bytes(codec: Codecs, column: bool) -> u64 {
    let bytes = |codec| match codec {
        Codec::F32 => 4 * HEAD_DIM,
        Codec::F16 => 2 * HEAD_DIM,
        Codec::Q8 => 2 + 32,
        Codec::Q4 => 2 + 2 + 16,
    };
    bytes(codec.k) + bytes(codec.v) + 4 + if column { 4 } else { 0 }
}

impl Toy {
    /// Most hot bytes that `len` tokens may take under a plan, where global strip `i` of `n` holds `slots(i, n)`.
    fn most_bytes(self, plan: &Plan, len: u64, slots: impl Fn(u64, u64) -> u64, far: u64) -> u64 {
        let needs = plan.make_policy(64).unwrap().needs();
        let column = matches!(needs.column, Column::Running { .. } | Column::Surprisal);
        let codec = plan.codec.unwrap_or(Codec::F16.into());
        let global = if self.arch == "gemma3" { self.layers / 6 } else { self.layers };
        let (n, sliding) = (global * self.kv_heads, (self.layers - global) * self.kv_heads);
        // the mean key and value of what was dropped, and their number, in 4 bytes each
        let side = if needs.fate == Fate::Drop { 0 } else { (2 * HEAD_DIM + 1) * 4 };
        // newest slots once more in f16, of which 64 leave at once
        let newest = match u64::from(plan.residual) {
            0 => 0,
            residual => (residual + 64).min(len) * slot_bytes(Codec::F16.into(), false),
        };
        // sliding strips hold their window of 24, and 64 until they leave at once
        (0..n).map(|i| slots(i, n).min(len) * slot_bytes(codec, column) + side + newest).sum::<u64>()
            + (sliding * len.min(24 + 64) + far * self.kv_heads) * slot_bytes(codec, false)
    }

    /// Most hot bytes that `len` tokens may take under a plan that keeps everything, or so many slots per strip.
    pub fn budget(self, plan_text: &str, len: usize) -> u64 {
        let plan = plan(plan_text);
        let slots = match plan.budget {
            Some(Budget::Slots(slots)) => slots.into(),
            other => other.map_or(len as u64, |_| panic!("`{plan_text}` says its bytes itself")),
        };
        self.most_bytes(&plan, len as u64, |_, _| slots, 0)
    }

    /// Most hot bytes that [`TOKENS`] tokens may take under a plan that sizes its strips itself.
    pub fn own_budget(self, own: &Own) -> u64 {
        self.most_bytes(&plan(own.plan), ALL, own.slots, own.far)
    }
}

/// The ledger never passed `budget`, and holds what the strips hold.
pub fn assert_within(session: &Session, budget: u64, context: &str) {
    let (ledger, bill) = (session.kv.ledger(), session.bill());
    assert!(ledger.peak <= budget && ledger.cap <= budget, "{context}: {ledger:?} of {budget} bytes");
    assert!(ledger.live <= ledger.peak, "{context}: {ledger:?}");
    assert_eq!((bill.live_bytes, bill.peak_bytes), (ledger.live, ledger.peak), "{context}");
}
