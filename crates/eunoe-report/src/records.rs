//! The records of an evaluation, as they lie in its folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was run: `manifest.json`. The same manifest gives the same answers and scores, digit by digit, on the same
/// instruction set; seconds differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the program.
    pub eunoe: String,
    /// What was measured.
    pub model: ModelInfo,
    /// Plans, as asked for, `full` first; of an endpoint its label.
    pub plans: Vec<String>,
    /// Ids of tasks.
    pub tasks: Vec<String>,
    /// Most tokens of prompt and answer together.
    pub lengths: Vec<usize>,
    /// Items per task and length.
    pub samples: usize,
    /// Seed of the items.
    pub seed: u64,
    /// Every answer that was written to a single question was audited too, but those of `full`.
    pub audit: bool,
    /// Exact arithmetic, with f32 keys and values where a plan names no codec.
    #[serde(default)]
    pub exact: bool,
    /// Texts and questions.
    pub sources: Vec<SourceFile>,
    /// Checksum of the profile of the model's heads, where a plan splits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// The first item of each task and length, as the model read it.
    pub first: Vec<Sample>,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name or file stem; the address of an endpoint.
    pub name: String,
    /// Checksum of the file; of an endpoint that of the model whose tokenizer makes its prompts.
    pub sha256: Option<String>,
    /// Layers that a plan acts on; 0 for an endpoint.
    pub layers: usize,
    /// KV heads of a layer; 0 for an endpoint.
    pub kv_heads: usize,
    /// Bytes that one token takes in f16 under full memory.
    pub token_bytes: u64,
    /// Tokens of the trained window.
    pub context: usize,
}

/// A file that items were made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name without folders; `built in` for what ships with the program.
    pub name: String,
    /// Checksum.
    pub sha256: String,
}

/// Where an evaluation ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Instruction set of the kernels in use.
    pub isa: String,
    /// Items at a time.
    pub jobs: usize,
    /// Threads of each.
    pub threads: usize,
}

/// One prompt as the model read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Task.
    pub task: String,
    /// Length.
    pub length: usize,
    /// Text with the template around it, cue included.
    pub prompt: String,
    /// Ids of its tokens.
    pub tokens: Vec<u32>,
    /// BOS tokens at their beginning; at most 1.
    pub bos: usize,
    /// Tokens left for the answer.
    pub answer_tokens: usize,
    /// Right answers.
    pub gold: Vec<String>,
}

/// One item under one plan: a line of `items.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Plan as asked for.
    pub plan: String,
    /// Task.
    pub task: String,
    /// Length asked for.
    pub length: usize,
    /// Number of the item.
    pub sample: usize,
    /// From 0 to 1.
    pub score: f64,
    /// Score of blind guessing.
    pub chance: f64,
    /// More numbers of the marker: `official`, `harness`, `nll`, `bucket_0` …
    pub details: BTreeMap<String, f64>,
    /// What the model gave, one per question: its text, or numbers as text.
    pub given: Vec<String>,
    /// Right answers, question by question.
    #[serde(default)]
    pub gold: Vec<Vec<String>>,
    /// Where what was asked for stands in the context, 0 to 1.
    pub depths: Vec<f64>,
    /// Tokens of the prompt, question and cue included (the longest, where there are several questions).
    pub prompt_tokens: usize,
    /// Hot KV bytes allowed; none without a budget.
    pub budget_bytes: Option<u64>,
    /// Most hot KV bytes at any moment.
    pub peak_bytes: u64,
    /// Hot KV bytes at the end.
    pub hot_bytes: u64,
    /// Bytes in the cold tier at the end.
    pub cold_bytes: u64,
    /// Tokens that a query met, mean over rows, layers and heads.
    pub attended_tokens: f64,
    /// Share of the text so far that a query met, likewise; 1 under full memory.
    pub attended: f64,
    /// Share of its rows that each strip holds at the end, in thousandths, layer by layer; empty for an endpoint.
    pub kept: Vec<u16>,
    /// Seconds of reading.
    pub prefill_s: f64,
    /// Seconds of answering.
    pub decode_s: f64,
    /// What the audit found, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<serde_json::Value>,
}
