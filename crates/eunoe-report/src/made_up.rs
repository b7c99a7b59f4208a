//! Made-up evaluations for tests: nothing here was measured.

use std::fs;
use std::path::Path;

use crate::{FULL, ITEMS, Line, MANIFEST, Machine, Manifest, ModelInfo, Sample, SourceFile};

const LAYERS: usize = 28;
const HEADS: usize = 8;
/// f16 keys and values of 28 layers, 8 heads of 128.
const TOKEN_BYTES: u64 = 2 * 2 * 28 * 8 * 128;

/// A line with plain values: 1 GiB of nothing, a depth of 0.5, two strips.
pub(crate) fn line(plan: &str, task: &str, length: usize, sample: usize, score: f64) -> Line {
    Line {
        plan: plan.to_string(),
        task: task.to_string(),
        length,
        sample,
        score,
        chance: 0.0,
        details: [("official".to_string(), score)].into(),
        given: vec![format!("{score}")],
        gold: Vec::new(),
        depths: vec![0.5],
        prompt_tokens: length,
        budget_bytes: (plan != FULL).then_some(500),
        peak_bytes: if plan == FULL { 1000 } else { 500 },
        hot_bytes: if plan == FULL { 1000 } else { 400 },
        cold_bytes: 0,
        attended_tokens: 8.0,
        attended: 1.0,
        kept: vec![1000, if plan == FULL { 1000 } else { 250 }],
        prefill_s: 2.0,
        decode_s: 1.0,
        audit: None,
    }
}

pub(crate) fn manifest(plans: &[&str], tasks: &[&str], lengths: &[usize], samples: usize) -> Manifest {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    Manifest {
        eunoe: "0.1.0".into(),
        model: ModelInfo {
            name: "qwen3-0.6b-q8_0".into(),
            sha256: Some("0123456789abcdef".repeat(4)),
            layers: LAYERS,
            kv_heads: HEADS,
            token_bytes: TOKEN_BYTES,
            context: 40_960,
        },
        plans: names(plans),
        tasks: names(tasks),
        lengths: lengths.to_vec(),
        samples,
        seed: 7,
        audit: false,
        exact: false,
        sources: vec![SourceFile { name: "built in".into(), sha256: "fedcba9876543210".repeat(4) }],
        heads: None,
        machine: Machine {
            cpu: "Imaginary Processor 9000".into(),
            isa: "avx512".into(),
            jobs: 2,
            threads: 4,
        },
        first: tasks.iter().flat_map(|task| lengths.iter().map(|length| first(task, *length))).collect(),
    }
}

fn first(task: &str, length: usize) -> Sample {
    Sample {
        task: task.to_string(),
        length,
        prompt: format!(
            "<|user|>\n{}What is the number?\n<|assistant|>\nIt is",
            "The grass is green. ".repeat(length / 5)
        ),
        tokens: (0..length as u32).collect(),
        bos: 1,
        answer_tokens: 16,
        gold: vec!["7421".into()],
    }
}

/// `full` and one plan, one task, four items; the plan loses the last.
pub(crate) fn small() -> (Manifest, Vec<Line>) {
    let manifest = manifest(&[FULL, "h2o @ 50%"], &["needle"], &[100], 4);
    let mut lines: Vec<Line> = (0..4).map(|sample| line(FULL, "needle", 100, sample, 1.0)).collect();
    lines.extend(
        (0..4).map(|sample| line("h2o @ 50%", "needle", 100, sample, f64::from(u8::from(sample < 3)))),
    );
    (manifest, lines)
}

pub(crate) fn write(dir: &Path, manifest: &Manifest, lines: &[Line]) {
    fs::write(dir.join(MANIFEST), serde_json::to_string_pretty(manifest).unwrap()).unwrap();
    let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    fs::write(dir.join(ITEMS), text).unwrap();
}

/// Method, share of what its score keeps at a quarter of the bytes, seconds of reading and of writing
/// relative to full.
const METHODS: [(&str, f64, f64, f64); 14] = [
    ("streaming_llm", 0.45, 0.80, 0.60),
    ("h2o", 0.72, 1.25, 0.85),
    ("a2sf(alpha=0.9)", 0.78, 1.22, 0.84),
    ("snapkv(window=32)", 0.93, 0.98, 0.70),
    ("snapkv(window=32) | pyramid", 0.94, 1.02, 0.72),
    ("snapkv(window=32) | ada | q8", 0.95, 1.10, 0.75),
    ("sirllm", 0.55, 0.85, 0.66),
    ("duo_attention", 0.97, 0.75, 0.62),
    ("razor_attention", 0.90, 0.79, 0.65),
    ("keydiff", 0.83, 0.92, 0.71),
    ("tova", 0.80, 1.05, 0.80),
    ("scissorhands", 0.70, 1.10, 0.80),
    ("knorm", 0.60, 0.82, 0.64),
    ("em_llm", 0.88, 1.40, 1.15),
];
const BUDGETS: [(f64, &str); 4] = [(0.5, "50%"), (0.25, "25%"), (0.125, "12.5%"), (0.0625, "6.25%")];
/// Task, full-memory score at 4,096 tokens, whether it asks for one place, whether it is graded.
const TASKS: [(&str, f64, bool, bool); 6] = [
    ("needle", 0.99, true, false),
    ("niah_single_2", 0.95, true, false),
    ("niah_multikey_1", 0.8, false, false),
    ("vt", 0.75, false, true),
    ("sort", 0.6, false, true),
    ("qa_1", 0.12, false, false),
];
const LENGTHS: [usize; 4] = [4096, 8192, 16_384, 32_768];

/// Fourteen methods at four budgets on six tasks at four lengths, audited: as large as pages get.
/// Deterministic.
pub(crate) fn large(samples: usize) -> (Manifest, Vec<Line>) {
    let mut plans = vec![FULL.to_string()];
    plans.extend(
        METHODS.iter().flat_map(|(name, ..)| BUDGETS.iter().map(move |(_, at)| format!("{name} @ {at}"))),
    );
    let plans: Vec<&str> = plans.iter().map(String::as_str).collect();
    let mut manifest = manifest(&plans, &TASKS.map(|task| task.0), &LENGTHS, samples);
    manifest.audit = true;
    let mut lines = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        for task in 0..TASKS.len() {
            for length in LENGTHS {
                lines.extend((0..samples).map(|sample| drawn(plan, number, task, length, sample)));
            }
        }
    }
    (manifest, lines)
}

/// One item of a large evaluation; number 0 is full memory.
fn drawn(plan: &str, number: usize, task: usize, length: usize, sample: usize) -> Line {
    let (name, ceiling, is_single, is_graded) = TASKS[task];
    let (_, keeps, reads, writes) = METHODS[number.saturating_sub(1) / BUDGETS.len()];
    let budget = if number == 0 { 1.0 } else { BUDGETS[(number - 1) % BUDGETS.len()].0 };
    // The item is the same for all plans; what a plan makes of it is its own.
    let mut item = fastrand::Rng::with_seed((task * 1_000_003 + length * 101 + sample) as u64);
    let mut own =
        fastrand::Rng::with_seed((number * 7_919 + task * 1_000_003 + length * 101 + sample) as u64);
    let (hardness, depth) = (item.f64(), item.f64());
    let can = ceiling - 0.05 * (length as f64 / 4096.0).log2();
    let left = if number == 0 {
        1.0
    } else {
        (keeps + 0.18 * (budget / 0.25).log2() - 0.1 * (1.0 - depth)).clamp(0.02, 1.0)
    };
    let score = if is_graded {
        ((can * left + 0.3 * (hardness - 0.5)).clamp(0.0, 1.0) * 20.0).round() / 20.0
    } else {
        f64::from(u8::from(hardness < can && own.f64() < left))
    };
    let bytes = (length as f64 * TOKEN_BYTES as f64 * budget) as u64;
    let grows = length as f64 / 4096.0;
    let faster = if number == 0 { 1.0 } else { grows.powf(-0.25) * (1.1 + 0.2 * budget) };
    Line {
        chance: if is_graded { 0.1 } else { 0.0 },
        depths: if is_single { vec![depth] } else { vec![depth, depth / 2.0] },
        budget_bytes: (number > 0).then_some(bytes),
        peak_bytes: bytes - 4096 * (number as u64 % 5),
        hot_bytes: bytes - 8192 * (number as u64 % 5),
        attended: budget,
        attended_tokens: budget * length as f64 / 2.0,
        kept: kept(number, budget),
        prefill_s: 2.5
            * grows.powf(1.3)
            * if number == 0 { 1.0 } else { reads * faster }
            * (0.97 + 0.06 * own.f64()),
        decode_s: 0.4
            * grows.sqrt()
            * if number == 0 { 1.0 } else { writes * faster }
            * (0.9 + 0.2 * own.f64()),
        audit: (number > 0).then(|| audit(left, score, &mut own)),
        ..line(plan, name, length, sample, score)
    }
}

/// Upper layers keep less, and one head in three keeps more.
fn kept(number: usize, budget: f64) -> Vec<u16> {
    let share = |strip: usize| {
        let (layer, head) = (strip / HEADS, strip % HEADS);
        let bend = 1.4 - 0.8 * layer as f64 / LAYERS as f64;
        let head = if (head + number + layer).is_multiple_of(3) { 1.5 } else { 0.75 };
        if number == 0 { 1.0 } else { (budget * bend * head).min(1.0) }
    };
    (0..LAYERS * HEADS).map(|strip| (share(strip) * 1000.0) as u16).collect()
}

fn audit(left: f64, score: f64, own: &mut fastrand::Rng) -> serde_json::Value {
    let risk = (1.0 - left + 0.4 * (own.f64() - 0.5) + 0.1 * (1.0 - score)).clamp(0.0, 1.0);
    let verdict = if risk < 0.2 {
        "safe"
    } else if risk < 0.6 {
        "unsure"
    } else {
        "lossy"
    };
    serde_json::json!({
        "risk": risk,
        "kl_mean": 0.8 * risk * risk + 0.01 * own.f64(),
        "top1_agreement": 1.0 - 0.5 * risk,
        "verdict": verdict,
        "canaries_survived": left,
    })
}
