//! Where in the text something stands, and whether it is found.

use eunoe_core::Result;

use crate::stats::mean;
use crate::svg;
use crate::units::{count, score, tokens};

use super::data::Data;
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// Bins of depth.
const BINS: usize = 10;
/// More maps than this and tasks after the first are folded.
const MANY: usize = 12;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    let tasks = with_one_depth(data);
    if tasks.is_empty() {
        return Ok(None);
    }
    let intro = [
        "For tasks that ask for one thing: the mean score (in hundredths) by where it stands in the text, 0 \
         % at the start, and by length. n counts the items of a cell; a cell of few items says little."
            .to_string(),
    ];
    let folds = tasks.len() * data.plans.len() > MANY;
    let group = |(at, task): (usize, &&str)| Group {
        title: task.to_string(),
        folds,
        open: at == 0,
        size: "medium",
        scale: svg::scale("0", "1"),
        figures: (0..data.plans.len()).filter_map(|plan| figure(data, plan, task)).collect(),
        ..Group::default()
    };
    let made: Vec<Group> = tasks.iter().enumerate().map(group).collect();
    groups("depth", "Score by depth", &intro, &made)
}

/// Tasks whose items have exactly one depth.
pub(super) fn with_one_depth<'a>(data: &Data<'a>) -> Vec<&'a str> {
    let one = |task: &&str| {
        let mut items = data
            .plans
            .iter()
            .flat_map(|plan| data.all_items(plan))
            .filter(|line| line.task == **task)
            .peekable();
        items.peek().is_some() && items.all(|line| line.depths.len() == 1)
    };
    data.tasks.iter().copied().filter(one).collect()
}

/// Scores of a plan by length and depth; no figure without items.
fn figure(data: &Data<'_>, plan: usize, task: &str) -> Option<Figure> {
    let name = data.plans[plan];
    let mut cells = Vec::new();
    let mut table = Table::new(format!("{task}, {name}: mean score and items by depth"), &["Tokens"]);
    table.columns.extend((0..BINS).map(|bin| format!("{} to {} %", bin * 10, bin * 10 + 10)));
    for length in &data.lengths {
        let mut scores = vec![Vec::new(); BINS];
        for line in data.items(name, task, *length) {
            if let [depth] = line.depths[..] {
                scores[((depth * BINS as f64) as usize).min(BINS - 1)].push(line.score);
            }
        }
        let row: Vec<Option<svg::Cell>> = scores.iter().map(|scores| cell(scores)).collect();
        let mut line = vec![Cell::head(count(*length), String::new())];
        line.extend(row.iter().map(|cell| match cell {
            Some(cell) => Cell::num(score(cell.value)).small(cell.below.clone()),
            None => Cell::num("–"),
        }));
        table.lines.push(line);
        cells.push(row);
    }
    if cells.iter().flatten().all(Option::is_none) {
        return None;
    }
    let heat = svg::Heat {
        name: format!("{task}, {name}: mean score by length and depth"),
        rows: data.lengths.iter().map(|length| tokens(*length)).collect(),
        edges: [0, 2, 4, 6, 8, 10].map(|edge| (f64::from(edge), format!("{} %", edge * 10))).to_vec(),
        x: "depth in the text".into(),
        y: "tokens".into(),
        cells,
    };
    let key = svg::key(data.look(plan));
    Some(Figure { title: name.into(), key, svg: heat.svg(), table: Some(table), ..Figure::default() })
}

fn cell(scores: &[f64]) -> Option<svg::Cell> {
    let value = mean(scores)?;
    let n = scores.len();
    let title = format!("score {}, {}", score(value), crate::units::counted(n, "item"));
    Some(svg::Cell { value, text: format!("{:.0}", value * 100.0), below: format!("n {n}"), title })
}
