//! From a request to tasks, and from what happens to them to what a handler waits for.

use std::sync::Arc;
use std::time::Instant;

use std::ops::Range;

use eunoe_core::Error;
use eunoe_engine::schedule::{Leaving, News, Schedule, Start, Task};
use eunoe_engine::{Bill, FinishReason, Guide, Length, Request, Session, TokenLogProb};
use eunoe_kv::Plan;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::Shared;
use crate::error::ApiError;
use crate::sessions::Turn;
use crate::tools::{Choice, Tool};
use crate::worker::Audited;

/// Rows after which the live memory is told again while a prompt is read, and tokens while an answer is written.
const LIVE_EVERY: usize = 8;

/// What is asked for, once a request is understood.
pub(crate) struct Ask {
    pub(crate) plan: Plan,
    pub(crate) prompt: Vec<u32>,
    pub(crate) request: Request,
    /// Answers; each has its own seed.
    pub(crate) count: usize,
    /// Score the prompt's own tokens, with so many likeliest beside each.
    pub(crate) echo: Option<usize>,
    /// What the answer has to follow.
    pub(crate) form: Form,
    /// Tell how the memory fills.
    pub(crate) live: bool,
    /// The mean of the streams of all tokens is asked for.
    pub(crate) pool: bool,
    /// A sequence to go on from, for one answer; it comes back with it.
    pub(crate) start: Option<Start>,
}

/// What an answer has to follow.
pub(crate) enum Form {
    /// Nothing.
    Text,
    /// Any JSON object.
    Object,
    /// JSON by this schema.
    Schema(Value),
    /// Calls of tools, as the choice says.
    Calls(Vec<Tool>, Choice),
}

impl Form {
    fn guide(&self, app: &Shared) -> Result<Option<Box<dyn Guide>>, ApiError> {
        Ok(match self {
            Self::Text | Self::Calls(_, Choice::None | Choice::Auto) => None,
            Self::Object => Some(app.guides()?.json_object()?),
            Self::Schema(schema) => Some(
                app.guides()?
                    .json_schema(schema)
                    .map_err(|e| ApiError::param("response_format", e.to_string()))?,
            ),
            Self::Calls(tools, choice) => {
                choice.guide(tools, &*app.guides()?).map_err(|e| ApiError::param("tools", e.to_string()))?
            }
        })
    }

    /// Whether calls of tools are looked for in the answer.
    pub(crate) fn has_calls(&self) -> bool {
        matches!(self, Self::Calls(_, choice) if *choice != Choice::None)
    }
}

impl Ask {
    /// The mean of the streams of all tokens of a text.
    pub(crate) fn pooled(plan: Plan, prompt: Vec<u32>) -> Self {
        Self {
            plan,
            prompt,
            request: Request::default(),
            count: 1,
            echo: None,
            form: Form::Text,
            live: false,
            pool: true,
            start: None,
        }
    }
}

/// What happens to an answer.
#[derive(Debug)]
pub(crate) enum Out {
    /// New text, and the probabilities of its tokens where asked for.
    Text(String, Vec<TokenLogProb>),
    /// How the memory fills.
    Live(Live),
    /// It is whole.
    Done(Box<Whole>),
    /// It cannot go on.
    Failed(Error),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) finish_reason: FinishReason,
    pub(crate) tokens: Vec<u32>,
    pub(crate) log_probs: Vec<TokenLogProb>,
    pub(crate) echo: Vec<TokenLogProb>,
    /// Tokens of the prompt that an earlier request had read.
    pub(crate) cached: usize,
    /// Mean of the streams of all tokens of the prompt, of length 1, where asked for `[d_model]`.
    pub(crate) pooled: Vec<f32>,
    pub(crate) bill: Bill,
    /// Share of the strips that still hold each token of the prompt, where the live memory was asked for.
    pub(crate) held: Vec<f32>,
    /// What it remembers, where it went on from a sequence.
    pub(crate) session: Option<Leaving>,
}

/// How the memory of an answer stands.
#[derive(Debug, Serialize)]
pub(crate) struct Live {
    phase: &'static str,
    read: usize,
    prompt_tokens: usize,
    live_bytes: u64,
    budget_bytes: Option<u64>,
    seen: u32,
    /// Slots held, layer by layer, KV head by KV head.
    heads: Vec<u64>,
}

/// An answer's number and what happens to it.
pub(crate) type Outs = UnboundedReceiver<(usize, Out)>;

/// Hands a request over. What cannot fit is refused here, before an answer begins; whoever drops the receiver gives the
/// memory back.
pub(crate) fn submit(app: &Shared, mut ask: Ask) -> Result<Outs, ApiError> {
    let engine = app.worker.engine()?;
    let (sender, receiver) = unbounded_channel();
    let mut tasks = Vec::with_capacity(ask.count);
    for index in 0..ask.count {
        let mut request = ask.request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(index as u64);
        let hear = Box::new(hear(app, sender.clone(), index, &ask));
        let (plan, prompt) = (ask.plan.clone(), ask.prompt.clone());
        let guide = ask.form.guide(app)?;
        let start = ask.start.take();
        tasks.push(Task { plan, prompt, start, request, guide, echo: ask.echo, pool: ask.pool, hear });
    }
    if let Some(task) = tasks.first() {
        Schedule::check(engine, task, app.settings.memory)?;
    }
    app.worker.submit(tasks)?;
    Ok(receiver)
}

/// Passes on what happens; says whether somebody still listens.
fn hear(
    app: &Shared,
    sender: UnboundedSender<(usize, Out)>,
    index: usize,
    ask: &Ask,
) -> impl FnMut(News<'_, '_>) -> bool + Send + 'static {
    let app = Arc::clone(app);
    let (live, prompt, keeps) = (ask.live, ask.prompt.len(), ask.start.is_some());
    let start = Instant::now();
    let (mut last, mut told, mut is_gone) = (None, 0, false);
    move |news| {
        if sender.is_closed() {
            // told once, though news may come once more
            if !std::mem::replace(&mut is_gone, true) {
                app.metrics.ended("abort", start.elapsed());
            }
            return false;
        }
        let out = match news {
            News::Waits => return true,
            News::Read(read, session) if live => Out::Live(live_of(session, "reading", read, prompt)),
            News::Read(..) => return true,
            News::Wrote(writer, session) => {
                let before = last.replace(Instant::now());
                app.metrics.token(before.is_none(), before.unwrap_or(start).elapsed());
                if live && writer.tokens().len() % LIVE_EVERY == 1 {
                    let live = live_of(session, "answering", prompt, prompt);
                    sender.send((index, Out::Live(live))).ok();
                }
                let more = writer.log_probs()[told..].to_vec();
                told += more.len();
                Out::Text(writer.release().to_owned(), more)
            }
            News::Done(done) => {
                let why = if done.answer.finish_reason == FinishReason::Stop { "stop" } else { "length" };
                app.metrics.ended(why, start.elapsed());
                let held = if live { done.session.held_shares(prompt) } else { Vec::new() };
                Out::Done(Box::new(Whole {
                    text: done.answer.text,
                    finish_reason: done.answer.finish_reason,
                    tokens: done.answer.tokens,
                    log_probs: done.answer.log_probs,
                    echo: done.echo,
                    cached: done.cached,
                    pooled: unit(done.pooled),
                    bill: done.session.bill(),
                    held,
                    session: keeps.then_some(done.session),
                }))
            }
            News::Failed(e) => {
                app.metrics.ended("error", start.elapsed());
                Out::Failed(e)
            }
        };
        sender.send((index, out)).is_ok()
    }
}

fn live_of(session: &Session, phase: &'static str, read: usize, prompt_tokens: usize) -> Live {
    let bill = session.bill();
    Live {
        phase,
        read,
        prompt_tokens,
        live_bytes: bill.live_bytes,
        budget_bytes: bill.budget_bytes,
        seen: session.kv.seen(),
        heads: bill.heads.iter().map(|head| head.kept).collect(),
    }
}

/// What an audit of an answer needs to know of its request.
pub(crate) struct Look {
    pub(crate) app: Shared,
    pub(crate) plan: Plan,
    pub(crate) prompt: Vec<u32>,
    /// The prompt as text, and where in it the user's own stands.
    pub(crate) text: String,
    pub(crate) content: Range<usize>,
    pub(crate) max_tokens: usize,
}

impl Look {
    /// What forgetting cost, or a note that says why it is not known.
    pub(crate) async fn at(&self, whole: &Whole) -> Value {
        let (reply, outcome) = oneshot::channel();
        let prompt = self.prompt.len() as u32;
        let audited = Audited {
            plan: self.plan.clone(),
            text: self.text.clone(),
            content: self.content.clone(),
            prompt: self.prompt.clone(),
            answer: whole.tokens.clone(),
            length: Length { prompt, longest: prompt + self.max_tokens as u32 },
            reply,
        };
        let audit = match self.app.worker.audit(audited) {
            Ok(()) => outcome.await,
            Err(_) => return json!({ "note": "the server is stopping" }),
        };
        match audit {
            Ok(Ok(audit)) => serde_json::to_value(audit).unwrap_or_default(),
            Ok(Err(e)) => json!({ "note": e.to_string() }),
            Err(_) => json!({ "note": "the server is stopping" }),
        }
    }
}

/// What is done with a whole answer before it is told.
pub(crate) struct After {
    /// What forgetting cost is to be measured.
    pub(crate) look: Option<Look>,
    /// It is a turn of a session.
    pub(crate) turn: Option<Turn>,
}

impl After {
    /// Adds what comes of it to the record of the answer's memory.
    pub(crate) async fn add_to(&mut self, memory: &mut Value, mut whole: Whole) {
        if let Some(look) = &self.look {
            memory["audit"] = look.at(&whole).await;
        }
        if let (Some(turn), Some(session)) = (self.turn.take(), whole.session.take()) {
            let saved = tokio::task::spawn_blocking(move || turn.save(&whole, &session)).await;
            memory["session"] = saved.unwrap_or_else(|_| json!({ "saved": false }));
        }
    }
}

/// A vector of length 1 in the same direction.
fn unit(mut x: Vec<f32>) -> Vec<f32> {
    let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / length.max(f64::MIN_POSITIVE)) as f32);
    x
}

/// All answers to a request, in their order.
///
/// # Errors
/// The first failure; 408 where it takes longer than the server allows.
pub(crate) async fn all(app: &Shared, outs: Outs, count: usize) -> Result<Vec<Whole>, ApiError> {
    let patience = app.settings.timeout;
    tokio::time::timeout(patience, gather(outs, count)).await.map_err(|_| ApiError::late(patience))?
}

async fn gather(mut outs: Outs, count: usize) -> Result<Vec<Whole>, ApiError> {
    let mut wholes: Vec<Option<Whole>> = (0..count).map(|_| None).collect();
    while let Some((index, out)) = outs.recv().await {
        match out {
            Out::Done(whole) => wholes[index] = Some(*whole),
            Out::Failed(e) => return Err(e.into()),
            Out::Text(..) | Out::Live(_) => {}
        }
        if wholes.iter().all(Option::is_some) {
            break;
        }
    }
    wholes.into_iter().collect::<Option<_>>().ok_or_else(ApiError::stopping)
}
