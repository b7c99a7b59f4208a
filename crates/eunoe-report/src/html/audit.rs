//! What the audit said, and whether it was right.

use std::collections::BTreeMap;

use eunoe_core::Result;
use serde_json::Value;

use crate::Line;
use crate::stats::{auroc, mean, quantile, reliability};
use crate::svg::{Axis, Curve, Form, Kind, Look, Plot, Point};
use crate::units::{count, number, percent, score};

use super::data::Data;
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// A plan lost an item if full memory scored so much more on it.
const LOST: f64 = 0.5;
const RISK: &str = "risk";
/// Reads a number of an item.
type Of = fn(&Line) -> Option<f64>;
/// Bins of the reliability diagram.
const BINS: usize = 10;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    let audited: Vec<(usize, Vec<&Line>)> = (0..data.plans.len())
        .map(|plan| {
            (plan, data.all_items(data.plans[plan]).filter(|line| line.audit.is_some()).collect::<Vec<_>>())
        })
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    if audited.is_empty() {
        return Ok(None);
    }
    let intro = [
        "The audit estimates on each input, without knowing the right answer, what forgetting changed: the \
         divergence of the next token's distribution from full memory's (nats), the share of positions with \
         the same most likely token, and a risk from 0 to 1 that the answer is lost. An item is lost where \
         full memory scored at least 0.5 more than the plan."
            .to_string(),
    ];
    let mut table = Table::new(
        "Audit by plan",
        &[
            "Plan",
            "Items",
            "Divergence, median",
            "Same top token",
            "Risk, mean",
            "Canaries kept",
            "Lost",
            "AUROC of risk",
            "Verdicts",
        ],
    );
    table.lines = audited.iter().map(|(plan, lines)| line(data, *plan, lines)).collect();
    let figures = [
        spread(data, &audited, RISK, risk),
        spread(data, &audited, "divergence in nats", |line| {
            field(line, "kl_mean").filter(|value| *value > 0.0)
        }),
        diagram(data, &audited),
    ];
    let made = [Group {
        legend: data.legend(),
        figures: figures.into_iter().flatten().collect(),
        table: Some(table),
        ..Group::default()
    }];
    groups("audit", "Audit", &intro, &made)
}

/// A number of the audit of an item; what is none does not count.
fn field(line: &Line, name: &str) -> Option<f64> {
    line.audit.as_ref()?.get(name)?.as_f64().filter(|value| value.abs() < 1e15)
}

fn risk(line: &Line) -> Option<f64> {
    field(line, "risk").filter(|risk| (0.0..=1.0).contains(risk))
}

/// Whether full memory was right and the plan was not; none without full memory.
fn lost(data: &Data<'_>, line: &Line) -> Option<bool> {
    Some(data.full(line)?.score - line.score >= LOST)
}

/// Risks and what became of the items that have both.
fn outcomes(data: &Data<'_>, lines: &[&Line]) -> (Vec<f64>, Vec<bool>) {
    lines.iter().filter_map(|line| Some((risk(line)?, lost(data, line)?))).unzip()
}

fn sorted(lines: &[&Line], name: &str) -> Vec<f64> {
    let mut values: Vec<f64> = lines.iter().filter_map(|line| field(line, name)).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn line(data: &Data<'_>, plan: usize, lines: &[&Line]) -> Vec<Cell> {
    let of = |name: &str| mean(&sorted(lines, name));
    let divergence = sorted(lines, "kl_mean");
    let quarter = |at: f64| quantile(&divergence, at).map(number);
    let between = quarter(0.25).zip(quarter(0.75)).map(|(low, high)| format!("middle half {low} to {high}"));
    let (risks, losses) = outcomes(data, lines);
    let lost: Vec<f64> = losses.iter().map(|lost| f64::from(u8::from(*lost))).collect();
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in lines.iter().filter_map(|line| line.audit.as_ref()?.get("verdict").and_then(Value::as_str))
    {
        *verdicts.entry(verdict).or_default() += 1;
    }
    let verdicts: Vec<String> =
        verdicts.iter().map(|(verdict, n)| format!("{verdict} {}", count(*n))).collect();
    vec![
        data.name(plan),
        Cell::num(count(lines.len())),
        Cell::maybe(quantile(&divergence, 0.5), |value| format!("{} nats", number(value)))
            .small(between.unwrap_or_default()),
        Cell::maybe(of("top1_agreement"), percent),
        Cell::maybe(mean(&lines.iter().filter_map(|line| risk(line)).collect::<Vec<_>>()), score),
        Cell::maybe(of("canaries_survived"), number),
        Cell::maybe(mean(&lost), percent),
        Cell::maybe(auroc(&risks, &losses), score),
        Cell::text(verdicts.join(", ")),
    ]
}

/// A number of the audit by plan: median and middle nine tenths.
fn spread(data: &Data<'_>, audited: &[(usize, Vec<&Line>)], what: &str, of: Of) -> Option<Figure> {
    let mut points = Vec::new();
    let mut table = Table::new(format!("{what} by plan"), &["Plan", "5 %", "25 %", "Median", "75 %", "95 %"]);
    for (at, (plan, lines)) in audited.iter().enumerate() {
        let mut values: Vec<f64> = lines.iter().filter_map(|line| of(line)).collect();
        values.sort_by(f64::total_cmp);
        let quantiles = [0.05, 0.25, 0.5, 0.75, 0.95].map(|at| quantile(&values, at));
        let [Some(low), _, Some(median), _, Some(high)] = quantiles else { continue };
        let title =
            format!("{}: median {}, {} to {}", data.plans[*plan], number(median), number(low), number(high));
        let point = Point { x: at as f64 + 1.0, y: median, range: Some([low, high]), label: None, title };
        points.push(Curve { look: data.look(*plan), points: vec![point], joined: None, form: Form::Thread });
        let mut line = vec![data.name(*plan)];
        line.extend(quantiles.map(|value| Cell::maybe(value, number)));
        table.lines.push(line);
    }
    let x = Axis::new("plans, in the order of the table", Kind::Score, [0.0, audited.len() as f64 + 1.0]);
    let label = format!("{what}: median and middle nine tenths");
    let ends = points.iter().flat_map(|curve| curve.points[0].range).flatten();
    let y = match what {
        RISK => Axis::new(&label, Kind::Score, [0.0, 1.0]),
        _ => Axis::over(&label, Kind::Log, ends),
    };
    let mut plot = Plot::new(format!("{what} by plan"), (560.0, 280.0), x, y);
    plot.curves = points;
    let title = format!("Spread of {what}");
    (!table.lines.is_empty()).then(|| Figure {
        title,
        svg: plot.svg(),
        table: Some(table),
        ..Figure::default()
    })
}

/// Risk said against share lost, all plans together but full memory.
fn diagram(data: &Data<'_>, audited: &[(usize, Vec<&Line>)]) -> Option<Figure> {
    let others = audited.iter().filter(|(plan, _)| data.plans[*plan] != crate::FULL);
    let lines: Vec<&Line> = others.flat_map(|(_, lines)| lines.iter().copied()).collect();
    let (risks, losses) = outcomes(data, &lines);
    let bins = reliability(&risks, &losses, BINS);
    if bins.is_empty() {
        return None;
    }
    let x = Axis::new("risk said by the audit, mean of the bin", Kind::Score, [0.0, 1.0]);
    let y = Axis::new("share of items lost", Kind::Score, [0.0, 1.0]);
    let mut plot = Plot::new("Reliability of the risk, all plans together".into(), (400.0, 300.0), x, y);
    plot.diagonal = true;
    let mut table =
        Table::new("Reliability of the risk", &["Risk said, mean", "Lost", "95 % interval", "Items"]);
    let mut points = Vec::new();
    for bin in bins {
        let [low, high] = bin.interval.map(percent);
        let title = format!(
            "risk {}: {} lost ({low} to {high}), n {}",
            score(bin.predicted),
            percent(bin.seen),
            bin.n
        );
        points.push(Point {
            x: bin.predicted,
            y: bin.seen,
            range: Some(bin.interval),
            label: Some(format!("n {}", bin.n)),
            title,
        });
        table.lines.push(vec![
            Cell::head(score(bin.predicted), String::new()),
            Cell::num(percent(bin.seen)),
            Cell::num(format!("{low} to {high}")),
            Cell::num(count(bin.n)),
        ]);
    }
    plot.curves.push(Curve { look: Look::FULL, points, joined: None, form: Form::Thread });
    Some(Figure {
        title: "Is the risk right?".into(),
        svg: plot.svg(),
        table: Some(table),
        ..Figure::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::made_up;

    #[test]
    fn lost_is_right_under_full_and_wrong_under_the_plan() {
        let (manifest, mut lines) = made_up::small();
        for (line, risk) in lines[4..].iter_mut().zip([0.1, 0.2, 3.0, 0.9]) {
            line.audit = Some(json!({"risk": risk, "kl_mean": "?", "verdict": 3}));
        }
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        let plan: Vec<&Line> = data.all_items("h2o @ 50%").collect();
        // Only the last of four is lost; a risk of 3 is none.
        assert_eq!(outcomes(&data, &plan), (vec![0.1, 0.2, 0.9], vec![false, false, true]));
        assert!(sorted(&plan, "kl_mean").is_empty());
        let body = section(&data).unwrap().unwrap().body;
        assert!(body.contains("Is the risk right?") && body.contains(">33 %<"));
    }
}
