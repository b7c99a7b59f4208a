//! One file per family of tasks. A new one takes its file and two lines here.

pub mod choice;
pub mod cwe;
pub mod fwe;
pub mod key_value;
pub mod lambada;
pub mod mass_recall;
pub mod multi_question;
pub mod needle;
pub mod niah;
pub mod passkey;
pub mod perplexity;
pub mod qa;
pub mod sort;
pub mod vt;

use eunoe_core::{Card, Error, Result, Shelf};
use fastrand::Rng;

use crate::fit::{largest, tokens};
use crate::{Ask, Draw, Item, Reply, Task};

/// Every task, in the order of all lists.
pub static LIST: &[&dyn Task] = &[
    &niah::TABLE[0],
    &niah::TABLE[1],
    &niah::TABLE[2],
    &niah::TABLE[3],
    &niah::TABLE[4],
    &niah::TABLE[5],
    &niah::TABLE[6],
    &niah::TABLE[7],
    &vt::TABLE[0],
    &cwe::TABLE[0],
    &fwe::TABLE[0],
    &qa::TABLE[0],
    &qa::TABLE[1],
    &niah::TABLE[8],
    &niah::TABLE[9],
    &niah::TABLE[10],
    &niah::TABLE[11],
    &niah::TABLE[12],
    &niah::TABLE[13],
    &niah::TABLE[14],
    &niah::TABLE[15],
    &vt::TABLE[1],
    &cwe::TABLE[1],
    &fwe::TABLE[1],
    &qa::TABLE[2],
    &qa::TABLE[3],
    &needle::Needle,
    &passkey::Passkey,
    &key_value::KeyValue,
    &multi_question::MultiQuestion,
    &sort::Sort,
    &perplexity::Perplexity,
    &mass_recall::MassRecall,
    &lambada::Lambada,
    &choice::TABLE[0],
    &choice::TABLE[1],
    &choice::TABLE[2],
    &choice::TABLE[3],
    &choice::TABLE[4],
    &choice::TABLE[5],
    &choice::TABLE[6],
];

/// Tasks that may be asked for by one name.
pub struct Group {
    /// The name.
    pub id: &'static str,
    /// What it is.
    pub name: &'static str,
    /// Its tasks.
    pub tasks: &'static [&'static str],
}

/// Every group.
pub static GROUPS: &[Group] = &[
    Group {
        id: "ruler",
        name: "RULER's 13 tasks, answers where RULER puts them",
        tasks: &[
            "niah_single_1",
            "niah_single_2",
            "niah_single_3",
            "niah_multikey_1",
            "niah_multikey_2",
            "niah_multikey_3",
            "niah_multivalue",
            "niah_multiquery",
            "vt",
            "cwe",
            "fwe",
            "qa_1",
            "qa_2",
        ],
    },
    Group {
        id: "ruler_balanced",
        name: "RULER's 13 tasks, answers spread evenly over depth",
        tasks: &[
            "niah_single_1_balanced",
            "niah_single_2_balanced",
            "niah_single_3_balanced",
            "niah_multikey_1_balanced",
            "niah_multikey_2_balanced",
            "niah_multikey_3_balanced",
            "niah_multivalue_balanced",
            "niah_multiquery_balanced",
            "vt_balanced",
            "cwe_balanced",
            "fwe_balanced",
            "qa_1_balanced",
            "qa_2_balanced",
        ],
    },
];

/// The task of this id.
pub fn find(id: &str) -> Option<&'static dyn Task> {
    LIST.iter().copied().find(|task| task.card().id == id)
}

/// RULER's paper.
const RULER: &str = "Hsieh 2024, arXiv 2404.06654";

/// The length below which RULER's generators change their parameters.
const RULER_SMALL: usize = 4096;

const fn card(id: &'static str, name: &'static str, paper: &'static str, idea: &'static str) -> Card {
    Card { id, shelf: Shelf::Task, name, paper, idea, args: &[] }
}

/// An ask to be answered in writing, by the wordings of a page.
fn write(
    draw: &Draw<'_>,
    names: [&str; 2],
    values: &[(&str, &str)],
    tokens: usize,
    gold: Vec<String>,
) -> Ask {
    let [question, cue] = names.map(|name| draw.sources.prompts().fill(name, values));
    Ask { question, cue, reply: Reply::Write { tokens }, gold }
}

/// A context from its wording and the text in it, and the depths of places in that text.
fn frame(
    draw: &Draw<'_>,
    name: &str,
    values: &[(&str, &str)],
    text: &str,
    at: impl IntoIterator<Item = usize>,
) -> (String, Vec<f64>) {
    let (before, after) = draw.sources.prompts().around(name, values);
    let context = [&before, text, &after].concat();
    let depth = |at| (before.len() + at) as f64 / context.len() as f64;
    let mut depths: Vec<f64> = at.into_iter().map(depth).collect();
    depths.sort_by(f64::total_cmp);
    (context, depths)
}

/// "a", "a and b", "a, b, and c".
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [some @ .., last] => format!("{}, and {last}", some.join(", ")),
    }
}

/// Asks after text of the haystack that fills what is left of the length; nothing is before them if nothing
/// fits.
fn filled(draw: &Draw<'_>, id: &str, rng: &mut Rng, asks: Vec<Ask>) -> Result<Item> {
    let hay = draw.sources.haystack().ok();
    let start = hay.map_or(0, |hay| hay.next_start(rng.usize(..hay.len())));
    let sized = |words| {
        let filler = hay.filter(|_| words > 0).map(|hay| hay.passage(start, words) + "\n\n");
        Ok(Item { context: filler.unwrap_or_default(), asks: asks.clone(), depths: Vec::new() })
    };
    let most = if hay.is_some() { usize::MAX } else { 0 };
    Ok(largest(draw, id, (0, most), sized)?.1)
}

/// Whether a text that must not begin again was long enough.
///
/// # Errors
/// All of its words were taken, and another would have fitted.
fn enough(draw: &Draw<'_>, id: &str, words: usize, text: usize, item: &Item) -> Result<()> {
    // A word has fewer tokens than this, on average.
    const WORD: usize = 4;
    if words < text || tokens(draw, item) + WORD > draw.length {
        return Ok(());
    }
    let length = draw.length;
    Err(Error::Invalid(format!(
        "`{id}` at {length} tokens needs more than the {text} words of the text; give a longer one"
    )))
}
