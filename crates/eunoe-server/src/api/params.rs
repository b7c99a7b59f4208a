//! Parameters of requests: all that is known is read, all else is refused by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use eunoe_engine::{Engine, Request, Sampling};
use eunoe_kv::Plan;
use eunoe_model::chat::{ChatTemplate, Message, ToolCall};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use super::body::body;
use crate::ask::{Ask, Form, Look};
use crate::error::ApiError;
use crate::sessions::Turn;
use crate::{App, Shared};

/// Most likeliest tokens beside each.
const MOST_LIKELIEST: usize = 20;
/// Most answers to one request.
const MOST_ANSWERS: usize = 32;
/// Most stop strings, and most bytes of each.
const STOPS: (usize, usize) = (16, 256);

/// # Errors
/// A parameter that is on none of the lists, by name.
pub(super) fn known(json: &Value, lists: &[&[&str]]) -> Result<(), ApiError> {
    let names = json.as_object().into_iter().flat_map(|map| map.iter());
    // a client's defaults come as null, and ask for nothing
    let mut asked = names.filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
    match asked.find(|name| !lists.iter().any(|list| list.contains(name))) {
        Some(name) => {
            Err(ApiError::param(name, format!("parameter `{name}` is not supported: leave it out")))
        }
        None => Ok(()),
    }
}

/// A part of a body.
///
/// # Errors
/// What is missing or has another shape.
pub(super) fn read<T: DeserializeOwned>(json: &Value) -> Result<T, ApiError> {
    T::deserialize(json).map_err(|e| wrong(&e.to_string()))
}

/// A body of another shape; the parameter's name stands in serde's words between backticks.
fn wrong(why: &str) -> ApiError {
    let name = why.strip_prefix("unknown field `").or_else(|| why.strip_prefix("missing field `"));
    let Some(name) = name.and_then(|rest| rest.split('`').next()) else {
        return ApiError::invalid(format!("the body has another shape: {why}"));
    };
    match why.starts_with("unknown") {
        true => ApiError::param(name, format!("parameter `{name}` is not supported: leave it out")),
        false => ApiError::param(name, format!("parameter `{name}` is missing")),
    }
}

/// What both kinds of completions know; `user` changes nothing.
pub(crate) const COMMON: [&str; 17] = [
    "model",
    "max_tokens",
    "stream",
    "stream_options",
    "memory",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "user",
    "logit_bias",
];

#[derive(Deserialize)]
pub(super) struct Common {
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<usize>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) memory: Option<Memory>,
    n: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany<String>>,
    logit_bias: Option<BTreeMap<String, f32>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// Eunoe's own.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    plan: Option<String>,
    /// The session that the messages go on with.
    pub(super) session: Option<String>,
    /// Read the text under full memory too, and tell what forgetting cost.
    #[serde(default)]
    audit: bool,
    /// Tell how the memory fills, and what is held at the end.
    #[serde(default)]
    pub(super) live: bool,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn all(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(all) => all,
        }
    }
}

impl Common {
    /// # Errors
    /// Another model, or options of a stream that is none.
    pub(super) fn check(&self, app: &App) -> Result<(), ApiError> {
        if let Some(model) = &self.model {
            super::models::is_served(app, model)?;
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::param("stream_options", "`stream_options` is for `stream: true`"));
        }
        Ok(())
    }

    /// Answers asked for.
    ///
    /// # Errors
    /// None, or too many.
    fn count(&self) -> Result<usize, ApiError> {
        let n = self.n.unwrap_or(1);
        match (1..=MOST_ANSWERS).contains(&n) {
            true => Ok(n),
            false => Err(ApiError::param("n", format!("`n` is {n}, may be 1 to {MOST_ANSWERS}"))),
        }
    }

    /// The plan in effect.
    ///
    /// # Errors
    /// A plan that cannot be read, or is not for this model.
    fn plan(&self, app: &App) -> Result<Plan, ApiError> {
        Ok(self.own_plan(app)?.unwrap_or_else(|| app.settings.plan.clone()))
    }

    /// The plan that the request brings.
    fn own_plan(&self, app: &App) -> Result<Option<Plan>, ApiError> {
        let text = self.memory.as_ref().and_then(|memory| memory.plan.as_deref());
        let attach = |plan| (app.settings.attach)(plan).map_err(|why| ApiError::param("memory.plan", why));
        text.map(|text| attach(Plan::parse(text)?)).transpose()
    }

    /// The session's name.
    ///
    /// # Errors
    /// One together with what a session cannot have.
    pub(super) fn session(&self) -> Result<Option<&str>, ApiError> {
        let Some(memory) = self.memory.as_ref() else { return Ok(None) };
        if memory.session.is_some() && self.count()? > 1 {
            return Err(ApiError::param("n", "a turn of a session has one answer"));
        }
        if memory.session.is_some() && memory.audit {
            return Err(ApiError::param("memory.audit", "a turn of a session is not audited"));
        }
        Ok(memory.session.as_deref())
    }

    /// A turn of a session with these messages.
    ///
    /// # Errors
    /// Those of [`Sessions::begin`](crate::sessions::Sessions::begin).
    pub(super) async fn turn(
        &self,
        app: &Shared,
        name: &str,
        messages: Vec<Message>,
        tools: Vec<Value>,
    ) -> Result<Turn, ApiError> {
        let (app, name, plan) = (Arc::clone(app), name.to_owned(), self.own_plan(app)?);
        let begun = tokio::task::spawn_blocking(move || {
            app.sessions()?.begin(&app, &name, plan.as_ref(), (messages, &tools))
        });
        begun.await.map_err(|_| ApiError::stopping())?
    }

    /// How tokens are chosen. Where no seed is given, one of the process's own.
    ///
    /// # Errors
    /// A value that cannot be.
    fn sampling(&self, app: &App) -> Result<Sampling, ApiError> {
        let top_k = match self.top_k.unwrap_or(0) {
            -1 => 0,
            k => usize::try_from(k).map_err(|_| ApiError::param("top_k", "`top_k` is -1 or more"))?,
        };
        let within = |name: &str, value: Option<f32>, least: f32, most: f32| match value
            .filter(|x| !(least..=most).contains(x))
        {
            Some(x) => Err(ApiError::param(name, format!("`{name}` is {x}, may be {least} to {most}"))),
            None => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, 100.0)?;
        let own = || app.since.wrapping_mul(0x9e37_79b9) ^ app.next.load(Ordering::Relaxed);
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_k,
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: self.biases()?,
            seed: self.seed.map_or_else(own, |seed| seed as u64),
        })
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let wrong = |token: &str| {
            ApiError::param("logit_bias", format!("`{token}` is no token with a bias of -100 to 100"))
        };
        let of = |(token, bias): (&String, &f32)| match token.parse() {
            Ok(id) if bias.abs() <= 100.0 => Ok((id, *bias)),
            _ => Err(wrong(token)),
        };
        self.logit_bias.iter().flatten().map(of).collect()
    }

    /// Texts at which an answer ends.
    ///
    /// # Errors
    /// Too many, too long, or an empty one.
    fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = self.stop.clone().map_or_else(Vec::new, OneOrMany::all);
        if stops.len() > STOPS.0 || stops.iter().any(|stop| stop.is_empty() || stop.len() > STOPS.1) {
            let why = format!("at most {} stop strings of 1 to {} bytes", STOPS.0, STOPS.1);
            return Err(ApiError::param("stop", why));
        }
        Ok(stops)
    }

    /// Whether the usage comes at the end of a stream.
    pub(super) fn usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }

    /// What an audit needs, where it is asked for. `texts` gives the prompt as text and what of it is the user's own.
    ///
    /// # Errors
    /// Those of `texts`.
    pub(super) fn look(
        &self,
        app: &Shared,
        ask: &Ask,
        texts: impl FnOnce() -> Result<(String, String), ApiError>,
    ) -> Result<Option<Look>, ApiError> {
        if !self.memory.as_ref().is_some_and(|memory| memory.audit) {
            return Ok(None);
        }
        let (text, own) = texts()?;
        let own = own.trim();
        let content = text.find(own).map_or(0..text.len(), |start| start..start + own.len());
        let (plan, prompt, max_tokens) =
            (ask.plan.clone(), ask.prompt.clone(), ask.request.max_tokens.max(1));
        Ok(Some(Look { app: Arc::clone(app), plan, prompt, text, content, max_tokens }))
    }

    /// All of it together. Answers that name no length get the server's, or what the window leaves.
    ///
    /// # Errors
    /// Those of its parts.
    pub(super) fn ask(
        &self,
        app: &App,
        engine: &Engine,
        prompt: Vec<u32>,
        log_probs: Option<usize>,
        echo: Option<usize>,
    ) -> Result<Ask, ApiError> {
        let left = engine.config().context.saturating_sub(prompt.len()).max(1);
        let max_tokens = self.max_tokens.unwrap_or_else(|| app.settings.max_tokens.min(left));
        let request = Request { max_tokens, sampling: self.sampling(app)?, stop: self.stops()?, log_probs };
        let live = self.memory.as_ref().is_some_and(|memory| memory.live);
        Ok(Ask {
            plan: self.plan(app)?,
            prompt,
            request,
            count: self.count()?,
            echo,
            form: Form::Text,
            live,
            pool: false,
            start: None,
        })
    }
}

/// # Errors
/// More than may be asked for.
pub(super) fn likeliest(name: &str, count: usize) -> Result<usize, ApiError> {
    match count <= MOST_LIKELIEST {
        true => Ok(count),
        false => Err(ApiError::param(name, format!("`{name}` is {count}, may be 0 to {MOST_LIKELIEST}"))),
    }
}

/// One turn of a conversation.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatMessage {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    /// What clients send back of our own answers.
    #[serde(rename = "refusal")]
    _refusal: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// A conversation, and the template that it is put into.
///
/// # Errors
/// A model without a template, or without a place for tools in it; no messages, or a role or kind of content that is not known.
pub(super) fn conversation<'e>(
    engine: &'e Engine,
    messages: Vec<ChatMessage>,
    tools: &[Value],
) -> Result<(&'e ChatTemplate, Vec<Message>), ApiError> {
    let Some(template) = &engine.template else {
        let why = "this model has no chat template: use /v1/completions";
        return Err(ApiError::param("messages", why));
    };
    if messages.is_empty() {
        return Err(ApiError::param("messages", "`messages` is empty"));
    }
    if !tools.is_empty() && !template.knows_tools() {
        return Err(ApiError::param("tools", "this model's chat template has no place for tools"));
    }
    let messages = messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
    Ok((template, messages))
}

fn message((index, message): (usize, ChatMessage)) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        "developer" => "system",
        known @ ("system" | "user" | "assistant" | "tool") => known,
        other => {
            let why = format!("role `{other}` is not known: `system`, `user`, `assistant` or `tool`");
            return Err(ApiError::param(format!("messages[{index}].role"), why));
        }
    };
    let content = match message.content {
        None => None,
        Some(Content::Text(text)) => Some(text),
        Some(Content::Parts(parts)) => {
            Some(parts.into_iter().map(|part| text_of(index, part)).collect::<Result<String, _>>()?)
        }
    };
    Ok(Message {
        role: role.into(),
        content,
        tool_calls: message.tool_calls.unwrap_or_default(),
        tool_call_id: message.tool_call_id,
        name: message.name,
    })
}

fn text_of(index: usize, part: Part) -> Result<String, ApiError> {
    match (part.r#type.as_str(), part.text) {
        ("text", Some(text)) => Ok(text),
        (kind, _) => {
            let why = format!("content of type `{kind}` is not supported: `text` with a `text`");
            Err(ApiError::param(format!("messages[{index}].content"), why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_parameters_are_named() {
        let of = |why| wrong(why).body()["error"].clone();
        assert_eq!(of("unknown field `foo`, expected one of `a`, `b`")["param"], "foo");
        assert_eq!(of("missing field `messages`")["message"], "parameter `messages` is missing");
        assert!(of("invalid type: string").get("param").is_some_and(Value::is_null));
    }
}
