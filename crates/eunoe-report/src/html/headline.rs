//! The findings in words, and how to read the rest.

use eunoe_core::Result;
use serde::Serialize;

use crate::stats::quantile;
use crate::units::{bytes, count, counted, percent, score};
use crate::{FULL, Row};

use super::Extra;
use super::data::Data;
use super::parts::{Key, Section, render};
use super::ranking::at_bytes;
use super::standing::{Class, Standing, classes};

/// A plan holds up if its interval lies above this share of full memory's score.
const HELD: f64 = 0.9;
/// Plans named in one sentence.
const NAMED: usize = 6;

#[derive(Serialize)]
struct Headline<'a> {
    model: &'a str,
    run: String,
    tasks: &'a [&'a str],
    ceiling: String,
    held_share: String,
    held: Vec<Held<'a>>,
    limits: String,
    near: Vec<Near<'a>>,
    notes: &'a [String],
}

/// Plans of equal bytes that held up.
#[derive(Serialize)]
struct Held<'a> {
    bytes: String,
    plans: Vec<&'a str>,
    more: usize,
    /// How many they are, before their names; all there is to say if there are none.
    verdict: String,
}

/// A task that does not count at some lengths.
#[derive(Serialize)]
struct Near<'a> {
    task: &'a str,
    lengths: String,
}

pub(super) fn section(data: &Data<'_>, standings: &[Standing<'_>], extra: &Extra) -> Result<Section> {
    let length =
        data.lengths.iter().rev().find(|length| standings.iter().any(|s| s.length == **length)).copied();
    let held = length.map(|length| classes(standings, length).iter().filter_map(held).collect());
    let headline = Headline {
        model: &data.manifest.model.name,
        run: run(data),
        tasks: &data.tasks,
        ceiling: length.map_or(String::new(), |length| ceiling(data, length)),
        held_share: percent(HELD),
        held: held.unwrap_or_default(),
        limits: limits(data),
        near: near(data),
        notes: &extra.notes,
    };
    Ok(Section {
        id: "findings".into(),
        title: "What was found".into(),
        body: render("headline.html", &headline)?,
    })
}

pub(super) fn how(data: &Data<'_>) -> Result<Section> {
    #[derive(Serialize)]
    struct How {
        legend: Vec<Key>,
        has_full: bool,
    }
    let body = render("how.html", &How { legend: data.legend(), has_full: data.has_full() })?;
    Ok(Section { id: "how".into(), title: "How to read this".into(), body })
}

/// What was run, after the name of the model.
fn run(data: &Data<'_>) -> String {
    let manifest = data.manifest;
    let lengths: Vec<String> = manifest.lengths.iter().map(|length| count(*length)).collect();
    let model = &manifest.model;
    let about = match model.layers {
        0 => "an endpoint, whose memory cannot be seen".to_string(),
        layers => format!(
            "{} of {}, {} of full memory per token, trained for {} tokens",
            counted(layers, "layer"),
            counted(model.kv_heads, "KV head"),
            bytes(model.token_bytes as f64),
            count(model.context)
        ),
    };
    let machine = &manifest.machine;
    format!(
        "({about}) was given {} per task and length, under {}, at {} tokens of prompt and answer together. \
         It ran on {} ({}, {} at a time, {} each).",
        counted(manifest.samples, "item"),
        counted(data.plans.len(), "plan"),
        lengths.join(", "),
        machine.cpu,
        machine.isa,
        counted(machine.jobs, "item"),
        counted(machine.threads, "thread"),
    )
}

/// Full memory's own score and bytes at a length.
fn ceiling(data: &Data<'_>, length: usize) -> String {
    let tasks = data.counted(length);
    let rows: Vec<&Row> = tasks.iter().filter_map(|task| data.row(FULL, task, length)).collect();
    let of = |f: fn(&Row) -> f64| {
        crate::stats::mean(&rows.iter().map(|row| f(row)).collect::<Vec<_>>()).unwrap_or(0.0)
    };
    let kv_bytes = of(|row| row.kv_bytes as f64);
    let takes =
        if kv_bytes > 0.0 { format!(", and takes {} of KV memory", bytes(kv_bytes)) } else { String::new() };
    format!(
        "At {} tokens full memory scores {} of 1, mean of {}{takes}.",
        count(length),
        score(of(|row| row.score)),
        counted(tasks.len(), "task that counts").replace("task that countss", "tasks that count"),
    )
}

/// None for full memory alone.
fn held<'a>(class: &Class<'_, 'a>) -> Option<Held<'a>> {
    let others: Vec<_> = class.standings.iter().filter(|standing| standing.name != FULL).collect();
    let held: Vec<&str> = others.iter().filter(|s| s.interval[0] >= HELD).map(|s| s.name).collect();
    let verdict = match (held.len(), others.len()) {
        (0, 1) => "the only plan does not surely.".to_string(),
        (0, all) => format!("none of {} plans surely does.", count(all)),
        (some, all) => format!("{} of {},", count(some), counted(all, "plan")),
    };
    (!others.is_empty()).then(|| Held {
        bytes: at_bytes(class),
        more: held.len().saturating_sub(NAMED),
        plans: held.into_iter().take(NAMED).collect(),
        verdict,
    })
}

/// What this number of items cannot show.
fn limits(data: &Data<'_>) -> String {
    let rows = || {
        let cells = data.plans.iter().flat_map(|plan| data.tasks.iter().map(move |task| (*plan, *task)));
        cells.flat_map(|(plan, task)| {
            data.lengths.iter().filter_map(move |length| data.row(plan, task, *length))
        })
    };
    let compared = rows().filter(|row| row.plan != FULL && row.ceiling.is_some()).count();
    if compared == 0 {
        return "Nothing was measured under full memory and under a plan, so no cost can be told."
            .to_string();
    }
    let mut smallest: Vec<f64> =
        rows().filter(|row| row.plan != FULL).filter_map(|row| row.resolves).collect();
    smallest.sort_by(f64::total_cmp);
    let [low, middle, high] =
        [0.0, 0.5, 1.0].map(|at| quantile(&smallest, at).map_or("1".to_string(), score));
    if smallest.len() * 2 < compared {
        return "There are too few items to show any difference on a single task.".to_string();
    }
    format!(
        "What cannot be told: on a single task and length, a plan must differ from full memory by about \
         {middle} ({low} to {high}, depending on how much items scatter) for these items to show it four \
         times out of five. Smaller differences may be there or not."
    )
}

fn near<'a>(data: &Data<'a>) -> Vec<Near<'a>> {
    let of = |task: &&'a str| {
        let near =
            |length: &&usize| data.row(FULL, task, **length).is_some_and(|row| row.near_chance == Some(true));
        let lengths: Vec<String> = data.lengths.iter().filter(near).map(|length| count(*length)).collect();
        (!lengths.is_empty()).then(|| Near { task, lengths: lengths.join(", ") })
    };
    data.tasks.iter().filter_map(of).collect()
}
