//! Options that several commands share, and the values they take.

use std::path::PathBuf;

use eunoe_engine::Sampling;
use eunoe_kv::Plan;

use crate::{profiles, units};

/// Which model.
#[derive(Debug, clap::Args)]
pub struct ModelOption {
    /// A name from `eunoe list`, a `.gguf` file, or a folder with `config.json`, `tokenizer.json` and safetensors
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
}

/// What the model may remember.
#[derive(Debug, clap::Args)]
pub struct PlanOption {
    /// Memory plan, such as `a2sf @ 1024tok` or `snapkv | pyramid | q8 @ 64MiB`
    ///
    /// `policy(arguments) | allocator | codec @ budget`; the budget is in bytes (`64MiB`), slots per layer and KV
    /// head (`1024tok`) or a share of what the text would take (`25%`). `eunoe list methods` has the names.
    #[arg(long, value_name = "PLAN")]
    pub kv: Option<Plan>,

    /// Compute exactly, with f32 keys and values unless the plan names a codec: slower, for comparisons
    #[arg(long)]
    pub exact: bool,
}

impl PlanOption {
    /// The plan asked for, with the profile of the model's heads where it needs one.
    ///
    /// # Errors
    /// Those of [`profiles::attach`].
    pub fn asked(&self, model: &ModelOption) -> anyhow::Result<Option<Plan>> {
        self.kv.clone().map(|plan| profiles::attach(plan, &model.model)).transpose()
    }
}

/// The memory that there is.
#[derive(Debug, clap::Args)]
pub struct MemoryOption {
    /// Bytes of KV memory that may be used, such as `64MiB` [default: half of what is free]
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes)]
    pub memory: Option<u64>,
}

/// How the next token is chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingOptions {
    /// Divide scores by T before sampling; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value = "0", value_parser = in_range::<0, 100>)]
    pub temperature: f32,

    /// Sample among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value = "0")]
    pub top_k: u32,

    /// Sample among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", default_value = "1", value_parser = in_range::<0, 1>)]
    pub top_p: f32,

    /// Drop tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", default_value = "0", value_parser = in_range::<0, 1>)]
    pub min_p: f32,

    /// Divide positive scores of tokens already seen by R, multiply negative ones
    #[arg(long, value_name = "R", default_value = "1", value_parser = positive)]
    pub repetition_penalty: f32,

    /// Subtract from the scores of tokens already generated
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true, value_parser = in_range::<-2, 2>)]
    pub presence_penalty: f32,

    /// Subtract, for each time it was generated, from the score of a token
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true, value_parser = in_range::<-2, 2>)]
    pub frequency_penalty: f32,

    /// Seed of the sampler; the same seed gives the same text
    #[arg(long, value_name = "S", default_value = "0")]
    pub seed: u64,
}

impl SamplingOptions {
    /// As the engine takes them.
    pub fn rule(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: Vec::new(),
            seed: self.seed,
        }
    }
}

/// Reads a number from `MIN` to `MAX`.
fn in_range<const MIN: i32, const MAX: i32>(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value >= MIN as f32 && value <= MAX as f32 => Ok(value),
        _ => Err(format!("expected a number from {MIN} to {MAX}")),
    }
}

/// Reads a number above 0.
fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("expected a number above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(in_range::<0, 1>("0.5"), Ok(0.5));
        assert_eq!(in_range::<-2, 2>("-2"), Ok(-2.0));
        assert!(["1.1", "-0.1", "NaN", "inf", "", "x"].iter().all(|t| in_range::<0, 1>(t).is_err()));
        assert!(["0", "-1", "NaN", "inf"].iter().all(|t| positive(t).is_err()));
    }
}
