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
        sources: vec![SourceFile { name: "built in".into(), sha256: "fedcba9876543210".repeat(4) }],
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
