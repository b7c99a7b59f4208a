//! Items answered by another server: any OpenAI-compatible endpoint.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use eunoe_tasks::Given;
use serde::Deserialize;
use serde_json::json;

use super::prompt::{Prompt, Then};

/// Time for one answer, and for the list of models.
const PATIENCE: Duration = Duration::from_secs(1800);
const SHORT: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const MOST: u64 = 64 << 20;

/// A server and one of its models.
pub(crate) struct Endpoint {
    agent: ureq::Agent,
    base: String,
    pub(crate) model: String,
    key: Option<String>,
}

/// What came of one item.
pub(crate) struct Answered {
    pub(crate) given: Vec<Given>,
    pub(crate) prompt_tokens: usize,
    /// KV bytes, where the server tells.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    memory: Option<Memory>,
}

/// What Eunoe's own server and those that act like it tell.
#[derive(Deserialize)]
struct Memory {
    #[serde(default)]
    peak_bytes: u64,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: usize,
}

/// Whether a model argument is an address.
pub(crate) fn is_address(model: &str) -> bool {
    model.starts_with("http://") || model.starts_with("https://")
}

impl Endpoint {
    /// Asks a server for its models and takes the first, or the one named. `$OPENAI_API_KEY` is sent if it is set.
    ///
    /// # Errors
    /// No server there, or one that does not speak the protocol.
    pub(crate) fn connect(base: &str, model: Option<&str>) -> Result<Self> {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
        let mut endpoint = Self {
            agent: config.build().into(),
            base: base.trim_end_matches('/').to_owned(),
            model: String::new(),
            key: std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty()),
        };
        let models: Models = endpoint.call("models", None)?;
        let first = models.data.first().map(|m| m.id.as_str());
        endpoint.model = match (model, first) {
            (Some(name), _) => name.to_owned(),
            (None, Some(first)) => first.to_owned(),
            (None, None) => bail!("`{base}` has no models"),
        };
        Ok(endpoint)
    }

    /// Sends each prompt as text, without the BOS that servers put in front; answers are greedy.
    ///
    /// # Errors
    /// The server's complaint, or a question that needs probabilities.
    pub(crate) fn answer(&self, task: &str, prompts: &[Prompt], bos: &str) -> Result<Answered> {
        let start = Instant::now();
        let mut answered = Answered { given: Vec::new(), prompt_tokens: 0, bytes: 0, seconds: 0.0 };
        for prompt in prompts {
            let Then::Write(tokens) = prompt.then else {
                bail!(
                    "`{task}` needs probabilities or attention, which an endpoint does not give: leave it out"
                );
            };
            let body = json!({
                "model": self.model, "prompt": prompt.text.strip_prefix(bos).unwrap_or(&prompt.text), "max_tokens": tokens, "temperature": 0, "stream": false,
            });
            let completion: Completion = self.call("completions", Some(&body))?;
            let Some(choice) = completion.choices.into_iter().next() else {
                bail!("`{}/completions` answered without a choice", self.base);
            };
            let read = completion.usage.map_or(prompt.tokens.len(), |usage| usage.prompt_tokens);
            answered.prompt_tokens = answered.prompt_tokens.max(read);
            answered.bytes = answered.bytes.max(completion.memory.map_or(0, |memory| memory.peak_bytes));
            answered.given.push(Given::Text(choice.text));
        }
        answered.seconds = start.elapsed().as_secs_f64();
        Ok(answered)
    }

    fn call<T: for<'a> Deserialize<'a>>(&self, path: &str, body: Option<&serde_json::Value>) -> Result<T> {
        let url = format!("{}/{path}", self.base);
        let (method, patience, body) = match body {
            None => ("GET", SHORT, String::new()),
            Some(body) => ("POST", PATIENCE, serde_json::to_string(body)?),
        };
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request =
            self.agent.configure_request(request.body(body)?).timeout_global(Some(patience)).build();
        let sent = self.agent.run(request);
        let mut response = sent.with_context(|| format!("`{url}` does not answer"))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(MOST).read_to_string();
        let text = text.with_context(|| format!("`{url}` broke off"))?;
        if !status.is_success() {
            let start: String =
                text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
            bail!("`{url}` says {status}: {start}");
        }
        serde_json::from_str(&text).with_context(|| format!("`{url}` does not speak the OpenAI protocol"))
    }
}
