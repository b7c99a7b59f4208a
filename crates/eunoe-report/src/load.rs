//! Reads the folder of an evaluation.

use std::fs;
use std::path::Path;

use eunoe_core::{Error, Result};

use crate::{Line, Manifest};

/// File of the [`Manifest`].
pub const MANIFEST: &str = "manifest.json";
/// File of the [`Line`]s.
pub const ITEMS: &str = "items.jsonl";

/// Far above any real number, far below what sums of them could not hold.
const ABSURD: f64 = 1e15;

/// Manifest and lines of a folder, in the order written. A last line that breaks off, as a killed writer
/// leaves it, is ignored.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read; [`Error::Format`] with the line number if it is not what it should
/// be.
pub fn load(dir: &Path) -> Result<(Manifest, Vec<Line>)> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|why| Error::io(&path, why))?;
    let manifest = serde_json::from_slice(&bytes).map_err(|why| {
        Error::format(format!("`{}`", path.display()), offset(&bytes, &why), why.to_string())
    })?;
    let path = dir.join(ITEMS);
    let bytes = fs::read(&path).map_err(|why| Error::io(&path, why))?;
    let lines = lines(&bytes, &path.display().to_string())?;
    Ok((manifest, lines))
}

/// Where in `bytes` serde stopped.
fn offset(bytes: &[u8], why: &serde_json::Error) -> u64 {
    let before = bytes.split_inclusive(|b| *b == b'\n').take(why.line().saturating_sub(1));
    let start: usize = before.map(<[u8]>::len).sum();
    (start + why.column().saturating_sub(1)) as u64
}

/// The lines of a file named `name` in errors.
///
/// # Errors
/// As [`load`].
pub fn lines(bytes: &[u8], name: &str) -> Result<Vec<Line>> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, text) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let what = || format!("`{name}`, line {}", at + 1);
        let is_whole = text.ends_with(b"\n");
        match serde_json::from_slice::<Line>(text) {
            _ if text.trim_ascii().is_empty() => {}
            Ok(line) => {
                check(&line).map_err(|why| Error::format(what(), start, why))?;
                found.push(line);
            }
            Err(_) if !is_whole => {}
            Err(why) => {
                return Err(Error::format(
                    what(),
                    start + why.column().saturating_sub(1) as u64,
                    plain(&why),
                ));
            }
        }
        start += text.len() as u64;
    }
    Ok(found)
}

/// The message without serde's own place, which counts from the start of the line.
fn plain(why: &serde_json::Error) -> String {
    let text = why.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_string()
}

/// Whether a line can be meant.
///
/// # Errors
/// What is absurd about it.
pub(crate) fn check(line: &Line) -> std::result::Result<(), String> {
    let share = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(format!("`{name}` must be from 0 to 1, got {value}")),
    };
    let amount = |name: &str, value: f64| match (0.0..ABSURD).contains(&value) {
        true => Ok(()),
        false => Err(format!("`{name}` must be from 0 to {ABSURD:e}, got {value}")),
    };
    share("score", line.score)?;
    share("chance", line.chance)?;
    line.depths.iter().try_for_each(|depth| share("depths", *depth))?;
    for (name, value) in [
        ("prompt_tokens", line.prompt_tokens as f64),
        ("budget_bytes", line.budget_bytes.unwrap_or(0) as f64),
        ("peak_bytes", line.peak_bytes as f64),
        ("hot_bytes", line.hot_bytes as f64),
        ("cold_bytes", line.cold_bytes as f64),
        ("attended_tokens", line.attended_tokens),
        ("attended", line.attended),
        ("prefill_s", line.prefill_s),
        ("decode_s", line.decode_s),
    ] {
        amount(name, value)?;
    }
    line.details.iter().try_for_each(|(name, value)| amount(name, value.abs()))?;
    match line.kept.iter().find(|kept| **kept > 1000) {
        Some(kept) => Err(format!("`kept` is in thousandths, got {kept}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    fn text(line: &Line) -> String {
        serde_json::to_string(line).unwrap() + "\n"
    }

    /// The error that `bytes` give.
    fn error(bytes: &[u8]) -> String {
        lines(bytes, "items.jsonl").unwrap_err().to_string()
    }

    #[test]
    fn a_folder_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, lines) = made_up::small();
        made_up::write(dir.path(), &manifest, &lines);
        assert_eq!(load(dir.path()).unwrap(), (manifest, lines));
    }

    #[test]
    fn only_a_last_line_may_break_off() {
        let (_, all) = made_up::small();
        let whole = text(&all[0]) + &text(&all[1]);
        let first = text(&all[0]).len();
        // Wherever the writer was killed in its second line, one line remains; only without its newline it is
        // whole.
        for cut in first..whole.len() - 1 {
            assert_eq!(lines(&whole.as_bytes()[..cut], "").unwrap(), all[..1], "{cut}");
        }
        assert_eq!(lines(&whole.as_bytes()[..whole.len() - 1], "").unwrap(), all[..2]);
        let broken = whole.replacen('}', "", 2);
        assert!(error(broken.as_bytes()).starts_with("`items.jsonl`, line 1: "));
        assert!(
            error(format!("{}{{\"plan\n", text(&all[0])).as_bytes()).starts_with("`items.jsonl`, line 2: ")
        );
        assert!(lines(b"\n\n", "").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_text_is_an_error_with_its_line() {
        let (_, all) = made_up::small();
        let mut bytes = text(&all[0]).into_bytes();
        bytes.extend(b"{\"plan\":\"\xff\xfe\"}\n");
        assert!(error(&bytes).starts_with("`items.jsonl`, line 2: "));
    }

    #[test]
    fn absurd_values_are_refused() {
        let (_, all) = made_up::small();
        let good = text(&all[0]);
        let change = |f: &dyn Fn(&mut Line)| {
            let mut line = all[0].clone();
            f(&mut line);
            check(&line).unwrap_err()
        };
        assert_eq!(change(&|line| line.score = 1.5), "`score` must be from 0 to 1, got 1.5");
        assert_eq!(change(&|line| line.score = f64::NAN), "`score` must be from 0 to 1, got NaN");
        assert_eq!(change(&|line| line.kept = vec![1001]), "`kept` is in thousandths, got 1001");
        assert!(change(&|line| line.chance = -0.1).contains("`chance`"));
        assert!(change(&|line| line.depths = vec![2.0]).contains("`depths`"));
        assert!(change(&|line| line.decode_s = f64::INFINITY).contains("`decode_s`"));
        assert!(change(&|line| line.peak_bytes = u64::MAX).contains("`peak_bytes`"));
        assert!(change(&|line| line.details = [("nll".into(), f64::NAN)].into()).contains("`nll`"));
        for score in ["NaN", "1e999", "null", "-1", "\"1\""] {
            let bad = good.replacen("\"score\":1.0", &format!("\"score\":{score}"), 1);
            assert_ne!(bad, good);
            assert!(error(bad.as_bytes()).starts_with("`items.jsonl`, line 1: "), "{score}");
        }
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let name = |dir: &Path| load(dir).unwrap_err().to_string();
        assert!(name(dir.path()).contains("manifest.json"));
        fs::write(dir.path().join(MANIFEST), "{\"eunoe\":\n 3}").unwrap();
        let message = name(dir.path());
        assert!(message.contains("manifest.json`: ") && message.contains("line 2"), "{message}");
        let (manifest, _) = made_up::small();
        fs::write(dir.path().join(MANIFEST), serde_json::to_string(&manifest).unwrap()).unwrap();
        assert!(name(dir.path()).contains("items.jsonl"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = lines(&bytes, "");
        }

        #[test]
        fn no_change_of_one_byte_panics(at in 0usize..10_000, to: u8) {
            let (_, all) = made_up::small();
            let mut bytes: Vec<u8> = all[..2].iter().flat_map(|line| text(line).into_bytes()).collect();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = lines(&bytes, "");
        }
    }
}
