//! One row per plan, task and length: what the lines say together.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::load::check;
use crate::stats::{self, Interval, bootstrap_mean, mcnemar, mean, score_interval};
use crate::{Line, Manifest};

/// The plan that keeps everything: the ceiling that others are compared with.
pub const FULL: &str = "full";
/// A ceiling that may lie so near to blind guessing tells nothing about plans.
const NEAR: f64 = 0.05;
/// The detail of scores that are probabilities: mean nats per token.
const NATS: &str = "nll";

/// One plan on one task at one length. Differences are paired: same task, length and sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Plan as asked for.
    pub plan: String,
    /// Task.
    pub task: String,
    /// Length asked for, in tokens.
    pub length: usize,
    /// Items.
    pub n: usize,
    /// Mean score, 0 to 1.
    pub score: f64,
    /// Its 95 % interval: Wilson's where all scores are 0 or 1, else bootstrap.
    pub score_ci: Interval,
    /// Mean score of `full` on the same items; none where it was not run on any.
    pub ceiling: Option<f64>,
    /// Mean of score - ceiling, item by item.
    pub diff: Option<f64>,
    /// Its 95 % interval, bootstrap; `[0, 0]` for `full` itself.
    pub ci: Option<Interval>,
    /// Exact McNemar p where all scores are 0 or 1.
    pub p: Option<f64>,
    /// Mean score of blind guessing.
    pub chance: f64,
    /// The interval of `full` on this task reaches down to chance + 0.05: not used to rank.
    pub near_chance: Option<bool>,
    /// The smallest difference that this n shows at 80 % power; none if not even 1.
    pub resolves: Option<f64>,
    /// Mean over items of the most hot KV bytes at any moment.
    pub kv_bytes: u64,
    /// Mean of the hot KV bytes at the end.
    pub hot_bytes: u64,
    /// Most hot KV bytes of any item at any moment.
    pub peak_bytes: u64,
    /// Mean of the cold bytes at the end.
    pub cold_bytes: u64,
    /// Mean of the bytes allowed; none where an item had no budget.
    pub budget_bytes: Option<u64>,
    /// Mean share of its rows that a strip holds at the end, 0 to 1; none for an endpoint.
    pub kept: Option<f64>,
    /// Mean share of the text so far that a query met.
    pub attended: f64,
    /// Mean tokens that a query met.
    pub attended_tokens: f64,
    /// Mean seconds of reading.
    pub prefill_s: f64,
    /// Mean seconds of answering.
    pub decode_s: f64,
    /// Means of further numbers, each over the items that have it.
    pub details: BTreeMap<String, f64>,
    /// Share of items with the very answer that `full` gave.
    pub same_as_full: Option<f64>,
}

/// An item: task, length, sample.
pub(crate) type Item<'a> = (&'a str, usize, usize);

pub(crate) fn item(line: &Line) -> Item<'_> {
    (&line.task, line.length, line.sample)
}

/// Lines by plan, task and length; of equal samples the last counts. Lines that [`load`](crate::load()) would
/// refuse are left out.
pub(crate) struct Book<'a> {
    cells: HashMap<(&'a str, &'a str, usize), Vec<&'a Line>>,
    full: HashMap<Item<'a>, &'a Line>,
}

impl<'a> Book<'a> {
    pub(crate) fn new(lines: &'a [Line]) -> Self {
        let mut seen = HashSet::new();
        let mut book = Self { cells: HashMap::new(), full: HashMap::new() };
        for line in lines.iter().rev().filter(|line| check(line).is_ok()) {
            if seen.insert((&line.plan, item(line))) {
                book.cells.entry((&line.plan, &line.task, line.length)).or_default().push(line);
                if line.plan == FULL {
                    book.full.insert(item(line), line);
                }
            }
        }
        book.cells.values_mut().for_each(|lines| lines.sort_by_key(|line| line.sample));
        book
    }

    /// Items of a cell by sample.
    pub(crate) fn cell<'b>(&'b self, plan: &'b str, task: &'b str, length: usize) -> &'b [&'a Line] {
        // Keys that live as long as the question.
        let cells: &HashMap<(&'b str, &'b str, usize), Vec<&'a Line>> = &self.cells;
        cells.get(&(plan, task, length)).map_or(&[], Vec::as_slice)
    }

    /// What `full` did with the same item.
    pub(crate) fn full(&self, line: &Line) -> Option<&'a Line> {
        self.full.get(&item(line)).copied()
    }
}

/// Plans, tasks and lengths in the order of the manifest; what only the lines name comes after, in their
/// order.
pub(crate) fn axes<'a>(
    manifest: &'a Manifest,
    lines: &'a [Line],
) -> (Vec<&'a str>, Vec<&'a str>, Vec<usize>) {
    let mut plans: Vec<&str> =
        manifest.plans.iter().chain(lines.iter().map(|line| &line.plan)).map(String::as_str).collect();
    let mut tasks: Vec<&str> =
        manifest.tasks.iter().chain(lines.iter().map(|line| &line.task)).map(String::as_str).collect();
    let mut lengths: Vec<usize> =
        manifest.lengths.iter().copied().chain(lines.iter().map(|line| line.length)).collect();
    distinct(&mut plans);
    distinct(&mut tasks);
    distinct(&mut lengths);
    (plans, tasks, lengths)
}

/// Keeps the first of equals.
fn distinct<T: Copy + Eq + std::hash::Hash>(values: &mut Vec<T>) {
    let mut seen = HashSet::new();
    values.retain(|value| seen.insert(*value));
}

/// One row per plan, task and length that has items, in the order of the manifest.
pub fn rows(manifest: &Manifest, lines: &[Line]) -> Vec<Row> {
    let book = Book::new(lines);
    let (plans, tasks, lengths) = axes(manifest, lines);
    let mut rows = Vec::new();
    for plan in plans {
        for &task in &tasks {
            rows.extend(lengths.iter().filter_map(|length| row(&book, plan, task, *length)));
        }
    }
    rows
}

fn row(book: &Book<'_>, plan: &str, task: &str, length: usize) -> Option<Row> {
    let lines = book.cell(plan, task, length);
    let of = |f: &dyn Fn(&Line) -> f64| mean(&lines.iter().map(|line| f(line)).collect::<Vec<_>>());
    let bytes = |f: &dyn Fn(&Line) -> u64| of(&|line| f(line) as f64).map(|mean| mean.round() as u64);
    let scores: Vec<f64> = lines.iter().map(|line| line.score).collect();
    let versus = Versus::new(book, lines, plan);
    Some(Row {
        plan: plan.to_string(),
        task: task.to_string(),
        length,
        n: lines.len(),
        score: mean(&scores)?,
        score_ci: score_interval(&scores),
        ceiling: versus.ceiling,
        diff: versus.diff,
        ci: versus.ci,
        p: versus.p,
        chance: of(&|line| line.chance)?,
        near_chance: near_chance(book.cell(FULL, task, length)),
        resolves: versus.resolves,
        kv_bytes: bytes(&|line| line.peak_bytes)?,
        hot_bytes: bytes(&|line| line.hot_bytes)?,
        peak_bytes: lines.iter().map(|line| line.peak_bytes).max()?,
        cold_bytes: bytes(&|line| line.cold_bytes)?,
        budget_bytes: bytes(&|line| line.budget_bytes.unwrap_or(0))
            .filter(|_| lines.iter().all(|line| line.budget_bytes.is_some())),
        kept: kept(lines),
        attended: of(&|line| line.attended)?,
        attended_tokens: of(&|line| line.attended_tokens)?,
        prefill_s: of(&|line| line.prefill_s)?,
        decode_s: of(&|line| line.decode_s)?,
        details: details(lines),
        same_as_full: versus.same,
    })
}

/// A plan against `full` on the same items.
#[derive(Default)]
struct Versus {
    ceiling: Option<f64>,
    diff: Option<f64>,
    ci: Option<Interval>,
    p: Option<f64>,
    resolves: Option<f64>,
    same: Option<f64>,
}

impl Versus {
    fn new(book: &Book<'_>, lines: &[&Line], plan: &str) -> Self {
        let pairs: Vec<(&Line, &Line)> =
            lines.iter().filter_map(|line| Some((*line, book.full(line)?))).collect();
        let diffs: Vec<f64> = pairs.iter().map(|(line, full)| line.score - full.score).collect();
        let ceilings: Vec<f64> = pairs.iter().map(|(_, full)| full.score).collect();
        let same: Vec<f64> = pairs.iter().map(|(line, full)| f64::from(line.given == full.given)).collect();
        let is_binary =
            stats::is_binary(&ceilings) && pairs.iter().all(|(line, _)| stats::is_binary(&[line.score]));
        let count = |sign: f64| diffs.iter().filter(|diff| **diff * sign > 0.0).count();
        let resolves = stats::resolves(&diffs, is_binary);
        Self {
            ceiling: mean(&ceilings),
            diff: mean(&diffs),
            ci: bootstrap_mean(&diffs),
            p: (is_binary && !pairs.is_empty()).then(|| mcnemar(count(1.0), count(-1.0))),
            // `full` against itself has no difference to show.
            resolves: resolves.filter(|_| plan != FULL),
            same: mean(&same),
        }
    }
}

/// Whether the interval of the full-memory scores reaches down to chance + 0.05; none without items. A probability per token
/// is far above guessing though it is small.
fn near_chance(full: &[&Line]) -> Option<bool> {
    if !full.is_empty() && full.iter().all(|line| line.details.contains_key(NATS)) {
        return Some(false);
    }
    let scores: Vec<f64> = full.iter().map(|line| line.score).collect();
    let chance = mean(&full.iter().map(|line| line.chance).collect::<Vec<_>>())?;
    Some(score_interval(&scores)[0] <= chance + NEAR)
}

/// Mean over items of the mean over strips.
fn kept(lines: &[&Line]) -> Option<f64> {
    let share =
        |line: &&Line| mean(&line.kept.iter().map(|kept| f64::from(*kept) / 1000.0).collect::<Vec<_>>());
    mean(&lines.iter().filter_map(share).collect::<Vec<_>>())
}

fn details(lines: &[&Line]) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in lines.iter().flat_map(|line| &line.details) {
        all.entry(name).or_default().push(*value);
    }
    all.into_iter().filter_map(|(name, values)| Some((name.to_string(), mean(&values)?))).collect()
}

#[cfg(test)]
mod tests;
