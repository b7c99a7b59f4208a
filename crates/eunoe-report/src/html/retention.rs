//! How score falls with the distance between what is asked for and the question.

use eunoe_core::Result;

use crate::stats::{mean, score_interval};
use crate::svg::{Axis, Curve, Kind, Look, Plot, Point, key};
use crate::units::{count, score};
use crate::{FULL, Line};

use super::data::{Data, Method, split};
use super::needle::with_one_depth;
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// Lags below this share the first bin; each later bin is twice as wide.
const FIRST: f64 = 128.0;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    let tasks = with_one_depth(data);
    if tasks.is_empty() {
        return Ok(None);
    }
    let intro = [format!(
        "Lag: tokens between what is asked for and the end of the prompt, (1 − depth) × tokens of the prompt, in bins that double. \
         Scores are means over the items of all lengths of {} where the full-memory score lies above guessing; bands are 95 % \
         intervals. Each chart shows one method with its budgets next to full memory.",
        tasks.join(", ")
    )];
    let most = data.lengths.last().map_or(1.0, |length| *length as f64).max(FIRST * 2.0);
    let shown = |method: &&Method<'_>| method.look != Look::FULL || data.methods.len() == 1;
    let figures = data.methods.iter().filter(shown).filter_map(|method| figure(data, method, &tasks, most)).collect();
    let made = [Group { figures, ..Group::default() }];
    groups("retention", "Score by lag", &intro, &made)
}

/// One bin of lags.
struct Bin {
    /// Geometric middle, tokens.
    lag: f64,
    scores: Vec<f64>,
}

/// Items of a plan that count, binned; empty bins left out.
fn bins(data: &Data<'_>, plan: &str, tasks: &[&str]) -> Vec<Bin> {
    let mut bins: Vec<Vec<f64>> = Vec::new();
    let counts = |line: &&Line| {
        tasks.contains(&line.task.as_str())
            && data.row(FULL, &line.task, line.length).is_none_or(|row| row.near_chance != Some(true))
    };
    for line in data.all_items(plan).filter(counts) {
        let lag = (1.0 - line.depths[0]) * line.prompt_tokens as f64;
        let at = bin(lag);
        if bins.len() <= at {
            bins.resize(at + 1, Vec::new());
        }
        bins[at].push(line.score);
    }
    let filled = bins.into_iter().enumerate().filter(|(_, scores)| !scores.is_empty());
    filled.map(|(at, scores)| Bin { lag: FIRST * 2f64.powf(at as f64 - 0.5), scores }).collect()
}

/// Number of the bin: 0 below 128, then one for each doubling.
fn bin(lag: f64) -> usize {
    if lag < FIRST { 0 } else { (lag / FIRST).log2().floor() as usize + 1 }
}

fn figure(data: &Data<'_>, method: &Method<'_>, tasks: &[&str], most: f64) -> Option<Figure> {
    let x = Axis::new("lag, tokens", Kind::Tokens, [FIRST / 2.0, most]);
    let y = Axis::new("score", Kind::Score, [0.0, 1.0]);
    let mut plot = Plot::new(format!("Score by lag: {}", method.name), (310.0, 210.0), x, y);
    let mut table = Table::new(format!("{}: mean score by lag", method.name), &["Plan", "Lag, about", "Score", "95 % interval", "n"]);
    let full = data.plans.iter().position(|plan| *plan == FULL).filter(|full| !method.plans.contains(full));
    for (dash, plan) in full.iter().chain(&method.plans).enumerate() {
        let name = data.plans[*plan];
        let bins = bins(data, name, tasks);
        let label = split(name).1.unwrap_or(split(name).0).to_string();
        let points = bins.iter().filter_map(|bin| point(name, bin)).collect();
        plot.curves.push(Curve { look: data.look(*plan), points, joined: Some(label), dash });
        table.lines.extend(bins.iter().filter_map(|bin| line(data, *plan, bin)));
    }
    if table.lines.is_empty() {
        return None;
    }
    Some(Figure { title: method.name.into(), key: key(method.look), svg: plot.svg(), table: Some(table) })
}

fn point(plan: &str, bin: &Bin) -> Option<Point> {
    let y = mean(&bin.scores)?;
    let title = format!("{plan}: {} at a lag of about {} tokens, n {}", score(y), count(bin.lag as usize), bin.scores.len());
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
    use crate::made_up;

    #[test]
    fn bins_double() {
        assert_eq!([0.0, 127.0, 128.0, 255.0, 256.0, 1024.0].map(bin), [0, 0, 1, 1, 2, 4]);
    }

    #[test]
    fn lags_by_hand() {
        let (manifest, mut lines) = made_up::small();
        // Of 1000 tokens: depth 0.5 lies 500 back (bin 256 to 511, middle 362), depth 0.9 100 back (below 128).
        lines.iter_mut().for_each(|line| line.prompt_tokens = 1000);
        lines[7].depths = vec![0.9];
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        let bins = bins(&data, "h2o @ 50%", &["needle"]);
        assert_eq!(bins.iter().map(|bin| bin.lag.round()).collect::<Vec<_>>(), [91.0, 362.0]);
        assert_eq!(bins.iter().map(|bin| bin.scores.clone()).collect::<Vec<_>>(), [vec![0.0], vec![1.0; 3]]);
    }
}
