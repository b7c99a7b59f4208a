//! `eunoe chat`: a conversation inside one memory plan.

use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};

/// Talk with a model inside a memory plan
///
/// The whole conversation shares one memory: what is forgotten stays forgotten. The bill of each answer goes to
/// standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  eunoe chat -m smollm2-135m --kv 'streaming_llm @ 512tok'")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,
    #[command(flatten)]
    pub(crate) memory: MemoryOption,

    /// Most tokens of one answer
    #[arg(short = 'n', value_name = "TOKENS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: u32,

    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// System message
    #[arg(long, value_name = "S")]
    pub(crate) system: Option<String>,
}
