//! Quality against bytes and against seconds.

use eunoe_core::Result;

use crate::FULL;
use crate::svg::{Axis, Curve, Form, Kind, Plot, Point};
use crate::units::{bytes, count, percent, seconds};

use super::data::{Data, Method};
use super::parts::{Cell, Figure, Group, Section, Table, groups};
use super::standing::Standing;

pub(super) fn section(data: &Data<'_>, standings: &[Standing<'_>]) -> Result<Option<Section>> {
    if standings.is_empty() {
        return Ok(None);
    }
    let intro =
        ["Each point is a plan: how much of full memory's score it keeps (mean over the tasks that count) \
         against what it takes. The upper left is best. Thin lines join the budgets of a method, whose name \
         stands at the right; whiskers are 95 % intervals. The strong line is the front: no plan is both \
         better and cheaper than one on it."
            .to_string()];
    let folds = data.lengths.len() > 2;
    let last = standings.last().map(|standing| standing.length);
    let made: Vec<Group> = data
        .lengths
        .iter()
        .filter(|length| standings.iter().any(|standing| standing.length == **length))
        .map(|length| {
            let here: Vec<&Standing<'_>> =
                standings.iter().filter(|standing| standing.length == *length).collect();
            let figures = [figure(data, &here, Cost::Bytes), figure(data, &here, Cost::Seconds)];
            Group {
                title: format!("At {} tokens", count(*length)),
                legend: if data.methods.len() > NAMED { data.legend() } else { Vec::new() },
                folds,
                open: Some(*length) == last,
                figures: figures.into_iter().flatten().collect(),
                ..Group::default()
            }
        })
        .collect();
    groups("pareto", "Quality against cost", &intro, &made)
}

/// Methods whose names find room at the right of a chart.
const NAMED: usize = 26;

#[derive(Clone, Copy)]
enum Cost {
    Bytes,
    Seconds,
}

impl Cost {
    fn of(self, standing: &Standing<'_>) -> f64 {
        match self {
            Self::Bytes => standing.kv_bytes,
            Self::Seconds => standing.seconds,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Bytes => "KV bytes at their peak, mean of items",
            Self::Seconds => "seconds per item, reading and answering",
        }
    }
}

/// None where no plan has a cost, as bytes at an endpoint.
fn figure(data: &Data<'_>, here: &[&Standing<'_>], cost: Cost) -> Option<Figure> {
    let costs: Vec<f64> = here.iter().map(|standing| cost.of(standing)).filter(|cost| *cost > 0.0).collect();
    if costs.is_empty() {
        return None;
    }
    let title = match cost {
        Cost::Bytes => "Quality against KV bytes",
        Cost::Seconds => "Quality against time",
    };
    let kind = if matches!(cost, Cost::Bytes) { Kind::Bytes } else { Kind::Seconds };
    let x = Axis::over(cost.label(), kind, costs.into_iter());
    let y = Axis::over(
        "share of full memory's score, mean of tasks",
        Kind::Share,
        here.iter().flat_map(|s| s.interval),
    );
    let name = format!("{title} at {} tokens, {} plans", count(here.first()?.length), here.len());
    let mut plot = Plot::new(name, (860.0, 400.0), x, y);
    plot.level = Some(1.0);
    plot.front = front(here.iter().map(|standing| (cost.of(standing), standing.ratio)));
    let named = data.methods.len() <= NAMED;
    let curves = data.methods.iter().filter_map(|method| curve(method, here, cost, &plot.front, named));
    plot.curves = curves.collect();
    Some(Figure { title: title.into(), svg: plot.svg(), table: Some(table(data, here)), ..Figure::default() })
}

/// The plans of a method, fewest bytes first; those on the front are named.
fn curve(
    method: &Method<'_>,
    here: &[&Standing<'_>],
    cost: Cost,
    front: &[(f64, f64)],
    named: bool,
) -> Option<Curve> {
    let mut own: Vec<&Standing<'_>> =
        here.iter().copied().filter(|one| method.plans.contains(&one.plan)).collect();
    own.sort_by(|a, b| a.kv_bytes.total_cmp(&b.kv_bytes));
    let point = |standing: &&Standing<'_>| {
        let [low, high] = standing.interval.map(percent);
        let share = percent(standing.ratio);
        let (bytes, seconds) = (bytes(standing.kv_bytes), seconds(standing.seconds));
        let on_front = front.contains(&(cost.of(standing), standing.ratio)) && standing.name != FULL;
        Point {
            x: cost.of(standing),
            y: standing.ratio,
            range: Some(standing.interval),
            label: on_front.then(|| standing.name.to_string()),
            title: format!("{}: {share} of full ({low} to {high}), {bytes}, {seconds}", standing.name),
        }
    };
    let points: Vec<Point> = own.iter().map(point).collect();
    let joined = Some(method.name.to_string()).filter(|_| named);
    (!points.is_empty()).then_some(Curve { look: method.look, points, joined, form: Form::Thread })
}

/// Points that no other beats in both: cheapest first, each better than the one before.
fn front(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = points.filter(|(cost, _)| *cost > 0.0).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut front: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if front.last().is_none_or(|last| point.1 > last.1) {
            front.push(point);
        }
    }
    front
}

fn table(data: &Data<'_>, here: &[&Standing<'_>]) -> Table {
    let mut table =
        Table::new("Plans", &["Plan", "Score, share of full", "95 % interval", "KV bytes", "Time per item"]);
    for standing in here {
        let [low, high] = standing.interval.map(percent);
        table.lines.push(vec![
            data.name(standing.plan),
            Cell::num(percent(standing.ratio)),
            Cell::num(format!("{low} to {high}")),
            Cell::num(bytes(standing.kv_bytes)),
            Cell::num(seconds(standing.seconds)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_the_front_is_beaten() {
        // (2, 0.5) is worse and dearer than (1, 0.6); of the two at 3 the better stays; (4, 0.9) is no
        // better.
        let points = [(3.0, 0.9), (1.0, 0.6), (2.0, 0.5), (3.0, 0.7), (4.0, 0.9), (0.0, 1.0)];
        assert_eq!(front(points.into_iter()), [(1.0, 0.6), (3.0, 0.9)]);
        assert!(front(std::iter::empty()).is_empty());
    }
}
