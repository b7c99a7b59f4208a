//! The loop: batches, steps, evaluations, checkpoints.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use eunoe_core::{Error, Result};
use eunoe_model::gguf;
use eunoe_model::tokenizer::Tokenizer;
use eunoe_report::MANIFEST;
use serde::Serialize;
use serde_json::Value;

use super::{CHECKPOINT, Checkpoint, RunConfig, Step, Trainee, read_header};
use crate::nets::Decoder;
use crate::streams::{Text, apart};
use crate::{Ctx, bridge, difference, invalid, ops};

/// One line of the metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Steps taken.
    pub step: u64,
    /// Mean loss of the step's batches, nats per token.
    pub loss: f64,
    /// Loss on what is held out, where it was measured at this step.
    pub held_out: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens per second of this step.
    pub tokens_per_s: f64,
}

/// Who is told how a run goes, and may stop it.
pub trait Progress {
    /// The run begins, or goes on after `step` steps: what was told of later ones is taken again.
    ///
    /// # Errors
    /// Those of setting the rows right.
    fn start(&mut self, step: u64) -> Result<()>;

    /// A step was taken. `false` stops the run after a checkpoint.
    ///
    /// # Errors
    /// Those of writing the row.
    fn row(&mut self, row: &Row) -> Result<bool>;
}

/// Trains a model as `config` says, from the checkpoint in `folder` where there is one, and leaves one there.
///
/// # Errors
/// [`Error::Invalid`] where the loss or the gradient is no longer a number (the last checkpoint stays), texts shorter than
/// a window, [`Error::Io`] where a checkpoint cannot be written.
pub fn train(
    config: &RunConfig,
    folder: &Path,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Decoder> {
    config.check()?;
    apart(&[("files", &config.data.files), ("held_out", &config.data.held_out)])?;
    if folder.join(MANIFEST).exists() {
        let why = format!("`{}` is the folder of a benchmark: give another one", folder.display());
        return Err(Error::Invalid(why));
    }
    let (mut trainee, tokenizer) = begin(config, device)?;
    let config = &RunConfig { model: trainee.model.config.clone(), ..config.clone() };
    let t = &config.train;
    let read = |files| Text::read(files, tokenizer.as_ref(), t.seq_len + 1);
    let text = read(&config.data.files)?;
    let held_out = match config.data.held_out.as_slice() {
        [] => None,
        files => Some(read(files)?),
    };
    if held_out.as_ref() == Some(&text) {
        let why = "`files` and `held_out` are the same text: what is learned from measures nothing";
        return Err(Error::Invalid(why.into()));
    }
    let here = Checkpoint { step: 0, config: config.clone(), text: Some(text.fingerprint()) };
    let path = folder.join(CHECKPOINT);
    if path.exists() {
        resume(&path, &here, &mut trainee)?;
    }
    progress.start(trainee.adam.step)?;
    let save = |Trainee { params, adam, .. }: &Trainee| {
        Checkpoint { step: adam.step, ..here.clone() }.save(&path, params, adam)
    };
    let due = |every: u64, step: u64| step == t.steps || every > 0 && step.is_multiple_of(every);
    while trainee.adam.step < t.steps {
        let start = Instant::now();
        let taken = trainee.step(|number| text.batch(t.seed, number, (t.batch, t.seq_len), device))?;
        let step = trainee.adam.step;
        if let Some(why) = taken.diverged() {
            return Err(Error::Invalid(format!("step {step}: {why}")));
        }
        let tokens_per_s = (t.batch * t.accumulate * t.seq_len) as f64 / start.elapsed().as_secs_f64();
        let measured = held_out.as_ref().filter(|_| due(t.evaluate_every, step));
        let measure = |text| evaluate(&trainee.model, text, t.seq_len, t.evaluate_windows, device);
        let held_out = measured.map(measure).transpose().map_err(invalid)?;
        let Step { loss, lr, grad_norm } = taken;
        let goes_on = progress.row(&Row { step, loss, held_out, lr, grad_norm, tokens_per_s })?;
        if !goes_on || due(t.save_every, step) {
            save(&trainee)?;
        }
        if !goes_on {
            return Err(Error::Interrupted);
        }
    }
    Ok(trainee.model)
}

/// Goes on where a checkpoint stands, if it is one of this run.
fn resume(path: &Path, here: &Checkpoint, trainee: &mut Trainee) -> Result<()> {
    let there = read_header(path)?;
    let text = |of: &Checkpoint| Value::from(of.text.clone());
    let other = match here.config.difference(&there.config)? {
        None if there.text.is_some() => difference("files", &text(&there), &text(here)),
        other => other,
    };
    if let Some(what) = other {
        let path = path.display();
        let why =
            format!("`{path}` is of another run ({what}): resume with what it had, or use another folder");
        return Err(Error::Invalid(why));
    }
    Checkpoint::load(path, &trainee.params, &mut trainee.adam).map(|_| ())
}

/// The model that a run begins with, and the tokenizer of its texts where they are not bytes.
fn begin(config: &RunConfig, device: &Device) -> Result<(Trainee, Option<Tokenizer>)> {
    let Some(base) = &config.from else {
        return Ok((Trainee::new(&config.model, &config.train, device)?, None));
    };
    let file = gguf::open(base)?;
    let (model, params) = bridge::load(&file, config.train.precision, device)?;
    Ok((Trainee::of(model, params, &config.train)?, Some(Tokenizer::from_gguf(&file)?)))
}

/// Mean loss in nats per token over the first `most` windows of a text, one at least.
///
/// # Errors
/// Those of tensor work.
pub fn evaluate(model: &Decoder, text: &Text, t: usize, most: usize, device: &Device) -> crate::Result<f64> {
    let (mut total, mut count, mut windows) = (0.0, 0, text.windows(8, t, most.max(1)));
    while let Some(batch) = windows.next_on(device) {
        let batch = batch?;
        let (logits, targets) = model.answers(&batch, &mut Ctx::default())?;
        let nll = ops::nll(&logits.detach(), &targets)?;
        total += nll.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        count += batch.tokens.dim(0)?;
    }
    Ok(total / (count * t) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::Config;
    use crate::train::{Data, TrainConfig};

    /// Remembers its rows, and stops the run after `stop` steps.
    struct Told {
        starts: Vec<u64>,
        rows: Vec<(u64, f64)>,
        stop: u64,
    }

    impl Progress for Told {
        fn start(&mut self, step: u64) -> Result<()> {
            self.starts.push(step);
            Ok(())
        }

        fn row(&mut self, row: &Row) -> Result<bool> {
            self.rows.push((row.step, row.loss));
            Ok(row.step != self.stop)
        }
    }

    fn config(folder: &Path) -> RunConfig {
        let text = folder.join("text");
        std::fs::write(&text, (0..2000u32).map(|i| (i * i % 61) as u8).collect::<Vec<u8>>()).unwrap();
        RunConfig {
            from: None,
            model: Config { d_model: 8, layers: 1, heads: 2, d_ff: 8, ..Config::default() },
            data: Data { files: vec![text], held_out: Vec::new() },
            train: TrainConfig { steps: 6, batch: 2, seq_len: 8, ..TrainConfig::default() },
        }
    }

    fn run(config: &RunConfig, folder: &Path, stop: u64) -> (Result<Decoder>, Told) {
        let mut told = Told { starts: Vec::new(), rows: Vec::new(), stop };
        (train(config, folder, &Device::Cpu, &mut told), told)
    }

    #[test]
    fn as_many_windows_are_measured_as_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let mut params = crate::nets::Params::new(1, DType::F32, &Device::Cpu);
        let model = Decoder::new(&config.model, &mut params).unwrap();
        let text = Text::read(&config.data.files, None, 9).unwrap();
        let mean = |most| evaluate(&model, &text, 8, most, &Device::Cpu).unwrap();
        // the loss of the n-th window alone is n times the mean up to it less n − 1 times the one before
        let nth = |n: usize| n as f64 * mean(n) - if n > 1 { (n - 1) as f64 * mean(n - 1) } else { 0.0 };
        let alone = |n: usize| {
            let part = std::fs::read(&config.data.files[0]).unwrap()[(n - 1) * 8..n * 8 + 1].to_vec();
            evaluate(&model, &Text::new(part, 9).unwrap(), 8, 1, &Device::Cpu).unwrap()
        };
        for n in [1, 2, 8, 9] {
            assert!((nth(n) - alone(n)).abs() < 1e-5, "{n}: {} for {}", nth(n), alone(n));
        }
    }

    #[test]
    fn a_run_that_stopped_goes_on_as_if_it_had_not() {
        let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let config = config(whole.path());
        let (done, want) = run(&config, whole.path(), 0);
        assert!(done.is_ok() && want.starts == [0] && want.rows.len() == 6);
        let (stopped, first) = run(&config, parts.path(), 4);
        assert!(matches!(stopped, Err(Error::Interrupted)));
        let (done, second) = run(&config, parts.path(), 0);
        assert!(done.is_ok() && second.starts == [4]);
        assert_eq!([first.rows, second.rows].concat(), want.rows);
        let bytes = |folder: &Path| std::fs::read(folder.join(CHECKPOINT)).unwrap();
        assert!(bytes(whole.path()) == bytes(parts.path()), "checkpoints differ");
    }

    #[test]
    fn more_steps_other_measures_and_a_moved_text_are_the_same_run() {
        let [folder, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut config = config(folder.path());
        assert!(run(&config, folder.path(), 0).0.is_ok());
        let moved = other.path().join("moved");
        std::fs::rename(&config.data.files[0], &moved).unwrap();
        let held_out = other.path().join("held out");
        std::fs::write(&held_out, [7; 99]).unwrap();
        config.data = Data { files: vec![moved], held_out: vec![held_out] };
        let train = config.train;
        config.train =
            TrainConfig { steps: 9, save_every: 1, evaluate_every: 2, evaluate_windows: 3, ..train };
        let (done, told) = run(&config, folder.path(), 0);
        assert!(done.is_ok() && told.starts == [6]);
        assert_eq!(told.rows.iter().map(|row| row.0).collect::<Vec<_>>(), [7, 8, 9]);
        let kept = read_header(&folder.path().join(CHECKPOINT)).unwrap();
        assert_eq!((kept.step, kept.config), (9, config));
    }

    #[test]
    fn what_is_refused_and_a_loss_that_is_no_number_leave_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert!(matches!(run(&config, folder.path(), 2).0, Err(Error::Interrupted)));
        let path = folder.path().join(CHECKPOINT);
        let saved = std::fs::read(&path).unwrap();
        let mut other = config.clone();
        other.model.d_model = 16;
        let why = run(&other, folder.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("of another run (`d_model`: 8 there, 16 asked for)"), "{why}");
        let mut short = config.clone();
        short.train.steps = 5;
        let why = run(&short, folder.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("(`steps`: 6 there, 5 asked for)"), "{why}");
        let text = &config.data.files[0];
        let before = std::fs::read(text).unwrap();
        std::fs::write(text, [&before[..1999], b"x"].concat()).unwrap();
        let why = run(&config, folder.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("(`files`: \"2000 bytes, fnv1a "), "{why}");
        std::fs::write(text, before).unwrap();
        let mut same = config.clone();
        same.data.held_out = config.data.files.clone();
        let why = run(&same, folder.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("is in `files` and in `held_out`"), "{why}");
        same.data.held_out = vec![folder.path().join("copy")];
        std::fs::copy(&config.data.files[0], &same.data.held_out[0]).unwrap();
        let why = run(&same, folder.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("are the same text"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), saved);
        // the first step is taken and saved, and leads nowhere
        let train = TrainConfig { lr: 1e30, clip: 0.0, save_every: 1, ..config.train.clone() };
        let (adrift, fresh) = (RunConfig { train, ..config }, tempfile::tempdir().unwrap());
        let (ended, told) = run(&adrift, fresh.path(), 0);
        let why = ended.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("lower `lr`") && told.rows.len() == 1, "{why}");
        assert_eq!(read_header(&fresh.path().join(CHECKPOINT)).unwrap().step, 1);
        std::fs::write(fresh.path().join(MANIFEST), "").unwrap();
        let why = run(&adrift, fresh.path(), 0).0.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("is the folder of a benchmark"), "{why}");
    }
}
