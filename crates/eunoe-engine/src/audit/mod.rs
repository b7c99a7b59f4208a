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

use crate::bill::Bill;
use crate::dense::{Held, Mass};
use crate::engine::{Engine, GoOn};
use crate::layout::Length;
use canary::{Planted, plant};
use divergence::{Drawn, Pair, compare, strata};
use eunoe_core::{Error, Result};
use eunoe_kv::{Budget, Plan};
use forgotten::passages;
use serde::Serialize;
use std::ops::Range;
use verdict::{at_least_doubt, measurements, risk};

/// Rows at the end of a prompt that are compared all: there the question stands, and there forgetting shows most.
const LAST: usize = 64;

/// How closely is looked.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rows of the prompt whose distributions are compared; the last 64 and those of the answer are compared all.
    pub samples: usize,
    /// Which rows, and which canaries.
    pub seed: u64,
    /// Sentences planted in a copy of the prompt, at most 12; 0 for none.
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
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The prompt as text, the template around it.
    pub prompt: &'a str,
    /// Where in it, in bytes, the user's own text stands.
    pub content: Range<usize>,
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Tokens of the answer, the stop token included.
    pub answer: &'a [u32],
    /// What the answering sequence was made for.
    pub length: Length,
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
    /// Share of the answer's attention, under full memory, that falls on what the plan did not hold in hot memory when the
    /// prompt was read: mean over rows, layers and heads.
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
    drawn: Vec<Drawn>,
    sampled: Vec<Pair>,
    /// The last of the prompt and the answer's.
    end: Vec<Pair>,
    every: Option<Vec<Pair>>,
    answer: Vec<Pair>,
    mass: Mass,
    held: Held,
    bill: Bill,
    full_peak_bytes: u64,
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
        let bill = &both.bill;
        let mut recited = || {
            let ours = self.planted(plan, bill, subject, settings, &mut |n| go_on(done + n))?;
            let Some((planted, ours)) = ours else { return Ok(None) };
            let done = done + planted.tokens.len();
            let full = self.recites(&Plan::parse("full")?, &planted, &mut |n| go_on(done + n))?;
            Ok(Some((Canaries::new(&full, &ours), ours)))
        };
        let (ours, canaries, canaries_note) = match recited() {
            Ok(Some((canaries, ours))) => (Some(ours), Some(canaries), None),
            Ok(None) => (None, None, None),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => (None, None, Some(e.to_string())),
        };
        let log_probs: Vec<f64> = both.answer.iter().map(|pair| pair.log_prob).collect();
        let whole = Divergence::blend(&both.drawn, &both.sampled, &both.end);
        let answer = Divergence::of_all(&both.answer);
        let forgotten_mass = both.mass.forgotten(&both.held);
        let differs = whole.kl_mean > 0.0 || answer.kl_mean > 0.0 || forgotten_mass > 0.0;
        let measured = measurements(&whole, &answer, forgotten_mass, canaries.as_ref());
        let risk = if differs { at_least_doubt(risk(&measured), canaries.is_some()) } else { 0.0 };
        let verdict = Verdict::of(risk);
        Ok(Audit {
            plan_used: bill.plan_used.clone(),
            whole,
            exact: both.every.map(|pairs| Divergence::of_all(&[pairs, both.answer].concat())),
            answer,
            forgotten_mass,
            passages: passages(self, subject.tokens, &both.mass, &both.held, settings.passages),
            canaries,
            canaries_note,
            outlook: Outlook::new(&log_probs, ours.as_deref(), gone(bill)),
            risk,
            verdict,
            words: verdict.words(risk),
            peak_bytes: bill.peak_bytes,
            full_peak_bytes: both.full_peak_bytes,
        })
    }

    /// Most bytes of KV memory that an audit holds at a moment: the plan beside full memory, or full memory of the copy with
    /// planted sentences. [`Subject::answer`] may be yet to come.
    ///
    /// # Errors
    /// [`Error::Limit`] where the plan or full memory does not hold the text.
    pub fn audit_bytes(&self, plan: &Plan, subject: &Subject<'_>, settings: &Settings) -> Result<u64> {
        let (asked, have) = (u64::from(subject.length.longest), self.config().context as u64);
        if asked > have {
            let what = "tokens of prompt and answer, which an audit reads under full memory too".into();
            return Err(Error::Limit { what, asked, have, hint: "shorten them".into() });
        }
        let full = Plan::parse("full")?;
        let bytes = |plan: &Plan, length| Ok(self.layout(plan, length)?.bytes_after(usize::MAX));
        let both = bytes(plan, subject.length)? + bytes(&full, subject.length)?;
        // a copy that cannot be made or read is not read: the audit says so
        let copy = plant(&self.tokenizer, subject.prompt, &subject.content, settings.canaries, settings.seed);
        let copy = copy.and_then(|planted| bytes(&full, planted.length()?)).unwrap_or(0);
        Ok(both.max(copy))
    }

    /// What can be told of an answer under a plan without full memory: its log-probabilities and, where the plan let go of
    /// anything, sentences planted in a copy of the prompt and read in the same memory. `bill` is that of the answer.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; where sentences cannot be planted, the rest is told.
    pub fn outlook(
        &self,
        plan: &Plan,
        bill: &Bill,
        subject: &Subject<'_>,
        log_probs: &[f64],
        go_on: GoOn<'_>,
    ) -> Result<Outlook> {
        let gone = gone(bill);
        if gone <= 0.0 {
            return Ok(Outlook::new(log_probs, None, gone));
        }
        match self.planted(plan, bill, subject, &Settings::default(), go_on) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Ok(Some((_, recited))) => Ok(Outlook::new(log_probs, Some(&recited), gone)),
            Ok(None) | Err(_) => Ok(Outlook::new(log_probs, None, gone)),
        }
    }

    /// Plants sentences in a copy of the prompt and tells which a plan still repeats, in no more memory than the answer had;
    /// nothing where none are asked for.
    fn planted(
        &self,
        plan: &Plan,
        bill: &Bill,
        subject: &Subject<'_>,
        settings: &Settings,
        go_on: GoOn<'_>,
    ) -> Result<Option<(Planted, Vec<bool>)>> {
        if settings.canaries == 0 {
            return Ok(None);
        }
        let Subject { prompt, content, .. } = subject;
        let planted = plant(&self.tokenizer, prompt, content, settings.canaries, settings.seed)?;
        let budget = plan.budget.and(bill.budget_bytes.map(Budget::Bytes));
        let recited = self.recites(&Plan { budget, ..plan.clone() }, &planted, go_on)?;
        Ok(Some((planted, recited)))
    }

    fn read_both(
        &self,
        plan: &Plan,
        subject: &Subject<'_>,
        settings: &Settings,
        go_on: GoOn<'_>,
    ) -> Result<Both> {
        let Subject { tokens, answer, length, .. } = *subject;
        let ([before @ .., last], Some((_, made))) = (tokens, answer.split_last()) else {
            return Err(Error::Invalid("an audit needs a prompt and an answer".into()));
        };
        let end = before.len().saturating_sub(LAST);
        let drawn = strata(end, settings.samples, settings.seed);
        let rows: Vec<usize> = match settings.exact {
            true => (0..before.len()).collect(),
            false => drawn.iter().map(|d| d.row).chain(end..before.len()).collect(),
        };
        let mut dense = self.session(&Plan::parse("full")?, length)?;
        let mut full = self.read_streams(&mut dense, before, &rows, go_on)?;
        let writing: Vec<u32> = [*last].iter().chain(made).copied().collect();
        let (mass, streams) = self.read_dense(&mut dense, &writing, tokens.len(), go_on)?;
        full.extend(streams);
        let full_peak_bytes = dense.bill().peak_bytes;

        let mut session = self.session(plan, length)?;
        let with_last: Vec<usize> = rows.iter().copied().chain([before.len()]).collect();
        let mut on = |n| go_on(tokens.len() + n);
        let mut ours = self.read_streams(&mut session, tokens, &with_last, &mut on)?;
        let held = session.held(tokens.len())?;
        let every: Vec<usize> = (0..made.len()).collect();
        ours.extend(self.read_streams(&mut session, made, &every, &mut on)?);

        let next = vec![None; rows.len()].into_iter().chain(answer.iter().map(|token| Some(*token)));
        let mut pairs = compare(self, &full, &ours, &next.collect::<Vec<_>>());
        let answer = pairs.split_off(rows.len());
        let last = pairs.len() - (before.len() - end);
        let end = [&pairs[last..], &answer].concat();
        let (sampled, every) = match settings.exact {
            true => (drawn.iter().map(|d| pairs[d.row]).collect(), Some(pairs)),
            false => (pairs[..last].to_vec(), None),
        };
        let bill = session.bill();
        Ok(Both { drawn, sampled, end, every, answer, mass, held, bill, full_peak_bytes })
    }
}

/// Share of slots evicted or waiting in a cold tier.
fn gone(bill: &Bill) -> f64 {
    (bill.evicted + bill.cold) as f64 / bill.seen.max(1) as f64
}
