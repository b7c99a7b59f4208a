//! What a token costs a mixer, in training and in decode, against the length of the text.
//!
//! A mixer stands alone, without embedding, MLP and norms, so that its own slope shows. Training reads batches of equally many
//! tokens in texts of each length; decode continues a text one token at a time from each position.

mod report;

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use report::Report;

use super::{Folder, Manifest, Workers};
use crate::mixers::{self, Spec};
use crate::nets::{Config, Params};
use crate::{Ctx, Mixer, State, invalid};

/// Tokens of a text or a batch.
const MOST: usize = 1 << 22;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Phrases of mixers.
    pub mixers: Vec<String>,
    /// Width of the stream.
    pub d_model: usize,
    /// Heads.
    pub heads: usize,
    /// Lengths of texts in training.
    pub lengths: Vec<usize>,
    /// Tokens of a batch, a multiple of every length: as many texts as they make.
    pub tokens: usize,
    /// Positions that decode continues from.
    pub positions: Vec<usize>,
    /// Measurements of each, of which the median counts.
    pub turns: usize,
}

impl Default for Settings {
    /// A quarter of an hour on two cores.
    fn default() -> Self {
        let mixers = [
            "softmax_attention",
            "lightning_attention",
            "aaren",
            "linear_attention",
            "based",
            "delta_rule",
            "titans(wiring=memory)",
        ];
        Self {
            mixers: mixers.map(String::from).to_vec(),
            d_model: 256,
            heads: 4,
            lengths: vec![512, 1024, 2048, 4096, 8192, 16384],
            tokens: 16384,
            positions: vec![1024, 4096, 16384],
            turns: 5,
        }
    }
}

impl Settings {
    /// In full, or in its smallest form.
    pub fn preset(quick: bool) -> Self {
        if quick { Self::quick() } else { Self::default() }
    }

    /// A minute: short texts, narrow.
    pub fn quick() -> Self {
        let (lengths, positions) = (vec![128, 256, 512, 1024], vec![128, 1024]);
        Self { d_model: 64, heads: 2, lengths, tokens: 1024, positions, turns: 3, ..Self::default() }
    }

    /// Refuses sizes that cannot be.
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::Invalid(why));
        if self.mixers.is_empty() || self.lengths.is_empty() {
            return wrong("a mixer and a length are needed".into());
        }
        let sizes = self.lengths.iter().chain([&self.tokens, &self.turns]);
        if sizes.clone().any(|size| *size == 0) || sizes.chain(&self.positions).any(|size| *size > MOST) {
            return wrong(format!(
                "lengths, tokens and turns must be from 1 to {MOST}, positions {MOST} at most"
            ));
        }
        if let Some(length) = self.lengths.iter().find(|length| !self.tokens.is_multiple_of(**length)) {
            let tokens = self.tokens;
            return wrong(format!(
                "`tokens` is {tokens}, which is no whole number of texts of {length}: choose a multiple"
            ));
        }
        let mut seen = HashSet::new();
        let keys = self.mixers.iter().cloned().chain(self.lengths.iter().map(|t| format!("T {t}")));
        let keys = keys.chain(self.positions.iter().map(|at| format!("at {at}")));
        if let Some(twice) = keys.into_iter().find(|key| !seen.insert(key.clone())) {
            return wrong(format!("`{twice}` is there twice"));
        }
        self.mixers.iter().try_for_each(|phrase| Subject::new(phrase, self, &Device::Cpu).map(|_| ()))
    }
}

/// When tokens are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Whole texts, forward and back.
    Training,
    /// One token behind a state.
    Decode,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The mixer's phrase.
    pub mixer: String,
    /// What was done.
    pub kind: Phase,
    /// Length of the text, or tokens before the one that is decoded.
    pub at: usize,
    /// Tokens per second at the median.
    pub tokens_per_s: f64,
    /// Bytes of the state behind them, of one sequence; as measured.
    pub state_bytes: usize,
}

/// A mixer and its parameters.
struct Subject {
    mixer: Box<dyn Mixer>,
    params: Params,
    d_model: usize,
    device: Device,
}

impl Subject {
    fn new(phrase: &str, settings: &Settings, device: &Device) -> Result<Self> {
        let config = Config { d_model: settings.d_model, heads: settings.heads, ..Config::default() };
        config.check()?;
        let mut params = Params::new(0, DType::F32, device);
        let mixer = mixers::build(phrase, &Spec::of(&config, 0), &mut params.init())?;
        Ok(Self { mixer, params, d_model: settings.d_model, device: device.clone() })
    }

    /// `[b, t, m]` of N(0, 1), the same each time.
    fn input(&self, b: usize, t: usize) -> crate::Result<Tensor> {
        Params::new(1, DType::F32, &self.device)
            .init()
            .normal("x", &[b, t, self.d_model], 1.0)
            .map(|x| x.detach())
    }

    /// Seconds of one pass forward and back, and the state behind it.
    fn train(&self, x: &Tensor) -> crate::Result<(f64, State)> {
        let start = Instant::now();
        let (y, state) = self.mixer.run(x, State::default(), &mut Ctx::default())?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        if self.params.iter().any(|(_, param)| grads.get(&param.var).is_none()) {
            candle_core::bail!("a parameter got no gradient");
        }
        self.device.synchronize()?;
        Ok((start.elapsed().as_secs_f64(), state.detach()))
    }

    /// The state of one sequence behind `t` tokens, read in pieces.
    fn read(&self, t: usize) -> crate::Result<State> {
        const PIECE: usize = 512;
        let mut state = State::default();
        for from in (0..t).step_by(PIECE) {
            let x = self.input(1, PIECE.min(t - from))?;
            state = self.mixer.run(&x, state, &mut Ctx::default())?.1.detach().compact()?;
        }
        Ok(state)
    }

    /// Seconds of one token behind `state`.
    fn decode(&self, x: &Tensor, state: &State) -> crate::Result<f64> {
        let start = Instant::now();
        self.mixer.run(x, state.clone(), &mut Ctx::default())?;
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Measures into a folder, mixer by mixer: what is there already stays.
///
/// # Errors
/// Those of [`measure`] and of [`Folder::open`]; another machine or other threads than those of the rows that are there.
pub fn run(
    settings: &Settings,
    dir: &Path,
    workers: Workers<'_>,
    told: &mut dyn FnMut(&Row),
) -> Result<(Manifest<Settings>, Vec<Row>)> {
    settings.check()?;
    let here = Manifest::here("throughput", settings.clone(), workers);
    let device = workers.devices.one()?;
    let (folder, manifest, mut rows) = Folder::open::<_, Row>(dir, here)?;
    let is_new = |phrase: &&String| !rows.iter().any(|row: &Row| row.mixer == **phrase);
    let todo: Vec<&String> = settings.mixers.iter().filter(is_new).collect();
    let now = Manifest::here("throughput", (), workers).machine;
    let (there, here) = ((&manifest.machine.cpu, manifest.machine.threads), (&now.cpu, now.threads));
    if there != here && !todo.is_empty() {
        return Err(Error::Invalid(format!(
            "`{}` was begun on {} with {} threads, this is {} with {}: see `--threads`, or give another folder",
            dir.display(),
            there.0,
            there.1,
            here.0,
            here.1,
        )));
    }
    for phrase in todo {
        let new = of(phrase, settings, &device, told)?;
        folder.add(&new)?;
        rows.extend(new);
    }
    Ok((manifest, rows))
}

/// Measures every mixer, and tells each row as it is there.
///
/// # Errors
/// [`Error::Invalid`] for sizes that cannot be, [`Error::Plan`] for a mixer that is not there.
pub fn measure(settings: &Settings, device: &Device, told: &mut dyn FnMut(&Row)) -> Result<Vec<Row>> {
    settings.check()?;
    let rows = settings.mixers.iter().map(|phrase| of(phrase, settings, device, told));
    Ok(rows.collect::<Result<Vec<_>>>()?.concat())
}

/// The rows of one mixer. Turns go through the lengths in order, so that a slow moment of the machine meets all of them.
fn of(phrase: &str, settings: &Settings, device: &Device, told: &mut dyn FnMut(&Row)) -> Result<Vec<Row>> {
    let subject = Subject::new(phrase, settings, device)?;
    let mut rows = Vec::new();
    let mut add = |kind, at, tokens: usize, seconds: f64, state_bytes| {
        let row = Row { mixer: phrase.into(), kind, at, tokens_per_s: tokens as f64 / seconds, state_bytes };
        told(&row);
        rows.push(row);
    };
    for (t, seconds, bytes) in training(&subject, settings).map_err(invalid)? {
        add(Phase::Training, t, settings.tokens, seconds, bytes);
    }
    for (at, seconds, bytes) in decoding(&subject, settings).map_err(invalid)? {
        add(Phase::Decode, at, 1, seconds, bytes);
    }
    Ok(rows)
}

/// Length, median seconds and bytes of state per length.
fn training(subject: &Subject, settings: &Settings) -> crate::Result<Vec<(usize, f64, usize)>> {
    let inputs = settings.lengths.iter().map(|t| subject.input(settings.tokens / t, *t));
    let inputs = inputs.collect::<crate::Result<Vec<_>>>()?;
    let mut seconds = vec![Vec::new(); inputs.len()];
    let mut bytes = vec![0; inputs.len()];
    for turn in 0..=settings.turns {
        for (i, x) in inputs.iter().enumerate() {
            let (taken, state) = subject.train(x)?;
            bytes[i] = state.compact()?.bytes() / x.dim(0)?;
            // the first turn warms up
            if turn > 0 {
                seconds[i].push(taken);
            }
        }
    }
    let rows = settings.lengths.iter().zip(seconds).zip(bytes);
    Ok(rows.map(|((t, seconds), bytes)| (*t, median(seconds), bytes)).collect())
}

/// Position, median seconds and bytes of state per position.
fn decoding(subject: &Subject, settings: &Settings) -> crate::Result<Vec<(usize, f64, usize)>> {
    let states = settings.positions.iter().map(|t| subject.read(*t)).collect::<crate::Result<Vec<_>>>()?;
    let x = subject.input(1, 1)?;
    let mut seconds = vec![Vec::new(); states.len()];
    // tokens are short: ten times as many, and as many before them that do not count
    for turn in 0..11 * settings.turns {
        for (i, state) in states.iter().enumerate() {
            let taken = subject.decode(&x, state)?;
            if turn >= settings.turns {
                seconds[i].push(taken);
            }
        }
    }
    let rows = settings.positions.iter().zip(states).zip(seconds);
    Ok(rows.map(|((at, state), seconds)| (*at, median(seconds), state.bytes())).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How the seconds of a text grow with its length: the least-squares slope of ln seconds over ln length, 1 where a token
/// costs the same at every length, 2 where it costs as much as there are before it. `None` below two lengths.
pub fn slope(rows: &[Row], mixer: &str) -> Option<f64> {
    let of = rows.iter().filter(|row| row.mixer == mixer && row.kind == Phase::Training);
    let points: Vec<[f64; 2]> =
        of.map(|row| [(row.at as f64).ln(), (row.at as f64 / row.tokens_per_s).ln()]).collect();
    let mean = |i: usize| points.iter().map(|p| p[i]).sum::<f64>() / points.len() as f64;
    let [x, y] = [mean(0), mean(1)];
    let spread: f64 = points.iter().map(|p| (p[0] - x).powi(2)).sum();
    (spread > 0.0).then(|| points.iter().map(|p| (p[0] - x) * (p[1] - y)).sum::<f64>() / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at: usize, tokens_per_s: f64) -> Row {
        Row { mixer: "a".into(), kind: Phase::Training, at, tokens_per_s, state_bytes: 0 }
    }

    #[test]
    fn slopes_by_hand() {
        // the same speed at every length: seconds grow as the length; half the speed at twice the length: as its square
        let flat = [row(10, 5.0), row(20, 5.0), row(40, 5.0)];
        let steep = [row(10, 8.0), row(20, 4.0), row(40, 2.0)];
        assert!((slope(&flat, "a").unwrap() - 1.0).abs() < 1e-12);
        assert!((slope(&steep, "a").unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(slope(&flat[..1], "a"), None);
        assert_eq!(slope(&flat, "b"), None);
    }

    #[test]
    fn states_are_measured_and_nothing_is_left_out() {
        let settings = Settings {
            mixers: vec!["softmax_attention".into(), "lightning_attention".into()],
            d_model: 16,
            heads: 2,
            lengths: vec![8, 16],
            tokens: 32,
            positions: vec![4, 600],
            turns: 1,
        };
        let mut told = 0;
        let rows = measure(&settings, &Device::Cpu, &mut |_| told += 1).unwrap();
        assert_eq!((rows.len(), told), (8, 8));
        let bytes: Vec<usize> = rows.iter().map(|row| row.state_bytes).collect();
        // keys and values of 16 f32 each per token; one matrix of 8 by 8 per head
        assert_eq!(bytes, [8 * 128, 16 * 128, 4 * 128, 600 * 128, 512, 512, 512, 512]);
        assert!(rows.iter().all(|row| row.tokens_per_s.is_finite() && row.tokens_per_s > 0.0));
        for (wrong, why) in [
            (Settings { mixers: vec!["nothing".into()], ..settings.clone() }, "no mixer is called `nothing`"),
            (
                Settings { mixers: vec!["aaren".into(), "aaren".into()], ..settings.clone() },
                "`aaren` is there twice",
            ),
            (Settings { mixers: Vec::new(), ..settings.clone() }, "a mixer and a length are needed"),
            (Settings { turns: usize::MAX, ..settings.clone() }, "turns must be from 1"),
            (Settings { lengths: vec![0], ..settings.clone() }, "lengths, tokens and turns"),
            (
                Settings { lengths: vec![8, 12], ..settings.clone() },
                "`tokens` is 32, which is no whole number of texts of 12",
            ),
            (Settings { lengths: vec![8, 8], ..settings.clone() }, "`T 8` is there twice"),
        ] {
            let got = measure(&wrong, &Device::Cpu, &mut |_| ()).unwrap_err().to_string();
            assert!(got.contains(why), "{got}");
        }
    }

    #[test]
    fn what_was_measured_before_a_stop_stays() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            mixers: vec!["aaren".into(), "linear_attention".into()],
            d_model: 16,
            heads: 2,
            lengths: vec![8],
            tokens: 8,
            positions: vec![4],
            turns: 1,
        };
        let devices = crate::device::Devices::parse("cpu").unwrap();
        let workers = Workers { count: 1, devices: &devices };
        let mut told = Vec::new();
        let (manifest, rows) = run(&settings, dir.path(), workers, &mut |_| ()).unwrap();
        let path = dir.path().join(eunoe_report::ITEMS);
        let first: Vec<String> =
            std::fs::read_to_string(&path).unwrap().lines().take(2).map(String::from).collect();
        std::fs::write(&path, first.join("\n") + "\n").unwrap();
        let (again, kept) =
            run(&settings, dir.path(), workers, &mut |row| told.push(row.mixer.clone())).unwrap();
        assert_eq!((told, again), (vec!["linear_attention".to_owned(); 2], manifest.clone()));
        assert_eq!((kept.len(), &kept[..2]), (4, &rows[..2]));
        let mut hostile = manifest.clone();
        hostile.settings.turns = 0;
        assert!(Report::new(&hostile, &rows).is_err() && Report::new(&manifest, &rows).is_ok());
        let other =
            Manifest { machine: eunoe_report::Machine { threads: 99, ..manifest.machine }, ..manifest };
        std::fs::write(dir.path().join(eunoe_report::MANIFEST), serde_json::to_string(&other).unwrap())
            .unwrap();
        // all is there: nothing is measured
        assert_eq!(run(&settings, dir.path(), workers, &mut |_| ()).unwrap().1, kept);
        std::fs::write(&path, first.join("\n") + "\n").unwrap();
        let error = run(&settings, dir.path(), workers, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("with 99 threads, this is"), "{error}");
    }
}
