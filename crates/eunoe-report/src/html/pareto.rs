//! Quality against bytes and against seconds.

use eunoe_core::Result;

use crate::svg::{Axis, Curve, Kind, Plot, Point};
use crate::units::{bytes, count, percent, seconds};

use super::data::Data;
use super::parts::{Cell, Figure, Group, Section, Table, groups};
use super::standing::Standing;

pub(super) fn section(data: &Data<'_>, standings: &[Standing<'_>]) -> Result<Option<Section>> {
    if standings.is_empty() {
        return Ok(None);
    }
    let intro = [
        "Each point is a plan: how much of full memory's score it keeps (mean over the tasks that count) against what it takes. \
         The upper left is best. The thin line is the front: no plan is both better and cheaper than one on it. Whiskers are \
         95 % intervals; points whose name found no room have it in the table and on hover."
            .to_string(),
    ];
    let made: Vec<Group> = data
        .lengths
        .iter()
        .filter(|length| standings.iter().any(|standing| standing.length == **length))
        .map(|length| {
            let here: Vec<&Standing<'_>> = standings.iter().filter(|standing| standing.length == *length).collect();
            let figures = [figure(data, &here, Cost::Bytes), figure(data, &here, Cost::Seconds)];
            Group {
                title: format!("At {} tokens", count(*length)),
                legend: data.legend(),
                figures: figures.into_iter().flatten().collect(),
                ..Group::default()
            }
        })
        .collect();
    groups("pareto", "Quality against cost", &intro, &made)
}

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
    let y = Axis::over("mean score, share of full memory", Kind::Share, here.iter().map(|s| s.ratio));
    let name = format!("{title} at {} tokens, {} plans", count(here.first()?.length), here.len());
    let mut plot = Plot::new(name, (560.0, 400.0), x, y);
    plot.level = Some(1.0);
    plot.front = front(here.iter().map(|standing| (cost.of(standing), standing.ratio)));
    plot.curves = here.iter().map(|standing| curve(data, standing, cost)).collect();
    Some(Figure { title: title.into(), svg: plot.svg(), table: Some(table(data, here)), ..Figure::default() })
}

fn curve(data: &Data<'_>, standing: &Standing<'_>, cost: Cost) -> Curve {
    let [low, high] = standing.interval;
    let title = format!(
        "{}: {} of full ({} to {}), {}, {}",
        standing.name,
        percent(standing.ratio),
        percent(low),
        percent(high),
        bytes(standing.kv_bytes),
        seconds(standing.seconds)
    );
    let point = Point {
        x: cost.of(standing),
        y: standing.ratio,
        range: Some(standing.interval),
        label: Some(standing.name.to_string()),
        title,
    };
    Curve { look: data.look(standing.plan), points: vec![point], joined: None, dash: 0 }
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
    let mut table = Table::new("Plans", &["Plan", "Score, share of full", "95 % interval", "KV bytes", "Time per item"]);
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
        // (2, 0.5) is worse and dearer than (1, 0.6); of the two at 3 the better stays; (4, 0.9) is no better.
        let points = [(3.0, 0.9), (1.0, 0.6), (2.0, 0.5), (3.0, 0.7), (4.0, 0.9), (0.0, 1.0)];
        assert_eq!(front(points.into_iter()), [(1.0, 0.6), (3.0, 0.9)]);
        assert!(front(std::iter::empty()).is_empty());
    }
}
