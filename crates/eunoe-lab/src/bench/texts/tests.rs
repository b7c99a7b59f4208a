use super::*;
use crate::bench::grid::Silent;
use crate::bench::{Page as _, together, write};
use crate::device::Devices;
use eunoe_report::{ITEMS, MANIFEST};

fn tiny() -> Settings {
    let model = Config { d_model: 16, layers: 2, heads: 2, d_ff: 24, ..Config::default() };
    let train = TrainConfig { steps: 6, batch: 2, seq_len: 16, ..TrainConfig::default() };
    Settings {
        patterns: vec!["softmax_attention".into(), "gated_conv + aaren".into()],
        model,
        train,
        lrs: vec![1e-3, 1e-2],
        seeds: 3,
        points: 2,
        windows: 4,
        beyond: 4,
        ..Settings::books()
    }
}

fn texts() -> Texts {
    let text = |len: usize| Text::new((0..len).map(|n| (n * n % 7) as u8).collect(), 0).unwrap();
    Texts { train: text(2000), valid: text(500), test: text(600), sources: vec!["made up".into()] }
}

fn grid(settings: &Settings, texts: &Texts, dir: &Path) -> Result<(Manifest<Record>, Vec<Line>)> {
    let devices = Devices::parse("cpu")?;
    run(settings, texts, dir, Workers { count: 2, devices: &devices }, &Silent)
}

#[test]
fn each_pattern_is_searched_and_then_repeated_at_its_best_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, texts) = (tiny(), texts());
    let (manifest, lines) = grid(&settings, &texts, dir.path()).unwrap();
    assert_eq!((lines.len(), settings.trainings()), (8, 8));
    let report = Report::new(&manifest, &lines).unwrap();
    for (best, pattern) in report.best.iter().zip(&settings.patterns) {
        let own = |seed| lines.iter().filter(move |line| line.mixer == *pattern && line.seed == seed);
        let least = own(0).min_by(|a, b| a.valid.unwrap().total_cmp(&b.valid.unwrap())).unwrap();
        assert_eq!((best.lr, best.lines.len()), (least.lr, 3));
        assert!(own(1).chain(own(2)).all(|line| line.lr == least.lr));
        // of two rates either is an edge
        assert!(report.markdown().contains(&format!("| {} (edge) |", least.lr)));
    }
    let all = std::fs::read_to_string(dir.path().join(ITEMS)).unwrap();
    let kept: Vec<&str> = all.lines().take(5).collect();
    // killed behind the fifth training: the rest is done again, and is the same
    std::fs::write(dir.path().join(ITEMS), kept.join("\n") + "\n").unwrap();
    let strip = |lines: Vec<Line>| {
        let mut lines: Vec<Line> =
            lines.into_iter().map(|line| Line { seconds: 0.0, tokens_per_s: 0.0, ..line }).collect();
        lines.sort_by(|a, b| (&a.mixer, a.seed).cmp(&(&b.mixer, b.seed)).then(a.lr.total_cmp(&b.lr)));
        lines
    };
    let (_, again) = grid(&settings, &texts, dir.path()).unwrap();
    assert_eq!(strip(again), strip(lines));
    let other = Settings { points: 3, ..settings };
    let error = grid(&other, &texts, dir.path()).unwrap_err().to_string();
    assert!(error.contains("`grid.points`") || error.contains("`points`"), "{error}");
}

#[test]
fn a_line_says_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { lrs: vec![1e-2], seeds: 1, ..tiny() };
    let (_, lines) = grid(&settings, &texts(), dir.path()).unwrap();
    let line = lines.iter().find(|line| line.mixer == "softmax_attention").unwrap();
    let steps: Vec<u64> = line.curve.iter().map(|point| point.step).collect();
    assert_eq!((steps, line.steps, line.ended), (vec![1, 3, 6], 6, Ended::Steps));
    assert!(line.curve.iter().all(|point| point.sink.is_some()));
    let ends: Vec<(usize, usize)> = line.positions.iter().map(|(from, upto, _)| (*from, *upto)).collect();
    assert_eq!(ends, [(0, 2), (2, 8), (8, 16), (16, 32), (32, 64)]);
    // keys and values of 2 layers, 16 f32 each per symbol
    assert_eq!(line.state_bytes, [2 * 2 * 16 * 16 * 4, 2 * 2 * 16 * 64 * 4]);
    // a text of 4 symbols, all as likely as can be learned in 6 steps: between nothing known and all
    assert!(line.test.unwrap() < 256f64.ln() && line.test.unwrap() > 0.0);
}

#[test]
fn the_smallest_forms_can_be_run() {
    for settings in [Settings::books(), Settings::sinks(), Settings::chorales()] {
        let quick = settings.clone().quick();
        quick.check().unwrap();
        assert!(quick.trainings() == settings.patterns.len() && quick.train.steps < settings.train.steps);
    }
}

#[test]
fn patterns_have_as_many_parameters_as_the_first() {
    let settings = Settings::books();
    let count = |pattern: &str| {
        let mut params = Params::zeros(DType::F32, &Device::Cpu);
        Decoder::new(&settings.model_of(pattern).unwrap(), &mut params).unwrap();
        params.count() as f64
    };
    let want = count("softmax_attention");
    for pattern in Settings::books().patterns.iter().chain(&Settings::sinks().patterns) {
        let off = (count(pattern) - want).abs() / want;
        assert!(off < 0.01, "{pattern}: {off}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let short = |text: Text| Texts { test: text, ..texts() };
    let patterns = |pattern: &str| Settings { patterns: vec!["aaren".into(), pattern.into()], ..tiny() };
    for (settings, texts, why) in [
        (patterns("aarn"), texts(), "did you mean `aaren`?"),
        (patterns("aaren + "), texts(), "expected a mixer, e.g. `softmax_attention`, got the end"),
        (patterns("aaren"), texts(), "`aaren` is there twice"),
        (Settings { seeds: 0, ..tiny() }, texts(), "`seeds` is 0"),
        (Settings { lrs: vec![-1.0], ..tiny() }, texts(), "`lr` is -1"),
        (Settings { points: 0, ..tiny() }, texts(), "`points`"),
        (
            tiny(),
            short(Text::new(vec![0; 64], 0).unwrap()),
            "the texts of `test` have 64 bytes; a window needs 65",
        ),
        (tiny(), short(texts().valid), "are the same text"),
        (
            Settings { model: Config { d_ff: 1, ..tiny().model }, ..patterns("titans(wiring=mag)") },
            texts(),
            "parameters without MLPs",
        ),
    ] {
        let error = grid(&settings, &texts, &dir.path().join("out")).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_training_that_diverges_is_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("books");
    let settings = Settings { lrs: vec![1e30], seeds: 1, ..tiny() };
    let (manifest, lines) = grid(&settings, &texts(), &here).unwrap();
    assert!(lines.iter().all(|line| line.ended == Ended::Diverged && line.test.is_none()));
    let page = Report::new(&manifest, &lines).unwrap().markdown();
    assert!(
        page.contains("| softmax\\_attention | – | 1 diverged | 1000000000000000000000000000000 |"),
        "{page}"
    );
    for wrong in [
        Settings { lrs: Vec::new(), ..settings.clone() },
        Settings { seeds: 0, ..settings.clone() },
        Settings { seeds: 2, ..settings.clone() },
    ] {
        let mut hostile = manifest.clone();
        hostile.settings.grid = wrong;
        assert!(Report::new(&hostile, &lines).is_err());
    }
    // a page of several folders has the parts of each under names of their own
    let both = together("Both", &[here.clone(), here.clone()]).unwrap();
    assert!(both.contains("<section id=\"1-loss\"") && both.contains("<section id=\"2-loss\""));
    assert!(both.contains("Books, byte by byte: Loss"));
    assert_eq!(write(&here).unwrap(), [here.join("report.md")]);
    assert_eq!(std::fs::read_to_string(here.join("report.md")).unwrap(), page);
    std::fs::write(here.join(MANIFEST), "{\"benchmark\": \"other\"}").unwrap();
    let error = together("Both", &[here]).unwrap_err().to_string();
    assert!(error.contains("not a benchmark of the lab"), "{error}");
}
