//! From which length on a plan is faster than full memory.

use eunoe_core::Result;

use crate::stats::mean;
use crate::svg::{Axis, Curve, Form, Kind, Look, Plot, Point, key};
use crate::units::{count, seconds, tokens};
use crate::{FULL, Line};

use super::data::{Data, Method, split};
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// What takes the time.
#[derive(Clone, Copy)]
enum Part {
    Reading,
    Writing,
}

impl Part {
    fn of(self, line: &Line) -> f64 {
        match self {
            Self::Reading => line.prefill_s,
            Self::Writing => line.decode_s,
        }
    }
}

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    if !data.has_full() || data.plans.len() < 2 {
        return Ok(None);
    }
    let intro = [
        "Seconds as a multiple of full memory's on the same items: below 1× the plan is faster. Reading is \
         the prompt, writing is the answer, whose length may differ from plan to plan. The length from which \
         a plan is faster lies where its line last crosses 1×, interpolated between measured lengths \
         (logarithmic); “always” and “not by” hold for measured lengths only."
            .to_string(),
    ];
    let mut made = vec![Group { table: Some(table(data)), ..Group::default() }];
    if data.lengths.len() > 1 {
        for (part, title) in [(Part::Reading, "Reading"), (Part::Writing, "Writing")] {
            let shown = data.methods.iter().filter(|method| method.look != Look::FULL);
            let figures = shown.filter_map(|method| figure(data, method, part, title)).collect();
            made.push(Group {
                title: title.into(),
                figures,
                folds: true,
                open: true,
                size: "medium",
                ..Group::default()
            });
        }
    }
    groups("speed", "Time, and from which length it pays", &intro, &made)
}

/// Seconds of a plan over those of full memory by length; lengths without both are left out.
fn ratios(data: &Data<'_>, plan: &str, part: Part) -> Vec<(f64, f64)> {
    let ratio = |length: &usize| {
        let items = data.tasks.iter().flat_map(|task| data.items(plan, task, *length));
        let pairs: Vec<(f64, f64)> =
            items.filter_map(|line| Some((part.of(line), part.of(data.full(line)?)))).collect();
        let of = |pick: fn(&(f64, f64)) -> f64| mean(&pairs.iter().map(pick).collect::<Vec<_>>());
        let (own, full) = (of(|pair| pair.0)?, of(|pair| pair.1)?);
        (full > 0.0).then(|| (*length as f64, own / full))
    };
    data.lengths.iter().filter_map(ratio).collect()
}

/// The length from which on all ratios are below 1, in words.
fn pays_from(ratios: &[(f64, f64)]) -> String {
    let Some(last_slower) = ratios.iter().rposition(|(_, ratio)| *ratio >= 1.0) else {
        return if ratios.is_empty() { "–".to_string() } else { "always".to_string() };
    };
    let (from, slower) = ratios[last_slower];
    match ratios.get(last_slower + 1) {
        None => format!("not by {}", count(from as usize)),
        Some((to, faster)) => {
            let share = (slower - 1.0) / (slower - faster);
            format!("{}", Tokens(from * (to / from).powf(share)))
        }
    }
}

/// Tokens with two digits that count.
struct Tokens(f64);

impl std::fmt::Display for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = 10f64.powf((self.0.log10().floor() - 1.0).max(0.0));
        write!(f, "about {}", count(((self.0 / unit).round() * unit) as usize))
    }
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}×")
}

fn table(data: &Data<'_>) -> Table {
    let mut table = Table::new(
        "Seconds per item relative to full memory",
        &["Plan", "Reading: faster from, tokens", "Writing: faster from, tokens"],
    );
    for length in &data.lengths {
        table.columns.extend(["reading", "writing"].map(|part| format!("{}: {part}", tokens(*length))));
    }
    for (plan, name) in data.plans.iter().enumerate() {
        let parts = [Part::Reading, Part::Writing].map(|part| (part, ratios(data, name, part)));
        let mut line = vec![data.name(plan)];
        line.extend(parts.iter().map(|(_, ratios)| match *name == FULL {
            true => Cell::num("–"),
            false => Cell::num(pays_from(ratios)),
        }));
        for length in &data.lengths {
            line.extend(parts.iter().map(|(part, ratios)| cell(data, name, *length, *part, ratios)));
        }
        table.lines.push(line);
    }
    table
}

/// Seconds, and their ratio to full memory's.
fn cell(data: &Data<'_>, plan: &str, length: usize, part: Part, ratios: &[(f64, f64)]) -> Cell {
    let items = data.tasks.iter().flat_map(|task| data.items(plan, task, length));
    let Some(own) = mean(&items.map(|line| part.of(line)).collect::<Vec<_>>()) else {
        return Cell::num("–");
    };
    let ratio = ratios.iter().find(|(at, _)| *at == length as f64).filter(|_| plan != FULL);
    Cell::num(seconds(own)).small(ratio.map_or(String::new(), |(_, ratio)| times(*ratio)))
}

fn figure(data: &Data<'_>, method: &Method<'_>, part: Part, title: &str) -> Option<Figure> {
    let all: Vec<Vec<(f64, f64)>> =
        method.plans.iter().map(|plan| ratios(data, data.plans[*plan], part)).collect();
    let most = all.iter().flatten().map(|(_, ratio)| *ratio).reduce(f64::max)?;
    let lengths = data.lengths.iter().map(|length| *length as f64);
    let x = Axis::over("tokens", Kind::Tokens, lengths);
    let y = Axis::new("time, full memory = 1×", Kind::Times, [0.0, (most * 1.1).max(1.25)]);
    let mut plot =
        Plot::new(format!("{title}, time relative to full memory: {}", method.name), (310.0, 190.0), x, y);
    plot.level = Some(1.0);
    for (dash, (plan, ratios)) in method.plans.iter().zip(&all).enumerate() {
        let name = data.plans[*plan];
        let label = split(name).1.unwrap_or_default().to_string();
        let point = |&(x, y): &(f64, f64)| {
            let title = format!("{name}: {} at {} tokens", times(y), count(x as usize));
            Point { x, y, range: None, label: None, title }
        };
        let points = ratios.iter().map(point).collect();
        plot.curves.push(Curve { look: method.look, points, joined: Some(label), form: Form::Band(dash) });
    }
    Some(Figure {
        title: method.name.into(),
        key: key(method.look),
        svg: plot.svg(),
        table: None,
        ..Figure::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_even_lengths_by_hand() {
        // 1.2 at 1024 and 0.8 at 4096: half way in the logarithm, 2048.
        assert_eq!(pays_from(&[(1024.0, 1.2), (4096.0, 0.8)]), "about 2,000");
        // A quarter of the way from 1.1 to 0.7: 1024 * 4^(1/4) = 1448.
        assert_eq!(pays_from(&[(512.0, 0.9), (1024.0, 1.1), (4096.0, 0.7)]), "about 1,400");
        // The last crossing counts: half way from 2048 to 8192.
        let twice = [(512.0, 1.2), (1024.0, 0.8), (2048.0, 1.1), (8192.0, 0.9)];
        assert_eq!(pays_from(&twice), "about 4,100");
        assert_eq!(pays_from(&[(512.0, 0.9), (4096.0, 0.99)]), "always");
        assert_eq!(pays_from(&[(512.0, 0.9), (4096.0, 1.0)]), "not by 4,096");
        assert_eq!(pays_from(&[]), "–");
    }
}
