//! `eunoe logits`: the next token's distribution, for comparing with other programs.

use anyhow::Result;
use eunoe_engine::{Length, top_log_probs};
use serde::Serialize;

use super::options::{ModelOption, PlanOption};
use crate::answer::{self, Candidate};
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::{memory, open, out};

/// The likeliest tokens after a list of token ids, for parity checks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe logits -m smollm2-135m --tokens 504,5575,282
  eunoe logits -m smollm2-135m --tokens 504,5575,282 --top 50 --exact --json")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_delimiter = ',')]
    pub(crate) tokens: Vec<u32>,

    /// How many of the likeliest tokens to print
    #[arg(long, value_name = "K", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top: u32,
}

/// What `logits --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The likeliest first.
    pub top: Vec<Candidate>,
}

/// Runs the command.
///
/// # Errors
/// A token that is not the model's, or a plan that does not hold the tokens.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    let len = u32::try_from(args.tokens.len())?;
    let length = Length { prompt: len, longest: len };
    let plan =
        memory::choose(&engine, &args.model.model, args.plan.asked(&args.model)?.as_ref(), length, None)?;
    let mut session = engine.session(&plan, length)?;
    answer::read(&engine, &mut session, &args.tokens, &interrupt)?;
    let top = top_log_probs(session.logits(), args.top as usize);
    let report = Report { top: top.into_iter().map(|top| Candidate::new(&engine, top)).collect() };
    if ctx.json { out::json(&report) } else { out::text(&report.render()) }
}

impl Report {
    /// The report as text, one token a line.
    pub fn render(&self) -> String {
        let row = |c: &Candidate| [c.token.to_string(), format!("{:.4}", c.logprob), format!("{:?}", c.text)];
        crate::out::columns(&self.top.iter().map(row).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logprob_reads_back_to_the_same_bits() {
        let logprob = -0.1_f32 - f32::EPSILON;
        let json = serde_json::to_value(Candidate { token: 1, text: "\u{fffd}".into(), logprob }).unwrap();
        let back = json["logprob"].to_string().parse::<f32>().unwrap();
        assert_eq!(back.to_bits(), logprob.to_bits());
        let report = Report { top: vec![Candidate { token: 198, text: "\n".into(), logprob: -0.5 }] };
        assert_eq!(report.render(), "198  -0.5000  \"\\n\"\n");
    }
}
