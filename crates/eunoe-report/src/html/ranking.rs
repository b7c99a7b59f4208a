//! Which plans keep most at equal bytes.

use eunoe_core::Result;

use crate::svg::whisker;
use crate::units::{self, bytes, count, percent, seconds};

use super::data::Data;
use super::parts::{Cell, Group, Section, Table, groups};
use super::standing::{Class, Standing, classes};

pub(super) fn section(data: &Data<'_>, standings: &[Standing<'_>]) -> Result<Option<Section>> {
    let mut intro = vec![
        "Plans that were allowed the same bytes (within 3 % of the share of full memory's bytes) are \
         compared with each other. The number is the score as a share of what full memory scores on the \
         same items, mean over the tasks that count; the bar is its 95 % interval (bootstrap over items \
         within each task). Where a bar overlaps that of the best plan, these items do not tell the two \
         apart, whatever their order."
            .to_string(),
    ];
    if standings.is_empty() {
        intro = vec![reason(data)];
    }
    let mut made = Vec::new();
    for length in &data.lengths {
        let classes = classes(standings, *length);
        // Full memory alone is compared with nothing.
        let classes = classes.iter().filter(|class| class.standings.iter().any(|s| s.name != crate::FULL));
        made.extend(classes.map(|class| group(data, *length, class)));
    }
    // Many tables fold, all but those of the last length.
    let (many, last) = (made.len() > 6, data.lengths.last().map(|length| at_length(*length)));
    for group in &mut made {
        group.folds = many;
        group.open = last.as_ref().is_some_and(|last| group.title.starts_with(last.as_str()));
    }
    groups("ranking", "Ranking at equal bytes", &intro, &made)
}

/// Why there is nothing to rank.
fn reason(data: &Data<'_>) -> String {
    let text = match (data.plans.is_empty(), data.has_full()) {
        (true, _) => "There are no results yet.",
        (_, false) => "Full memory was not measured, so there is nothing to compare plans with.",
        _ => "No task counts: everywhere the full-memory score may be no better than guessing.",
    };
    text.to_string()
}

fn at_length(length: usize) -> String {
    format!("At {} tokens, ", count(length))
}

/// The bytes of a class in words.
pub(super) fn at_bytes(class: &Class<'_, '_>) -> String {
    let most = class.standings.iter().map(|standing| standing.kv_bytes).fold(0.0, f64::max);
    match class.share {
        Some(share) => format!("{} of full memory's bytes (up to {})", units::share(share), bytes(most)),
        None => "unknown bytes".to_string(),
    }
}

fn group(data: &Data<'_>, length: usize, class: &Class<'_, '_>) -> Group {
    let most = class.standings.iter().map(|standing| standing.interval[1]).fold(1.05, f64::max);
    let columns = [
        "Plan",
        "Share of full's score",
        "",
        "95 % interval",
        "Against the best",
        "KV bytes",
        "Time per item",
        "Items",
    ];
    let title = format!("{}{}", at_length(length), at_bytes(class));
    let mut table = Table::new(title.clone(), &columns);
    let counted = data.counted(length).len();
    for standing in &class.standings {
        table.lines.push(line(data, standing, class, [0.0, most], counted));
    }
    Group { title, table: Some(table), ..Group::default() }
}

fn line(
    data: &Data<'_>,
    standing: &Standing<'_>,
    class: &Class<'_, '_>,
    range: [f64; 2],
    counted: usize,
) -> Vec<Cell> {
    let [low, high] = standing.interval;
    let best = class.standings[0];
    let (against, style) = match (standing.plan == best.plan, standing.ties(best)) {
        _ if class.standings.len() == 1 => ("the only one", ""),
        (true, _) => ("best", "best"),
        (_, true) => ("not told apart", "tied"),
        _ => ("lower", ""),
    };
    let tasks = if standing.tasks < counted {
        format!(" on {} of {counted} tasks", standing.tasks)
    } else {
        String::new()
    };
    // Said only where it is not the share in the title.
    let used = standing.used.zip(standing.allowed).filter(|(used, allowed)| *used < allowed * 0.97);
    let used = used.map(|(used, _)| percent(used)).unwrap_or_default();
    vec![
        data.name(standing.plan),
        Cell::num(percent(standing.ratio)),
        Cell {
            svg: whisker(data.look(standing.plan), standing.ratio, standing.interval, range),
            ..Cell::default()
        },
        Cell::num(format!("{} to {}", percent(low), percent(high))),
        Cell::text(against).class(style),
        Cell::num(bytes(standing.kv_bytes)).small(used),
        Cell::num(seconds(standing.seconds)),
        Cell::num(count(standing.n)).small(tasks),
    ]
}
