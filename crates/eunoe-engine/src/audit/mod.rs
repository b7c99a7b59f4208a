//! What forgetting cost on one input: the same tokens read under a plan and under full memory, and compared.

mod canary;
mod divergence;
mod forgotten;
mod verdict;
mod weights;

pub use canary::Canaries;
pub use divergence::Divergence;
pub use forgotten::Passage;
pub use verdict::{Outlook, Verdict};

use crate::dense::{Held, Mass};
use crate::engine::{Engine, GoOn};
use crate::layout::Length;
use crate::score::count;
use canary::{Planted, plant};
use divergence::{Pair, compare, strata};
use eunoe_core::{Error, Result};
use eunoe_kv::{Budget, Plan};
use forgotten::passages;
use serde::Serialize;
use verdict::{measurements, risk};

/// How closely is looked.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rows of the prompt whose distributions are compared; those of the answer are compared all.
    pub samples: usize,
    /// Which rows, and which canaries.
    pub seed: u64,
    /// Sentences planted in a copy of the prompt; at most 12.
    pub canaries: usize,
    /// Forgotten passages told.
    pub passages: usize,
    /// Compare every row too, to see whether the interval of the sample holds.
    pub exact: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { samples: 128, seed: 0, canaries: 4, passages: 5, exact: false }
    }
}

/// What is audited: a prompt, and what was answered to it under the plan.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The prompt as text, the template around it.
    pub prompt: &'a str,
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Tokens of the answer, the stop token included.
    pub answer: &'a [u32],
    /// Most tokens that the answering sequence was made for: what a budget in percent is a share of.
    pub longest: u32,
}

impl Subject<'_> {
    /// Tokens that an audit reads, about: what its progress counts up to.
    pub fn work(&self) -> usize {
        4 * (self.tokens.len() + self.answer.len())
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    /// The plan in effect.
    pub plan_used: String,
    /// Over all rows of prompt and answer, from a sample of them.
    #[serde(flatten)]
    pub whole: Divergence,
    /// Over all rows, from all of them, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<Divergence>,
    /// Over the rows that wrote the answer, all of them.
    pub answer: Divergence,
    /// Share of the answer's attention, under full memory, that falls on what the plan no longer held: mean over rows,
    /// layers and heads.
    pub forgotten_mass: f64,
    /// The forgotten passages that drew most of it, most first.
    pub passages: Vec<Passage>,
    /// Planted sentences; none where they could not be planted.
    pub canaries: Option<Canaries>,
    /// Why there are none.
    pub canaries_note: Option<String>,
    /// What can be told without full memory.
    pub outlook: Outlook,
    /// Chance, 0 to 1, that full memory would have answered right where the plan did not, as calibrated.
    pub risk: f64,
    /// That chance as a word.
    pub verdict: Verdict,
    /// The verdict as a sentence.
    pub words: String,
    /// Most hot KV bytes of the plan.
    pub peak_bytes: u64,
    /// Most hot KV bytes of full memory.
    pub full_peak_bytes: u64,
}

/// The same tokens under both memories.
struct Both {
    sampled: Vec<Pair>,
    every: Option<Vec<Pair>>,
    answer: Vec<Pair>,
    mass: Mass,
    held: Held,
    plan_used: String,
    gone: f64,
    budget: Option<u64>,
    peaks: [u64; 2],
}

impl Engine {
    /// Compares a plan with full memory on one input. `go_on` gets the tokens read so far, about [`Subject::work`] in all.
    ///
    /// # Errors
    /// Those of reading; [`Error::Limit`] where full memory does not hold the text.
    pub fn audit(
        &self,
        plan: &Plan,
        subject: &Subject<'_>,
        settings: &Settings,
        go_on: GoOn<'_>,
    ) -> Result<Audit> {
        let both = self.read_both(plan, subject, settings, go_on)?;
        let done = subject.work() / 2;
        let planted = plant(&self.tokenizer, subject.prompt, settings.canaries, settings.seed);
        let (ours, canaries, canaries_note) = match planted.and_then(|planted| {
            let ours = self.recites(&held_to(plan, both.budget), &planted, &mut |n| go_on(done + n))?;
            let done = done + planted.tokens.len();
            let full = self.recites(&Plan::parse("full")?, &planted, &mut |n| go_on(done + n))?;
            Ok((Canaries::new(&full, &ours), ours))
        }) {
            Ok((canaries, ours)) => (ours, Some(canaries).filter(|c| c.planted > 0), None),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => (Vec::new(), None, Some(e.to_string())),
        };
        let log_probs: Vec<f64> = both.answer.iter().map(|pair| pair.log_prob).collect();
        let rows = subject.tokens.len() - 1;
        let whole = Divergence::blend(rows, &both.sampled, &both.answer);
        let answer = Divergence::of_all(&both.answer);
        let forgotten_mass = both.mass.forgotten(&both.held);
        let differs = whole.kl_mean > 0.0 || answer.kl_mean > 0.0 || forgotten_mass > 0.0;
        let measured = measurements(&whole, &answer, forgotten_mass, canaries.as_ref());
        let risk = if differs { risk(&measured) } else { 0.0 };
        let verdict = Verdict::of(risk);
        Ok(Audit {
            plan_used: both.plan_used,
            whole,
            exact: both.every.map(|every| Divergence::blend(rows, &every, &both.answer)),
            answer,
            forgotten_mass,
            passages: passages(self, subject.tokens, &both.mass, &both.held, settings.passages),
            canaries,
            canaries_note,
            outlook: Outlook::new(&log_probs, &ours, both.gone),
            risk,
            verdict,
            words: verdict.words(risk),
            peak_bytes: both.peaks[0],
            full_peak_bytes: both.peaks[1],
        })
    }

    /// What can be told of an answer under a plan without full memory: its log-probabilities and, where
    /// anything is gone from hot memory, sentences planted in a copy of the prompt and read under `plan`. `gone` is a share
    /// of slots.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; where sentences cannot be planted, the rest is told.
    pub fn outlook(
        &self,
        plan: &Plan,
        prompt: &str,
        log_probs: &[f64],
        gone: f64,
        go_on: GoOn<'_>,
    ) -> Result<Outlook> {
        let Settings { canaries, seed, .. } = Settings::default();
        let recited = match gone > 0.0 {
            true => plant(&self.tokenizer, prompt, canaries, seed)
                .and_then(|planted: Planted| self.recites(plan, &planted, go_on)),
            false => Ok(Vec::new()),
        };
        match recited {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            recited => Ok(Outlook::new(log_probs, &recited.unwrap_or_default(), gone)),
        }
    }

    fn read_both(
        &self,
        plan: &Plan,
        subject: &Subject<'_>,
        settings: &Settings,
        go_on: GoOn<'_>,
    ) -> Result<Both> {
        let Subject { tokens, answer, longest, .. } = *subject;
        let [before @ .., last] = tokens else {
            return Err(Error::Invalid("an audit needs a prompt".into()));
        };
        let Some((_, made)) = answer.split_last() else {
            return Err(Error::Invalid("an audit needs an answer".into()));
        };
        let longest = longest.max(count(tokens.len() + answer.len())?);
        let length = Length { prompt: count(tokens.len())?, longest };
        let chosen = strata(before.len(), settings.samples, settings.seed);
        let rows = if settings.exact { (0..before.len()).collect() } else { chosen.clone() };

        let mut dense = self.session(&Plan::parse("full")?, length)?;
        let mut full = self.read_streams(&mut dense, before, &rows, go_on)?;
        let writing: Vec<u32> = [*last].iter().chain(made).copied().collect();
        let (mass, streams) = self.read_dense(&mut dense, &writing, tokens.len())?;
        full.extend(streams);

        let mut session = self.session(plan, length)?;
        let with_last: Vec<usize> = rows.iter().copied().chain([before.len()]).collect();
        let mut ours =
            self.read_streams(&mut session, tokens, &with_last, &mut |n| go_on(tokens.len() + n))?;
        let held = session.held(tokens.len())?;
        let every: Vec<usize> = (0..made.len()).collect();
        ours.extend(self.read_streams(&mut session, made, &every, &mut |_| true)?);

        let next = vec![None; rows.len()].into_iter().chain(answer.iter().map(|token| Some(*token)));
        let mut pairs = compare(self, &full, &ours, &next.collect::<Vec<_>>());
        let answer = pairs.split_off(rows.len());
        let every = settings.exact.then(|| pairs.clone());
        if let Some(every) = &every {
            pairs = chosen.iter().map(|row| every[*row]).collect();
        }
        let (bill, full) = (session.bill(), dense.bill());
        Ok(Both {
            sampled: pairs,
            every,
            answer,
            mass,
            held,
            plan_used: bill.plan_used,
            gone: (bill.evicted + bill.cold) as f64 / bill.seen.max(1) as f64,
            budget: bill.budget_bytes,
            peaks: [bill.peak_bytes, full.peak_bytes],
        })
    }
}

/// The plan with its budget in bytes, so that a longer text gets no more.
fn held_to(plan: &Plan, bytes: Option<u64>) -> Plan {
    let budget = plan.budget.and(bytes.map(Budget::Bytes));
    Plan { budget, ..plan.clone() }
}
