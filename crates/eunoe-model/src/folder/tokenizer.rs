//! `tokenizer.json` and what its neighbours say of special tokens and of the chat template.
//!
//! Byte-level BPE, cut as one of our pre-tokenizers cuts. Unicode is not normalised, although Qwen2's files ask for NFC:
//! the tokens are those of the model's GGUF file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use eunoe_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::config::{Config, Ids};
use super::{
    CHAT_TEMPLATE, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, broken, json, opt_bytes, opt_json,
    unsupported,
};
use crate::gguf::write::{GgufWriter, Put};
use crate::tokenizer::{STOP_IDS, is_byte_token};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct Kind {
    model: KindOfModel,
}

#[derive(Deserialize)]
struct KindOfModel {
    r#type: Option<String>,
}

/// What counts of `tokenizer.json`.
#[derive(Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct Model {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// A pair of tokens, in older files with a space between.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair([String; 2]),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// What counts of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct Special {
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    add_bos_token: Option<bool>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Plain(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Template>),
}

#[derive(Deserialize)]
struct Template {
    name: String,
    template: String,
}

/// What counts of `generation_config.json`.
#[derive(Default, Deserialize)]
struct Generation {
    eos_token_id: Option<Ids>,
}

/// Adds the tokenizer and the chat template under GGUF's keys.
pub(super) fn write(folder: &Path, config: &Config, to: GgufWriter) -> Result<GgufWriter> {
    let file = folder.join(TOKENIZER);
    let kind: Kind = json(&file)?;
    if let Some(kind) = kind.model.r#type.filter(|kind| kind != "BPE") {
        return Err(unsupported(
            TOKENIZER,
            format!("a model of type `{kind}` (instead of byte-level `BPE`)"),
        ));
    }
    let tokenizer: Tokenizer = json(&file)?;
    tokenizer.model.refuse()?;
    let special: Special = opt_json(&folder.join(TOKENIZER_CONFIG))?.unwrap_or_default();
    let generation: Generation = opt_json(&folder.join(GENERATION_CONFIG))?.unwrap_or_default();
    let to = tokenizer.write_tokens(&file, config.vocab_size as usize, to)?;
    let to = tokenizer.write_special(config, &special, &generation, to)?;
    Ok(match template(folder, special.chat_template)? {
        Some(template) => to.put("tokenizer.chat_template", Put::Str(&template)),
        None => to,
    })
}

fn template(folder: &Path, templates: Option<Templates>) -> Result<Option<String>> {
    let file = folder.join(CHAT_TEMPLATE);
    if let Some(bytes) = opt_bytes(&file)? {
        let text = String::from_utf8(bytes);
        return text.map(Some).map_err(|e| broken(&file, e.utf8_error().valid_up_to(), "not UTF-8"));
    }
    Ok(match templates {
        Some(Templates::One(template)) => Some(template),
        Some(Templates::Named(all)) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
        None => None,
    })
}

impl Model {
    fn refuse(&self) -> Result<()> {
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let bytes = self.vocab.keys().filter(|text| is_byte_token(text)).count();
        let refused = [
            (self.byte_fallback, "`byte_fallback`"),
            (self.dropout.is_some_and(|share| share > 0.0), "`dropout`"),
            (is_set(&self.continuing_subword_prefix), "`continuing_subword_prefix`"),
            (is_set(&self.end_of_word_suffix), "`end_of_word_suffix`"),
            // otherwise it never comes up
            (self.unk_token.is_some() && bytes < 256, "an `unk_token` for bytes without a token"),
        ];
        match refused.into_iter().find(|(is, _)| *is) {
            Some((_, what)) => Err(unsupported(TOKENIZER, what)),
            None => Ok(()),
        }
    }
}

impl Merge {
    fn line(&self) -> Cow<'_, str> {
        match self {
            Self::Line(line) => line.into(),
            Self::Pair([left, right]) => format!("{left} {right}").into(),
        }
    }
}

impl Tokenizer {
    /// Tokens, their kinds and how they merge; `rows` is how many the model has.
    fn write_tokens(&self, file: &Path, rows: usize, to: GgufWriter) -> Result<GgufWriter> {
        let mut tokens: Vec<Option<(&str, i32)>> = vec![None; rows];
        let named = self.model.vocab.iter().map(|(text, id)| (text, *id, NORMAL));
        let added =
            self.added_tokens.iter().map(|t| (&t.content, t.id, if t.special { CONTROL } else { USER }));
        for (text, id, kind) in named.chain(added) {
            let Some(place) = tokens.get_mut(id as usize) else {
                let why = format!("token `{text}` has id {id}, the model has {rows} tokens");
                return Err(broken(file, 0, why));
            };
            if let Some((other, _)) = place.replace((text, kind)).filter(|(other, _)| other != text) {
                return Err(broken(file, 0, format!("tokens `{other}` and `{text}` have the same id {id}")));
            }
        }
        let strips = |token: &&Added| token.single_word || token.lstrip || token.rstrip;
        if let Some(token) = self.added_tokens.iter().find(strips) {
            let what = format!("`single_word`, `lstrip` or `rstrip` of token `{}`", token.content);
            return Err(unsupported(TOKENIZER, what));
        }
        let merges: Vec<_> = self.model.merges.iter().map(Merge::line).collect();
        let merges: Vec<&str> = merges.iter().map(|merge| &**merge).collect();
        // rows of the embedding that no token uses
        let (texts, kinds): (Vec<&str>, Vec<i32>) =
            tokens.into_iter().map(|t| t.unwrap_or(("", UNUSED))).unzip();
        Ok(to
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.pre", Put::Str(self.pre()?))
            .put("tokenizer.ggml.tokens", Put::Strs(&texts))
            .put("tokenizer.ggml.token_type", Put::I32s(&kinds))
            .put("tokenizer.ggml.merges", Put::Strs(&merges)))
    }

    /// The pre-tokenizer of ours that cuts the same.
    fn pre(&self) -> Result<&'static str> {
        if let Some(step) = steps(&self.normalizer, "normalizers").iter().find(|step| step["type"] != "NFC") {
            return Err(unsupported(TOKENIZER, format!("normalizer {}", shown(step))));
        }
        let all = steps(&self.pre_tokenizer, "pretokenizers");
        let steps: Option<Vec<Step<'_>>> = all.iter().map(step).collect();
        let name = match steps.as_deref() {
            Some([Step::Bytes { cuts: true }]) => Some("gpt-2"),
            Some([Step::Digits, Step::Bytes { cuts: true }]) => Some("smollm"),
            Some([Step::Split(QWEN2), Step::Bytes { cuts: false }]) => Some("qwen2"),
            Some([Step::Split(LLAMA3), Step::Bytes { cuts: false }]) => Some("llama-bpe"),
            // where nothing merges, no cut matters
            Some([.., Step::Bytes { .. }]) if self.model.merges.is_empty() => Some("gpt-2"),
            _ => None,
        };
        let Some(name) = name else {
            let what = format!(
                "pre-tokenizer {} (none of those of GPT-2, SmolLM, Qwen2 and Llama 3)",
                shown(&self.pre_tokenizer)
            );
            return Err(unsupported(TOKENIZER, what));
        };
        let ignores = self.model.ignore_merges;
        // where every token is a byte, no piece is one
        if ignores == (name == "llama-bpe") || self.model.vocab.keys().all(|text| is_byte_token(text)) {
            return Ok(name);
        }
        Err(unsupported(TOKENIZER, format!("`ignore_merges` {ignores} with this pre-tokenizer")))
    }

    fn write_special(
        &self,
        config: &Config,
        special: &Special,
        generation: &Generation,
        mut to: GgufWriter,
    ) -> Result<GgufWriter> {
        let first = self.first_token()?;
        let id = |name: &Option<Name>, ids: Option<&Ids>| match name {
            Some(Name::Plain(name) | Name::Token { content: name }) => self.id(name).map(Some),
            None => Ok(ids.and_then(|ids| ids.all().first().copied())),
        };
        let mut bos = id(&special.bos_token, config.bos_token_id.as_ref())?;
        let ends = [(GENERATION_CONFIG, &generation.eos_token_id), (CONFIG, &config.eos_token_id)];
        for (file, ids) in ends {
            let past = ids.iter().flat_map(Ids::all).find(|id| **id >= config.vocab_size);
            if let Some(id) = past {
                let why = format!("`eos_token_id` {id}: the vocabulary has {} tokens", config.vocab_size);
                return Err(Error::format(format!("`{file}`"), 0, why));
            }
        }
        let ends = ends.map(|(_, ids)| ids.as_ref().map_or(&[][..], Ids::all)).concat();
        let eos = id(&special.eos_token, None)?.or(ends.first().copied());
        if let Some((name, first)) = first
            && *bos.get_or_insert(first) != first
        {
            let what = format!("a `post_processor` that begins with `{name}`, which is not the `bos_token`,");
            return Err(unsupported(TOKENIZER, what));
        }
        for (key, id) in [("bos", bos), ("eos", eos)] {
            if let Some(id) = id {
                to = to.put(&format!("tokenizer.ggml.{key}_token_id"), Put::U32(id));
            }
        }
        let stops: BTreeSet<i32> = ends.iter().map(|id| *id as i32).collect();
        let stops: Vec<i32> = stops.into_iter().collect();
        let adds_bos = first.is_some() || special.add_bos_token == Some(true);
        Ok(to.put(STOP_IDS, Put::I32s(&stops)).put("tokenizer.ggml.add_bos_token", Put::Bool(adds_bos)))
    }

    fn id(&self, name: &str) -> Result<u32> {
        let added = self.added_tokens.iter().find(|token| token.content == name).map(|token| token.id);
        let id = added.or_else(|| self.model.vocab.get(name).copied());
        id.ok_or_else(|| Error::format(format!("`{TOKENIZER}`"), 0, format!("no token is called `{name}`")))
    }

    /// The token that is put in front of a text: its name in the template, and its id.
    fn first_token(&self) -> Result<Option<(&str, u32)>> {
        let mut first = None;
        for step in steps(&self.post_processor, "processors") {
            let single = step["single"].as_array().map_or(&[][..], Vec::as_slice);
            match (step["type"].as_str(), single) {
                (Some("ByteLevel"), _) => {}
                (Some("TemplateProcessing"), [text]) if text["Sequence"].is_object() => {}
                (Some("TemplateProcessing"), [name, text])
                    if name["SpecialToken"]["id"].is_string() && text["Sequence"].is_object() =>
                {
                    let name = name["SpecialToken"]["id"].as_str().unwrap_or_default();
                    if first.replace((name, self.template_id(step, name)?)).is_some() {
                        let what = "a `post_processor` that puts two tokens in front of a text";
                        return Err(unsupported(TOKENIZER, what));
                    }
                }
                _ => return Err(unsupported(TOKENIZER, format!("post-processor {}", shown(step)))),
            }
        }
        Ok(first)
    }

    /// The id that a template gives `name`, which must not contradict the tokens.
    fn template_id(&self, step: &Value, name: &str) -> Result<u32> {
        let ids = step["special_tokens"][name]["ids"].as_array().map_or(&[][..], Vec::as_slice);
        let id = match ids {
            [id] => id.as_u64().and_then(|id| u32::try_from(id).ok()),
            _ => None,
        };
        let broken = |why| Err(Error::format(format!("`{TOKENIZER}`"), 0, why));
        let Some(id) = id else {
            return broken(format!(
                "the `post_processor` gives `{name}` no id, or several, in `special_tokens`"
            ));
        };
        let mut known =
            self.model.vocab.values().copied().chain(self.added_tokens.iter().map(|token| token.id));
        if !known.any(|known| known == id) {
            return broken(format!("the `post_processor` gives `{name}` id {id}, which no token has"));
        }
        match self.id(name) {
            Ok(own) if own != id => {
                broken(format!("the `post_processor` gives `{name}` id {id}, the tokens say {own}"))
            }
            _ => Ok(id),
        }
    }
}

/// A step of a pre-tokenizer.
enum Step<'a> {
    /// Bytes become characters, which may first be cut as GPT-2 does.
    Bytes { cuts: bool },
    /// Cuts around single digits.
    Digits,
    /// Cuts around what a regular expression finds.
    Split(&'a str),
}

fn step(of: &Value) -> Option<Step<'_>> {
    let is = |key: &str| of[key].as_bool();
    match of["type"].as_str()? {
        "ByteLevel" if is("add_prefix_space") == Some(false) => {
            Some(Step::Bytes { cuts: is("use_regex").unwrap_or(true) })
        }
        "Digits" if is("individual_digits") == Some(true) => Some(Step::Digits),
        "Split" if of["behavior"] == "Isolated" && is("invert") == Some(false) => {
            of["pattern"]["Regex"].as_str().map(Step::Split)
        }
        _ => None,
    }
}

/// A sequence's parts, a thing alone, or nothing.
fn steps<'a>(of: &'a Value, parts: &str) -> &'a [Value] {
    match of {
        Value::Null => &[],
        _ if of["type"] == "Sequence" => of[parts].as_array().map_or(&[], Vec::as_slice),
        _ => std::slice::from_ref(of),
    }
}

/// The start of a value, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(100).collect();
    if start.len() < text.len() { format!("`{start}…`") } else { format!("`{start}`") }
}
