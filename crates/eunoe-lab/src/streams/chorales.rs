//! Chorales for four voices as texts of bytes, voice by voice in every sixteenth.
//!
//! A frame is four tokens: soprano, alto, tenor, bass, each its MIDI pitch, or [`Chorales::REST`] (Huang 2019, arXiv
//! 1809.04281, section 4.1). [`Chorales::START`] stands in front of a piece, so that its first note is predicted from
//! something too; a loss per token after it is a loss per note.

use std::path::Path;

use eunoe_core::{Error, Result};
use serde::Deserialize;

/// Tokens of a frame.
const VOICES: usize = 4;

/// Pieces as they lie in the file: frames of pitches. Some files write `69.0` for 69.
type Pieces = Vec<Vec<Vec<f64>>>;

#[derive(Deserialize)]
struct Splits {
    train: Pieces,
    valid: Pieces,
    test: Pieces,
}

/// Pieces as tokens, in the three parts that results are reported on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chorales {
    /// To learn from.
    pub train: Vec<Vec<u8>>,
    /// To choose by.
    pub valid: Vec<Vec<u8>>,
    /// To report.
    pub test: Vec<Vec<u8>>,
}

impl Chorales {
    /// A voice that is silent.
    pub const REST: u8 = 0;
    /// Stands in front of every piece; no pitch is as high.
    pub const START: u8 = 128;

    /// Reads a JSON object whose `train`, `valid` and `test` are lists of pieces, a piece a list of frames, a frame the
    /// pitches of up to four voices from the soprano down, −1 for a rest. A frame with fewer does not say which voice is
    /// silent; the lowest are taken to be. In the file that is in use these are 128 of 92,536 frames, and 256 are empty.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Format`] for one that is not JSON of this form, or
    /// [`Error::Invalid`] naming the piece and the frame at fault.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let what = format!("`{}`", path.display());
        let splits: Splits = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&*what, 0, format!("expected chorales as JSON: {error}")))?;
        let part = |name: &str, pieces: &Pieces| {
            if pieces.is_empty() {
                return Err(Error::Invalid(format!("{what}: `{name}` holds no pieces")));
            }
            let at = |n: usize| format!("{what}: `{name}`, piece {n}");
            pieces.iter().enumerate().map(|(n, piece)| tokens(piece, || at(n))).collect()
        };
        Ok(Self {
            train: part("train", &splits.train)?,
            valid: part("valid", &splits.valid)?,
            test: part("test", &splits.test)?,
        })
    }
}

/// A piece, where it stands for the error.
fn tokens(piece: &[Vec<f64>], place: impl Fn() -> String) -> Result<Vec<u8>> {
    if piece.is_empty() {
        return Err(Error::Invalid(format!("{} has no frames", place())));
    }
    let mut tokens = vec![Chorales::START];
    for (i, frame) in piece.iter().enumerate() {
        if frame.len() > VOICES {
            let why = format!("{} pitches, at most {VOICES}", frame.len());
            return Err(Error::Invalid(format!("{}, frame {i}: {why}", place())));
        }
        for pitch in frame {
            tokens.push(token(*pitch).ok_or_else(|| {
                let why = format!("`{pitch}` is no pitch: expected 1 to 127, or -1 for a rest");
                Error::Invalid(format!("{}, frame {i}: {why}", place()))
            })?);
        }
        tokens.extend(std::iter::repeat_n(Chorales::REST, VOICES - frame.len()));
    }
    Ok(tokens)
}

fn token(pitch: f64) -> Option<u8> {
    match pitch {
        -1.0 => Some(Chorales::REST),
        // pitch 0 would read as a rest
        _ if (1.0..f64::from(Chorales::START)).contains(&pitch) && pitch.fract() == 0.0 => Some(pitch as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Chorales> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Chorales::read(file.path())
    }

    /// A file whose `train` is this; the other parts hold one piece of one frame.
    fn train(pieces: &str) -> Result<Chorales> {
        read(&format!(r#"{{ "valid": [[[60]]], "train": {pieces}, "test": [[[61, 1]]] }}"#))
    }

    #[test]
    fn frames_are_four_voices_from_the_soprano_down() {
        let chorales = train("[[[72, 67, 64, 48], [74.0, 65.0, -1, 50.0], []], [[69, 54.0, 127]]]").unwrap();
        assert_eq!(
            chorales.train,
            [vec![128, 72, 67, 64, 48, 74, 65, 0, 50, 0, 0, 0, 0], vec![128, 69, 54, 127, 0]]
        );
        assert_eq!(
            (chorales.valid, chorales.test),
            (vec![vec![128, 60, 0, 0, 0]], vec![vec![128, 61, 1, 0, 0]])
        );
    }

    #[test]
    fn files_that_are_no_chorales_are_refused_where_they_are_wrong() {
        for (pieces, why) in [
            (
                "[[[60]], [[60], [128]]]",
                "`train`, piece 1, frame 1: `128` is no pitch: expected 1 to 127, or -1",
            ),
            ("[[[0]]]", "`0` is no pitch"),
            ("[[[-2]]]", "`-2` is no pitch"),
            ("[[[60.5]]]", "`60.5` is no pitch"),
            ("[[[1e300]]]", "is no pitch"),
            ("[[[60, 60, 60, 60, 60]]]", "`train`, piece 0, frame 0: 5 pitches, at most 4"),
            ("[[]]", "`train`, piece 0 has no frames"),
            ("[]", "`train` holds no pieces"),
            ("[[60]]", "expected chorales as JSON: invalid type: integer `60`"),
            ("[[[null]]]", "expected chorales as JSON: invalid type: null"),
        ] {
            let error = train(pieces).unwrap_err().to_string();
            assert!(error.contains(why), "{pieces}: {error}");
        }
        for (text, why) in [
            ("chorales", "expected chorales as JSON: expected value"),
            (r#"{ "train": [[[60]]], "test": [[[60]]] }"#, "missing field `valid`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = Chorales::read(Path::new("nowhere")).unwrap_err().to_string();
        assert!(error.contains("`nowhere`"), "{error}");
    }

    #[test]
    #[ignore = "needs the file: EUNOE_CHORALES=FILE cargo test -p eunoe-lab -- --ignored"]
    fn the_file_in_use_has_229_76_and_77_pieces() {
        let file = std::env::var_os("EUNOE_CHORALES").expect("EUNOE_CHORALES");
        let Chorales { train, valid, test } = Chorales::read(Path::new(&file)).unwrap();
        let frames =
            |pieces: &[Vec<u8>]| pieces.iter().map(|piece| (piece.len() - 1) / VOICES).sum::<usize>();
        assert_eq!([train.len(), valid.len(), test.len()], [229, 76, 77]);
        assert_eq!([frames(&train), frames(&valid), frames(&test)], [55_228, 18_408, 18_900]);
    }
}
