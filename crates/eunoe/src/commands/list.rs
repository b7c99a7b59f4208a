//! `eunoe list`: models, methods and tasks.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::context::Context;
use crate::home::Home;
use crate::models::MODELS;
use crate::{docs, out, units};

/// List models, the methods of every shelf, or the tasks that an evaluation asks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe list                   models, and where those that were pulled lie
  eunoe list methods           policies, allocators, codecs, probes and tasks
  eunoe list tasks             what `eunoe eval --tasks` takes
  eunoe list methods --json")]
pub struct Args {
    /// What to list
    #[arg(value_name = "WHAT", default_value = "models")]
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Models that `eunoe pull` knows
    Models,
    /// Policies, allocators, codecs, probes and tasks
    Methods,
    /// Tasks and groups of tasks
    Tasks,
}

#[derive(Serialize)]
struct ModelRow {
    name: &'static str,
    path: Option<String>,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// No home for models, or standard output failed.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    match args.what {
        What::Models => models(ctx, &Home::from_env()?),
        What::Methods => methods(ctx),
        What::Tasks => tasks(ctx),
    }
}

fn models(ctx: &Context, home: &Home) -> Result<()> {
    let pulled = |name| Some(home.model(name)).filter(|path| path.is_file()).map(|p| p.display().to_string());
    if ctx.json {
        let row = |m: &crate::models::Model| ModelRow { name: m.name, path: pulled(m.name), bytes: m.bytes };
        return out::json(&MODELS.iter().map(row).collect::<Vec<_>>());
    }
    let rows = MODELS.map(|m| {
        let place = pulled(m.name).unwrap_or_else(|| "not pulled".into());
        [m.name.into(), units::bytes(m.bytes), m.about.into(), place]
    });
    out::text(&out::columns(&rows))
}

fn methods(ctx: &Context) -> Result<()> {
    let cards = docs::cards();
    if ctx.json {
        return out::json(&cards);
    }
    let rows: Vec<_> =
        cards.iter().map(|c| [docs::shelf(c.shelf).into(), c.id.into(), c.idea.into()]).collect();
    out::text(&out::columns(&rows))
}

#[derive(Serialize)]
struct TaskRow {
    id: &'static str,
    name: &'static str,
}

fn tasks(ctx: &Context) -> Result<()> {
    let groups = eunoe_tasks::GROUPS.iter().map(|group| (group.id, group.name, "a group"));
    let tasks = eunoe_tasks::LIST.iter().map(|task| task.card());
    let all = groups.chain(tasks.map(|card| (card.id, card.name, card.idea)));
    if ctx.json {
        return out::json(&all.map(|(id, name, _)| TaskRow { id, name }).collect::<Vec<_>>());
    }
    let rows: Vec<_> = all.map(|(id, name, idea)| [id.into(), name.into(), idea.into()]).collect();
    out::text(&out::columns(&rows))
}
