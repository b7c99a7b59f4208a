//! Tools: what a request offers, which of them an answer must call, and the calls in an answer.
//!
//! A call is written as `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`, which is what the templates
//! of most models with tools ask for. Text may stand before and between calls.

use eunoe_core::{Error, Result};
use eunoe_engine::Guide;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::guide::{Guides, closed};

/// What stands before a call.
pub(crate) const CALL_OPENS: &str = "<tool_call>";
/// What stands behind a call.
pub(crate) const CALL_ENDS: &str = "</tool_call>";

const LONGEST_NAME: usize = 64;

/// A function that a request offers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    name: String,
    parameters: Option<Value>,
}

impl Tool {
    /// Reads `{"type": "function", "function": {"name": …, "parameters": …}}`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming what is missing or not as it must be.
    pub(crate) fn read(tool: &Value) -> Result<Self> {
        let wrong = |why: String| Err(Error::Invalid(format!("a tool {why}")));
        if tool["type"] != "function" {
            return wrong(format!("has the type `function`, got `{}`", tool["type"]));
        }
        let Some(name) = tool["function"]["name"].as_str() else {
            return wrong("needs `function.name`".into());
        };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            let rule = format!("1 to {LONGEST_NAME} letters, digits, `_`, `-` or `.`");
            return wrong(format!("has a name of {rule}, got `{}`", name.escape_debug()));
        }
        let parameters = tool["function"].get("parameters").filter(|p| !p.is_null()).cloned();
        match &parameters {
            Some(p) if !p.is_object() || p.get("type").is_some_and(|kind| kind != "object") => {
                wrong(format!("takes an object: `parameters` of `{name}` must be a schema of type `object`"))
            }
            _ => Ok(Self { name: name.to_owned(), parameters }),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The schema of a call's arguments: always an object, and [`closed`].
    pub(crate) fn arguments(&self) -> Value {
        let nothing = json!({ "properties": {} });
        let mut schema = self.parameters.clone().unwrap_or(nothing);
        if let Value::Object(fields) = &mut schema {
            fields.entry("type").or_insert_with(|| "object".into());
        }
        closed(schema)
    }
}

/// Whether an answer may or must call a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// It is text, whatever it looks like.
    None,
    /// As the model likes.
    Auto,
    /// One of the tools.
    Required,
    /// The tool of this name.
    Named(String),
}

impl Choice {
    /// Reads `tool_choice`: `auto` where it is absent and there are tools.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a choice that is none, or of a tool that is not there.
    pub(crate) fn read(choice: Option<&Value>, tools: &[Tool]) -> Result<Self> {
        let wrong = |why: &str| Err(Error::Invalid(format!("`tool_choice` {why}")));
        let choice = choice.unwrap_or(&Value::Null);
        match choice.as_str() {
            Some("none") => return Ok(Self::None),
            Some("auto") => return Ok(Self::Auto),
            Some("required") if tools.is_empty() => return wrong("is `required`, but there are no `tools`"),
            Some("required") => return Ok(Self::Required),
            _ => {}
        }
        if choice.is_null() {
            return Ok(if tools.is_empty() { Self::None } else { Self::Auto });
        }
        match choice["function"]["name"].as_str() {
            Some(name) if tools.iter().any(|tool| tool.name == name) => Ok(Self::Named(name.to_owned())),
            Some(name) => wrong(&format!("names `{}`, which is not among `tools`", name.escape_debug())),
            None => wrong("is `none`, `auto`, `required` or a function like {\"function\": {\"name\": …}}"),
        }
    }

    /// What holds an answer to the choice, where it has to be held.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters that cannot be followed.
    pub(crate) fn guide(&self, tools: &[Tool], guides: &Guides) -> Result<Option<Box<dyn Guide>>> {
        match self {
            Self::None | Self::Auto => Ok(None),
            Self::Required => guides.one_of_tools(tools).map(Some),
            Self::Named(name) => {
                let named: Vec<Tool> = tools.iter().filter(|tool| tool.name == *name).cloned().collect();
                guides.one_of_tools(&named).map(Some)
            }
        }
    }
}

/// A call in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// What the model wants to call; it need not be one of the tools.
    pub(crate) name: String,
    /// JSON, letter by letter as the model wrote it.
    pub(crate) arguments: String,
}

impl Call {
    /// Reads `{"name": …, "arguments": {…}}`; a call without arguments has an empty object.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Written<'a> {
            name: String,
            #[serde(borrow, alias = "parameters")]
            arguments: Option<&'a RawValue>,
        }
        let Written { name, arguments } = serde_json::from_str(text).ok()?;
        let raw = arguments.map_or("{}", RawValue::get);
        // Some models write the object as a text.
        let inner: Option<String> = serde_json::from_str(raw).ok();
        let arguments = inner.unwrap_or_else(|| raw.to_owned());
        serde_json::from_str::<&RawValue>(&arguments).ok()?.get().starts_with('{').then_some(())?;
        Some(Self { name, arguments })
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text outside of calls.
    Text(String),
    /// A whole call.
    Call(Call),
}

/// Tells calls from text as an answer grows. What cannot belong to a call any more is released at once; what opens like a
/// call and turns out to be none is text, its tag included.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    state: State,
    has_called: bool,
    /// What is neither text nor a call yet.
    held: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing but space since the beginning or the last call: space between calls belongs to no one.
    #[default]
    Gap,
    /// Behind a call whose closing tag has not come yet.
    Behind,
    /// Text.
    Text,
    /// Behind an opening tag, before which `held` has nothing but space.
    Call(Object),
}

/// How far the JSON object of a call is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Object {
    /// Where in `held` the tag ends.
    start: usize,
    /// Bytes of `held` that were looked at.
    at: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Splitter {
    /// Adds text of the answer; gives what is decided by it.
    pub(crate) fn push(&mut self, more: &str) -> Vec<Part> {
        self.held.push_str(more);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// What is left when the answer is over.
    pub(crate) fn finish(mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let is_gap = matches!(self.state, State::Gap | State::Behind) && self.held.trim().is_empty();
        if !(is_gap && self.has_called) {
            release(&mut parts, &self.held);
        }
        self.held.clear();
        parts
    }

    /// Goes on to the next state; false where more text is needed.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Gap | State::Behind => self.gap(),
            State::Text => self.text(parts),
            State::Call(object) => self.call(object, parts),
        }
    }

    fn gap(&mut self) -> bool {
        let rest = self.held.trim_start();
        let tags: &[&str] =
            if self.state == State::Behind { &[CALL_ENDS, CALL_OPENS] } else { &[CALL_OPENS] };
        if rest.starts_with(CALL_OPENS) {
            self.state = State::Call(Object::after(self.held.len() - rest.len() + CALL_OPENS.len()));
        } else if let Some(rest) = rest.strip_prefix(CALL_ENDS).filter(|_| self.state == State::Behind) {
            self.held = rest.to_owned();
            self.state = State::Gap;
        } else if tags.iter().any(|tag| tag.starts_with(rest)) {
            return false;
        } else {
            self.state = State::Text;
        }
        true
    }

    fn text(&mut self, parts: &mut Vec<Part>) -> bool {
        if let Some(at) = self.held.find(CALL_OPENS) {
            release(parts, &self.held[..at]);
            self.held.drain(..at);
            self.state = State::Call(Object::after(CALL_OPENS.len()));
            return true;
        }
        let longest = self.held.len().min(CALL_OPENS.len() - 1);
        let may_open = (1..=longest).rev().find(|n| self.held.ends_with(&CALL_OPENS[..*n])).unwrap_or(0);
        let free = self.held.len() - may_open;
        release(parts, &self.held[..free]);
        self.held.drain(..free);
        false
    }

    fn call(&mut self, mut object: Object, parts: &mut Vec<Part>) -> bool {
        match object.read(self.held.as_bytes()) {
            Reading::More => {
                self.state = State::Call(object);
                false
            }
            Reading::Whole => match Call::parse(&self.held[object.start..object.at]) {
                Some(call) => {
                    parts.push(Part::Call(call));
                    self.held.drain(..object.at);
                    (self.state, self.has_called) = (State::Behind, true);
                    true
                }
                None => self.no_call(object.at, parts),
            },
            Reading::Never => self.no_call(object.start, parts),
        }
    }

    /// The first `bytes` of what is held are text. What follows may open a call again.
    fn no_call(&mut self, bytes: usize, parts: &mut Vec<Part>) -> bool {
        release(parts, &self.held[..bytes]);
        self.held.drain(..bytes);
        self.state = State::Text;
        true
    }
}

enum Reading {
    More,
    /// `at` is behind its closing brace.
    Whole,
    /// It is no object.
    Never,
}

impl Object {
    fn after(start: usize) -> Self {
        Self { start, at: start, ..Self::default() }
    }

    fn read(&mut self, bytes: &[u8]) -> Reading {
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' if self.depth > 0 => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' => self.depth += 1,
                b'}' if self.depth == 1 => return Reading::Whole,
                b'}' if self.depth > 0 => self.depth -= 1,
                _ if self.depth > 0 || byte.is_ascii_whitespace() => {}
                _ => return Reading::Never,
            }
        }
        Reading::More
    }
}

/// Adds text to what is released, in one piece with the text before it.
fn release(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
