//! Constrained answers: JSON, JSON by a schema, or a call of one of the tools, token by token.
//!
//! A schema comes from a stranger. It is bounded before it is compiled, compiled on a stack of its own, and followed under
//! limits of steps and memory, so that the worst it does is fail.

mod measure;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use eunoe_core::{Error, Result};
use eunoe_engine::Guide;
use eunoe_model::tokenizer::Tokenizer;
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, panic_utils};
use serde_json::{Value, json};

use crate::tools::{CALL_ENDS, CALL_OPENS, Tool};

/// One space, or a new line with its indent: more would let a model write space without end.
const SPACE: &str = r" |\n[ \t]{0,16}";
/// Compiling recurses once per property and reference: at most one frame of 24 KiB for each of 4 000 values.
const STACK: usize = 96 << 20;
/// Tokens longer than this are never proposed; the trie has no room for much longer ones.
const LONGEST_TOKEN: usize = 1000;

/// What compiles constraints for one tokenizer.
pub(crate) struct Guides {
    factory: ParserFactory,
}

impl Guides {
    /// # Errors
    /// [`Error::Unsupported`] for a vocabulary that no trie can hold.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let cannot =
            |why: String| Error::Unsupported(format!("constrained answers with this tokenizer: {why}"));
        let factory = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let env: TokEnv = Arc::new(Vocabulary::new(tokenizer));
            ParserFactory::new_simple(&env)
        }));
        let mut factory = factory.map_err(|e| cannot(reason(&format!("{e:#}"))))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // A lexer state takes up to 2 kB, a step 14 000 of fuel or 20 000 items per millisecond.
            max_lexer_states: 20_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// None but those of a broken tokenizer.
    pub(crate) fn json_object(&self) -> Result<Box<dyn Guide>> {
        self.json_schema(&json!({ "type": "object" }))
    }

    /// JSON that `schema` allows, [`closed`].
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong with the schema.
    pub(crate) fn json_schema(&self, schema: &Value) -> Result<Box<dyn Guide>> {
        let what = "the JSON schema";
        let grammar = GrammarWithLexer::from_json_schema(ready(what, &closed(schema.clone()))?);
        self.compile(what, TopLevelGrammar::from_grammar(grammar))
    }

    /// One call of one of the tools, with arguments that its parameters allow.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong with which tool.
    pub(crate) fn one_of_tools(&self, tools: &[Tool]) -> Result<Box<dyn Guide>> {
        if tools.is_empty() {
            return Err(Error::Invalid("a call is required, but there are no tools".into()));
        }
        let mut calls = Vec::new();
        let mut grammars = vec![GrammarWithLexer::default()];
        for (i, tool) in tools.iter().enumerate() {
            let schema = ready(&whose(tool), &tool.arguments())?;
            let before = format!("{CALL_OPENS}\n{{\"name\": \"{}\", \"arguments\": ", tool.name());
            let after = format!("}}\n{CALL_ENDS}");
            calls.push(format!("{} @t{i} {}", Value::from(before), Value::from(after)));
            let name = Some(format!("t{i}"));
            grammars.push(GrammarWithLexer {
                name,
                json_schema: Some(schema),
                ..GrammarWithLexer::default()
            });
        }
        grammars[0] = GrammarWithLexer::from_lark(format!("start: {}\n", calls.join("\n | ")));
        let together = self.compile("the tools", TopLevelGrammar { grammars, max_tokens: None });
        // An error of many tools does not say whose it is.
        together.or_else(|e| tools.iter().find_map(|tool| self.alone(tool).err()).map_or(Err(e), Err))
    }

    fn alone(&self, tool: &Tool) -> Result<()> {
        let schema = ready(&whose(tool), &tool.arguments())?;
        self.compile(&whose(tool), TopLevelGrammar::from_json_schema(schema)).map(drop)
    }

    fn compile(&self, what: &str, grammar: TopLevelGrammar) -> Result<Box<dyn Guide>> {
        let wrong = |why: &str| Error::Invalid(format!("{what}: {}", reason(why)));
        let matcher = std::thread::scope(|scope| {
            let compile = || {
                let mut matcher = Matcher::new(Ok(self.factory.create_parser(grammar)?));
                // Schemas that nothing satisfies show at the first token.
                matcher.compute_mask().map(|_| matcher)
            };
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, compile);
            let thread =
                thread.map_err(|e| Error::Unsupported(format!("no thread to compile {what}: {e}")))?;
            let matcher = thread.join().map_err(|_| wrong("it cannot be compiled"))?;
            matcher.map_err(|e| wrong(&format!("{e:#}")))
        })?;
        Ok(Box::new(Grammar { matcher }))
    }
}

/// A schema whose properties are listed, and that says nothing about others, with no others: a small model would go on
/// inventing them. What is put together of several schemas stays as it is, since each may list only its own.
pub(crate) fn closed(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        let composed = ["$ref", "allOf", "anyOf", "oneOf", "patternProperties"];
        if fields.contains_key("properties") && !composed.iter().any(|key| fields.contains_key(*key)) {
            fields.entry("additionalProperties").or_insert(Value::Bool(false));
        }
    }
    schema
}

/// An answer inside its grammar.
struct Grammar {
    matcher: Matcher,
}

impl Guide for Grammar {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask().map_err(|e| lost(&e.to_string()))?;
        for (token, logit) in logits.iter_mut().enumerate() {
            // Logits may be padded beyond the vocabulary.
            if token >= allowed.len() || !allowed.get(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool> {
        self.matcher.consume_token(token).map_err(|e| lost(&e.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

fn whose(tool: &Tool) -> String {
    format!("the parameters of tool `{}`", tool.name())
}

fn lost(why: &str) -> Error {
    Error::Invalid(format!("the answer cannot go on inside its grammar: {}", reason(why)))
}

/// The schema with our own options, once its size is known.
fn ready(what: &str, schema: &Value) -> Result<Value> {
    let Value::Object(fields) = schema else {
        return Err(Error::Invalid(format!(
            "{what}: expected an object, got `{}`",
            short(&schema.to_string())
        )));
    };
    if let Some(why) = measure::too_large(schema) {
        return Err(Error::Invalid(format!("{what}: {why}")));
    }
    let mut schema = Value::Object(fields.clone());
    let options = JsonCompileOptions {
        whitespace_flexible: false,
        whitespace_pattern: Some(SPACE.into()),
        coerce_one_of: true,
        ..JsonCompileOptions::default()
    };
    // It takes the place of any that the schema brought along.
    options.apply_to(&mut schema);
    Ok(schema)
}

/// What an error of the compiler says, without traces, as a part of a sentence.
fn reason(why: &str) -> String {
    let why = why.split("\n<").next().unwrap_or(why).trim().replace('\n', " ");
    let why = why.replace("NoExtensionBias", "nothing satisfies it");
    let mut letters = why.chars();
    let lower = letters.next().map(|first| first.to_lowercase().chain(letters).collect::<String>());
    short(lower.as_deref().filter(|why| !why.is_empty()).unwrap_or("it cannot be followed"))
}

fn short(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A tokenizer as the grammars see it.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
    /// Whether the tokens of a text do not depend on where it stands, so that forced text can be written in them.
    is_canonical: bool,
}

impl Vocabulary {
    fn new(tokenizer: &Tokenizer) -> Self {
        let ids = 0..tokenizer.vocab_len() as u32;
        let words: Vec<Vec<u8>> = ids.clone().map(|id| word(tokenizer, id)).collect();
        let stops: Vec<u32> = ids.filter(|&id| tokenizer.is_stop(id)).collect();
        let info = TokRxInfo {
            tok_bos: tokenizer.bos(),
            tok_end_of_turn: tokenizer.eot(),
            ..TokRxInfo::new(words.len() as u32, stops.first().copied().unwrap_or(INVALID_TOKEN))
        };
        let trie = TokTrie::from(&info, &words);
        let trie = if stops.is_empty() { trie } else { trie.with_eos_tokens(&stops) };
        let mut vocabulary = Self { trie, tokenizer: tokenizer.clone(), is_canonical: true };
        vocabulary.is_canonical = vocabulary.exactly("{\"name\": [1, true]}\n").is_some();
        vocabulary
    }

    /// The tokens of a text, where they spell it and no more: some tokenizers put a space in front.
    fn exactly(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.tokenizer.encode(text);
        let spelled: Vec<u8> = ids.iter().flat_map(|&id| self.tokenizer.piece(id)).copied().collect();
        (spelled == text.as_bytes()).then_some(ids)
    }
}

/// What a token adds to a text; the name of a control token behind the marker that no text holds.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    match (tokenizer.piece(id), tokenizer.piece_or_name(id)) {
        (piece, name) if piece.len().max(name.len()) > LONGEST_TOKEN => Vec::new(),
        (&[], &[]) | (&[MARKER, ..], _) => Vec::new(),
        (&[], name) => [&[MARKER], name].concat(),
        (piece, _) => piece.to_vec(),
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let tokens =
            |text: &str| self.exactly(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(bytes, tokens)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_canonical
    }
}

#[cfg(test)]
mod tests;
