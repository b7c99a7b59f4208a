//! How plans stand at a length: over the tasks that count, relative to full memory, and at which bytes.

use crate::stats::{Interval, bootstrap_ratio, mean};
use crate::{FULL, Row};

use super::data::Data;

/// Plans whose allowed bytes differ by less than this share are compared.
const EQUAL: f64 = 0.03;

/// One plan at one length.
pub(super) struct Standing<'a> {
    /// Its number.
    pub(super) plan: usize,
    pub(super) name: &'a str,
    pub(super) length: usize,
    /// Tasks that count and that it has items of.
    pub(super) tasks: usize,
    /// Items of them that full memory has too.
    pub(super) n: usize,
    /// Mean over tasks of the score divided by that of full memory on the same items, so that every task counts the same.
    pub(super) ratio: f64,
    pub(super) interval: Interval,
    /// Mean of the most hot bytes, and its share of full memory's.
    pub(super) kv_bytes: f64,
    pub(super) used: Option<f64>,
    /// Share of full memory's bytes that it was allowed; the used share without a budget.
    pub(super) allowed: Option<f64>,
    /// Mean seconds of an item.
    pub(super) seconds: f64,
}

/// Plans at equal bytes.
pub(super) struct Class<'s, 'a> {
    /// Mean of the allowed shares; none where bytes are unknown.
    pub(super) share: Option<f64>,
    /// Best first.
    pub(super) standings: Vec<&'s Standing<'a>>,
}

/// Every plan at every length, in order of length, then plan.
pub(super) fn all<'a>(data: &Data<'a>) -> Vec<Standing<'a>> {
    let mut standings = Vec::new();
    for length in &data.lengths {
        let counted = data.counted(*length);
        standings.extend((0..data.plans.len()).filter_map(|plan| standing(data, plan, *length, &counted)));
    }
    standings
}

fn standing<'a>(data: &Data<'a>, plan: usize, length: usize, counted: &[&str]) -> Option<Standing<'a>> {
    let name = data.plans[plan];
    let pairs_of = |task: &&str| -> Vec<(f64, f64)> {
        let items = data.items(name, task, length).iter();
        items.filter_map(|line| Some((line.score, data.full(line)?.score))).collect()
    };
    let tasks: Vec<&str> = counted.iter().copied().filter(|task| !pairs_of(task).is_empty()).collect();
    let strata: Vec<Vec<(f64, f64)>> = tasks.iter().map(|task| scaled(pairs_of(task))).collect();
    let sum = |pick: fn(&(f64, f64)) -> f64| {
        strata.iter().filter_map(|pairs| mean(&pairs.iter().map(pick).collect::<Vec<_>>())).sum::<f64>()
    };
    let rows_of = |plan: &'a str| -> Vec<&Row> {
        tasks.iter().filter_map(|task| data.row(plan, task, length)).collect()
    };
    let over = |rows: &[&Row], f: fn(&Row) -> f64| mean(&rows.iter().map(|row| f(row)).collect::<Vec<_>>());
    let (rows, full) = (rows_of(name), rows_of(FULL));
    let kv_bytes = over(&rows, |row| row.kv_bytes as f64)?;
    let whole = over(&full, |row| row.kv_bytes as f64).filter(|bytes| *bytes > 0.0);
    let budget = rows.iter().map(|row| Some(row.budget_bytes? as f64)).collect::<Option<Vec<_>>>();
    let budget = budget.and_then(|budgets| mean(&budgets));
    let used = whole.map(|whole| kv_bytes / whole);
    Some(Standing {
        plan,
        name,
        length,
        tasks: tasks.len(),
        n: strata.iter().map(Vec::len).sum(),
        ratio: Some(sum(|pair| pair.0) / sum(|pair| pair.1)).filter(|ratio| ratio.is_finite())?,
        interval: if name == FULL { [1.0, 1.0] } else { bootstrap_ratio(&strata)? },
        kv_bytes,
        used,
        // More than the whole text cannot be used.
        allowed: whole.and_then(|whole| budget.map(|budget| (budget / whole).min(1.0))).or(used),
        seconds: over(&rows, |row| row.prefill_s + row.decode_s)?,
    })
}

/// Pairs of scores of a task, in units of what full memory scores on it.
fn scaled(pairs: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let full = pairs.iter().map(|pair| pair.1).sum::<f64>() / pairs.len().max(1) as f64;
    let unit = if full > 0.0 { full } else { 1.0 };
    pairs.into_iter().map(|(score, full)| (score / unit, full / unit)).collect()
}

/// Plans in classes of equal bytes, most bytes first; within a class best first.
pub(super) fn classes<'s, 'a>(standings: &'s [Standing<'a>], length: usize) -> Vec<Class<'s, 'a>> {
    let mut here: Vec<&Standing<'_>> =
        standings.iter().filter(|standing| standing.length == length).collect();
    here.sort_by(|a, b| b.allowed.unwrap_or(0.0).total_cmp(&a.allowed.unwrap_or(0.0)));
    let mut classes: Vec<Vec<&Standing<'_>>> = Vec::new();
    for standing in here {
        let fits = |class: &&mut Vec<&Standing<'_>>| match (class[0].allowed, standing.allowed) {
            (Some(first), Some(allowed)) => allowed >= first * (1.0 - EQUAL),
            (first, allowed) => first == allowed,
        };
        match classes.last_mut().filter(fits) {
            Some(class) => class.push(standing),
            None => classes.push(vec![standing]),
        }
    }
    let class = |mut standings: Vec<&'s Standing<'a>>| {
        standings.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
        let shares: Option<Vec<f64>> = standings.iter().map(|standing| standing.allowed).collect();
        Class { share: shares.and_then(|shares| mean(&shares)), standings }
    };
    classes.into_iter().map(class).collect()
}

impl Standing<'_> {
    /// Whether the items leave open which of the two is better.
    pub(super) fn ties(&self, other: &Self) -> bool {
        self.interval[1] >= other.interval[0] && other.interval[1] >= self.interval[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{self, line};

    #[test]
    fn a_standing_by_hand() {
        let mut lines = Vec::new();
        // Ten items each; full has 10 and 8 right, `a` 5 and 8; `hard` has no ceiling and does not count.
        for (plan, task, right) in [
            (FULL, "x", 10),
            (FULL, "y", 8),
            (FULL, "hard", 0),
            ("a @ 50%", "x", 5),
            ("a @ 50%", "y", 8),
            ("a @ 50%", "hard", 9),
        ] {
            lines.extend((0..10).map(|i| line(plan, task, 100, i, f64::from(u8::from(i < right)))));
        }
        let manifest = made_up::manifest(&[FULL, "a @ 50%"], &["x", "y", "hard"], &[100], 10);
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        let all = all(&data);
        assert_eq!(data.counted(100), ["x", "y"]);
        let a = &all[1];
        // (0.5 / 1 + 0.8 / 0.8) / 2 = 0.75; 500 of 1000 bytes; 2 s + 1 s.
        assert!((a.ratio - 0.75).abs() < 1e-12);
        assert!(
            a.interval[0] > 0.5 && a.interval[0] < a.ratio && a.ratio < a.interval[1] && a.interval[1] < 0.92
        );
        assert_eq!((a.tasks, a.n, a.used, a.allowed, a.seconds), (2, 20, Some(0.5), Some(0.5), 3.0));
        let classes = classes(&all, 100);
        assert_eq!(classes.iter().map(|class| class.share).collect::<Vec<_>>(), [Some(1.0), Some(0.5)]);
    }

    fn at(name: &'static str, allowed: Option<f64>, ratio: f64) -> Standing<'static> {
        let interval = [ratio - 0.1, ratio + 0.1];
        Standing {
            plan: 0,
            name,
            length: 1,
            tasks: 1,
            n: 1,
            ratio,
            interval,
            kv_bytes: 1.0,
            used: allowed,
            allowed,
            seconds: 1.0,
        }
    }

    #[test]
    fn a_plan_with_few_items_is_not_dropped() {
        // One of three right still counts (Wilson's lower end is 0.06); resamples without a hit have no ratio.
        let mut lines: Vec<_> =
            (0..3).map(|i| line(FULL, "x", 100, i, f64::from(u8::from(i == 0)))).collect();
        lines.extend((0..3).map(|i| line("a", "x", 100, i, f64::from(u8::from(i == 0)))));
        let manifest = made_up::manifest(&[FULL, "a"], &["x"], &[100], 3);
        let rows = crate::rows(&manifest, &lines);
        let all = all(&Data::new(&manifest, &rows, &lines));
        assert_eq!((all.len(), all[1].ratio, all[1].interval), (2, 1.0, [1.0, 1.0]));
    }

    #[test]
    fn classes_hold_plans_within_three_percent() {
        let all = [
            at("a", Some(0.25), 0.5),
            at("b", Some(0.243), 0.9),
            at("c", Some(0.242), 0.7),
            at("d", None, 0.1),
        ];
        let names: Vec<Vec<&str>> =
            classes(&all, 1).iter().map(|class| class.standings.iter().map(|s| s.name).collect()).collect();
        // 0.25 * 0.97 = 0.2425 parts b from c.
        assert_eq!(names, [vec!["b", "a"], vec!["c"], vec!["d"]]);
        assert!(all[0].ties(&at("e", None, 0.69)) && !all[0].ties(&at("e", None, 0.71)));
    }
}
