//! Chat templates: a conversation rendered to the text that the model was trained on.
//!
//! The environment is the one that Hugging Face's `apply_chat_template` gives to templates. A template is part of a
//! downloaded file and is not trusted: it runs on a budget of steps and memory. Neither is what messages say: in
//! [`ChatTemplate::encode`] it never becomes a control token.

mod message;

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use eunoe_core::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
pub use message::{Function, Message, ToolCall};
use message::{change_texts, free_mark};

const NAME: &str = "chat template";
/// Stands for an answer while a template is rendered.
const ANSWER: &str = "\u{2}the answer\u{2}";

/// One step of fuel is an instruction, or 64 bytes made.
const BASE_FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
/// Output beyond this many bytes, plus `OUTPUT_PER_INPUT` times the conversation, is refused.
const BASE_OUTPUT: usize = 1 << 20;
const OUTPUT_PER_INPUT: usize = 4;

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    knows_tools: bool,
}

impl ChatTemplate {
    /// The template of a model file, if it has one.
    ///
    /// # Errors
    /// [`Error::Format`] with the offset in the template where it cannot be read.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(source) = gguf.opt_str("tokenizer.chat_template")? else { return Ok(None) };
        let name = |key| -> Result<&str> {
            let Some(id) = gguf.opt_u32(key)? else { return Ok("") };
            Ok(gguf.strs("tokenizer.ggml.tokens")?.nth(id as usize).unwrap_or_default())
        };
        Self::new(source, name("tokenizer.ggml.bos_token_id")?, name("tokenizer.ggml.eos_token_id")?)
            .map(Some)
    }

    /// Compiles a template; it sees `bos` and `eos` as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Format`] with the offset in the template where it cannot be read.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| unreadable(&e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, seconds_now()));
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| unreadable(&e))?;
        let read = environment.get_template(NAME).map_err(|e| unreadable(&e))?.undeclared_variables(false);
        let knows_tools = read.contains("tools");
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned(), knows_tools })
    }

    /// Whether the template does anything with tools.
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// The template as the model's file has it.
    ///
    /// # Errors
    /// None that a compiled template can give.
    pub fn source(&self) -> Result<String> {
        Ok(self.environment.get_template(NAME).map_err(|e| unreadable(&e))?.source().to_owned())
    }

    /// The text of a conversation without tools; `add_generation_prompt` opens the model's own turn at the end. What a
    /// message says stands in it as it is, names of control tokens included: [`ChatTemplate::encode`] tells them apart.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the template's own complaint, or when it does not end or writes without end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &[], add_generation_prompt)
    }

    /// [`ChatTemplate::render`] with `tools`, each as clients send it:
    /// `{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`].
    pub fn render_with(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.write(&self.seen(messages), tools, add_generation_prompt)
    }

    /// The tokens of a conversation, ready to be read. They are those of [`ChatTemplate::render_with`] through
    /// [`Tokenizer::encode_prompt`], except that no control token begins in a text of `messages` or `tools`: there its
    /// name is a text like any other.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let (mut messages, mut tools) = (self.seen(messages), tools.to_vec());
        let mark = self.mark(tokenizer, &mut messages, &mut tools)?;
        let text = self.write(&messages, &tools, add_generation_prompt)?;
        Ok(tokenizer.with_one_bos(tokenizer.encode_marked(&text, mark)))
    }

    /// The tokens that come between an answer to the messages `before` and the answer to `new`, so that a conversation goes on
    /// where the answer's own tokens are in memory already. Messages are read as [`ChatTemplate::encode`] does.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`], and [`Error::Unsupported`] for a template that writes earlier turns anew.
    pub fn encode_after_answer(
        &self,
        tokenizer: &Tokenizer,
        before: &[Message],
        new: &[Message],
        tools: &[serde_json::Value],
    ) -> Result<Vec<u32>> {
        let answer = Message::new("assistant", ANSWER);
        let (mut messages, mut tools) = (self.seen(before), tools.to_vec());
        messages.extend(self.seen(&[answer]));
        messages.extend(self.seen(new));
        let mark = self.mark(tokenizer, &mut messages, &mut tools)?;
        let whole = self.write(&messages, &tools, true)?;
        let read = self.write(&messages[..before.len()], &tools, true)?;
        match whole.strip_prefix(&read).and_then(|rest| rest.strip_prefix(ANSWER)) {
            Some(rest) => Ok(tokenizer.encode_marked(rest, mark)),
            None => Err(Error::Unsupported(
                "a conversation in memory with this model's chat template, which writes earlier turns anew"
                    .into(),
            )),
        }
    }

    /// Sets marks into the names of control tokens in all texts; gives the mark.
    fn mark(
        &self,
        tokenizer: &Tokenizer,
        messages: &mut [serde_json::Value],
        tools: &mut [serde_json::Value],
    ) -> Result<char> {
        let source = self.source()?;
        let texts = [&*messages, &*tools].map(|values| serde_json::Value::from(values).to_string());
        let mark = free_mark(&[&source, &texts[0], &texts[1]])?;
        for value in messages.iter_mut().chain(tools) {
            change_texts(value, &|text| tokenizer.mark_names(text, mark).into_owned());
        }
        Ok(mark)
    }

    fn seen(&self, messages: &[Message]) -> Vec<serde_json::Value> {
        messages.iter().map(|message| message.to_json(self.knows_tools)).collect()
    }

    fn write(
        &self,
        messages: &[serde_json::Value],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let input: usize = messages.iter().chain(tools).map(|value| value.to_string().len()).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + input as u64));
        let mut out = Bounded { bytes: Vec::new(), limit: BASE_OUTPUT + OUTPUT_PER_INPUT * input };
        let values = context! {
            messages => Value::from(Serde(messages)),
            tools => (!tools.is_empty()).then(|| Value::from(Serde(tools))),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        let template = environment.get_template(NAME).map_err(|e| unreadable(&e))?;
        let rendered = template.render_captured_to(values, &mut out).map(drop);
        rendered.map_err(|e| failed(&e, out.limit))?;
        String::from_utf8(out.bytes).map_err(|_| Error::Invalid(format!("{NAME}: the output is not UTF-8")))
    }
}

fn unreadable(error: &minijinja::Error) -> Error {
    Error::format(NAME, error.range().map_or(0, |r| r.start as u64), cause(error))
}

fn failed(error: &minijinja::Error, limit: usize) -> Error {
    Error::Invalid(match error.kind() {
        ErrorKind::OutOfFuel => {
            format!(
                "{NAME}: stopped because it needs too many steps or too much memory; use another template"
            )
        }
        ErrorKind::WriteFailure => format!("{NAME}: stopped because it wrote more than {limit} bytes"),
        _ => format!("{NAME}: {}", cause(error)),
    })
}

fn cause(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or(what.clone(), |line| format!("{what} (line {line})"))
}

/// A buffer that refuses to grow beyond its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON with Python's spaces, and without the escapes for HTML that templates of web pages want.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = vec![b' '; width.min(16)];
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(&spaces)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonSpaces)),
    };
    let bad = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    written.map_err(|e| bad(e.to_string()))?;
    String::from_utf8(out).map(Value::from_safe_string).map_err(|e| bad(e.to_string()))
}

/// `{"a": 1, "b": [2, 3]}`
struct PythonSpaces;

impl Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The date in UTC, by the directives that chat templates use; others stay as they are written.
fn strftime(format: &str, seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, month_name) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('%', Some(directive)) => {
                rest.next();
                out += &match directive {
                    'Y' => year.to_string(),
                    'm' => format!("{month:02}"),
                    'd' => format!("{day:02}"),
                    'H' => format!("{:02}", time / 3600),
                    'M' => format!("{:02}", time / 60 % 60),
                    'S' => format!("{:02}", time % 60),
                    'B' => month_name.to_owned(),
                    'b' => month_name[..3].to_owned(),
                    'A' => weekday.to_owned(),
                    'a' => weekday[..3].to_owned(),
                    '%' => "%".to_owned(),
                    other => format!("%{other}"),
                };
            }
            _ => out.push(c),
        }
    }
    out
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March, so that the leap day is the last; an era is 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(&[Message::new("user", "hi <b>")], true)
    }

    #[test]
    fn blocks_take_their_line_with_them() {
        let source = "{{ bos_token }}\n  {% for m in messages %}\n[{{ m.role }}] {{ m['content'] }}\n  {% endfor %}\nx\n";
        assert_eq!(render(source).unwrap(), "<s>\n[user] hi <b>\nx");
    }

    #[test]
    fn python_methods_and_json_are_pythons() {
        let source = "{{ messages[0].content.upper().split(' ')[0] }}{{ messages | tojson }}{{ {'é': [1, true]} | tojson }}";
        assert_eq!(render(source).unwrap(), r#"HI[{"role": "user", "content": "hi <b>"}]{"é": [1, true]}"#);
        assert_eq!(render("{{ [1] | tojson(indent=2) }}").unwrap(), "[\n  1\n]");
    }

    #[test]
    fn loops_can_be_left() {
        assert_eq!(
            render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
                .unwrap(),
            "01"
        );
    }

    #[test]
    fn a_templates_complaint_is_passed_on() {
        let e = render("\n{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(e.to_string(), "chat template: roles must alternate (line 2)");
        assert!(matches!(render("ab{% if %}"), Err(Error::Format { offset: 8, .. })));
        assert!(matches!(render("{{ missing.field }}"), Err(Error::Invalid(_))));
        assert_eq!(render("{% if tools %}x{% endif %}y").unwrap(), "y");
    }

    #[test]
    fn templates_see_tools_and_calls_as_with_transformers() {
        let source = "{% for t in tools %}{{ t | tojson }}{% endfor %}\
            {% for m in messages %}{{ m.role }}:{{ m.content is none }}{% for c in m.tool_calls %}\
            {{ c.function.name }}({{ c.function.arguments | tojson }}){{ c.function.arguments.x }}{% endfor %}\
            {{ m.tool_call_id }}{{ m.name is defined }};{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert!(template.knows_tools());
        let calls = vec![ToolCall::new("c1", "f", r#"{"y": 1, "x": [2]}"#)];
        let messages = [
            Message { content: None, tool_calls: calls, ..Message::new("assistant", "") },
            Message { tool_call_id: Some("c1".into()), ..Message::new("tool", "3") },
        ];
        let tools = [serde_json::json!({ "type": "function", "function": { "name": "f" } })];
        assert_eq!(
            template.render_with(&messages, &tools, false).unwrap(),
            r#"{"type": "function", "function": {"name": "f"}}assistant:Truef({"y": 1, "x": [2]})[2]False;tool:Falsec1False;"#
        );
    }

    #[test]
    fn a_template_that_never_reads_tools_does_not_know_them() {
        let knows = |source: &str| ChatTemplate::new(source, "", "").unwrap().knows_tools();
        assert!(!knows("{% set tools = [] %}{{ messages.tools }}{{ tools }}"));
        assert!(knows("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}"));
        let plain = ChatTemplate::new("{{ '<' + messages[0].content + '>' }}", "", "").unwrap();
        let silent = Message { content: None, ..Message::new("assistant", "") };
        assert_eq!(plain.render(&[silent], false).unwrap(), "<>", "and puts content into its text unasked");
    }

    #[test]
    fn templates_without_end_are_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let doubling =
            "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
        for source in [nested, doubling] {
            let e = render(source).unwrap_err().to_string();
            assert!(e.contains("too many steps"), "{e}");
        }
        let recursive = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        assert!(render(recursive).unwrap_err().to_string().contains("recursion"));
        let wordy = "{% for i in range(99999) %}{{ 'word' * 100 }}{% endfor %}";
        assert!(render(wordy).unwrap_err().to_string().contains("wrote more than"));
    }

    #[test]
    fn dates_are_civil() {
        // 1709210096 is Thursday, 29 February 2024, 12:34:56 UTC.
        assert_eq!(
            strftime("%d %b %Y, %A %H:%M:%S %% %q", 1_709_210_096),
            "29 Feb 2024, Thursday 12:34:56 % %q"
        );
        assert_eq!(strftime("%Y-%m-%d %a %B", 0), "1970-01-01 Thu January");
        assert_eq!(strftime("%Y-%m-%d", 1_735_603_200), "2024-12-31");
        assert_eq!(strftime("%", 4_107_542_400), "%");
        assert!(render("{{ strftime_now('%Y') }}").unwrap().parse::<u32>().unwrap() >= 2024);
    }
}
