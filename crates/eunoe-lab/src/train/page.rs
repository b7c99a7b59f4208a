//! The page of a run: its losses over its steps.

use eunoe_core::{Error, Result};
use eunoe_report::parts::{self, Cell, Figure, Group, Table};
use eunoe_report::svg::{Axis, Curve, Form, Kind, Look, Plot, Point};
use eunoe_report::units::{count, counted};

use super::{Row, RunConfig};

/// Points of a curve; each is the mean of as many steps as it takes.
const POINTS: usize = 200;

/// The page of the run `config` with these rows.
///
/// # Errors
/// [`Error::Invalid`] where there are none, and a page that cannot be written.
pub fn page(config: &RunConfig, rows: &[Row]) -> Result<String> {
    let Some(last) = rows.last() else {
        return Err(Error::Invalid("no step was taken: there is nothing to show".into()));
    };
    let held_out: Vec<(f64, f64)> =
        rows.iter().filter_map(|row| Some((row.step as f64, row.held_out?))).collect();
    let mut curves = vec![curve(0, "learned from", means(rows, |row| row.loss))];
    if !held_out.is_empty() {
        curves.push(curve(1, "held out", held_out.clone()));
    }
    let loss = figure("Loss", "nats per token", curves);
    let norms = vec![curve(0, "", means(rows, |row| row.grad_norm))];
    let norms = figure("Gradient before clipping", "length", norms);
    let speed = rows.iter().map(|row| row.tokens_per_s).sum::<f64>() / rows.len() as f64;
    let mut table = Table::new("The run", &["what", "value"]);
    let facts = [
        ("steps", count(last.step as usize)),
        ("loss of the last step", format!("{:.4} nats per token", last.loss)),
        ("held out", held_out.last().map_or("–".into(), |(_, loss)| format!("{loss:.4} nats per token"))),
        ("tokens per second", count(speed as usize)),
        ("mixers", config.model.mixers.join(", ")),
        ("model", format!("width {}, {}", config.model.d_model, counted(config.model.layers, "layer"))),
    ];
    table.lines = facts.map(|(name, fact)| vec![Cell::head(name, String::new()), Cell::text(fact)]).to_vec();
    let charts = Group { figures: vec![loss, norms], table: Some(table), ..Group::default() };
    let sections: Vec<_> = parts::groups("training", "Training", &[], &[charts])?.into_iter().collect();
    eunoe_report::document(
        "A run of the lab",
        "What was learned, step by step",
        env!("CARGO_PKG_VERSION"),
        &sections,
    )
}

/// Means of parts of equally many steps, at their last.
fn means(rows: &[Row], of: fn(&Row) -> f64) -> Vec<(f64, f64)> {
    let parts = rows.chunks(rows.len().div_ceil(POINTS).max(1));
    let mean = |part: &[Row]| {
        let last = part.last().map_or(0, |row| row.step);
        (last as f64, part.iter().map(of).sum::<f64>() / part.len() as f64)
    };
    parts.map(mean).collect()
}

fn curve(at: usize, name: &str, points: Vec<(f64, f64)>) -> Curve {
    let point = |(x, y): (f64, f64)| {
        let title = format!("{name} {y:.4} at step {x}").trim_start().to_owned();
        Point { x, y, range: None, label: None, title }
    };
    let joined = Some(name.to_owned());
    Curve {
        look: Look::new(at),
        points: points.into_iter().map(point).collect(),
        joined,
        form: Form::Band(at),
    }
}

fn figure(title: &str, unit: &str, curves: Vec<Curve>) -> Figure {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let x = Axis::over("step", Kind::Score, points().map(|point| point.x));
    let y = Axis::over(unit, Kind::Score, points().map(|point| point.y));
    let mut plot = Plot::new(title.to_owned(), (860.0, 360.0), x, y);
    plot.curves = curves;
    Figure { title: title.into(), svg: plot.svg(), ..Figure::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, loss: f64, held_out: Option<f64>) -> Row {
        Row { step, loss, held_out, lr: 0.1, grad_norm: 1.0, tokens_per_s: 10.0 }
    }

    #[test]
    fn many_steps_become_means_and_the_last_counts() {
        let rows: Vec<Row> = (1..=401).map(|step| row(step, step as f64, None)).collect();
        let points = means(&rows, |row| row.loss);
        // three steps a point: 1, 2, 3; the last point is of 400 and 401
        assert_eq!((points.len(), points[0], points[133]), (134, (3.0, 2.0), (401.0, 400.5)));
    }

    #[test]
    fn a_page_shows_both_losses() {
        let rows = [row(1, 3.0, None), row(2, 2.5, Some(2.75))];
        let page = page(&RunConfig::default(), &rows).unwrap();
        for part in
            ["2.5000 nats per token", "2.7500 nats per token", "learned from", "held out 2.7500 at step 2"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(super::page(&RunConfig::default(), &[]).is_err());
    }
}
