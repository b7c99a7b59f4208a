//! How score falls with the distance between what is asked for and the question.

use eunoe_core::Result;

use crate::stats::{mean, score_interval};
use crate::svg::{Axis, Curve, Form, Kind, Look, Plot, Point, key};
use crate::units::{count, score};
use crate::{FULL, Line};

use super::data::{Data, Method, split};
use super::needle::with_one_depth;
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// Items that make a bin.
const FEW: usize = 8;
/// Lags below this share the first bin; each later bin is twice as wide.
const FIRST: f64 = 128.0;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    let tasks = with_one_depth(data);
    if tasks.is_empty() {
        return Ok(None);
    }
    let intro = [format!(
        "Lag: tokens between what is asked for and the end of the prompt, (1 − depth) × tokens of the \
         prompt, in bins that double and hold at least eight items. Scores are means over the items of all \
         lengths of {} where the full-memory score lies above guessing; bands are 95 % intervals. Each chart \
         shows one method with its budgets next to full memory.",
        tasks.join(", ")
    )];
    let lags = data.plans.iter().flat_map(|plan| bins(data, plan, &tasks)).map(|bin| bin.lag);
    let x = Axis::over("lag, tokens", Kind::Tokens, lags);
    let shown = |method: &&Method<'_>| method.look != Look::FULL || data.methods.len() == 1;
    let figures =
        data.methods.iter().filter(shown).filter_map(|method| figure(data, method, &tasks, &x)).collect();
    let made = [Group { figures, size: "medium", ..Group::default() }];
    groups("retention", "Score by lag", &intro, &made)
}

/// One bin of lags.
struct Bin {
    /// Geometric mean, tokens.
    lag: f64,
    scores: Vec<f64>,
}

/// Items of a plan that count, binned by lag; a bin of few items goes with the next, the last with the one
/// before.
fn bins(data: &Data<'_>, plan: &str, tasks: &[&str]) -> Vec<Bin> {
    let counts = |line: &&Line| {
        tasks.contains(&line.task.as_str())
            && data.row(FULL, &line.task, line.length).is_none_or(|row| row.near_chance != Some(true))
    };
    let lag = |line: &Line| (1.0 - line.depths[0]) * line.prompt_tokens as f64;
    let mut items: Vec<(f64, f64)> =
        data.all_items(plan).filter(counts).map(|line| (lag(line), line.score)).collect();
    items.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut bins: Vec<Vec<(f64, f64)>> = Vec::new();
    for bin in items.chunk_by(|a, b| bin(a.0) == bin(b.0)) {
        match bins.last_mut().filter(|last| last.len() < FEW) {
            Some(last) => last.extend(bin),
            None => bins.push(bin.to_vec()),
        }
    }
    if bins.len() > 1 && bins.last().is_some_and(|last| last.len() < FEW) {
        let few = bins.pop().unwrap_or_default();
        bins.last_mut().into_iter().for_each(|last| last.extend(&few));
    }
    let merged = |items: Vec<(f64, f64)>| {
        let logs: Vec<f64> = items.iter().map(|(lag, _)| lag.max(1.0).ln()).collect();
        Some(Bin { lag: mean(&logs)?.exp(), scores: items.iter().map(|(_, score)| *score).collect() })
    };
    bins.into_iter().filter_map(merged).collect()
}

/// Number of the bin: 0 below 128, then one for each doubling.
fn bin(lag: f64) -> usize {
    if lag < FIRST { 0 } else { (lag / FIRST).log2().floor() as usize + 1 }
}

fn figure(data: &Data<'_>, method: &Method<'_>, tasks: &[&str], x: &Axis) -> Option<Figure> {
    let y = Axis::new("score", Kind::Score, [0.0, 1.0]);
    let mut plot = Plot::new(format!("Score by lag: {}", method.name), (310.0, 210.0), x.clone(), y);
    let mut table = Table::new(
        format!("{}: mean score by lag", method.name),
        &["Plan", "Lag, about", "Score", "95 % interval", "n"],
    );
    let full = data.plans.iter().position(|plan| *plan == FULL).filter(|full| !method.plans.contains(full));
    for (dash, plan) in full.iter().chain(&method.plans).enumerate() {
        let name = data.plans[*plan];
        let bins = bins(data, name, tasks);
        // the chart's title has the whole name
        let (method, budget) = split(name);
        let label = budget.unwrap_or_else(|| method.split('(').next().unwrap_or(method)).to_string();
        let points = bins.iter().filter_map(|bin| point(name, bin)).collect();
        plot.curves.push(Curve {
            look: data.look(*plan),
            points,
            joined: Some(label),
            form: Form::Band(dash),
        });
        table.lines.extend(bins.iter().filter_map(|bin| line(data, *plan, bin)));
    }
    if table.lines.is_empty() {
        return None;
    }
    Some(Figure {
        title: method.name.into(),
        key: key(method.look),
        svg: plot.svg(),
        table: Some(table),
        ..Figure::default()
    })
}

fn point(plan: &str, bin: &Bin) -> Option<Point> {
    let y = mean(&bin.scores)?;
    let title = format!(
        "{plan}: {} at a lag of about {} tokens, n {}",
        score(y),
        count(bin.lag as usize),
        bin.scores.len()
    );
    Some(Point { x: bin.lag, y, range: Some(score_interval(&bin.scores)), label: None, title })
}

fn line(data: &Data<'_>, plan: usize, bin: &Bin) -> Option<Vec<Cell>> {
    let [low, high] = score_interval(&bin.scores).map(score);
    Some(vec![
        data.name(plan),
        Cell::num(count(bin.lag as usize)),
        Cell::num(score(mean(&bin.scores)?)),
        Cell::num(format!("{low} to {high}")),
        Cell::num(count(bin.scores.len())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{self, line};

    #[test]
    fn bins_double() {
        assert_eq!([0.0, 127.0, 128.0, 255.0, 256.0, 1024.0].map(bin), [0, 0, 1, 1, 2, 4]);
    }

    /// Lags (rounded) and scores of bins, given tokens between needle and end, and scores.
    fn bins_of(items: &[(usize, f64)]) -> Vec<(f64, Vec<f64>)> {
        let mut lines: Vec<Line> = (0..items.len()).map(|i| line(FULL, "needle", 100, i, 1.0)).collect();
        lines.extend(items.iter().enumerate().map(|(i, (_, score))| line("b", "needle", 100, i, *score)));
        for line in &mut lines {
            (line.depths, line.prompt_tokens) = (vec![0.0], items[line.sample].0);
        }
        let manifest = made_up::manifest(&[FULL, "b"], &["needle"], &[100], items.len());
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        bins(&data, "b", &["needle"]).into_iter().map(|bin| (bin.lag.round(), bin.scores)).collect()
    }

    #[test]
    fn lags_by_hand() {
        // Eight at 100, eight at 200, one at 5000 that goes with those before.
        let near = [(100, 1.0); 8];
        let far = [(200, 0.0); 8];
        let items = [near.as_slice(), &far].concat();
        assert_eq!(bins_of(&items), [(100.0, vec![1.0; 8]), (200.0, vec![0.0; 8])]);
        // (200^8 * 5000)^(1/9) = 200 * 25^(1/9) = 286.
        let more = [items.as_slice(), &[(5000, 1.0)]].concat();
        assert_eq!(bins_of(&more)[1], (286.0, [vec![0.0; 8], vec![1.0]].concat()));
        // Few at first: all in one bin; the geometric mean of 100 and 400 is 200.
        assert_eq!(bins_of(&[(100, 1.0), (400, 0.0)]), [(200.0, vec![1.0, 0.0])]);
    }

    #[test]
    fn depth_counts_from_the_start() {
        let (manifest, mut lines) = made_up::small();
        // (1 - 0.9) * 1000.
        lines.iter_mut().for_each(|line| (line.depths, line.prompt_tokens) = (vec![0.9], 1000));
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        assert_eq!(bins(&data, FULL, &["needle"])[0].lag.round(), 100.0);
    }
}
