//! Every task by itself.

use eunoe_core::Result;

use crate::units::{count, p, percent, score, signed, tokens};
use crate::{FULL, Row};

use super::data::Data;
use super::parts::{Cell, Group, Section, Table, groups};

/// More lines than this and tables are folded.
const MANY: usize = 40;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    if data.tasks.is_empty() {
        return Ok(None);
    }
    let intro = [
        "Score: mean over n items, 0 to 1, with its 95 % interval; scores in italics do not count, because \
         full memory's may be no better than guessing. To full: mean difference to full memory on the same \
         items, with its 95 % interval; ▼ and ▲ mark differences whose interval leaves out 0. Same answer: \
         share of items with the very answer of full memory."
            .to_string(),
    ];
    let folds = data.tasks.len() * data.plans.len() > MANY;
    let group = |(at, task): (usize, &&str)| Group {
        title: task.to_string(),
        note: note(data, task),
        folds,
        open: at == 0,
        table: Some(table(data, task)),
        ..Group::default()
    };
    let made: Vec<Group> = data.tasks.iter().enumerate().map(group).collect();
    groups("tasks", "Task by task", &intro, &made)
}

/// What the ceiling says about this task.
fn note(data: &Data<'_>, task: &str) -> String {
    let near =
        |length: &&usize| data.row(FULL, task, **length).is_some_and(|row| row.near_chance == Some(true));
    let near: Vec<String> = data.lengths.iter().filter(near).map(|length| count(*length)).collect();
    if near.is_empty() {
        return String::new();
    }
    format!(
        "Not used to rank at {} tokens: the full-memory score may be no better than guessing.",
        near.join(", ")
    )
}

fn table(data: &Data<'_>, task: &str) -> Table {
    let mut table = Table::new(format!("{task}: score and difference to full memory"), &["Plan"]);
    for length in &data.lengths {
        let at = format!("At {}", tokens(*length));
        let what = ["score", "to full", "same answer"];
        table.columns.extend(what.map(|what| format!("{at}: {what}")));
    }
    for (plan, name) in data.plans.iter().enumerate() {
        let mut line = vec![data.name(plan)];
        for length in &data.lengths {
            line.extend(cells(data.row(name, task, *length)));
        }
        table.lines.push(line);
    }
    table
}

/// Score, difference, share of items with the answer that full memory gave.
fn cells(row: Option<&Row>) -> [Cell; 3] {
    let Some(row) = row else {
        return [Cell::num("–"), Cell::num("–"), Cell::num("–")];
    };
    let [low, high] = row.score_ci.map(score);
    let flag = if row.near_chance == Some(true) { "faint" } else { "" };
    let diff = match (row.diff, row.ci) {
        _ if row.plan == FULL => Cell::num("ceiling"),
        (Some(diff), Some([low, high])) => {
            let (mark, class) = match (low > 0.0, high < 0.0) {
                (true, _) => (" ▲", "up"),
                (_, true) => (" ▼", "down"),
                _ => ("", ""),
            };
            let p = row.p.map(|value| format!(", {}", p(value))).unwrap_or_default();
            Cell::num(format!("{}{mark}", signed(diff)))
                .small(format!("{} to {}{p}", signed(low), signed(high)))
                .class(class)
        }
        _ => Cell::num("–"),
    };
    [
        Cell::num(score(row.score)).small(format!("{low} to {high}, n {}", count(row.n))).class(flag),
        diff,
        Cell::maybe(row.same_as_full.filter(|_| row.plan != FULL), percent),
    ]
}
