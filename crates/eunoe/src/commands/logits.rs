//! `eunoe logits`: the next token's distribution, for comparing with other programs.

use serde::Serialize;

use super::options::{ModelOption, PlanOption};

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

/// A token that may come next.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its text; bytes that are not UTF-8 by themselves are shown as U+FFFD.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
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
