//! The records of a page, by plan, task and length, and how each method looks.

use std::collections::HashMap;

use crate::rows::{Book, axes};
use crate::svg::{Look, key};
use crate::{FULL, Line, Manifest, Row};

use super::parts::{Cell, Key};

/// A method: plans that differ in their budget only.
pub(super) struct Method<'a> {
    pub(super) name: &'a str,
    pub(super) look: Look,
    /// Its plans, as numbers.
    pub(super) plans: Vec<usize>,
}

/// What a page is made from; plans, tasks and lengths are those that have rows.
pub(super) struct Data<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) plans: Vec<&'a str>,
    pub(super) tasks: Vec<&'a str>,
    pub(super) lengths: Vec<usize>,
    pub(super) methods: Vec<Method<'a>>,
    book: Book<'a>,
    rows: HashMap<(&'a str, &'a str, usize), &'a Row>,
    looks: Vec<Look>,
}

/// The plan without its budget, and the budget.
pub(super) fn split(plan: &str) -> (&str, Option<&str>) {
    match plan.rsplit_once('@') {
        Some((method, budget)) => (method.trim(), Some(budget.trim())),
        None => (plan.trim(), None),
    }
}

impl<'a> Data<'a> {
    pub(super) fn new(manifest: &'a Manifest, rows: &'a [Row], lines: &'a [Line]) -> Self {
        let (mut plans, mut tasks, mut lengths) = axes(manifest, lines);
        plans.retain(|plan| rows.iter().any(|row| row.plan == *plan));
        tasks.retain(|task| rows.iter().any(|row| row.task == *task));
        lengths.retain(|length| rows.iter().any(|row| row.length == *length));
        lengths.sort_unstable();
        let (methods, looks) = methods(&plans);
        let rows = rows.iter().map(|row| ((row.plan.as_str(), row.task.as_str(), row.length), row)).collect();
        Self { manifest, plans, tasks, lengths, methods, book: Book::new(lines), rows, looks }
    }

    pub(super) fn row<'b>(&'b self, plan: &'b str, task: &'b str, length: usize) -> Option<&'b Row> {
        // Keys that live as long as the question.
        let rows: &HashMap<(&'b str, &'b str, usize), &'a Row> = &self.rows;
        rows.get(&(plan, task, length)).copied()
    }

    /// Items of a cell by sample.
    pub(super) fn items<'b>(&'b self, plan: &'b str, task: &'b str, length: usize) -> &'b [&'a Line] {
        self.book.cell(plan, task, length)
    }

    /// All items of a plan.
    pub(super) fn all_items<'b>(&'b self, plan: &'b str) -> impl Iterator<Item = &'a Line> + 'b {
        let cells =
            self.tasks.iter().flat_map(|task| self.lengths.iter().map(move |length| (*task, *length)));
        cells.flat_map(move |(task, length)| self.items(plan, task, length).iter().copied())
    }

    /// What `full` did with the same item.
    pub(super) fn full(&self, line: &Line) -> Option<&'a Line> {
        self.book.full(line)
    }

    /// Whether full memory was measured at all.
    pub(super) fn has_full(&self) -> bool {
        self.plans.contains(&FULL)
    }

    /// Tasks whose full-memory score lies clearly above guessing at a length.
    pub(super) fn counted(&self, length: usize) -> Vec<&'a str> {
        let counts =
            |task: &&str| self.row(FULL, task, length).is_some_and(|row| row.near_chance == Some(false));
        self.tasks.iter().copied().filter(|task| counts(task)).collect()
    }

    pub(super) fn look(&self, plan: usize) -> Look {
        self.looks[plan]
    }

    /// The cell that names a plan.
    pub(super) fn name(&self, plan: usize) -> Cell {
        Cell::head(self.plans[plan], key(self.look(plan))).class("plan")
    }

    /// Markers of all methods.
    pub(super) fn legend(&self) -> Vec<Key> {
        self.methods
            .iter()
            .map(|method| Key { svg: key(method.look), name: method.name.to_string() })
            .collect()
    }
}

/// Methods in order of their first plan, and the look of each plan.
fn methods<'a>(plans: &[&'a str]) -> (Vec<Method<'a>>, Vec<Look>) {
    let mut methods: Vec<Method<'a>> = Vec::new();
    let mut looks = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let (name, _) = split(plan);
        let others = methods.iter().filter(|method| method.look != Look::FULL).count();
        let at = methods
            .iter()
            .position(|method| method.name == name && (method.look == Look::FULL) == (*plan == FULL));
        let at = at.unwrap_or_else(|| {
            let look = if *plan == FULL { Look::FULL } else { Look::new(others) };
            methods.push(Method { name, look, plans: Vec::new() });
            methods.len() - 1
        });
        methods[at].plans.push(number);
        looks.push(methods[at].look);
    }
    (methods, looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_method_and_budget() {
        assert_eq!(split("snapkv(window=32) | q8 @ 64MiB"), ("snapkv(window=32) | q8", Some("64MiB")));
        assert_eq!(split("full"), ("full", None));
        assert_eq!(split("@"), ("", Some("")));
    }

    #[test]
    fn plans_of_one_method_look_alike() {
        let (methods, looks) = methods(&["a @ 1", "full", "b @ 1", "a @ 2", "full @ 3"]);
        assert_eq!(
            methods.iter().map(|m| (m.name, m.plans.clone())).collect::<Vec<_>>(),
            [("a", vec![0, 3]), ("full", vec![1]), ("b", vec![2]), ("full", vec![4]),]
        );
        assert_eq!(looks, [Look::new(0), Look::FULL, Look::new(1), Look::new(0), Look::new(2)]);
    }
}
