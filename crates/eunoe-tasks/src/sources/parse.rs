//! Files by their contents.

use eunoe_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Choice, Continuation, Library, Question};
use crate::Prompts;
use crate::prompts;

/// What a file holds.
pub(super) enum Kind<'a> {
    Text(&'a str),
    Questions(Library),
    TwoHop(Library),
    Continuations(Vec<Continuation>),
    Choices(Vec<Choice>),
    Prompts(Vec<(String, String)>),
}

/// Reads a file of any kind.
///
/// # Errors
/// [`Error::Format`] for one that is empty, not UTF-8, or JSON with something wrong.
pub(super) fn file<'a>(name: &str, bytes: &'a [u8]) -> Result<Kind<'a>> {
    let text = std::str::from_utf8(bytes).map_err(|why| {
        let at = why.valid_up_to() as u64;
        Error::format(name, at, "not UTF-8; give plain text, JSON or JSON lines")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let body = text.trim();
    if body.is_empty() {
        return Err(Error::format(name, 0, "empty; give plain text, JSON or JSON lines"));
    }
    // Prose may begin with a bracket, but not with `[{` or `{"`.
    let mut signs = body.chars().filter(|c| !c.is_whitespace());
    match (signs.next(), signs.next()) {
        (Some('['), Some('{' | ']')) => list(name, text),
        (Some('{'), Some('"' | '}')) => object(name, text),
        _ => Ok(Kind::Text(text)),
    }
}

/// A JSON object, or one per line.
fn object<'a>(name: &str, text: &'a str) -> Result<Kind<'a>> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match serde_json::from_str::<Value>(first) {
        Ok(value) if value.get("data").is_none() && value.get("prompts").is_none() => {
            lines(name, text, &value)
        }
        _ => whole(name, text),
    }
}

fn whole<'a>(name: &str, text: &'a str) -> Result<Kind<'a>> {
    let value: Value = json(name, text)?;
    if value.get("prompts").is_some() {
        let file: prompts::File = json(name, text)?;
        if let Some(unknown) = file.prompts.keys().find(|key| !Prompts::is_known(key)) {
            return Err(Error::format(
                name,
                place(text, unknown),
                format!("no task uses a prompt `{unknown}`"),
            ));
        }
        return Ok(Kind::Prompts(file.prompts.into_iter().collect()));
    }
    if value.get("data").is_some() {
        return articles(name, json(name, text)?);
    }
    Err(unknown(name, 0))
}

/// A list of questions.
fn list<'a>(name: &str, text: &'a str) -> Result<Kind<'a>> {
    let value: Vec<Value> = json(name, text)?;
    match value.first().map(|first| first.get("context").is_some_and(Value::is_array)) {
        None => Err(Error::format(name, 0, "an empty list; give one question or more")),
        Some(true) => two_hop(name, json(name, text)?),
        Some(false) => flat(name, json(name, text)?),
    }
}

/// JSON lines; the first tells what they are.
fn lines<'a>(name: &str, text: &'a str, first: &Value) -> Result<Kind<'a>> {
    let has = |keys: &[&str]| keys.iter().all(|key| first.get(*key).is_some());
    if has(&["context", "continuation"]) {
        let rows: Vec<ContinuationRow> = rows(name, text, |row: &ContinuationRow| {
            row.continuation.trim().is_empty().then(|| "`continuation` is empty".to_owned())
        })?;
        let read = |row: ContinuationRow| Continuation {
            context: row.context.trim_end().to_owned(),
            continuation: row.continuation.trim_start().to_owned(),
        };
        return Ok(Kind::Continuations(rows.into_iter().map(read).collect()));
    }
    if has(&["query", "choices"]) {
        let rows = rows(name, text, |row: &QueryRow| gold_fault(row.gold, row.choices.len()))?;
        let read = |row: QueryRow| Choice {
            contexts: vec![row.query],
            continuations: row.choices,
            gold: row.gold as usize,
        };
        return Ok(Kind::Choices(rows.into_iter().map(read).collect()));
    }
    if has(&["context_options", "continuation"]) {
        let rows = rows(name, text, |row: &OptionsRow| gold_fault(row.gold, row.context_options.len()))?;
        let read = |row: OptionsRow| Choice {
            contexts: row.context_options,
            continuations: vec![row.continuation],
            gold: row.gold as usize,
        };
        return Ok(Kind::Choices(rows.into_iter().map(read).collect()));
    }
    Err(unknown(name, 0))
}

fn gold_fault(gold: i64, options: usize) -> Option<String> {
    let is_right = options > 1 && usize::try_from(gold).is_ok_and(|gold| gold < options);
    (!is_right).then(|| {
        format!("`gold` is {gold} of {options} options; it counts from 0, and there are two or more")
    })
}

/// Every line that is not blank; the place of an error is that of its line.
fn rows<T: for<'d> Deserialize<'d>>(
    name: &str,
    text: &str,
    fault: impl Fn(&T) -> Option<String>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.trim().is_empty() {
            let wrong = |why: String| Error::format(name, at as u64, format!("line {}: {why}", number + 1));
            let row: T = serde_json::from_str(line).map_err(|why| wrong(bare(&why)))?;
            if let Some(why) = fault(&row) {
                return Err(wrong(why));
            }
            rows.push(row);
        }
        at += line.len();
    }
    Ok(rows)
}

/// SQuAD as published.
fn articles<'a>(name: &str, file: Articles) -> Result<Kind<'a>> {
    let paragraphs = file.data.iter().flat_map(|article| &article.paragraphs);
    let documents = sorted(paragraphs.map(|paragraph| paragraph.context.trim().to_owned()));
    let find = |text: &str| documents.binary_search_by(|document| document.as_str().cmp(text.trim())).ok();
    let mut questions = Vec::new();
    for article in &file.data {
        for paragraph in &article.paragraphs {
            let gold: Vec<usize> = find(&paragraph.context).into_iter().collect();
            let others = article.paragraphs.iter().filter_map(|other| find(&other.context));
            let near = unique(others.filter(|other| !gold.contains(other)));
            for asked in paragraph.qas.iter().filter(|asked| !asked.is_impossible) {
                let answers = unique(asked.answers.iter().map(|answer| answer.text.clone()));
                let (text, gold, near) = (asked.question.clone(), gold.clone(), near.clone());
                questions.push(Question { text, answers, gold, near });
            }
        }
    }
    Ok(Kind::Questions(library(name, documents, questions)?))
}

/// SQuAD as a flat list of questions with one answer each.
fn flat<'a>(name: &str, rows: Vec<FlatRow>) -> Result<Kind<'a>> {
    let documents = sorted(rows.iter().map(|row| row.context.trim().to_owned()));
    let question = |row: FlatRow| {
        let gold = documents.binary_search_by(|document| document.as_str().cmp(row.context.trim()));
        Question {
            answers: row.answers(),
            text: row.question,
            gold: gold.into_iter().collect(),
            near: Vec::new(),
        }
    };
    let questions = rows.into_iter().map(question).collect();
    Ok(Kind::Questions(library(name, documents, questions)?))
}

fn two_hop<'a>(name: &str, rows: Vec<HotpotRow>) -> Result<Kind<'a>> {
    let join = |(title, sentences): &(String, Vec<String>)| format!("{title}\n{}", sentences.concat().trim());
    let documents = sorted(rows.iter().flat_map(|row| &row.context).map(join));
    let find = |part: &(String, Vec<String>)| documents.binary_search(&join(part)).ok();
    let question = |row: HotpotRow| {
        let is_gold = |title: &str| row.supporting_facts.iter().any(|(fact, _)| fact == title);
        let gold = row.context.iter().filter(|(title, _)| is_gold(title)).filter_map(find);
        let near = row.context.iter().filter(|(title, _)| !is_gold(title)).filter_map(find);
        Question { gold: unique(gold), near: unique(near), text: row.question, answers: vec![row.answer] }
    };
    let questions = rows.into_iter().map(question).collect();
    Ok(Kind::TwoHop(library(name, documents, questions)?))
}

/// Blank answers go; every question keeps one, and a document for it.
fn library(name: &str, documents: Vec<String>, mut questions: Vec<Question>) -> Result<Library> {
    for question in &mut questions {
        question.answers.retain(|answer| !answer.trim().is_empty());
        if question.answers.is_empty() || question.gold.is_empty() {
            let why = format!("`{}` has no answer, or no document for it", question.text);
            return Err(Error::format(name, 0, why));
        }
    }
    if questions.is_empty() {
        return Err(Error::format(name, 0, "no question that has an answer"));
    }
    Ok(Library { documents, questions })
}

fn sorted(documents: impl Iterator<Item = String>) -> Vec<String> {
    let mut documents: Vec<String> = documents.collect();
    documents.sort_unstable();
    documents.dedup();
    documents
}

fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

/// JSON with the byte of what is wrong in it.
fn json<T: for<'d> Deserialize<'d>>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|why| {
        let before: usize = text.split_inclusive('\n').take(why.line().saturating_sub(1)).map(str::len).sum();
        let at = (before + why.column().saturating_sub(1)).min(text.len());
        Error::format(name, at as u64, bare(&why))
    })
}

/// The message without its place, which ours names.
fn bare(why: &serde_json::Error) -> String {
    let text = why.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(bare, _)| bare.to_owned())
}

fn place(text: &str, what: &str) -> u64 {
    text.find(what).unwrap_or(0) as u64
}

fn unknown(name: &str, at: u64) -> Error {
    let known =
        "SQuAD, HotpotQA, `context` and `continuation`, `query`, `choices` and `gold`, or `context_options`";
    Error::format(name, at, format!("JSON of no known kind; known are {known}"))
}

#[derive(Deserialize)]
struct ContinuationRow {
    context: String,
    continuation: String,
}

#[derive(Deserialize)]
struct QueryRow {
    query: String,
    choices: Vec<String>,
    gold: i64,
}

#[derive(Deserialize)]
struct OptionsRow {
    context_options: Vec<String>,
    continuation: String,
    gold: i64,
}

#[derive(Deserialize)]
struct Articles {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    #[serde(default)]
    answers: Vec<Answer>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct Answer {
    text: String,
}

#[derive(Deserialize)]
struct FlatRow {
    question: String,
    answer: String,
    /// In characters.
    answer_span: Option<(usize, usize)>,
    context: String,
}

impl FlatRow {
    /// The answer as it stands in the document; the one given too where it says something else.
    fn answers(&self) -> Vec<String> {
        let span = self.answer_span.unwrap_or_default();
        let stands: String = self.context.chars().take(span.1).skip(span.0).collect();
        match stands.trim() {
            "" => vec![self.answer.clone()],
            stands if stands.to_lowercase() == self.answer.to_lowercase() => vec![stands.to_owned()],
            stands => vec![stands.to_owned(), self.answer.clone()],
        }
    }
}

#[derive(Deserialize)]
struct HotpotRow {
    question: String,
    answer: String,
    context: Vec<(String, Vec<String>)>,
    supporting_facts: Vec<(String, i64)>,
}
