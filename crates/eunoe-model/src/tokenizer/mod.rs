//! Text to tokens and back, with the vocabularies that GGUF files carry and the results of llama.cpp.
//!
//! The merge loop is ours rather than the `tokenizers` crate's: that crate needs a list of merges, which SentencePiece
//! vocabularies in GGUF files do not have, and where scores are equal it would not take the leftmost.

mod bpe;
mod decoder;
mod marked;
mod merge;
mod pre;
mod special;
mod spm;
mod vocab;

use std::borrow::Cow;
use std::sync::Arc;

use eunoe_core::{Error, Result};
use hashbrown::HashMap;

use crate::gguf::Gguf;
use bpe::Bpe;
pub use decoder::Decoder;
use merge::{Merger, Rules};
use pre::Pre;
use special::Specials;
use spm::Spm;
use vocab::{Kind, Spelling, Vocab};

/// Tokens that end a turn or a text, by name; generation stops at any of them. The first one present is `eot`.
const END_OF_TURN: [&str; 15] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

/// Tokens between the files of code models' training text: generation stops there too.
const END_OF_FILE: [&str; 6] =
    ["<|fim_pad|>", "<fim_pad>", "<|file_sep|>", "<|fim_repo|>", "<|repo_name|>", "<reponame>"];

/// Our own key: ids of more tokens that end a text, which folders can list.
pub(crate) const STOP_IDS: &str = "eunoe.stop_token_ids";

/// A piece longer than this is cut, which bounds the memory of merging.
const MAX_PIECE: usize = 16 << 20;

/// Pieces up to this many bytes are looked up among those already encoded.
const CACHED_PIECE: usize = 48;
const CACHED_PIECES: usize = 1 << 16;

enum Model {
    Bpe { bpe: Bpe, vocab: Vocab, pre: Pre },
    Spm { spm: Spm, space_prefix: bool },
}

/// A model's tokenizer. Clones share its tables.
#[derive(Clone)]
pub struct Tokenizer {
    model: Arc<Model>,
    /// Tokens that plain text can hold, and all that a rendered template can.
    user: Arc<Specials>,
    special: Arc<Specials>,
    /// Control tokens that a text must not spell by chance.
    control: Arc<Specials>,
    add_bos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    stops: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer {{ {} tokens }}", self.vocab_len())
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind of tokenizer that is not here, [`Error::Format`] for a broken one.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let is_stop = |text: &str| END_OF_TURN.contains(&text) || END_OF_FILE.contains(&text);
        let (model, always_bos, defaults) = match gguf.str("tokenizer.ggml.model")? {
            "gpt2" => {
                let vocab = Vocab::read(gguf, Spelling::ByteLevel, is_stop)?;
                let pre = Pre::named(gguf.opt_str("tokenizer.ggml.pre")?.unwrap_or("default"))?;
                let bpe = Bpe::new(&vocab, gguf.strs("tokenizer.ggml.merges")?)?;
                (Model::Bpe { bpe, vocab, pre }, pre == Pre::Llama3, [None; 3])
            }
            "llama" => {
                let vocab = Vocab::read(gguf, Spelling::Spm, is_stop)?;
                (Self::spm(gguf, vocab)?, true, [Some(1), Some(2), Some(0)])
            }
            other => {
                let why = format!("tokenizer model `{other}` is not supported; supported: gpt2, llama");
                return Err(Error::Unsupported(why));
            }
        };
        Self::finish(gguf, model, always_bos, defaults)
    }

    fn spm(gguf: &Gguf, vocab: Vocab) -> Result<Model> {
        let scores = gguf.f32s("tokenizer.ggml.scores")?;
        if scores.len() != vocab.len() {
            return Err(Error::shape("tokenizer.ggml.scores", vocab.len(), scores.len()));
        }
        let unknown = special_id(gguf, "unknown", Some(0), vocab.len())?;
        let space_prefix = gguf.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Model::Spm { spm: Spm::new(vocab, &scores, unknown), space_prefix })
    }

    fn finish(gguf: &Gguf, model: Model, always_bos: bool, defaults: [Option<u32>; 3]) -> Result<Self> {
        let vocab = model.vocab();
        let user = Specials::new(vocab.of_kinds(&[Kind::User]));
        let special = Specials::new(vocab.of_kinds(&[Kind::User, Kind::Control, Kind::Unknown]));
        let is_name = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| name.chars().nth(1).is_some());
        let names = vocab.of_kinds(&[Kind::Control, Kind::Unknown]).filter(|(_, name)| is_name(name));
        let control = Specials::new(names);
        let named = |name: &&str| special.get(name.as_bytes());
        let bos = special_id(gguf, "bos", defaults[0], vocab.len())?;
        let eos = special_id(gguf, "eos", defaults[1], vocab.len())?;
        let first_eot = END_OF_TURN.iter().find_map(named);
        let eot = special_id(gguf, "eot", first_eot, vocab.len())?;
        let mut stops: Vec<u32> = END_OF_TURN.iter().chain(&END_OF_FILE).filter_map(named).collect();
        stops.extend(eos.iter().chain(&eot));
        let more = gguf.opt_i32s(STOP_IDS)?.unwrap_or_default();
        stops.extend(more.iter().filter_map(|id| u32::try_from(*id).ok()));
        stops.sort_unstable();
        stops.dedup();
        let add_bos = gguf.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(always_bos);
        let [user, special, control] = [user, special, control].map(Arc::new);
        Ok(Self { user, special, control, add_bos, bos, eos, eot, stops, model: Arc::new(model) })
    }

    /// Tokens of plain text: nothing is added, and the names of control tokens are ordinary text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_with(text, &self.user)
    }

    /// Tokens of a text in which control tokens are spelled out, such as a rendered chat template.
    pub fn encode_special(&self, text: &str) -> Vec<u32> {
        self.encode_with(text, &self.special)
    }

    /// [`Tokenizer::encode_special`] with exactly one `bos` in front if the model wants one, whether or not the text
    /// already starts with it. Whoever wrote a part of the text can spell control tokens in it:
    /// [`ChatTemplate::encode`](crate::chat::ChatTemplate::encode) is for conversations with strangers.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.with_one_bos(self.encode_special(text))
    }

    pub(crate) fn with_one_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|_| self.add_bos) {
            let present = ids.iter().take_while(|&&id| id == bos).count();
            ids.splice(..present, [bos]);
        }
        ids
    }

    fn encode_with(&self, text: &str, specials: &Specials) -> Vec<u32> {
        let mut encoder = Encoder::new(&self.model);
        self.encode_into(&mut encoder, text, specials);
        encoder.out
    }

    fn encode_into(&self, encoder: &mut Encoder<'_>, text: &str, specials: &Specials) {
        let mut at = 0;
        for found in specials.find(text) {
            encoder.text(&text[at..found.start]);
            encoder.out.push(found.id);
            at = found.end;
        }
        encoder.text(&text[at..]);
    }

    /// The text of tokens; invalid UTF-8 becomes U+FFFD, control and unknown ids nothing. A space that
    /// [`Tokenizer::encode`] put in front is taken away.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id)).copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        match &*self.model {
            Model::Spm { space_prefix: true, .. } => text.strip_prefix(' ').unwrap_or(&text).to_owned(),
            _ => text.into_owned(),
        }
    }

    /// The bytes that a token adds to a text: none for control tokens and ids outside the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        match self.vocab().kind(id) {
            Kind::Control | Kind::Unknown => &[],
            _ => self.vocab().piece(id),
        }
    }

    /// [`Tokenizer::piece`], or the name of a control token.
    pub fn piece_or_name(&self, id: u32) -> &[u8] {
        self.vocab().piece(id)
    }

    /// A decoder for tokens as they are generated.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    /// The token with exactly this text or, for a control token, this name.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.special.get(text.as_bytes()).or_else(|| self.vocab().find(text.as_bytes()))
    }

    /// Beginning of text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// End of turn.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// Whether prompts start with [`Tokenizer::bos`].
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether generation ends at this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.binary_search(&id).is_ok()
    }

    /// Tokens in the vocabulary.
    pub fn vocab_len(&self) -> usize {
        self.vocab().len()
    }

    fn vocab(&self) -> &Vocab {
        self.model.vocab()
    }
}

impl Model {
    fn vocab(&self) -> &Vocab {
        match self {
            Self::Bpe { vocab, .. } => vocab,
            Self::Spm { spm, .. } => spm.vocab(),
        }
    }
}

/// `tokenizer.ggml.<name>_token_id`, which must be in the vocabulary; the default is dropped if it is not.
fn special_id(gguf: &Gguf, name: &str, default: Option<u32>, vocab: usize) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    match gguf.opt_u32(&key)? {
        Some(id) if id as usize >= vocab => {
            let why = format!("`{key}` is {id}, the vocabulary has {vocab} tokens");
            Err(Error::format("GGUF metadata", 0, why))
        }
        Some(id) => Ok(Some(id)),
        None => Ok(default.filter(|&id| (id as usize) < vocab)),
    }
}

/// Whether a token's text stands for one byte in byte-level vocabularies.
pub(crate) fn is_byte_token(text: &str) -> bool {
    vocab::byte_level(text).is_some_and(|bytes| bytes.len() == 1)
}

/// One run over a text.
struct Encoder<'a> {
    model: &'a Model,
    merger: Merger,
    /// Piece → where in `out` its tokens are.
    seen: HashMap<Box<str>, (usize, usize)>,
    out: Vec<u32>,
}

impl<'a> Encoder<'a> {
    fn new(model: &'a Model) -> Self {
        Self { model, merger: Merger::default(), seen: HashMap::new(), out: Vec::new() }
    }

    /// Text between special tokens.
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.model {
            Model::Bpe { bpe, vocab, pre } => {
                let whole = |piece: &str| vocab.find(piece.as_bytes()).filter(|_| pre.ignores_merges());
                pre.split(text, &mut |piece| match whole(piece) {
                    Some(id) => self.out.push(id),
                    None => self.piece(bpe, piece),
                });
            }
            Model::Spm { spm, space_prefix } => {
                let text = spelled(text, *space_prefix);
                spm.split(&text, &mut |piece| self.piece(spm, piece));
            }
        }
    }

    fn piece(&mut self, rules: &impl Rules, piece: &str) {
        if let Some(&(start, end)) = self.seen.get(piece) {
            return self.out.extend_from_within(start..end);
        }
        let start = self.out.len();
        let mut rest = piece;
        while rest.len() > MAX_PIECE {
            let cut = (0..=MAX_PIECE).rfind(|&at| rest.is_char_boundary(at)).unwrap_or(MAX_PIECE);
            let (head, tail) = rest.split_at(cut);
            self.merger.merge(rules, head, &mut self.out);
            rest = tail;
        }
        self.merger.merge(rules, rest, &mut self.out);
        if piece.len() <= CACHED_PIECE && self.seen.len() < CACHED_PIECES {
            self.seen.insert(piece.into(), (start, self.out.len()));
        }
    }
}

/// The text as [`Spelling::Spm`] vocabularies hold it, where `▁` and a space are the same.
fn spelled(text: &str, space_prefix: bool) -> Cow<'_, str> {
    if !space_prefix && !text.contains('▁') {
        return Cow::Borrowed(text);
    }
    let prefix = if space_prefix { " " } else { "" };
    Cow::Owned(prefix.to_owned() + &text.replace('▁', " "))
}
