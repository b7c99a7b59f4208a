//! What was measured: tables of tokens per second, and charts of them against length.

use eunoe_core::{Error, Result};
use eunoe_report::parts::{Cell as Item, Table};
use eunoe_report::svg::{Axis, Curve, Form, Kind, Look, Plot, Point};
use eunoe_report::units::{bytes, count, counted};

use super::{Manifest, Phase, Row, Settings, slope};
use crate::bench::page::{Chart, Head, Page, Part};

const SLOPE: &str = "Tokens per second. The slope is that of the seconds of a text over its length, both in logarithms: 1 where a token costs the same \
                     at every length, 2 where it costs as much as there are before it.";

/// See the module.
pub struct Report<'a> {
    manifest: &'a Manifest<Settings>,
    rows: &'a [Row],
}

impl<'a> Report<'a> {
    /// Of all rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] where one is missing, and settings that cannot be run.
    pub fn new(manifest: &'a Manifest<Settings>, rows: &'a [Row]) -> Result<Self> {
        let report = Self { manifest, rows };
        let grid = report.grid();
        grid.check()?;
        for (mixer, phase, at) in grid.mixers.iter().flat_map(|mixer| {
            let training = grid.lengths.iter().map(move |at| (mixer, Phase::Training, *at));
            training.chain(grid.positions.iter().map(move |at| (mixer, Phase::Decode, *at)))
        }) {
            if report.row(mixer, phase, at).is_none() {
                return Err(Error::Invalid(format!(
                    "`{mixer}` was not measured at {at}: run the same command again, or in a new folder"
                )));
            }
        }
        Ok(report)
    }

    fn grid(&self) -> &Settings {
        &self.manifest.settings
    }

    fn row(&self, mixer: &str, phase: Phase, at: usize) -> Option<&'a Row> {
        self.rows.iter().find(|row| row.mixer == mixer && row.kind == phase && row.at == at)
    }

    fn places(&self, phase: Phase) -> &[usize] {
        match phase {
            Phase::Training => &self.grid().lengths,
            Phase::Decode => &self.grid().positions,
        }
    }

    fn table(&self, phase: Phase) -> Table {
        let of = |at: &usize| match phase {
            Phase::Training => format!("T {at}"),
            Phase::Decode => format!("at {at}"),
        };
        let mut columns = vec!["mixer".to_owned()];
        columns.extend(self.places(phase).iter().map(of));
        columns.push(if phase == Phase::Training { "slope" } else { "state" }.into());
        let line = |(at, mixer): (usize, &String)| {
            let rows: Vec<&Row> =
                self.places(phase).iter().filter_map(|at| self.row(mixer, phase, *at)).collect();
            let last = match phase {
                Phase::Training => {
                    slope(self.rows, mixer).map_or("–".into(), |slope| format!("{slope:.2}"))
                }
                Phase::Decode => states(&rows),
            };
            let speeds = rows.iter().map(|row| Item::num(count(row.tokens_per_s.round() as usize)));
            let head = Item::head(mixer, eunoe_report::svg::key(Look::new(at))).class("plan");
            [head].into_iter().chain(speeds).chain([Item::num(last)]).collect()
        };
        let caption = match phase {
            Phase::Training => "Tokens per second in training",
            Phase::Decode => "Tokens per second in decode",
        };
        Table {
            caption: caption.into(),
            columns,
            lines: self.grid().mixers.iter().enumerate().map(line).collect(),
        }
    }

    fn plot(&self, phase: Phase) -> Plot {
        let (x, name) = match phase {
            Phase::Training => ("tokens of a text", "Training"),
            Phase::Decode => ("tokens before", "Decode"),
        };
        let curve = |(at, mixer): (usize, &String)| {
            let rows = self.places(phase).iter().filter_map(|at| self.row(mixer, phase, *at));
            let point = |row: &Row| Point {
                x: row.at as f64,
                y: row.tokens_per_s,
                range: None,
                label: None,
                title: format!("{mixer}: {:.0} tokens/s at {}", row.tokens_per_s, row.at),
            };
            Curve {
                look: Look::new(at),
                points: rows.map(point).collect(),
                joined: Some(mixer.clone()),
                form: Form::Thread,
            }
        };
        let curves: Vec<Curve> = self.grid().mixers.iter().enumerate().map(curve).collect();
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let across = Axis::over(x, Kind::Tokens, points().map(|point| point.x));
        let up = Axis::over("tokens per second", Kind::Log, points().map(|point| point.y));
        let mut plot =
            Plot::new(format!("{name}: tokens per second against length"), (860.0, 400.0), across, up);
        plot.curves = curves;
        plot
    }
}

/// The bytes of a state that stays as it is, or the first and the last of one that grows.
fn states(rows: &[&Row]) -> String {
    let all: Vec<usize> = rows.iter().map(|row| row.state_bytes).collect();
    let text = |state: usize| bytes(state as f64);
    match (all.first(), all.last()) {
        (Some(first), Some(_)) if all.iter().all(|state| state == first) => {
            format!("{}, constant", text(*first))
        }
        (Some(first), Some(last)) => format!("{} to {}", text(*first), text(*last)),
        _ => "–".into(),
    }
}

impl Page for Report<'_> {
    fn head(&self) -> Head<'_> {
        let lead = "What a token costs a mixer, in training and in decode";
        Head { title: "Throughput against length", lead, version: &self.manifest.version }
    }

    fn how(&self) -> Vec<String> {
        let (grid, machine) = (self.grid(), &self.manifest.machine);
        vec![format!(
            "Mixers alone, without embedding, MLP and norms: width {}, {}. Training reads {} tokens forward and back, in texts of \
             each length; decode continues one text by a token. Medians of {}, the first left out; {} ({}), {}.",
            grid.d_model,
            counted(grid.heads, "head"),
            count(grid.tokens),
            counted(grid.turns, "turn"),
            machine.cpu,
            machine.isa,
            counted(machine.threads, "thread")
        )]
    }

    fn parts(&self) -> Vec<Part> {
        let part = |title, phase, note: &str, file: &str| Part {
            title,
            note: note.into(),
            table: Some(self.table(phase)),
            charts: vec![Chart { file: file.into(), title: title.into(), plot: self.plot(phase) }],
        };
        let state = "Tokens per second, and the bytes of the state of one text.";
        vec![
            part("Training", Phase::Training, SLOPE, "training.svg"),
            part("Decode", Phase::Decode, state, "decode.svg"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workers;
    use crate::device::Devices;

    #[test]
    fn a_state_is_told_as_constant_or_growing_and_a_gap_is_refused() {
        let settings = Settings {
            mixers: vec!["aaren".into(), "softmax_attention".into()],
            d_model: 16,
            heads: 2,
            lengths: vec![8, 16],
            tokens: 16,
            positions: vec![4, 8],
            turns: 1,
        };
        let row = |mixer: &str, kind, at: usize, tokens_per_s, state_bytes| Row {
            mixer: mixer.into(),
            kind,
            at,
            tokens_per_s,
            state_bytes,
        };
        let mut rows = Vec::new();
        for (mixer, fall, state) in [("aaren", 1.0, 0), ("softmax_attention", 2.0, 128)] {
            rows.push(row(mixer, Phase::Training, 8, 1000.0, 0));
            rows.push(row(mixer, Phase::Training, 16, 1000.0 / fall, 0));
            rows.push(row(mixer, Phase::Decode, 4, 50.0, 1024 + 4 * state));
            rows.push(row(mixer, Phase::Decode, 8, 40.0, 1024 + 8 * state));
        }
        let devices = Devices::parse("cpu").unwrap();
        let manifest = Manifest::here("throughput", settings, Workers { count: 1, devices: &devices });
        let report = Report::new(&manifest, &rows).unwrap();
        let text = report.markdown();
        for part in [
            "| mixer | T 8 | T 16 | slope |\n|---|---|---|---|\n| aaren | 1,000 | 1,000 | 1.00 |",
            "| softmax\\_attention | 1,000 | 500 | 2.00 |",
            "| aaren | 50 | 40 | 1.0 KiB, constant |",
            "| softmax\\_attention | 50 | 40 | 1.5 KiB to 2.0 KiB |",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(report.html().unwrap().matches("<svg class=\"chart\"").count(), 2);
        let error = Report::new(&manifest, &rows[1..]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`aaren` was not measured at 8"), "{error}");
    }
}
