//! The plan language: `policy(args) | allocator(args) | codec @ budget`, read with errors that point at the character.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use eunoe_core::{Codecs, Error, Parser, Reading, Result, meant};

use crate::{
    Allocate, AllocatorEntry, Args, Budget, Claim, Column, Needs, Place, Policy, PolicyEntry, Profile,
};
use crate::{allocators, codecs, policies, select};

/// A plan as the user wrote it, every part known and every value in range. Prints in canonical form: arguments in the
/// order of the card, `uniform` left out, budgets in the largest unit that divides them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is worth keeping.
    pub policy: &'static PolicyEntry,
    /// Arguments of the policy.
    pub args: Args,
    /// Who gets how much; `uniform` if the plan does not say.
    pub allocator: &'static AllocatorEntry,
    /// Arguments of the allocator.
    pub alloc_args: Args,
    /// How keys and values are stored, if the plan says.
    pub codec: Option<Codecs>,
    /// Newest slots of each strip that are held in f16 beside their quantised form; 0 for none.
    pub residual: u32,
    /// What stands after `@`.
    pub budget: Option<Budget>,
    /// The text that was read, without the space around it.
    pub text: String,
    /// What the heads of the model do, for policies that need it; not part of the text.
    pub profile: Option<Arc<Profile>>,
}

/// Plans are equal that mean the same, however they were written.
impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.args == other.args
            && self.alloc_args == other.alloc_args
            && (self.codec, self.residual, self.budget) == (other.codec, other.residual, other.budget)
    }
}

impl Plan {
    /// Reads a plan such as `snapkv(window=32) | pyramid | q8 @ 64MiB`.
    ///
    /// # Errors
    /// [`Error::Plan`] at the first character that cannot be meant, with the nearest that can.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser::new("plan", text);
        let head = parser.name("a policy, e.g. `full`")?;
        let policy = find_policy(head.text).map_err(|why| parser.error(head.column, why))?;
        let mut plan = Self {
            policy,
            args: parser.args(&policy.card)?,
            allocator: allocators::LIST[0],
            alloc_args: Args::new(&allocators::LIST[0].card),
            codec: None,
            residual: 0,
            budget: None,
            text: text.trim().into(),
            profile: None,
        };
        parts(&mut parser, &mut plan)?;
        let mut budget_column = head.column;
        if parser.take("@") {
            let number = parser.name("a budget, e.g. `64MiB`")?;
            budget_column = number.column;
            let unit = parser.word().map_or("", |unit| unit.text);
            let budget = Budget::read(&format!("{}{unit}", number.text));
            plan.budget = Some(budget.map_err(|why| parser.error(number.column, why))?);
        }
        end(&parser, plan.budget.is_some())?;
        plan.check(&parser, head.column, budget_column)?;
        Ok(plan)
    }

    /// Refuses what no text could run with: sizes that contradict each other, or a budget in slots below them.
    fn check(&self, parser: &Parser<'_>, head: usize, at: usize) -> Result<()> {
        let slots = match self.budget {
            Some(Budget::Slots(slots)) => slots,
            _ => u32::MAX,
        };
        let policy = self.make_policy(slots).map_err(|error| parser.error(head, error))?;
        let needs = policy.needs();
        if self.residual > 0 && (needs.view.is_some() || needs.recall.is_some() || needs.place == Place::Rank)
        {
            let id = self.policy.card.id;
            let why =
                format!("`residual` holds the newest slots apart, and `{id}` chooses or moves slots itself");
            return Err(parser.error(head, why));
        }
        let needs = Needs { recent: needs.recent.max(self.residual), ..needs };
        if needs.keep.is_some_and(|keep| keep > slots) {
            return Err(
                parser.error(at, "`prefill=dense` holds the whole prompt: a budget below `keep` cannot")
            );
        }
        // Strips that keep everything need no room to evict; whether the text fits is seen when it is there.
        if needs.keep.is_none() && policy.claim(0, 0, u32::MAX) == Claim::Share {
            select::check_room(&needs, slots).map_err(|error| parser.error(at, error))?;
        }
        self.check_allocator(policy.as_ref()).map_err(|why| parser.error(head, why))
    }

    /// An allocator that could change nothing is refused: the plan would do less than it says.
    fn check_allocator(&self, policy: &dyn Policy) -> std::result::Result<(), String> {
        let (id, allocator) = (self.policy.card.id, self.allocator.card.id);
        let uniform = allocators::LIST[0].card.id;
        match policy.claim(0, 0, u32::MAX) {
            Claim::Whole if allocator != uniform => {
                return Err(format!(
                    "`{allocator}` shares out what a policy may keep, and `{id}` keeps everything"
                ));
            }
            Claim::Fixed(_) if allocator != uniform => {
                return Err(format!(
                    "`{allocator}` shares out what a policy may keep, and `{id}` sizes its strips itself"
                ));
            }
            _ => {}
        }
        let pools = self.make_allocator().map_err(|error| error.to_string())?.pooled().is_some();
        if pools && matches!(policy.needs().column, Column::None | Column::Surprisal) {
            return Err(format!("`{allocator}` compares heads by attention, and `{id}` does not look at it"));
        }
        Ok(())
    }

    /// The policy, with sizes that the plan does not name derived from the mean slots per strip
    /// (`u32::MAX` without a budget).
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Limit`] for sizes that contradict each other.
    pub fn make_policy(&self, slots: u32) -> Result<Box<dyn Policy>> {
        (self.policy.make)(&self.args, slots)
    }

    /// The allocator.
    ///
    /// # Errors
    /// Those of the allocator.
    pub fn make_allocator(&self) -> Result<Box<dyn Allocate>> {
        (self.allocator.make)(&self.alloc_args)
    }
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.policy.card.id, self.args)?;
        if self.allocator.card.id != allocators::LIST[0].card.id {
            write!(f, " | {}{}", self.allocator.card.id, self.alloc_args)?;
        }
        if let Some(codec) = self.codec {
            let text = codec.to_string();
            match (self.residual, text.strip_suffix(')')) {
                (0, _) => write!(f, " | {text}")?,
                (n, Some(text)) => write!(f, " | {text}, residual={n})")?,
                (n, None) => write!(f, " | {text}(residual={n})")?,
            }
        }
        self.budget.map_or(Ok(()), |budget| write!(f, " @ {budget}"))
    }
}

/// What stands after each `|`.
fn parts(parser: &mut Parser<'_>, plan: &mut Plan) -> Result<()> {
    let mut allocated = false;
    while parser.take("|") {
        let name = parser.name("an allocator or a codec")?;
        let twice = |kind: &str| parser.error(name.column, format!("`{}`: a plan has one {kind}", name.text));
        match find_part(name.text).map_err(|why| parser.error(name.column, why))? {
            Part::Allocator(_) if allocated => return Err(twice("allocator")),
            Part::Codec(_) if plan.codec.is_some() => return Err(twice("codec")),
            Part::Allocator(entry) => {
                allocated = true;
                plan.allocator = entry;
                plan.alloc_args = parser.args(&entry.card)?;
            }
            Part::Codec(entry) => {
                let args = parser.args(&entry.card)?;
                plan.codec = Some(Codecs { k: entry.codec, v: codecs::of_values(entry, &args) });
                plan.residual = codecs::residual(entry, &args);
            }
        }
    }
    Ok(())
}

fn end(parser: &Parser<'_>, has_budget: bool) -> Result<()> {
    match parser.is_done() {
        true => Ok(()),
        false if has_budget => Err(parser.expected("the end after the budget, which stands last")),
        false => Err(parser.expected("`|`, `@` or the end")),
    }
}

enum Part {
    Allocator(&'static AllocatorEntry),
    Codec(&'static codecs::CodecEntry),
}

fn policy_names() -> Vec<&'static str> {
    policies::LIST.iter().map(|e| e.card.id).collect()
}

fn part_names() -> Vec<&'static str> {
    allocators::LIST.iter().map(|e| e.card.id).chain(codecs::LIST.iter().map(|e| e.card.id)).collect()
}

fn find_policy(name: &str) -> Reading<&'static PolicyEntry> {
    if let Some(entry) = policies::LIST.iter().find(|e| e.card.id == name) {
        return Ok(entry);
    }
    if part_names().contains(&name) {
        return Err(format!("`{name}` stands after a policy, as in `h2o | {name}`"));
    }
    let names = policy_names();
    Err(format!("no policy is called `{name}`{}; policies: {}", meant(name, &names), names.join(", ")))
}

fn find_part(name: &str) -> Reading<Part> {
    if let Some(entry) = allocators::LIST.iter().find(|e| e.card.id == name) {
        return Ok(Part::Allocator(entry));
    }
    if let Some(entry) = codecs::LIST.iter().find(|e| e.card.id == name) {
        return Ok(Part::Codec(entry));
    }
    let names = part_names();
    if policy_names().contains(&name) {
        let names = names.join(", ");
        return Err(format!(
            "`{name}` is a policy and stands first; after `|` stands an allocator or a codec: {names}"
        ));
    }
    Err(format!(
        "no allocator or codec is called `{name}`{}; they are {}",
        meant(name, &names),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests;
