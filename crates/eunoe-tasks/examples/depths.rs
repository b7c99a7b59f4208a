//! Where do RULER's answers stand, and where those of the balanced variant? Prints a table for 200 items of each task.
//!
//!     cargo run --release -p eunoe-tasks --example depths -- crates/eunoe/assets/a-scandal-in-bohemia.txt

#![allow(clippy::print_stdout, reason = "an example prints")]

use eunoe_core::{Error, Result};
use eunoe_tasks::{Draw, Sources, find, ks};

const ITEMS: usize = 200;
const LENGTH: usize = 4096;
const TASKS: [&str; 10] = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "qa_1",
    "qa_2",
];

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_default();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(path, e))?;
    let sources = Sources::built_in(&text)?;
    println!(
        "| task | mean depth | least … most | KS p | balanced: mean | least … most | KS p |\n|---|---|---|---|---|---|---|"
    );
    for id in TASKS {
        let [official, balanced] = [id.to_owned(), format!("{id}_balanced")].map(|id| depths(&id, &sources));
        println!("| `{id}` | {} | {} |", row(&official?), row(&balanced?));
    }
    Ok(())
}

/// One gold place of each item, taken at random where there are several.
fn depths(id: &str, sources: &Sources) -> Result<Vec<f64>> {
    let task = find(id).ok_or_else(|| Error::Invalid(format!("no task `{id}`")))?;
    let mut random = fastrand::Rng::with_seed(0);
    let count = |text: &str| text.len().div_ceil(4);
    let mut depths = Vec::with_capacity(ITEMS);
    for sample in 0..ITEMS {
        let draw = Draw { length: LENGTH, overhead: 40, seed: 0, sample, count: &count, sources };
        let item = task.draw(&draw)?;
        depths.push(item.depths[random.usize(..item.depths.len())]);
    }
    Ok(depths)
}

fn row(depths: &[f64]) -> String {
    let mean = depths.iter().sum::<f64>() / depths.len() as f64;
    let (least, most) = depths.iter().fold((1.0f64, 0.0f64), |(lo, hi), d| (lo.min(*d), hi.max(*d)));
    format!("{mean:.2} | {least:.2} … {most:.2} | {:.2}", ks::uniform_p(depths))
}
