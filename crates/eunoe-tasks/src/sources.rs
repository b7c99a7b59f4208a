//! Texts and questions that tasks are made from: the built-in ones, and files of the user's that replace
//! them.

mod parse;

use std::collections::BTreeMap;

use eunoe_core::{Error, Result};

use crate::{Haystack, Prompts, prompts, words};

/// Texts and questions, by kind.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    haystack: Haystack,
    questions: Library,
    two_hop: Library,
    continuations: Vec<Continuation>,
    choices: BTreeMap<String, Vec<Choice>>,
    prompts: Prompts,
}

/// Questions that are answered from documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Library {
    /// Sorted, each once.
    pub documents: Vec<String>,
    /// In the order of the file.
    pub questions: Vec<Question>,
}

/// A question and where its answer stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Right answers, each once; the first is the usual one.
    pub answers: Vec<String>,
    /// Documents that hold the answer, as places in [`Library::documents`].
    pub gold: Vec<usize>,
    /// Documents that come with it and do not hold the answer: of the same article, or chosen to mislead.
    pub near: Vec<usize>,
}

/// A text and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// The text.
    pub context: String,
    /// What follows, without the space between.
    pub continuation: String,
}

/// A choice of ways to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What is gone on from: one text, or one per option.
    pub contexts: Vec<String>,
    /// How it goes on: one per option, or the same for all.
    pub continuations: Vec<String>,
    /// The right option.
    pub gold: usize,
}

impl Choice {
    /// Number of options.
    pub fn len(&self) -> usize {
        self.contexts.len().max(self.continuations.len())
    }

    /// Whether there is no option.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Kinds of multiple choice that are told by their file's name.
pub const CHOICES: [&str; 6] = ["arc_easy", "arc_challenge", "openbook_qa", "piqa", "copa", "winogrande"];
/// Every other.
pub const OTHER: &str = "choice";

const QUESTIONS: [(&str, &str); 3] = [
    ("questions.json", include_str!("../assets/questions.json")),
    ("two_hop.json", include_str!("../assets/two_hop.json")),
    ("choices.jsonl", include_str!("../assets/choices.jsonl")),
];

/// Every file that ships with the tasks and that items are made from: names and contents.
pub fn built_in_files() -> [(&'static str, &'static str); 5] {
    let [questions, two_hop, choices] = QUESTIONS;
    [questions, two_hop, choices, ("prompts.json", prompts::FILE), ("words.txt", words::FILE)]
}

impl Sources {
    /// The built-in questions, with `text` as the text to hide things in.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text without words.
    pub fn built_in(text: &str) -> Result<Self> {
        let mut sources = Self::read(&QUESTIONS)?;
        sources.haystack = Haystack::new(&[text]);
        if sources.haystack.is_empty() {
            return Err(Error::Invalid("the built-in text has no words; give one".into()));
        }
        Ok(sources)
    }

    /// What is in files, each of a kind that its contents tell: plain text, SQuAD, HotpotQA, continuations,
    /// multiple choice, or prompts. Several files of a kind count as one.
    ///
    /// # Errors
    /// [`Error::Format`] names the file and the place of what is wrong in it.
    pub fn read<N: AsRef<str>, B: AsRef<[u8]>>(files: &[(N, B)]) -> Result<Self> {
        let mut sources = Self::default();
        let mut texts = Vec::new();
        for (name, bytes) in files {
            let name = name.as_ref();
            match parse::file(name, bytes.as_ref())? {
                parse::Kind::Text(text) => texts.push(text),
                parse::Kind::Questions(library) => sources.questions = sources.questions.and(library),
                parse::Kind::TwoHop(library) => sources.two_hop = sources.two_hop.and(library),
                parse::Kind::Continuations(list) => sources.continuations.extend(list),
                parse::Kind::Choices(list) => sources.choices.entry(kind(name)).or_default().extend(list),
                parse::Kind::Prompts(list) => {
                    list.into_iter().for_each(|(name, wording)| sources.prompts.set(name, wording));
                }
            }
        }
        sources.haystack = Haystack::new(&texts);
        Ok(sources)
    }

    /// These, with what was given in place of what it is of the same kind; any multiple choice replaces all.
    pub fn replaced_by(mut self, given: Self) -> Self {
        if !given.haystack.is_empty() {
            self.haystack = given.haystack;
        }
        if !given.questions.questions.is_empty() {
            self.questions = given.questions;
        }
        if !given.two_hop.questions.is_empty() {
            self.two_hop = given.two_hop;
        }
        if !given.continuations.is_empty() {
            self.continuations = given.continuations;
        }
        if !given.choices.is_empty() {
            self.choices = given.choices;
        }
        for (name, wording) in given.prompts.given() {
            self.prompts.set(name, wording);
        }
        self
    }

    /// Texts to hide things in.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none.
    pub fn haystack(&self) -> Result<&Haystack> {
        Some(&self.haystack)
            .filter(|hay| !hay.is_empty())
            .ok_or_else(|| missing("a text", "a plain text file"))
    }

    /// Questions whose answer stands in one document.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none.
    pub fn questions(&self) -> Result<&Library> {
        let library = Some(&self.questions).filter(|library| !library.questions.is_empty());
        library.ok_or_else(|| missing("questions on documents", "a file in SQuAD's form"))
    }

    /// Questions that need two documents.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none.
    pub fn two_hop(&self) -> Result<&Library> {
        let library = Some(&self.two_hop).filter(|library| !library.questions.is_empty());
        library.ok_or_else(|| missing("questions on two documents", "a file in HotpotQA's form"))
    }

    /// Texts and what follows them; may be empty.
    pub fn continuations(&self) -> &[Continuation] {
        &self.continuations
    }

    /// Multiple choice of a kind; [`OTHER`] is all of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none.
    pub fn choices(&self, id: &str) -> Result<Vec<&Choice>> {
        let lists = self.choices.iter().filter(|(kind, _)| id == OTHER || *kind == id);
        let list: Vec<&Choice> = lists.flat_map(|(_, list)| list).collect();
        if list.is_empty() {
            let file = format!("JSON lines in a file named `{id}.jsonl`");
            return Err(missing(&format!("multiple choice of kind `{id}`"), &file));
        }
        Ok(list)
    }

    /// What is said to a model.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }
}

impl Library {
    /// Both, documents sorted and each once.
    fn and(&self, other: Self) -> Self {
        let mut documents = [&self.documents[..], &other.documents].concat();
        documents.sort_unstable();
        documents.dedup();
        let moved = |from: &[String], places: &[usize]| {
            places.iter().filter_map(|place| documents.binary_search(&from[*place]).ok()).collect()
        };
        let all = self.questions.iter().map(|question| (&self.documents, question));
        let all = all.chain(other.questions.iter().map(|question| (&other.documents, question)));
        let questions = all.map(|(from, question)| Question {
            gold: moved(from, &question.gold),
            near: moved(from, &question.near),
            ..question.clone()
        });
        Self { questions: questions.collect(), documents }
    }
}

/// Which multiple choice a file holds, by its name.
fn kind(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name).to_lowercase().replace('-', "_");
    let known = CHOICES.iter().find(|id| name.contains(*id) || name.contains(&id.replace('_', "")));
    (*known.unwrap_or(&OTHER)).to_owned()
}

fn missing(what: &str, give: &str) -> Error {
    Error::Invalid(format!("no {} among the sources; give {give}", what.trim_start_matches("a ")))
}

#[cfg(test)]
mod tests;
