//! Evaluations: every plan answers every item of every task, and each answer is kept as it comes.

mod endpoint;
mod folder;
mod grid;
mod local;
mod prompt;
mod work;

pub(crate) use endpoint::{Endpoint, is_address};
pub(crate) use folder::{Folder, replace};
pub(crate) use grid::{Grid, plans, tasks, under_budgets};
pub(crate) use prompt::Writer;
pub(crate) use work::{Answers, Work};

use anyhow::{Context as _, Result};
use eunoe_report::Sample;
use eunoe_tasks::{Draw, Item, Sources, Task};

use prompt::Prompt;

/// What is asked: the same items for every plan.
pub(crate) struct Asked<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) sources: &'a Sources,
    pub(crate) writer: Writer<'a>,
}

impl Asked<'_> {
    /// An item and its prompts.
    ///
    /// # Errors
    /// A length that holds no item, or sources without what the task needs.
    pub(crate) fn item(&self, task: &dyn Task, length: usize, sample: usize) -> Result<(Item, Vec<Prompt>)> {
        let draw = Draw {
            length,
            overhead: self.writer.overhead(task)?,
            seed: self.grid.seed,
            sample,
            count: &|text| self.writer.tokenizer.encode(text).len(),
            sources: self.sources,
        };
        let of = || format!("task `{}` at {length} tokens, item {sample}", task.card().id);
        let item = task.draw(&draw).with_context(of)?;
        let prompts = self.writer.prompts(task, &item, length).with_context(of)?;
        Ok((item, prompts))
    }

    /// The first item of each task and length as the model reads it.
    ///
    /// # Errors
    /// Those of [`Asked::item`].
    pub(crate) fn first(&self) -> Result<Vec<Sample>> {
        let mut first = Vec::new();
        for (task, length) in
            self.grid.tasks.iter().flat_map(|t| self.grid.lengths.iter().map(move |l| (t, *l)))
        {
            let (item, prompts) = self.item(*task, length, 0)?;
            let Some((prompt, ask)) = prompts.first().zip(item.asks.first()) else { continue };
            first.push(Sample {
                task: task.card().id.into(),
                length,
                prompt: prompt.text.clone(),
                tokens: prompt.tokens.clone(),
                bos: self.writer.begins(&prompt.tokens),
                answer_tokens: prompt.answer_tokens(),
                gold: ask.gold.clone(),
            });
        }
        Ok(first)
    }
}
