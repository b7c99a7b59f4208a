//! `eunoe-lab list`: the shelf.

use anyhow::Result;
use clap::ValueEnum;
use eunoe_lab::mixers;

use super::out;

/// List the mixers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to list
    #[arg(value_name = "WHAT", default_value = "methods")]
    what: What,
    /// As the page for docs, with arguments
    #[arg(long)]
    markdown: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Mixers, in the form of `eunoe list methods`
    Methods,
}

/// Runs the command.
///
/// # Errors
/// Standard output is closed, or two forms are asked for.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let What::Methods = args.what;
    if json && args.markdown {
        anyhow::bail!("`--json` and `--markdown` are two forms: ask for one");
    }
    if json {
        return out::json(&mixers::LIST.iter().map(|entry| entry.card).collect::<Vec<_>>());
    }
    if args.markdown {
        return out::line(mixers::markdown().trim_end());
    }
    mixers::LIST.iter().try_for_each(|entry| out::line(&format!("{:20} {}", entry.card.id, entry.card.idea)))
}
