use std::fs;

use super::*;
use crate::bench::grid::Silent;
use crate::device::Devices;
use eunoe_report::{ITEMS, MANIFEST};

/// Told of a training where none should be.
struct Never;

impl Progress for Never {
    fn resumed(&self, _: usize) {}
    fn begins(&self, _: usize, cell: &Cell) {
        panic!("{cell:?} was trained again");
    }
    fn step(&self, _: usize, _: u64, _: f64) {}
    fn valid(&self, _: usize, _: &'static str, _: f64) {}
    fn ends(&self, _: usize, _: u64) {}
}

fn run(
    settings: &Settings,
    dir: &Path,
    count: usize,
    progress: &dyn Progress,
) -> Result<(Manifest<Record>, Vec<Line>)> {
    let devices = Devices::parse("cpu").unwrap();
    super::run(settings, dir, Workers { count, devices: &devices }, progress)
}

fn shape(t: usize, pairs: usize) -> MqarShape {
    MqarShape { t, pairs }
}

/// A grid of four trainings of four steps.
fn tiny() -> Settings {
    Settings {
        mixers: vec!["aaren".into(), "softmax_attention".into()],
        vocab: 16,
        shapes: vec![shape(8, 1), shape(12, 2)],
        d_model: 8,
        examples: 8,
        valid: 6,
        test: 5,
        batch: 2,
        epochs: 1,
        lrs: vec![1e-2],
        seeds: 2,
        ..Settings::default()
    }
}

/// The lines of a file, without what the clock says.
fn kept(dir: &Path) -> Vec<Line> {
    let text = fs::read_to_string(dir.join(ITEMS)).unwrap();
    let line = |line| Line { seconds: 0.0, ..serde_json::from_str(line).unwrap() };
    text.lines().map(line).collect()
}

#[test]
fn a_stopped_grid_ends_as_one_that_was_not() {
    let settings = tiny();
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, lines) = run(&settings, whole.path(), 1, &Silent).unwrap();
    let want = kept(whole.path());
    assert_eq!((lines.len(), want.len()), (8, 8));
    // killed in the third training: its first shape is kept, its second torn
    fs::copy(whole.path().join(MANIFEST), stopped.path().join(MANIFEST)).unwrap();
    let text = fs::read_to_string(whole.path().join(ITEMS)).unwrap();
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let before = &text[..ends[4]];
    fs::write(stopped.path().join(ITEMS), &text[..ends[4] + 20]).unwrap();
    run(&settings, stopped.path(), 1, &Silent).unwrap();
    assert_eq!(kept(stopped.path()), want);
    let after = fs::read_to_string(stopped.path().join(ITEMS)).unwrap();
    assert!(after.starts_with(before), "lines that are there stay as they are");
    // nothing is left to do
    let (_, again) = run(&settings, stopped.path(), 1, &Never).unwrap();
    assert_eq!(again.len(), 8);
}

#[test]
fn results_do_not_depend_on_how_many_run_at_a_time() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let strip = |lines: Vec<Line>| -> Vec<Line> {
        lines.into_iter().map(|line| Line { seconds: 0.0, ..line }).collect()
    };
    let (_, a) = run(&tiny(), one.path(), 1, &Silent).unwrap();
    let (_, b) = run(&tiny(), two.path(), 3, &Silent).unwrap();
    assert_eq!(strip(a), strip(b));
}

#[test]
fn what_cannot_be_run_is_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let settings = tiny();
    let mixers = |phrase: &str| Settings { mixers: vec!["aaren".into(), phrase.into()], ..tiny() };
    for (settings, why) in [
        (mixers("arean"), "did you mean `aaren`?"),
        (mixers("based(features=x)"), "`features`: expected a whole number"),
        (mixers("titans(wiring=mac, window=24)"), "a segment of 24 tokens"),
        (mixers("aaren"), "`aaren` is there twice"),
        (Settings { heads: 3, ..settings.clone() }, "`heads` 3 does not divide"),
        (Settings { shapes: vec![shape(8, 3)], ..settings.clone() }, "3 pairs in 8 tokens"),
        (Settings { examples: 3, ..settings.clone() }, "fill no batch of 2"),
        (Settings { shapes: vec![shape(1 << 20, 3)], ..settings.clone() }, "texts of 1048576 tokens"),
        (Settings { vocab: 1, ..settings.clone() }, "the vocabulary has 1"),
        (Settings { stop_at: f64::NAN, ..settings.clone() }, "`stop_at` is NaN"),
        (Settings { test: 0, ..settings.clone() }, "`test` must be from 1"),
        (Settings { lrs: vec![], ..settings.clone() }, "`lrs` is empty"),
        (Settings { lrs: vec![f64::NAN], ..settings.clone() }, "a rate of NaN"),
        (Settings { seeds: 0, ..settings.clone() }, "`seeds` is 0"),
    ] {
        let error = run(&settings, &dir.path().join("out"), 1, &Never).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_rate_too_high_is_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { lrs: vec![1e30], mixers: vec!["softmax_attention".into()], ..tiny() };
    let (_, lines) = run(&settings, dir.path(), 1, &Silent).unwrap();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line.ended == Ended::Diverged && line.steps < 4), "{lines:?}");
}

/// Attention finds what stands anywhere; attention to the token itself leaves only what the convolution sees.
#[test]
fn attention_recalls_and_a_window_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        mixers: vec!["softmax_attention".into(), "softmax_attention(window=1)".into()],
        vocab: 32,
        shapes: vec![shape(16, 2)],
        d_model: 32,
        examples: 6400,
        valid: 64,
        test: 256,
        batch: 32,
        epochs: 3,
        lrs: vec![1e-2],
        seeds: 1,
        ..Settings::default()
    };
    let (_, lines) = run(&settings, dir.path(), 1, &Silent).unwrap();
    assert!(lines[0].accuracy > 0.95, "{lines:?}");
    assert!(lines[1].accuracy < 0.5, "{lines:?}");
    // k and v of 16 tokens; none
    assert_eq!((lines[0].state_bytes, lines[1].state_bytes), (2 * 16 * 32 * 4, 0));
}
