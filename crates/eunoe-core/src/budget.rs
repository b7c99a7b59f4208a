//! The budget of a plan: what stands after `@`.

use std::fmt;

use crate::args::{Reading, meant};

/// How much memory a plan may take; what each means exactly is the engine's promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bytes of hot KV memory.
    Bytes(u64),
    /// Slots per strip, on average.
    Slots(u32),
    /// Percent of the f16 bytes that the same text takes under `full`; above 0, at most 100.
    Percent(f64),
}

/// Binary units from the largest; a canonical budget takes the first that divides it.
const BINARY: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DECIMAL: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("bytes", 1)];
/// The units that are not bytes.
const OTHERS: [&str; 2] = ["tok", "%"];

impl Budget {
    /// Reads `64MiB`, `1.5GiB`, `1024tok`, `25%`; fractions of a byte are dropped.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(text: &str) -> Reading<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || number.ends_with('.') {
            return Err(format!("expected a budget such as `64MiB`, `1024tok` or `25%`, got `{text}`"));
        }
        let budget = match unit {
            "tok" => slots(whole, fraction).map(Self::Slots)?,
            "%" => percent(number).map(Self::Percent)?,
            _ => {
                let known = BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == unit);
                let scale = known.ok_or_else(|| unknown_unit(unit))?.1;
                bytes(whole, fraction, scale).map(Self::Bytes).ok_or_else(|| too_large(text))?
            }
        };
        match budget {
            Self::Bytes(0) | Self::Slots(0) => Err(format!("a budget of `{text}` holds nothing")),
            _ => Ok(budget),
        }
    }
}

fn slots(whole: &str, fraction: &str) -> Reading<u32> {
    if !fraction.is_empty() {
        return Err(format!("`{whole}.{fraction}tok`: slots are counted in whole numbers"));
    }
    whole.parse().map_err(|_| too_large(&format!("{whole}tok")))
}

fn percent(number: &str) -> Reading<f64> {
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value),
        _ => Err(format!("`{number}%` is outside 0% (exclusive) to 100%; more than `full` takes is `full`")),
    }
}

/// `whole.fraction * scale`, rounded down; `None` above `u64`.
fn bytes(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    // Eighteen decimals are far below a byte of any unit, and the product of what fits `u64` still fits `u128`.
    let digits = &fraction[..fraction.len().min(18)];
    let numerator: u128 = format!("{whole}{digits}").parse().ok()?;
    let denominator = 10u128.pow(digits.len() as u32);
    u64::try_from(numerator.checked_mul(u128::from(scale))? / denominator).ok()
}

fn too_large(text: &str) -> String {
    format!("`{text}` is more than can be counted")
}

fn unknown_unit(unit: &str) -> String {
    let names: Vec<_> = BINARY.iter().chain(&DECIMAL).map(|(name, _)| *name).chain(OTHERS).collect();
    if unit.is_empty() {
        return format!("a budget needs a unit: {}", names.join(", "));
    }
    format!("no unit is called `{unit}`{}", meant(unit, &names))
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bytes(bytes) => {
                let (name, scale) = BINARY.into_iter().find(|(_, s)| bytes % s == 0).unwrap_or(("B", 1));
                write!(f, "{}{name}", bytes / scale)
            }
            Self::Slots(slots) => write!(f, "{slots}tok"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exact() {
        // 1.5 * 2^30; 0.1 * 2^20 = 104857.6, rounded down.
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1.5GiB", 1_610_612_736),
            ("0.1MiB", 104_857),
            ("512KiB", 524_288),
            ("123B", 123),
            ("123bytes", 123),
            ("2MB", 2_000_000),
            ("3kB", 3000),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(Budget::read(text), Ok(Budget::Bytes(bytes)), "{text}");
        }
        assert_eq!(Budget::read("1024tok"), Ok(Budget::Slots(1024)));
        assert_eq!(Budget::read("12.5%"), Ok(Budget::Percent(12.5)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, why) in [
            ("64", "a budget needs a unit"),
            ("64mib", "did you mean `MiB`"),
            ("64tokens", "did you mean `tok`"),
            ("0tok", "holds nothing"),
            ("0.0001B", "holds nothing"),
            ("101%", "outside"),
            ("0%", "outside"),
            ("1.5tok", "whole numbers"),
            ("4294967296tok", "more than can be counted"),
            ("99999999999999999999TiB", "more than can be counted"),
            ("16777216TiB", "more than can be counted"),
            ("999999999999999999999999999999999999999999B", "more than can be counted"),
            ("1.2.3MiB", "expected a budget"),
            ("MiB", "expected a budget"),
            ("-1MiB", "expected a budget"),
            ("5.%", "expected a budget"),
        ] {
            let got = Budget::read(text).unwrap_err();
            assert!(got.contains(why), "{text}: {got}");
        }
    }

    #[test]
    fn the_canonical_form_takes_the_largest_unit_that_divides() {
        for (bytes, text) in
            [(64 << 20, "64MiB"), (1536 << 20, "1536MiB"), (1000, "1000B"), (1 << 40, "1TiB")]
        {
            assert_eq!(Budget::Bytes(bytes).to_string(), text);
        }
    }
}
