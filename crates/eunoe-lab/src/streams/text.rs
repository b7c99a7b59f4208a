//! Files as tokens: bytes, or those of a model's tokenizer.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::Device;
use eunoe_core::{Error, Result};
use eunoe_model::tokenizer::Tokenizer;

use super::{Batch, rng};

/// The tokens of some files, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    data: Vec<u32>,
    /// What one token is: a byte, or one of a tokenizer.
    is_bytes: bool,
    bos: Option<u32>,
}

impl Text {
    /// Reads `files`, in order: as bytes, or as the tokens of `tokenizer`, which reads each file by itself.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Format`] for one that is not UTF-8 and is to be tokenized,
    /// [`Error::Invalid`] where fewer than `least` tokens are there.
    pub fn read(files: &[PathBuf], tokenizer: Option<&Tokenizer>, least: usize) -> Result<Self> {
        let mut data = Vec::new();
        for file in files {
            let bytes = std::fs::read(file).map_err(|error| Error::io(file, error))?;
            match tokenizer {
                None => data.extend(bytes.into_iter().map(u32::from)),
                Some(tokenizer) => {
                    let text = String::from_utf8(bytes).map_err(|error| {
                        let at = error.utf8_error().valid_up_to() as u64;
                        Error::format(format!("`{}`", file.display()), at, "not UTF-8, which tokenizers read")
                    })?;
                    data.extend(tokenizer.encode(&text));
                }
            }
        }
        Self::of(data, tokenizer.is_none(), least)
    }

    /// Bytes that are there already.
    ///
    /// # Errors
    /// [`Error::Invalid`] where fewer than `least` are.
    pub fn new(data: Vec<u8>, least: usize) -> Result<Self> {
        Self::of(data.into_iter().map(u32::from).collect(), true, least)
    }

    fn of(data: Vec<u32>, is_bytes: bool, least: usize) -> Result<Self> {
        if data.len() < least {
            let have = data.len();
            return Err(Error::Invalid(format!(
                "the text has {have} tokens; a window needs {least}: name more files, or make `seq_len` smaller"
            )));
        }
        Ok(Self { data, is_bytes, bos: None })
    }

    /// The same in windows that begin with the token `bos` where there is one: all tokens of the text behind it are targets.
    pub fn with_bos(self, bos: Option<u32>) -> Self {
        Self { bos, ..self }
    }

    /// What they are, for those who want the same ones: how many, and their FNV-1a checksum; tokens of a tokenizer count four
    /// bytes each.
    pub fn fingerprint(&self) -> String {
        let (what, each) = if self.is_bytes { ("bytes", 1) } else { ("tokens", 4) };
        let bytes: Vec<u8> =
            self.data.iter().flat_map(|token| token.to_le_bytes().into_iter().take(each)).collect();
        let begins = self.bos.map_or(String::new(), |bos| format!(", each window behind a {bos}"));
        format!("{} {what}, fnv1a {:016x}{begins}", self.len(), crate::nets::hash(&bytes))
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// `rows` windows of `t` tokens that begin anywhere, each target the token after.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn batch(
        &self,
        seed: u64,
        step: u64,
        (rows, t): (usize, usize),
        device: &Device,
    ) -> crate::Result<Batch> {
        let mut rng = rng(seed, step);
        let starts: Vec<usize> = (0..rows).map(|_| rng.usize(..=self.data.len() - self.needed(t))).collect();
        self.at(&starts, t, device)
    }

    /// Tokens that a window of `t` is made of: the last is a target alone, if nothing stands before the first.
    pub fn needed(&self, t: usize) -> usize {
        t + usize::from(self.bos.is_none())
    }

    /// The text in windows of `t` tokens, at most `most`, `rows` at a time; every token, the first too behind a token of its
    /// own, is a target once.
    pub fn windows(&self, rows: usize, t: usize, most: usize) -> Windows<'_> {
        let count =
            (self.data.len() + t).saturating_sub(self.needed(t)).checked_div(t).unwrap_or(0).min(most);
        Windows { text: self, rows, t, count, next: 0 }
    }

    fn at(&self, starts: &[usize], t: usize, device: &Device) -> crate::Result<Batch> {
        // behind a first token the text itself is what is asked for, without one the text from its second token on
        let tokens = |from: &usize| self.bos.into_iter().chain(self.data[*from..].iter().copied()).take(t);
        let targets =
            |from: &usize| self.data[from + usize::from(self.bos.is_none())..].iter().copied().take(t);
        let (tokens, targets) = (starts.iter().flat_map(tokens), starts.iter().flat_map(targets));
        Batch::new(tokens.collect(), targets.collect(), starts.len(), device)
    }
}

/// Refuses a file that stands in two of these lists: what is learned from measures nothing.
///
/// # Errors
/// [`Error::Invalid`] naming the file and both lists.
pub fn apart(lists: &[(&str, &[PathBuf])]) -> Result<()> {
    let mut seen = HashMap::new();
    for (list, file) in lists.iter().flat_map(|(list, files)| files.iter().map(move |file| (*list, file))) {
        let place = file.canonicalize().unwrap_or_else(|_| file.clone());
        if let Some(other) = seen.insert(place, list).filter(|other| *other != list) {
            let file = file.display();
            return Err(Error::Invalid(format!(
                "`{file}` is in `{other}` and in `{list}`: what is learned from measures nothing"
            )));
        }
    }
    Ok(())
}

/// Windows one behind the other; what is left at the end and fills no window is left out.
pub struct Windows<'a> {
    text: &'a Text,
    rows: usize,
    t: usize,
    count: usize,
    next: usize,
}

impl Windows<'_> {
    /// The next batch, of fewer rows at the end; `None` behind it.
    pub fn next_on(&mut self, device: &Device) -> Option<crate::Result<Batch>> {
        let rows = (self.count - self.next).min(self.rows);
        let starts: Vec<usize> = (self.next..self.next + rows).map(|n| n * self.t).collect();
        self.next += rows;
        (rows > 0).then(|| self.text.at(&starts, self.t, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: u8) -> Text {
        Text::new((0..len).collect(), 0).unwrap()
    }

    #[test]
    fn a_file_is_in_one_list_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "a").unwrap();
        let same = folder.path().join(".").join("a");
        assert!(apart(&[("train", &[a.clone(), a.clone()]), ("test", std::slice::from_ref(&b))]).is_ok());
        let error = apart(&[("train", &[b.clone(), a]), ("test", &[same])]).unwrap_err().to_string();
        assert!(error.contains("a` is in `train` and in `test`"), "{error}");
        // none of two files that are not there is the other
        assert!(apart(&[("train", &[b]), ("test", &[folder.path().join("c")])]).is_ok());
    }

    #[test]
    fn a_fingerprint_is_of_the_bytes() {
        // the published value for `a`
        let of = |text: &[u8]| Text::new(text.to_vec(), 0).unwrap().fingerprint();
        assert_eq!(of(b"a"), "1 bytes, fnv1a af63dc4c8601ec8c");
        assert_ne!(of(b"ab"), of(b"ba"));
        let tokens = |tokens: &[u32]| Text::of(tokens.to_vec(), false, 0).unwrap().fingerprint();
        assert!(tokens(&[97, 256]).starts_with("2 tokens, fnv1a "));
        // the same to their lowest bytes
        assert_ne!(tokens(&[97, 256]), tokens(&[97, 512]));
    }

    #[test]
    fn windows_cover_the_text_once() {
        let text = text(12);
        let mut windows = text.windows(2, 3, usize::MAX);
        let mut seen = Vec::new();
        while let Some(batch) = windows.next_on(&Device::Cpu) {
            let batch = batch.unwrap();
            seen.push((batch.tokens.to_vec2::<u32>().unwrap(), batch.targets.to_vec2::<u32>().unwrap()));
        }
        // 11 targets, three whole windows
        assert_eq!(seen[0].0, [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(seen[0].1, [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(seen[1], (vec![vec![6, 7, 8]], vec![vec![7, 8, 9]]));
        assert_eq!(seen.len(), 2);
        let mut first = text.windows(2, 3, 1);
        let tokens =
            |batch: Option<crate::Result<Batch>>| batch.map(|b| b.unwrap().tokens.to_vec2::<u32>().unwrap());
        assert_eq!(tokens(first.next_on(&Device::Cpu)).unwrap(), [[0, 1, 2]]);
        assert!(first.next_on(&Device::Cpu).is_none());
    }

    #[test]
    fn behind_a_first_token_all_of_the_text_is_asked_for() {
        let text = text(12).with_bos(Some(99));
        let mut windows = text.windows(4, 3, usize::MAX);
        let batch = windows.next_on(&Device::Cpu).unwrap().unwrap();
        assert_eq!(batch.tokens.to_vec2::<u32>().unwrap(), [[99, 0, 1], [99, 3, 4], [99, 6, 7], [99, 9, 10]]);
        assert_eq!(batch.targets.to_vec2::<u32>().unwrap(), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]);
        // of a text as long as a window there is one
        let batch = text.batch(1, 2, (2, 12), &Device::Cpu).unwrap();
        assert_eq!(batch.targets.to_vec2::<u32>().unwrap(), vec![(0..12).collect::<Vec<u32>>(); 2]);
        let batch = text.batch(1, 2, (5, 4), &Device::Cpu).unwrap();
        let (tokens, targets) =
            (batch.tokens.to_vec2::<u32>().unwrap(), batch.targets.to_vec2::<u32>().unwrap());
        assert!(tokens.iter().zip(&targets).all(|(a, b)| a[0] == 99 && a[1..] == b[..3]));
        assert!(text.fingerprint().ends_with(", each window behind a 99"), "{}", text.fingerprint());
    }

    #[test]
    fn batches_depend_on_seed_and_step_alone() {
        let text = text(200);
        let batch = |seed, step| {
            let batch = text.batch(seed, step, (4, 7), &Device::Cpu).unwrap();
            (batch.tokens.to_vec2::<u32>().unwrap(), batch.targets.to_vec2::<u32>().unwrap())
        };
        assert_eq!(batch(1, 5), batch(1, 5));
        assert_ne!(batch(1, 5), batch(1, 6));
        assert_ne!(batch(1, 5), batch(2, 5));
        let (tokens, targets) = batch(3, 0);
        assert!(tokens.iter().zip(&targets).all(|(a, b)| a[1..] == b[..6] && b[6] == a[6] + 1));
    }

    #[test]
    fn a_text_below_a_window_is_refused() {
        let error = Text::new(vec![0; 9], 10).unwrap_err().to_string();
        assert!(error.contains("the text has 9 tokens; a window needs 10"), "{error}");
        let error = Text::read(&["nowhere".into()], None, 1).unwrap_err().to_string();
        assert!(error.contains("`nowhere`"), "{error}");
    }
}
