//! The next larger memory of a plan.

use eunoe_core::Result;

use crate::{Budget, Plan};

/// What most slots that come back are called, where a policy recalls blocks.
const MEMORY: &str = "memory";

impl Plan {
    /// The plan with about twice the memory, for a text of `longest` tokens that takes `full_bytes` under full memory: twice
    /// the budget, or, of a policy that recalls blocks, twice as many slots that come back; `full` where that would hold the
    /// whole text or there is nothing to double; nothing after `full`.
    ///
    /// # Errors
    /// A plan that cannot be read with the larger number.
    pub fn grown(&self, longest: u32, full_bytes: u64) -> Result<Option<Self>> {
        if self.policy.card.id == "full" {
            return Ok(None);
        }
        let full = Self { residual: self.residual, codec: self.codec, ..Self::parse("full")? };
        let full = Self::parse(&full.to_string())?;
        let profile = self.profile.clone();
        let more = match self.budget {
            Some(Budget::Percent(share)) if share < 50.0 => Some(Budget::Percent(2.0 * share)),
            Some(Budget::Slots(slots)) if slots < longest / 2 => Some(Budget::Slots(2 * slots)),
            Some(Budget::Bytes(bytes)) if bytes < full_bytes / 2 => Some(Budget::Bytes(2 * bytes)),
            Some(_) => None,
            None => return Ok(Some(self.recalling_more(longest)?.unwrap_or(full))),
        };
        let Some(budget) = more else { return Ok(Some(full)) };
        let grown = Self { budget: Some(budget), ..self.clone() };
        Ok(Some(Self { profile, ..Self::parse(&grown.to_string())? }))
    }

    /// Twice as many slots that come back, if that is less than the text.
    fn recalling_more(&self, longest: u32) -> Result<Option<Self>> {
        let Some(index) = self.policy.card.args.iter().position(|arg| arg.name == MEMORY) else {
            return Ok(None);
        };
        let slots = self.args.int(MEMORY);
        if slots >= longest / 2 {
            return Ok(None);
        }
        let mut args = self.args.clone();
        args.set(index, &(2 * slots).to_string()).map_err(eunoe_core::Error::Invalid)?;
        Ok(Some(Self::parse(&Self { args, ..self.clone() }.to_string())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plans that follow, for a text of 4096 tokens and 64 MiB.
    fn ladder(plan: &str) -> Vec<String> {
        let mut plan = Plan::parse(plan).unwrap();
        let mut rungs = Vec::new();
        while let Some(next) = plan.grown(4096, 64 << 20).unwrap() {
            rungs.push(next.to_string());
            plan = next;
        }
        rungs
    }

    #[test]
    fn budgets_double_until_the_whole_text_fits() {
        assert_eq!(ladder("a2sf | q8 @ 12.5%"), ["a2sf | q8 @ 25%", "a2sf | q8 @ 50%", "full | q8"]);
        assert_eq!(ladder("h2o @ 1024tok"), ["h2o @ 2048tok", "full"]);
        assert_eq!(ladder("snapkv(window=8) | ada @ 16MiB"), ["snapkv(window=8) | ada @ 32MiB", "full"]);
    }

    #[test]
    fn policies_that_recall_bring_back_more() {
        assert_eq!(ladder("inf_llm"), ["inf_llm(memory=2048)", "full"]);
        assert_eq!(ladder("em_llm(memory=4096)"), ["full"]);
    }

    #[test]
    fn what_cannot_grow_becomes_full_and_full_ends() {
        assert_eq!(ladder("duo_attention"), ["full"]);
        assert!(ladder("full").is_empty());
        assert!(ladder("full | q4").is_empty());
    }
}
