//! What a grid found: tables and charts of accuracy against the bytes of state.

use eunoe_core::{Error, Result};
use eunoe_report::parts::{Cell as Item, Table};
use eunoe_report::svg::{Axis, Curve, Form, Kind, Look, Plot, Point};
use eunoe_report::units::{bytes, count, counted, seconds};

use super::{Ended, FIRST, Line, Manifest, Record, Settings};
use crate::bench::grid::mean_sd;
use crate::bench::page::{Chart, Head, Page, Part, spread};
use crate::streams::MqarShape;

const TITLE: &str = "Multi-query associative recall";
const LEAD: &str = "How much of a context a mixer finds again, and the bytes it keeps for it";
const RULE: &str = "The learning rate is the one with the best accuracy on the largest shape over validation \
                    sequences, which are neither trained nor tested on; every mixer had the same rates to choose from.";

/// The results of a mixer at the rate that validation chose.
#[derive(Clone, Debug)]
pub struct Best<'a> {
    /// Phrase of the mixer.
    pub mixer: &'a str,
    /// The rate.
    pub lr: f64,
    /// Validation accuracy on the largest shape per rate, mean of seeds, in the order of the grid.
    pub valid: Vec<f64>,
    /// Per shape, in the order of the grid, a line per seed.
    pub shapes: Vec<Vec<&'a Line>>,
}

impl<'a> Best<'a> {
    /// Chooses for one mixer.
    fn of(settings: &Settings, mixer: &'a str, lines: &'a [Line]) -> Result<Self> {
        let at = |lr: f64, shape: MqarShape| -> Result<Vec<&'a Line>> {
            let is_of = |line: &&Line| {
                line.mixer == mixer && line.lr == lr && (line.t, line.pairs) == (shape.t, shape.pairs)
            };
            let found: Vec<&Line> = lines.iter().filter(is_of).collect();
            match found.len() as u64 == settings.seeds {
                true => Ok(found),
                false => Err(Error::Invalid(format!(
                    "the grid is not complete: `{mixer}` at rate {lr}; the command that began it goes on"
                ))),
            }
        };
        let score = |lr: &f64| {
            at(*lr, settings.largest()).map(|lines| mean_sd(lines.iter().map(|line| line.valid)).0)
        };
        let valid = settings.lrs.iter().map(score).collect::<Result<Vec<f64>>>()?;
        // of rates that are as good, the lowest
        let rates = settings.lrs.iter().zip(&valid);
        let best = rates.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.total_cmp(a.0)));
        let lr = best.map_or(f64::NAN, |(lr, _)| *lr);
        let shapes = settings.shapes.iter().map(|shape| at(lr, *shape)).collect::<Result<_>>()?;
        Ok(Self { mixer, lr, valid, shapes })
    }

    /// Mean accuracy on a shape by its place in the grid, and its standard deviation over seeds where there are several.
    pub fn accuracy(&self, shape: usize) -> (f64, Option<f64>) {
        mean_sd(self.shapes[shape].iter().map(|line| line.accuracy))
    }

    /// Bytes of state on a shape.
    fn state_bytes(&self, shape: usize) -> usize {
        self.shapes[shape].first().map_or(0, |line| line.state_bytes)
    }

    /// One line per seed.
    fn trainings(&self) -> &[&'a Line] {
        self.shapes.first().map_or(&[], Vec::as_slice)
    }
}

/// A finished grid, made for readers.
pub struct Report<'a> {
    manifest: &'a Manifest<Record>,
    /// Mixers in the order of the grid.
    pub best: Vec<Best<'a>>,
    total_s: f64,
}

impl<'a> Report<'a> {
    /// Of all lines of a grid.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a line is missing, and settings that cannot be run.
    pub fn new(manifest: &'a Manifest<Record>, lines: &'a [Line]) -> Result<Self> {
        let grid = &manifest.settings.grid;
        grid.check()?;
        let best = grid.mixers.iter().map(|mixer| Best::of(grid, mixer, lines));
        let of_first =
            |line: &&Line| grid.shapes.first().is_some_and(|s| (line.t, line.pairs) == (s.t, s.pairs));
        let total_s = lines.iter().filter(of_first).map(|line| line.seconds).sum();
        Ok(Self { manifest, best: best.collect::<Result<_>>()?, total_s })
    }

    fn grid(&self) -> &Settings {
        &self.manifest.settings.grid
    }

    fn table(&self, caption: &str, columns: Vec<String>, cells: impl Fn(&Best<'a>) -> Vec<Item>) -> Table {
        let columns = [vec!["mixer".to_owned()], columns].concat();
        let head = |at: usize, best: &Best<'a>| {
            Item::head(best.mixer, eunoe_report::svg::key(Look::new(self.family(at)))).class("plan")
        };
        let lines =
            self.best.iter().enumerate().map(|(at, best)| [vec![head(at, best)], cells(best)].concat());
        Table { caption: caption.into(), columns, lines: lines.collect() }
    }

    fn accuracies(&self) -> Table {
        let shapes = self.grid().shapes.iter().map(|s| format!("T {}, N {}", s.t, s.pairs));
        let columns = shapes.chain(["rate".into()]).collect();
        self.table("Accuracy by shape", columns, |best| {
            let scores = (0..self.grid().shapes.len()).map(|shape| spread(best.accuracy(shape)));
            scores.chain([Item::num(best.lr.to_string())]).collect()
        })
    }

    fn floors(&self) -> Table {
        let mut table = Table::new("Guessing", &["guess"]);
        table.columns.extend(self.grid().shapes.iter().map(|s| format!("T {}, N {}", s.t, s.pairs)));
        let line = |name: &str, floor: &dyn Fn(&MqarShape) -> f64| {
            let floors = self.grid().shapes.iter().map(|shape| Item::num(format!("{:.3}", floor(shape))));
            [Item::head(name, String::new())].into_iter().chain(floors).collect()
        };
        table.lines.push(line("any of the values, 2 / V", &|_| 2.0 / self.grid().vocab as f64));
        table.lines.push(line("one of the values in context, 1 / N", &|shape| 1.0 / shape.pairs as f64));
        table
    }

    fn costs(&self) -> Table {
        let mut lengths: Vec<usize> = self.grid().shapes.iter().map(|shape| shape.t).collect();
        lengths.dedup();
        let columns = lengths.iter().map(|t| format!("state at T {t}"));
        let columns = columns.chain(["parameters", "steps", "ended", "seconds"].map(String::from)).collect();
        self.table("Cost", columns, |best| {
            let all = best.trainings();
            let state = |t: &usize| {
                let at = self.grid().shapes.iter().position(|shape| shape.t == *t);
                Item::num(at.map_or(String::new(), |at| bytes(best.state_bytes(at) as f64)))
            };
            let mean = |of: fn(&Line) -> f64| mean_sd(all.iter().map(|line| of(line))).0;
            let ended = |ended: Ended| all.iter().filter(|line| line.ended == ended).count();
            let ends =
                [(Ended::Solved, "solved"), (Ended::Steps, "all steps"), (Ended::Diverged, "diverged")];
            let ends = ends.map(|(end, name)| (ended(end), name));
            let ends: Vec<_> =
                ends.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
            let rest = [
                Item::num(count(all.first().map_or(0, |line| line.params))),
                Item::num(format!("{:.0}", mean(|line| line.steps as f64))),
                Item::text(ends.join(", ")),
                Item::num(format!("{:.0}", mean(|line| line.seconds))),
            ];
            lengths.iter().map(state).chain(rest).collect()
        })
    }

    fn rates(&self) -> Table {
        let columns = self.grid().lrs.iter().map(f64::to_string).collect();
        self.table("Validation accuracy by rate", columns, |best| {
            best.valid.iter().map(|score| Item::num(format!("{score:.3}"))).collect()
        })
    }

    fn chart_name(&self, shape: MqarShape) -> String {
        format!("Accuracy against bytes of state, {} pairs in {} tokens", shape.pairs, shape.t)
    }

    /// Mixers of one name, in the order of the grid.
    fn families(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.best.iter().map(|best| name(best.mixer)).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// The number of a mixer's family.
    fn family(&self, at: usize) -> usize {
        let own = name(self.best[at].mixer);
        self.families().iter().position(|name| *name == own).unwrap_or(0)
    }

    fn plot(&self, shape: usize) -> Plot {
        let size = self.grid().shapes[shape];
        let all = self.best.iter().map(|best| best.state_bytes(shape) as f64);
        let x = Axis::over("bytes of state per sequence", Kind::Bytes, all);
        let y = Axis::new("accuracy", Kind::Score, [-0.02, 1.02]);
        let mut plot = Plot::new(self.chart_name(size), (860.0, 400.0), x, y);
        plot.level = Some(1.0 / size.pairs as f64);
        let curve = |(at, family): (usize, &&str)| {
            let own = self.best.iter().filter(|best| name(best.mixer) == *family);
            let mut points: Vec<Point> = own.map(|best| point(best, shape)).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            Curve { look: Look::new(at), points, joined: Some((*family).to_owned()), form: Form::Thread }
        };
        plot.curves = self.families().iter().enumerate().map(curve).collect();
        plot
    }
}

impl Page for Report<'_> {
    fn head(&self) -> Head<'_> {
        Head { title: TITLE, lead: LEAD, version: &self.manifest.version }
    }

    fn how(&self) -> Vec<String> {
        let (grid, train) = (self.grid(), &self.manifest.settings.train);
        let machine = &self.manifest.machine;
        let task = format!(
            "Task: N keys and their values stand at the start of a text of T tokens (vocabulary {}); then each key comes \
             once more, soon more often than late, and its value is asked for. Accuracy is the share of a sequence's \
             questions whose value is the likeliest of all tokens, mean of {} test sequences per shape.",
            grid.vocab, grid.test
        );
        let sizes = format!(
            "Model: width {}, {}, two blocks without MLPs ({} first, the mixer under test second), head tied \
             to the embedding.",
            grid.d_model,
            counted(grid.heads, "head"),
            FIRST
        );
        let rates: Vec<String> = grid.lrs.iter().map(f64::to_string).collect();
        let training = format!(
            "Training: {} sequences, as many of each shape, in batches of {} of one shape; at most {} passes ({} steps), \
             ended early once every shape reaches {} on {} validation sequences; AdamW, weight decay {}, rates {} \
             with a rise over {} of the steps and half a cosine down to {}; {} per rate.",
            count(grid.examples),
            grid.batch,
            grid.epochs,
            count(grid.steps() as usize),
            grid.stop_at,
            grid.valid,
            train.weight_decay,
            rates.join(", "),
            train.warmup,
            train.decay_to,
            counted(grid.seeds as usize, "seed")
        );
        let cost = format!(
            "All trainings together took {}; begun on {} ({}), {} at a time with {} each.",
            seconds(self.total_s),
            machine.cpu,
            machine.isa,
            machine.jobs,
            counted(machine.threads, "thread")
        );
        vec![task, sizes, training, cost]
    }

    fn parts(&self) -> Vec<Part> {
        let table = |title, note: &str, table| Part {
            title,
            note: note.into(),
            table: Some(table),
            ..Part::default()
        };
        let chart = |(at, shape): (usize, &MqarShape)| Chart {
            file: format!("t{}-n{}.svg", shape.t, shape.pairs),
            title: self.chart_name(*shape),
            plot: self.plot(at),
        };
        vec![
            table("Accuracy", RULE, self.accuracies()),
            table("Guessing", "", self.floors()),
            Part {
                title: "Accuracy against bytes of state",
                note: "The dotted line is a guess among the values in context.".into(),
                charts: self.grid().shapes.iter().enumerate().map(chart).collect(),
                ..Part::default()
            },
            table("Cost", "Seconds are those of one training, validation included.", self.costs()),
            table("Rates", "Validation accuracy on the largest shape, mean of seeds.", self.rates()),
        ]
    }
}

/// A phrase's name without its arguments.
fn name(phrase: &str) -> &str {
    phrase.split('(').next().unwrap_or(phrase).trim()
}

fn point(best: &Best<'_>, shape: usize) -> Point {
    let ((mean, sd), state) = (best.accuracy(shape), best.state_bytes(shape) as f64);
    let args = best.mixer.split_once('(').map(|(_, args)| args.trim_end_matches(')').to_owned());
    let title = format!("{}: {mean:.3} with {}", best.mixer, bytes(state));
    Point { x: state, y: mean, range: sd.map(|sd| [mean - sd, mean + sd]), label: args, title }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workers;

    fn grid() -> (Settings, Vec<Line>) {
        let shapes = vec![MqarShape { t: 16, pairs: 2 }, MqarShape { t: 32, pairs: 4 }];
        let mixers = vec!["aaren".to_owned(), "based(features=8)".to_owned()];
        let settings = Settings { mixers, shapes, lrs: vec![0.1, 0.2], seeds: 2, ..Settings::default() };
        let line = |cell: &super::super::Cell, shape: &MqarShape| Line {
            mixer: cell.mixer.clone(),
            lr: cell.lr,
            seed: cell.seed,
            t: shape.t,
            pairs: shape.pairs,
            // 0.5 and 0.7 for the two seeds; the rate 0.2 looks better in the test, 0.1 in validation
            accuracy: 0.5 + 0.2 * cell.seed as f64 + if cell.lr == 0.2 { 0.1 } else { 0.0 },
            valid: if cell.lr == 0.1 && shape.t == 32 { 0.9 } else { 0.8 },
            ended: if cell.seed == 0 { Ended::Solved } else { Ended::Diverged },
            steps: 10,
            loss: None,
            params: 1234,
            state_bytes: 64 * shape.t,
            seconds: 2.0,
        };
        let cells = settings.cells();
        let lines = cells.iter().flat_map(|cell| settings.shapes.iter().map(move |shape| line(cell, shape)));
        (settings.clone(), lines.collect())
    }

    fn manifest(settings: &Settings) -> Manifest<Record> {
        let cell = &settings.cells()[0];
        let record = Record {
            grid: settings.clone(),
            model: settings.model(&cell.mixer),
            train: settings.train(cell),
        };
        let devices = crate::device::Devices::parse("cpu").unwrap();
        Manifest::here("mqar", record, Workers { count: 1, devices: &devices })
    }

    #[test]
    fn the_rate_is_chosen_by_validation_and_the_test_is_told() {
        let (settings, lines) = grid();
        let manifest = manifest(&settings);
        let report = Report::new(&manifest, &lines).unwrap();
        let best = &report.best[0];
        assert_eq!((best.lr, best.valid.as_slice()), (0.1, [0.9, 0.8].as_slice()));
        let (mean, sd) = best.accuracy(1);
        // 0.5 and 0.7: 0.6, and √(2 · 0.1² / 1)
        assert!((mean - 0.6).abs() < 1e-12 && (sd.unwrap() - 0.02f64.sqrt()).abs() < 1e-12);
        let text = report.markdown();
        for part in [
            "| mixer | T 16, N 2 | T 32, N 4 | rate |\n|---|---|---|---|\n| aaren | 0.600 ± 0.141 | 0.600 ± 0.141 | 0.1 |",
            "| any of the values, 2 / V | 0.004 | 0.004 |\n| one of the values in context, 1 / N | 0.500 | 0.250 |",
            "| aaren | 1.0 KiB | 2.0 KiB | 1,234 | 10 | 1 solved, 1 diverged | 2 |",
            "| aaren | 0.900 | 0.800 |",
            "| based(features=8) |",
            "took 16 s; begun on",
            "](t32-n4.svg)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn charts_stand_in_the_page_and_beside_it() {
        let (settings, lines) = grid();
        let manifest = manifest(&settings);
        let report = Report::new(&manifest, &lines).unwrap();
        let page = report.html().unwrap();
        assert_eq!(page.matches("<svg class=\"chart\"").count(), 2);
        assert!(
            page.contains("based(features=8): 0.600 with 2.0 KiB")
                && page.contains("<td class=\"num \">0.600")
        );
        let dir = tempfile::tempdir().unwrap();
        report.write(dir.path()).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("t32-n4.svg")).unwrap().contains("xmlns"));
    }

    #[test]
    fn a_grid_with_a_gap_is_refused() {
        let (settings, mut lines) = grid();
        lines.remove(5);
        let manifest = manifest(&settings);
        let error = Report::new(&manifest, &lines).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("the grid is not complete: `aaren` at rate 0.2"), "{error}");
        let mut hostile = manifest;
        hostile.settings.grid.batch = 0;
        let error = Report::new(&hostile, &lines).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`batch` must be from 1"), "{error}");
    }
}
