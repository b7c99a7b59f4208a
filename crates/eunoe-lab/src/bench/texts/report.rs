//! What a grid of language models found: tables and charts.

use eunoe_core::{Error, Result};
use eunoe_report::parts::{Cell as Item, Table};
use eunoe_report::svg::{Axis, Curve, Form, Kind, Look, Plot, Point};
use eunoe_report::units::{bytes, count, counted, seconds};

use super::{Ended, Line, Manifest, Record, Settings, Unit, best_rate};
use crate::bench::grid::mean_sd;
use crate::bench::page::{Chart, Head, Page, Part, spread};

const RULE: &str = "Mean of the seeds ± their standard deviation, at the rate that loses least on validation texts. Beside the \
                    first pattern: a difference below two standard deviations (the root of the mean of both variances) is a tie. \
                    A rate at the edge of those tried may not be the best there is.";
const SINKS: &str = "A sink is a head whose mean weight on the first symbol of a window is above 0.3; weights are means over all \
                     heads. Both over all layers and 100 windows of 64 symbols of validation text; weights that need not sum to \
                     one are divided by the sum of their sizes, by which a head that is off everywhere looks at something. As \
                     applied they are not divided: what values are multiplied by.";

type Of = fn(&super::Point) -> Option<f64>;

/// What is told of attention to the first symbol.
struct Measure {
    /// In the table.
    name: &'static str,
    /// Of the chart.
    file: &'static str,
    title: &'static str,
    label: &'static str,
    of: Of,
}

/// Lines of an older program do not have all of them.
const MEASURES: [Measure; 3] = [
    Measure {
        name: "sinks",
        file: "sinks.svg",
        title: "Attention sinks over training",
        label: "share of heads that attend to the first symbol",
        of: |point| point.sink,
    },
    Measure {
        name: "weight",
        file: "first.svg",
        title: "Attention to the first symbol over training",
        label: "mean weight on the first symbol",
        of: |point| point.first,
    },
    Measure {
        name: "as applied",
        file: "applied.svg",
        title: "Attention to the first symbol as applied",
        label: "mean weight on the first symbol as applied",
        of: |point| point.applied,
    },
];

/// The trainings of a pattern at the rate that validation chose.
#[derive(Clone, Debug)]
pub struct Best<'a> {
    /// The pattern.
    pub pattern: &'a str,
    /// The rate.
    pub lr: f64,
    /// Validation loss of seed 0 per rate, nats per symbol, in the order of the grid; none where it diverged.
    pub valid: Vec<Option<f64>>,
    /// A line per seed.
    pub lines: Vec<&'a Line>,
    unit: Unit,
}

impl<'a> Best<'a> {
    fn of(settings: &Settings, pattern: &'a str, lines: &'a [Line]) -> Result<Self> {
        let lr = best_rate(settings, pattern, lines)?;
        let own = |lr: f64| lines.iter().filter(move |line| line.mixer == pattern && line.lr == lr);
        let seeds: Vec<&Line> = own(lr).filter(|line| line.seed < settings.seeds).collect();
        if seeds.len() as u64 != settings.seeds {
            let (have, want) = (seeds.len(), settings.seeds);
            return Err(Error::Invalid(format!(
                "`{pattern}` at rate {lr} was trained {have} times of {want}: the command that began the grid goes on where \
                 lines are missing; take out of `items.jsonl` what stands there twice"
            )));
        }
        let valid = |lr: &f64| own(*lr).find(|line| line.seed == 0).and_then(|line| line.valid);
        Ok(Self {
            pattern,
            lr,
            valid: settings.lrs.iter().map(valid).collect(),
            lines: seeds,
            unit: settings.unit,
        })
    }

    /// Mean and standard deviation over seeds of a loss, told in the grid's unit; no number where a training diverged.
    fn loss(&self, of: impl Fn(&Line) -> Option<f64>) -> (f64, Option<f64>) {
        let losses = self.lines.iter().map(|line| of(line).map_or(f64::NAN, |nats| self.unit.of(nats)));
        mean_sd(losses.collect::<Vec<_>>().into_iter())
    }

    /// The loss on test texts.
    pub fn test(&self) -> (f64, Option<f64>) {
        self.loss(|line| line.test)
    }

    fn mean(&self, of: impl Fn(&Line) -> f64) -> f64 {
        self.lines.iter().map(|line| of(line)).sum::<f64>() / self.lines.len() as f64
    }

    /// How its loss stands beside another's: the difference, or that there is none to tell.
    fn beside(&self, other: &Self) -> String {
        let ((a, sa), (b, sb)) = (self.test(), other.test());
        let (Some(sa), Some(sb)) = (sa, sb) else { return format!("{:+.3}, one seed", a - b) };
        let sd = ((sa * sa + sb * sb) / 2.0).sqrt();
        if (a - b).abs() < 2.0 * sd { format!("tie ({:+.3})", a - b) } else { format!("{:+.3}", a - b) }
    }
}

/// A finished grid, made for readers.
pub struct Report<'a> {
    manifest: &'a Manifest<Record>,
    /// Patterns in the order of the grid.
    pub best: Vec<Best<'a>>,
    lines: &'a [Line],
}

impl<'a> Report<'a> {
    /// Of all lines of a grid.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a line is missing, and settings that cannot be run.
    pub fn new(manifest: &'a Manifest<Record>, lines: &'a [Line]) -> Result<Self> {
        let grid = &manifest.settings.grid;
        grid.check()?;
        let best = grid.patterns.iter().map(|pattern| Best::of(grid, pattern, lines));
        Ok(Self { manifest, best: best.collect::<Result<_>>()?, lines })
    }

    fn grid(&self) -> &Settings {
        &self.manifest.settings.grid
    }

    /// A loss in nats, told in the grid's unit.
    fn told(&self, nats: f64) -> f64 {
        self.grid().unit.of(nats)
    }

    fn unit(&self) -> String {
        format!("{} per {}", self.grid().unit.name(), self.grid().symbol)
    }

    fn table(&self, caption: &str, columns: Vec<String>, cells: impl Fn(&Best<'a>) -> Vec<Item>) -> Table {
        let columns = [vec!["pattern".to_owned()], columns].concat();
        let line = |(at, best): (usize, &Best<'a>)| {
            let head = Item::head(best.pattern, eunoe_report::svg::key(Look::new(at))).class("plan");
            [vec![head], cells(best)].concat()
        };
        Table { caption: caption.into(), columns, lines: self.best.iter().enumerate().map(line).collect() }
    }

    fn losses(&self) -> Table {
        let columns = [self.unit(), "beside the first".into(), "rate".into()].to_vec();
        self.table("Loss on test texts", columns, |best| {
            let diverged = best.lines.iter().filter(|line| line.ended == Ended::Diverged).count();
            let note = match diverged {
                0 if best.pattern == self.best[0].pattern => "–".into(),
                0 => best.beside(&self.best[0]),
                n => format!("{n} diverged"),
            };
            let rate =
                Item::num(best.lr.to_string()).small(if self.is_edge(best.lr) { "(edge)" } else { "" });
            vec![spread(best.test()), Item::text(note), rate]
        })
    }

    /// Whether a rate is the lowest or the highest of several: a better one may lie outside.
    fn is_edge(&self, lr: f64) -> bool {
        let lrs = &self.grid().lrs;
        lrs.len() > 1 && !(lrs.iter().any(|other| *other < lr) && lrs.iter().any(|other| *other > lr))
    }

    /// From where, up to where: of the first training that was measured.
    fn buckets(&self) -> Vec<(usize, usize)> {
        let measured = self.best.iter().flat_map(|best| &best.lines).find(|line| !line.positions.is_empty());
        measured
            .map_or(Vec::new(), |line| line.positions.iter().map(|(from, upto, _)| (*from, *upto)).collect())
    }

    fn positions(&self) -> Table {
        let buckets = self.buckets();
        let columns = buckets.iter().map(|(from, upto)| format!("{from}–{upto}")).collect();
        self.table("Loss by position", columns, |best| {
            (0..buckets.len()).map(|at| spread(best.loss(|line| line.positions.get(at)?.2))).collect()
        })
    }

    /// Those that any training has.
    fn measures(&self) -> impl Iterator<Item = &'static Measure> {
        let points = || self.lines.iter().flat_map(|line| &line.curve);
        MEASURES.iter().filter(move |measure| points().any(|point| (measure.of)(point).is_some()))
    }

    fn sinks(&self) -> Table {
        let columns = self.measures().flat_map(|Measure { name, .. }| {
            [format!("{name} at the start"), "at the end".into(), "at most".into()]
        });
        self.table("Attention sinks", columns.collect(), |best| {
            let value = |of: Of, at: fn(&[f64]) -> Option<f64>| {
                let all = best.lines.iter().map(|line| {
                    let over: Vec<f64> = line.curve.iter().filter_map(of).collect();
                    at(&over).map_or(f64::NAN, |share| 100.0 * share)
                });
                percent(mean_sd(all.collect::<Vec<_>>().into_iter()))
            };
            let most = |over: &[f64]| over.iter().copied().max_by(f64::total_cmp);
            let of = |Measure { of, .. }: &Measure| {
                [value(*of, |o| o.first().copied()), value(*of, |o| o.last().copied()), value(*of, most)]
            };
            self.measures().flat_map(of).collect()
        })
    }

    fn rates(&self) -> Table {
        let columns = self.grid().lrs.iter().map(f64::to_string).collect();
        self.table("Validation loss by rate", columns, |best| {
            let cell = |valid: &Option<f64>| {
                Item::num(valid.map_or("diverged".into(), |nats| format!("{:.3}", self.told(nats))))
            };
            best.valid.iter().map(cell).collect()
        })
    }

    fn costs(&self) -> Table {
        let t = self.grid().train.seq_len;
        let states = [t, t * self.grid().beyond].map(|t| format!("state at {t}"));
        let rest = ["parameters", "MLP width", "per second", "seconds"].map(String::from);
        self.table("Cost", [states.to_vec(), rest.to_vec()].concat(), |best| {
            let line = best.lines[0];
            let states = line.state_bytes.map(|state| Item::num(bytes(state as f64)));
            let rest = [
                Item::num(count(line.params)),
                Item::num(count(line.d_ff)),
                Item::num(count(best.mean(|line| line.tokens_per_s) as usize)),
                Item::num(format!("{:.0}", best.mean(|line| line.seconds))),
            ];
            states.into_iter().chain(rest).collect()
        })
    }

    /// A curve per pattern: the mean of its seeds, and the range of them.
    fn curves(&self, of: impl Fn(&Best<'a>) -> Vec<(f64, Vec<f64>)>) -> Vec<Curve> {
        let curve = |(at, best): (usize, &Best<'a>)| {
            let point = |(x, values): (f64, Vec<f64>)| {
                let (mean, sd) = mean_sd(values.iter().copied());
                let range = sd.map(|sd| [mean - sd, mean + sd]);
                Point { x, y: mean, range, label: None, title: format!("{}: {mean:.3} at {x}", best.pattern) }
            };
            let points = of(best).into_iter().map(point).filter(|point| point.y.is_finite()).collect();
            Curve { look: Look::new(at), points, joined: Some(best.pattern.to_owned()), form: Form::Band(at) }
        };
        self.best.iter().enumerate().map(curve).collect()
    }

    fn training(&self, of: impl Fn(&super::Point) -> Option<f64>, label: &str) -> Plot {
        let train = &self.grid().train;
        let each = (train.batch * train.accumulate * train.seq_len) as f64;
        let curves = self.curves(|best| {
            let steps = best.lines.iter().map(|line| line.curve.len()).min().unwrap_or(0);
            // the first point is before anything is learned, and would take the height of the chart
            let at = |n: usize| {
                let values = best.lines.iter().filter_map(|line| of(&line.curve[n])).collect();
                (best.lines[0].curve[n].step as f64 * each, values)
            };
            (1..steps).map(at).filter(|(_, values): &(f64, Vec<f64>)| !values.is_empty()).collect()
        });
        plot(label, &format!("{}s seen", self.grid().symbol), Kind::Tokens, curves)
    }

    fn by_position(&self) -> Plot {
        let buckets = self.buckets();
        let curves = self.curves(|best| {
            let at = |(n, (_, upto)): (usize, &(usize, usize))| {
                let values = best.lines.iter().filter_map(|line| line.positions.get(n)?.2);
                (*upto as f64, values.map(|nats| self.told(nats)).collect())
            };
            buckets.iter().enumerate().map(at).collect()
        });
        plot(&self.unit(), "up to this position", Kind::Tokens, curves)
    }

    fn by_state(&self) -> Plot {
        let curves = self.curves(|best| {
            let losses = best.lines.iter().filter_map(|line| line.test).map(|nats| self.told(nats));
            vec![(best.lines[0].state_bytes[0] as f64, losses.collect())]
        });
        let label =
            format!("bytes of state at {} {}s, all layers", self.grid().train.seq_len, self.grid().symbol);
        plot(&self.unit(), &label, Kind::Bytes, curves)
    }
}

impl Page for Report<'_> {
    fn head(&self) -> Head<'_> {
        let lead = "Language models of one size, by what stands between their tokens";
        Head { title: &self.grid().title, lead, version: &self.manifest.version }
    }

    fn how(&self) -> Vec<String> {
        let (grid, machine) = (self.grid(), &self.manifest.machine);
        let (model, train) = (&grid.model, &grid.train);
        let rates: Vec<String> = grid.lrs.iter().map(f64::to_string).collect();
        let texts = format!(
            "Texts: {}. Windows for training begin anywhere; those for measurement one behind the other.",
            self.manifest.settings.texts.join("; ")
        );
        let sizes = format!(
            "Models: width {}, {}, {}, head tied to the embedding; MLPs are as wide as it takes for every pattern to have the \
             parameters of the first.",
            model.d_model,
            counted(model.layers, "layer"),
            counted(model.heads, "head")
        );
        let training = format!(
            "Training: {} steps of {} windows of {} {}s ({} in all); AdamW, weight decay {}, gradients no longer than {}, rates {} \
             with a rise over {} of the steps and half a cosine down to {}. Each pattern is trained at each rate with seed 0, and \
             at the best one with {}.",
            count(train.steps as usize),
            train.batch * train.accumulate,
            train.seq_len,
            grid.symbol,
            count(train.steps as usize * train.batch * train.accumulate * train.seq_len),
            train.weight_decay,
            train.clip,
            rates.join(", "),
            train.warmup,
            train.decay_to,
            counted(grid.seeds as usize, "seed")
        );
        let cost = format!(
            "All trainings together took {}; begun on {} ({}), {} at a time.",
            seconds(self.lines.iter().map(|line| line.seconds).sum()),
            machine.cpu,
            machine.isa,
            machine.jobs
        );
        vec![texts, sizes, training, cost]
    }

    fn parts(&self) -> Vec<Part> {
        let chart = |file: &str, title: &str, plot| Chart { file: file.into(), title: title.into(), plot };
        let part =
            |title, note: &str, table, charts| Part { title, note: note.into(), table: Some(table), charts };
        let (unit, seen) = (self.unit(), |point: &super::Point| point.valid.map(|nats| self.told(nats)));
        let windows = match self.grid().beyond {
            1 => "windows as long as those of training",
            _ => "windows longer than those of training: the state is carried on",
        };
        let carried = format!("{unit}, from {windows}.");
        let mut parts = vec![
            part(
                "Loss",
                RULE,
                self.losses(),
                vec![
                    chart("training.svg", "Validation loss over training", self.training(seen, &unit)),
                    chart("state.svg", "Loss against bytes of state", self.by_state()),
                ],
            ),
            part(
                "By position",
                &carried,
                self.positions(),
                vec![chart("positions.svg", "Loss by position", self.by_position())],
            ),
        ];
        let charts: Vec<Chart> = self
            .measures()
            .map(|measure| chart(measure.file, measure.title, self.training(measure.of, measure.label)))
            .collect();
        if !charts.is_empty() {
            parts.push(part("Attention sinks", SINKS, self.sinks(), charts));
        }
        let rates = format!("Validation {unit} of seed 0.");
        parts.push(part("Rates", &rates, self.rates(), Vec::new()));
        let speed = "Symbols per second are those of training beside the other workers.";
        parts.push(part("Cost", speed, self.costs(), Vec::new()));
        parts
    }
}

fn percent((mean, sd): (f64, Option<f64>)) -> Item {
    match mean.is_nan() {
        true => Item::num("–"),
        false => Item::num(format!("{mean:.1} %")).small(sd.map_or(String::new(), |sd| format!("± {sd:.1}"))),
    }
}

fn plot(y: &str, x: &str, kind: Kind, curves: Vec<Curve>) -> Plot {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let across = Axis::over(x, kind, points().map(|point| point.x));
    let up = points().flat_map(|point| point.range.unwrap_or([point.y, point.y]));
    let up = Axis::over(y, Kind::Score, up.collect::<Vec<_>>().into_iter());
    let mut plot = Plot::new(format!("{y} against {x}"), (860.0, 420.0), across, up);
    plot.curves = curves;
    plot
}
