//! The bill for people: which plan, how many bytes, and what was forgotten.

use serde::Serialize;

use crate::units::{bytes, percent};

/// The `memory` record of an answer, field by field that of the engine.
#[derive(Clone, Debug, Serialize)]
pub struct Bill {
    /// The plan as the user wrote it.
    pub plan_asked: String,
    /// The plan in effect, every part named.
    pub plan_used: String,
    /// `full`, `streaming` or `dense`.
    pub mode: &'static str,
    /// Hot KV bytes allowed; null without a budget.
    pub budget_bytes: Option<u64>,
    /// Most hot KV bytes at any moment, prefill included.
    pub peak_bytes: u64,
    /// Hot KV bytes now.
    pub live_bytes: u64,
    /// Bytes in the cold tier.
    pub cold_bytes: u64,
    /// Policy data that is not KV memory, in bytes.
    pub metadata_bytes: u64,
    /// Slots dropped at once when a strip is full.
    pub step: u32,
    /// Rows stored so far, summed over the strips that a policy acts on.
    pub seen: u64,
    /// Slots held now, summed likewise.
    pub kept: u64,
    /// Slots evicted, summed likewise.
    pub evicted: u64,
    /// Share of attention mass that lay on evicted slots; null where the method sees none.
    pub mass_evicted: Option<f64>,
    /// One entry per layer and KV head.
    pub heads: Vec<HeadBill>,
}

/// One layer and KV head.
#[derive(Clone, Debug, Serialize)]
pub struct HeadBill {
    /// Layer of the model.
    pub layer: usize,
    /// KV head of the layer.
    pub kv_head: usize,
    /// Rows stored so far.
    pub seen: u64,
    /// Slots held now.
    pub kept: u64,
    /// Slots evicted.
    pub evicted: u64,
    /// Hot bytes now.
    pub bytes: u64,
    /// A layer that sees a window by its own design; not part of the sums.
    pub sliding: bool,
}

/// The bill as text, one subject a line.
pub fn render(bill: &Bill) -> String {
    let mut lines = vec![format!("plan     {} ({})", bill.plan_used, bill.mode)];
    if bill.plan_asked != bill.plan_used {
        lines.push(format!("asked    {}", bill.plan_asked));
    }
    lines.push(format!("memory   {}", memory(bill)));
    lines.push(format!("forgot   {}", forgotten(bill)));
    lines.join("\n") + "\n"
}

fn memory(bill: &Bill) -> String {
    let mut line = format!("peak {}", bytes(bill.peak_bytes));
    if let Some(budget) = bill.budget_bytes {
        line += &format!(" of {}", bytes(budget));
    }
    line += &format!(" · at the end {}", bytes(bill.live_bytes));
    for (name, size) in [("cold", bill.cold_bytes), ("policy data", bill.metadata_bytes)] {
        if size > 0 {
            line += &format!(" · {name} {}", bytes(size));
        }
    }
    line
}

/// What is left of what was seen.
fn forgotten(bill: &Bill) -> String {
    if bill.evicted == 0 {
        return "nothing".into();
    }
    let mut line = format!("{} of what was seen", percent(bill.evicted, bill.seen));
    let slots = bill.heads.iter().filter(|head| !head.sliding).map(|head| head.kept);
    if let (Some(least), Some(most)) = (slots.clone().min(), slots.max()) {
        line += &match least == most {
            true => format!(" · {least} slots kept in each head"),
            false => format!(" · {least} to {most} slots kept per head"),
        };
    }
    if let Some(mass) = bill.mass_evicted {
        line += &format!(" · {:.1} % of attention mass at eviction", 100.0 * mass);
    }
    line
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
            bytes: 256 * kept,
            sliding: layer == 1,
        };
        Bill {
            plan_asked: "a2sf @ 1MiB".into(),
            plan_used: "a2sf @ 1MiB".into(),
            mode: "streaming",
            budget_bytes: Some(1 << 20),
            peak_bytes: 1 << 20,
            live_bytes: 768 << 10,
            cold_bytes: 0,
            metadata_bytes: 0,
            step: 64,
            seen: 8000,
            kept: 3000,
            evicted: 5000,
            mass_evicted: Some(0.125),
            heads: vec![head(0, 0, 1000), head(0, 1, 2000), head(1, 0, 128)],
        }
    }

    #[test]
    fn a_bill_names_the_plan_the_bytes_and_the_loss() {
        // 5000 of 8000 is 62.5 %; the sliding layer's window of 128 is no loss and not told.
        let expected = "plan     a2sf @ 1MiB (streaming)\n\
                        memory   peak 1.0 MiB of 1.0 MiB · at the end 768.0 KiB\n\
                        forgot   62.5 % of what was seen · 1000 to 2000 slots kept per head · \
                        12.5 % of attention mass at eviction\n";
        assert_eq!(render(&made_up()), expected);
    }

    #[test]
    fn what_is_absent_is_not_printed() {
        let bill = Bill { budget_bytes: None, evicted: 0, mass_evicted: None, ..made_up() };
        let expected = "plan     a2sf @ 1MiB (streaming)\n\
                        memory   peak 1.0 MiB · at the end 768.0 KiB\n\
                        forgot   nothing\n";
        assert_eq!(render(&bill), expected);
    }

    #[test]
    fn a_completed_plan_a_cold_tier_and_policy_data_are_told() {
        let bill =
            Bill { plan_asked: "a2sf@1MiB".into(), cold_bytes: 2048, metadata_bytes: 512, ..made_up() };
        let text = render(&bill);
        assert!(text.contains("\nasked    a2sf@1MiB\n"), "{text}");
        assert!(text.contains(" · cold 2.0 KiB · policy data 512 B\n"), "{text}");
    }
}
