//! Items answered by a model on this machine, under a plan.

use std::time::Instant;

use anyhow::{Result, bail};
use eunoe_core::Error;
use eunoe_engine::{
    AuditSettings, Bill, Engine, Length, Request, Session, Subject, full_bytes, likeliest, log_prob,
};
use eunoe_kv::{Budget, Plan};
use eunoe_tasks::Given;

use super::prompt::{Prompt, Then};

/// One model and one plan.
pub(crate) struct Local<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) plan: &'a Plan,
    /// Whether to go on.
    pub(crate) go_on: &'a (dyn Fn() -> bool + Sync),
    /// Audit what is written to items of one question, with this seed.
    pub(crate) audit: Option<u64>,
}

/// What came of one item.
pub(crate) struct Outcome {
    /// One per question.
    pub(crate) given: Vec<Given>,
    /// Most hot bytes at any moment.
    pub(crate) peak_bytes: u64,
    /// After the last question.
    pub(crate) bill: Bill,
    pub(crate) prefill_s: f64,
    pub(crate) decode_s: f64,
    pub(crate) audit: Option<serde_json::Value>,
}

impl Local<'_> {
    /// Reads what the prompts share once, and answers each from there. A budget in percent is a share of the longest prompt.
    ///
    /// # Errors
    /// The plan does not hold a prompt; an interruption.
    pub(crate) fn answer(&self, prompts: &[Prompt]) -> Result<Outcome> {
        let longest = prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
        match self.plan.budget {
            Some(Budget::Percent(share)) if prompts.len() > 1 => {
                let whole = full_bytes(self.engine.config(), u32::try_from(longest)?);
                let budget = Some(Budget::Bytes((whole as f64 * share / 100.0) as u64));
                Local { plan: &Plan { budget, ..self.plan.clone() }, ..*self }.answer_each(prompts)
            }
            _ => self.answer_each(prompts),
        }
    }

    fn answer_each(&self, prompts: &[Prompt]) -> Result<Outcome> {
        let Some(longest) = prompts.iter().map(|p| p.tokens.len() + p.answer_tokens()).max() else {
            bail!("an item without a question");
        };
        let shared = shared(prompts);
        let length = Length { prompt: u32::try_from(shared.len())?, longest: u32::try_from(longest)? };
        if let [Prompt { tokens, then: Then::Attend(next), .. }] = prompts {
            return self.attend(length, tokens, next);
        }
        let start = Instant::now();
        let mut first = self.engine.session(self.plan, length)?;
        self.read(&mut first, shared)?;
        let mut outcome = Outcome {
            given: Vec::new(),
            peak_bytes: 0,
            bill: first.bill(),
            prefill_s: start.elapsed().as_secs_f64(),
            decode_s: 0.0,
            audit: None,
        };
        let mut first = Some(first);
        for (i, prompt) in prompts.iter().enumerate() {
            let begun = Instant::now();
            let is_last = i + 1 == prompts.len();
            let mut session = match first.take() {
                Some(session) if is_last => session,
                Some(session) => {
                    let branch = self.branch(&session, length, shared)?;
                    first = Some(session);
                    branch
                }
                None => bail!("a context that is gone"),
            };
            self.read(&mut session, &prompt.tokens[shared.len()..])?;
            outcome.prefill_s += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            let (given, written) = self.ask(&mut session, length, prompt, &mut outcome)?;
            outcome.decode_s += begun.elapsed().as_secs_f64();
            outcome.given.push(given);
            outcome.bill = session.bill();
            outcome.peak_bytes = outcome.peak_bytes.max(outcome.bill.peak_bytes);
            drop(session);
            if let Some(written) = written.filter(|_| self.audit.is_some() && prompts.len() == 1) {
                outcome.audit = Some(self.look_closer(prompt, &written, length)?);
            }
        }
        Ok(outcome)
    }

    fn read(&self, session: &mut Session, tokens: &[u32]) -> Result<()> {
        Ok(self.engine.read(session, tokens, &mut |_| (self.go_on)())?)
    }

    /// A session that stands where `session` does after it read `tokens`.
    fn branch(&self, session: &Session, length: Length, tokens: &[u32]) -> Result<Session> {
        if let Some(fork) = self.engine.fork(session)? {
            return Ok(fork);
        }
        let mut again = self.engine.session(self.plan, length)?;
        self.read(&mut again, tokens)?;
        Ok(again)
    }

    /// What is given to a question, and the tokens written.
    fn ask(
        &self,
        session: &mut Session,
        length: Length,
        prompt: &Prompt,
        outcome: &mut Outcome,
    ) -> Result<(Given, Option<Vec<u32>>)> {
        let given = match &prompt.then {
            Then::Write(tokens) => {
                let request = Request { max_tokens: *tokens, ..Request::default() };
                let go_on = &mut |_: &str| (self.go_on)();
                let answer = self.engine.generate(session, &prompt.tokens, &request, go_on)?;
                return Ok((Given::Text(answer.text), Some(answer.tokens)));
            }
            Then::Predict(rest) => {
                let (nats, likeliest) = self.predict(session, rest)?;
                Given::Nats { nats, likeliest }
            }
            Then::Weigh(options) => {
                let mut sums = Vec::with_capacity(options.len());
                for option in options {
                    let nats = match option.as_slice() {
                        [only] => vec![-log_prob(session.logits(), *only)],
                        _ => {
                            let mut branch = self.branch(session, length, &prompt.tokens)?;
                            let nats = self.predict(&mut branch, option)?.0;
                            outcome.peak_bytes = outcome.peak_bytes.max(branch.bill().peak_bytes);
                            nats
                        }
                    };
                    sums.push(-nats.iter().map(|n| f64::from(*n)).sum::<f64>());
                }
                Given::Options(sums)
            }
            Then::Attend(_) => bail!("attention is measured on items of one question"),
        };
        Ok((given, None))
    }

    /// `-ln P` of each token of a continuation, and whether it was the likeliest.
    fn predict(&self, session: &mut Session, rest: &[u32]) -> Result<(Vec<f32>, Vec<bool>)> {
        let (mut nats, mut greedy) = (Vec::with_capacity(rest.len()), Vec::with_capacity(rest.len()));
        let mut weigh = |logits: &[f32], token: u32| {
            nats.push(-log_prob(logits, token));
            greedy.push(likeliest(logits) == Some(token as usize));
        };
        if let Some(first) = rest.first() {
            weigh(session.logits(), *first);
        }
        if rest.len() > 1 {
            let read = &rest[..rest.len() - 1];
            self.engine.read_rows(session, read, &mut |_| (self.go_on)(), &mut |row, logits| {
                weigh(logits, rest[row + 1]);
            })?;
        }
        Ok((nats, greedy))
    }

    fn attend(&self, length: Length, tokens: &[u32], next: &[u32]) -> Result<Outcome> {
        let start = Instant::now();
        let mut session = self.engine.session(self.plan, length)?;
        self.read(&mut session, tokens)?;
        let prefill_s = start.elapsed().as_secs_f64();
        let share = self.engine.mass_recall(&session, tokens, next, &mut |_| (self.go_on)())?;
        let bill = session.bill();
        let (given, peak_bytes) = (vec![Given::Share(share)], bill.peak_bytes);
        Ok(Outcome { given, peak_bytes, bill, prefill_s, decode_s: 0.0, audit: None })
    }

    fn look_closer(&self, prompt: &Prompt, answer: &[u32], length: Length) -> Result<serde_json::Value> {
        let Prompt { text, content, tokens, .. } = prompt;
        let subject = Subject { prompt: text, content: content.clone(), tokens, answer, length };
        let seed = self.audit.unwrap_or(0);
        let settings = AuditSettings { passages: 0, exact: true, seed, ..AuditSettings::default() };
        let audit = self.engine.audit(self.plan, &subject, &settings, &mut |_| (self.go_on)());
        match audit {
            Err(Error::Unsupported(why)) => Ok(serde_json::json!({ "note": why })),
            audit => Ok(serde_json::to_value(audit?)?),
        }
    }
}

/// The tokens that all prompts begin with; one prompt's own.
fn shared(prompts: &[Prompt]) -> &[u32] {
    let [first, others @ ..] = prompts else { return &[] };
    let shared = others.iter().fold(first.tokens.len(), |shared, prompt| {
        let same = first.tokens.iter().zip(&prompt.tokens).take_while(|(a, b)| a == b).count();
        // a token at least is left to be read, so that there are logits
        shared.min(same).min(prompt.tokens.len() - 1)
    });
    &first.tokens[..shared]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prompts_share_is_their_common_beginning() {
        let prompt = |tokens: &[u32]| Prompt {
            text: String::new(),
            content: 0..0,
            tokens: tokens.to_vec(),
            then: Then::Write(1),
        };
        assert_eq!(shared(&[prompt(&[1, 2, 3])]), [1, 2, 3]);
        assert_eq!(shared(&[prompt(&[1, 2, 3, 4]), prompt(&[1, 2, 5, 4])]), [1, 2]);
        assert_eq!(shared(&[prompt(&[1, 2, 3]), prompt(&[1, 2])]), [1]);
        assert!(shared(&[]).is_empty());
    }
}
