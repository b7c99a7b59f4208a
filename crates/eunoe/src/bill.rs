//! The bill for people: which plan, how many bytes, what was forgotten, and what that means.

pub use eunoe_engine::{Bill, HeadBill};

use crate::units::{bytes, percent};

/// The bill as text, one subject a line.
pub fn render(bill: &Bill) -> String {
    let mut lines = vec![format!("plan     {} ({})", bill.plan_used, mode(bill.mode))];
    if bill.plan_asked != bill.plan_used {
        lines.push(format!("asked    {}", bill.plan_asked));
    }
    for rung in &bill.escalated {
        let (peak, risk) = (bytes(rung.peak_bytes), 100.0 * rung.risk);
        lines.push(format!("before   {} ({peak}): not trusted, risk {risk:.0} %", rung.plan));
    }
    lines.push(format!("memory   {}", memory(bill)));
    lines.push(format!("kept     {}", kept(bill)));
    lines.push(format!("forgot   {}", forgotten(bill)));
    lines.push(format!("meaning  {}", meaning(bill)));
    lines.join("\n") + "\n"
}

fn mode(mode: &str) -> &str {
    match mode {
        "full" => "forgets nothing",
        "streaming" => "forgets while reading",
        "dense" => "reads the whole prompt, then forgets",
        "sparse" => "keeps everything and looks at a part",
        "recall" => "lets old tokens wait outside, and some come back",
        other => other,
    }
}

fn memory(bill: &Bill) -> String {
    let mut line = format!("{} at most", bytes(bill.peak_bytes));
    if let Some(budget) = bill.budget_bytes {
        line += &format!(", {} allowed", bytes(budget));
    }
    line += &format!("; {} at the end", bytes(bill.live_bytes));
    let beside = [
        ("cold", bill.cold_bytes),
        ("came back", bill.returned_bytes),
        ("reused", bill.reused_bytes),
        ("policy data", bill.metadata_bytes),
    ];
    for (name, size) in beside {
        if size > 0 {
            line += &format!("; {name} {}", bytes(size));
        }
    }
    line
}

/// Slots held, in each layer and KV head that the policy acts on.
fn kept(bill: &Bill) -> String {
    let heads = || bill.heads.iter().filter(|head| !head.sliding);
    let read = heads().map(|head| head.seen).max().unwrap_or(0);
    let share = percent(bill.kept, bill.seen);
    let slots = match (heads().map(|h| h.kept).min(), heads().map(|h| h.kept).max()) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or(0).to_string(),
    };
    format!("{share}: {slots} of {read} tokens in each layer and KV head")
}

fn forgotten(bill: &Bill) -> String {
    if bill.evicted == 0 {
        return "nothing".into();
    }
    let mut line = percent(bill.evicted, bill.seen);
    if let Some(mass) = bill.mass_evicted {
        line +=
            &format!("; what went at a time had drawn {:.1} % of its head's attention (mean)", 100.0 * mass);
    }
    line
}

fn meaning(bill: &Bill) -> String {
    let codec = bill.plan_used.split(['|', '@']).map(str::trim).find(|part| part.starts_with('q'));
    let rounded = codec.map_or_else(String::new, |codec| format!(", up to the rounding of {codec}"));
    match bill.evicted {
        0 if bill.attended < 1.0 => format!(
            "nothing is lost, but each token met only {:.1} % of what came before it (mean)",
            100.0 * bill.attended
        ),
        0 => format!("the answer is that of full memory{rounded}"),
        _ => format!(
            "the answer was made without the {} that was forgotten; `--kv full` shows what it would have been with it",
            percent(bill.evicted, bill.seen)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> Bill {
        let head = |layer, kv_head, kept| HeadBill {
            layer,
            kv_head,
            seen: 4000,
            kept,
            evicted: 4000 - kept,
            cold: 0,
            bytes: 256 * kept,
            sliding: layer == 1,
        };
        Bill {
            plan_asked: "a2sf | f16 @ 1MiB".into(),
            plan_used: "a2sf | f16 @ 1MiB".into(),
            mode: "streaming",
            budget_bytes: Some(1 << 20),
            peak_bytes: 1 << 20,
            live_bytes: 768 << 10,
            cold_bytes: 0,
            returned_bytes: 0,
            reused_bytes: 0,
            metadata_bytes: 0,
            step: 64,
            sinks: 4,
            recent: 32,
            seen: 8000,
            kept: 3000,
            evicted: 5000,
            cold: 0,
            attended: 0.5,
            attended_tokens: 1000.0,
            mass_evicted: Some(0.125),
            escalated: Vec::new(),
            heads: vec![head(0, 0, 1000), head(0, 1, 2000), head(1, 0, 128)],
        }
    }

    #[test]
    fn a_bill_names_the_plan_the_bytes_the_loss_and_its_meaning() {
        // 5000 of 8000 is 62.5 %; the sliding layer's window of 128 is no loss and not told.
        let expected = "\
plan     a2sf | f16 @ 1MiB (forgets while reading)
memory   1.0 MiB at most, 1.0 MiB allowed; 768.0 KiB at the end
kept     37.5 %: 1000 to 2000 of 4000 tokens in each layer and KV head
forgot   62.5 %; what went at a time had drawn 12.5 % of its head's attention (mean)
meaning  the answer was made without the 62.5 % that was forgotten; `--kv full` shows what it would have been with it
";
        assert_eq!(render(&made_up()), expected);
    }

    #[test]
    fn what_is_absent_is_not_printed() {
        let heads = vec![HeadBill { kept: 4000, evicted: 0, ..made_up().heads[0].clone() }];
        let (seen, kept, evicted, attended) = (4000, 4000, 0, 1.0);
        let mass_evicted = None;
        let bill =
            Bill { budget_bytes: None, seen, kept, evicted, mass_evicted, attended, heads, ..made_up() };
        let sparse = render(&Bill { attended: 0.25, ..bill.clone() });
        assert!(sparse.contains("each token met only 25.0 % of what came before it"), "{sparse}");
        let expected = "\
plan     a2sf | f16 @ 1MiB (forgets while reading)
memory   1.0 MiB at most; 768.0 KiB at the end
kept     100.0 %: 4000 of 4000 tokens in each layer and KV head
forgot   nothing
meaning  the answer is that of full memory
";
        assert_eq!(render(&bill), expected);
        for codec in ["q8", "q8(v=q4)", "q4(residual=64)"] {
            let rounded = render(&Bill { plan_used: format!("full | {codec} @ 50%"), ..bill.clone() });
            assert!(rounded.contains(&format!("full memory, up to the rounding of {codec}\n")), "{rounded}");
        }
    }

    #[test]
    fn smaller_memories_that_were_not_trusted_are_told() {
        let rung = eunoe_engine::Rung { plan: "a2sf @ 512KiB".into(), peak_bytes: 512 << 10, risk: 0.625 };
        let text = render(&Bill { escalated: vec![rung], ..made_up() });
        assert!(
            text.contains("\nbefore   a2sf @ 512KiB (512.0 KiB): not trusted, risk 62 %\nmemory "),
            "{text}"
        );
    }

    #[test]
    fn a_completed_plan_a_cold_tier_and_policy_data_are_told() {
        let bill =
            Bill { plan_asked: "a2sf@1MiB".into(), cold_bytes: 2048, metadata_bytes: 512, ..made_up() };
        let text = render(&bill);
        assert!(text.contains("\nasked    a2sf@1MiB\n"), "{text}");
        assert!(text.contains("; cold 2.0 KiB; policy data 512 B\n"), "{text}");
    }
}
