//! What a shelf says of each method; docs, `list methods` and plan errors are made from it.

use serde::Serialize;

/// The shelf on which a method stands; an id is unique on its shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shelf {
    /// What is worth keeping.
    Policy,
    /// Who gets how much of the budget.
    Allocator,
    /// How keys and values are stored.
    Codec,
    /// What goes on inside a model.
    Probe,
    /// What a model is asked to remember.
    Task,
    /// How tokens of a trained model reach each other.
    Mixer,
}

/// A method's entry in every list: `id` is file stem, plan name, docs anchor and benchmark row.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Card {
    /// The paper's short name in snake_case.
    pub id: &'static str,
    /// Where it stands.
    pub shelf: Shelf,
    /// The method's full name.
    pub name: &'static str,
    /// First author, year, arXiv id; empty for controls of ours.
    pub paper: &'static str,
    /// One sentence a newcomer understands.
    pub idea: &'static str,
    /// Arguments that a plan may set.
    #[serde(skip)]
    pub args: &'static [Arg],
}

impl Card {
    /// Its section of a page for docs, with the table of its arguments.
    pub fn section(&self) -> String {
        let mut text = format!("\n### {}\n\n{}: {}.", self.id, self.name, self.idea);
        if !self.paper.is_empty() {
            text += &format!(" {}.", self.paper);
        }
        text.push('\n');
        if !self.args.is_empty() {
            text += "\n| argument | values | default | what it does |\n|---|---|---|---|\n";
            text.extend(self.args.iter().map(Arg::row));
        }
        text
    }
}

/// One argument of a method, e.g. `alpha` in `a2sf(alpha=0.9)`.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// The name in a plan.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default in words, as the docs print it.
    pub default: &'static str,
    /// What it does, in one clause.
    pub help: &'static str,
}

impl Arg {
    fn row(&self) -> String {
        let values = match self.kind {
            Kind::Int { min, max: u32::MAX } => format!("{min} and above"),
            Kind::Int { min, max } => format!("{min} to {max}"),
            Kind::Float { min, max } => format!("{min} to {max}"),
            Kind::Bytes => "bytes such as `512MiB`".into(),
            Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "),
        };
        format!("| `{}` | {values} | {} | {} |\n", self.name, self.default, self.help)
    }
}

/// The values that an argument takes; bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number.
    Int {
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
    /// A number.
    Float {
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
    /// A number of bytes.
    Bytes,
    /// One of these words.
    Choice(&'static [&'static str]),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_the_paper_and_the_arguments_that_are_there() {
        static STEP: [Arg; 1] =
            [Arg { name: "step", kind: Kind::Int { min: 1, max: u32::MAX }, default: "1", help: "slots" }];
        let card =
            Card { id: "a", shelf: Shelf::Policy, name: "A", paper: "B 2024", idea: "does it", args: &STEP };
        let head = "\n### a\n\nA: does it.";
        let table = "\n| argument | values | default | what it does |\n|---|---|---|---|\n| `step` | 1 and above | 1 | slots |\n";
        assert_eq!(card.section(), format!("{head} B 2024.\n{table}"));
        assert_eq!(Card { paper: "", args: &[], ..card }.section(), format!("{head}\n"));
    }
}
