//! Axes: where a value stands, and which values are written.

use crate::units;

/// What an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, logarithmic.
    Bytes,
    /// Tokens, logarithmic.
    Tokens,
    /// Seconds, logarithmic.
    Seconds,
    /// Positive numbers without a unit, logarithmic.
    Log,
    /// A share, 1 as 100 %.
    Share,
    /// A score.
    Score,
    /// A factor: `1.5×`.
    Times,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it counts, with its unit.
    pub label: String,
    /// What it counts.
    pub kind: Kind,
    /// Lowest and highest value drawn.
    pub range: [f64; 2],
}

impl Axis {
    /// An axis over all `values`, a little wider; those that it cannot show do not count.
    pub fn over(label: &str, kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|value| kind.shows(*value));
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        let range = if kind.is_log() {
            let wider = (high / low).powf(0.06).max(1.1);
            [low / wider, high * wider]
        } else {
            let wider = ((high - low) * 0.06).max(0.02);
            [low - wider, high + wider]
        };
        Self { label: label.to_string(), kind, range }
    }

    /// An axis over a range.
    pub fn new(label: &str, kind: Kind, range: [f64; 2]) -> Self {
        Self { label: label.to_string(), kind, range }
    }

    /// Whether the axis can show a value.
    pub(super) fn holds(&self, value: f64) -> bool {
        self.kind.shows(value)
    }

    /// Where a value stands between `from` (lowest) and `to` (highest); values outside stand at the ends.
    pub(super) fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        let [low, high] = self.range;
        let share = if self.kind.is_log() {
            (value / low).ln() / (high / low).ln()
        } else {
            (value - low) / (high - low)
        };
        from + (to - from) * if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
    }

    /// About five values to write, with their text.
    pub(super) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let [low, high] = self.range;
        let mut ticks = match self.kind {
            Kind::Bytes | Kind::Tokens => powers(low, high, &[1.0], 2.0),
            Kind::Seconds | Kind::Log => powers(low, high, &[1.0, 2.0, 5.0], 10.0),
            Kind::Share | Kind::Score | Kind::Times => Vec::new(),
        };
        // Every second, third … of too many, so that the last stays.
        let stride = ticks.len().div_ceil(most.max(1)).max(1);
        let skipped = ticks.len().saturating_sub(1) % stride;
        ticks = ticks.into_iter().skip(skipped).step_by(stride).collect();
        if ticks.len() < 2 {
            ticks = even(low, high, most);
        }
        ticks.iter().map(|tick| (*tick, self.kind.text(*tick))).collect()
    }
}

impl Kind {
    fn is_log(self) -> bool {
        matches!(self, Self::Bytes | Self::Tokens | Self::Seconds | Self::Log)
    }

    /// Whether a value can stand on an axis: what is out of all proportion would leave no numbers for what is around it.
    fn shows(self, value: f64) -> bool {
        const FAR: f64 = 1e150;
        value.abs() < FAR && (!self.is_log() || value > 1.0 / FAR)
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Bytes => units::bytes(value).replace(".0 ", " "),
            Self::Tokens => units::tokens(value.round() as usize),
            Self::Seconds => {
                units::seconds(value).replace(".0 ", " ").replace(".00 ", " ").replace(".50 ", ".5 ")
            }
            Self::Log if value >= 0.001 => format!("{value}"),
            Self::Log => format!("{value:e}"),
            Self::Share => format!("{:.0} %", value * 100.0),
            Self::Score => format!("{}", (value * 100.0).round() / 100.0),
            Self::Times => format!("{}×", (value * 100.0).round() / 100.0),
        }
    }
}

/// `steps` times the powers of `base` within a range.
fn powers(low: f64, high: f64, steps: &[f64], base: f64) -> Vec<f64> {
    let (from, to) = (low.log(base).floor() as i32, high.log(base).ceil() as i32);
    let all = (from..=to).flat_map(|power| steps.iter().map(move |step| step * base.powi(power)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

/// Round numbers within a range, at most `most`.
fn even(low: f64, high: f64, most: usize) -> Vec<f64> {
    let raw = (high - low) / most.max(1) as f64;
    let size = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * size).into_iter().find(|step| *step >= raw);
    let step = step.filter(|step| step.is_finite() && *step > 0.0).unwrap_or(1.0);
    let first = (low / step).ceil() as i64;
    (first..first + most as i64 + 1)
        .map(|i| i as f64 * step)
        .filter(|tick| *tick <= high + step * 1e-9)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(kind: Kind, range: [f64; 2]) -> Vec<String> {
        Axis::new("", kind, range).ticks(6).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn places_by_hand() {
        let log = Axis::new("", Kind::Tokens, [1024.0, 4096.0]);
        assert_eq!((log.place(2048.0, 0.0, 100.0).round(), log.place(1e9, 0.0, 100.0)), (50.0, 100.0));
        let linear = Axis::new("", Kind::Score, [0.0, 1.0]);
        assert_eq!((linear.place(0.25, 200.0, 0.0), linear.place(-1.0, 200.0, 0.0)), (150.0, 200.0));
        assert_eq!(Axis::new("", Kind::Score, [1.0, 1.0]).place(1.0, 0.0, 10.0), 5.0);
    }

    #[test]
    fn what_is_out_of_all_proportion_does_not_count() {
        for kind in [Kind::Tokens, Kind::Seconds, Kind::Score] {
            let sane = Axis::over("", kind, [2.0, 8.0].into_iter());
            let wild = [1e300, 2.0, f64::MAX, 8.0, f64::NAN, f64::INFINITY];
            assert_eq!(Axis::over("", kind, wild.into_iter()).ticks(6), sane.ticks(6));
            assert!(!sane.holds(1e300) && sane.holds(4.0));
        }
        assert!(!Axis::over("", Kind::Log, [1e-300].into_iter()).holds(1e-300));
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(Kind::Share, [0.0, 1.0]), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(ticks(Kind::Tokens, [900.0, 9000.0]), ["1K", "2K", "4K", "8K"]);
        assert_eq!(ticks(Kind::Bytes, [1e6, 1.1e8]), ["1 MiB", "4 MiB", "16 MiB", "64 MiB"]);
        assert_eq!(ticks(Kind::Seconds, [0.4, 12.0]), ["0.5 s", "1 s", "2 s", "5 s", "10 s"]);
        assert_eq!(ticks(Kind::Seconds, [4.1, 4.6]), ["4.1 s", "4.2 s", "4.3 s", "4.4 s", "4.5 s", "4.6 s"]);
    }

    #[test]
    fn an_axis_over_nothing_or_one_value_still_has_a_width() {
        for kind in [Kind::Bytes, Kind::Score] {
            for values in [vec![], vec![3.0], vec![f64::NAN, 0.0]] {
                let axis = Axis::over("", kind, values.into_iter());
                assert!(axis.range[0] < axis.range[1] && axis.range[1].is_finite());
                assert!(!axis.ticks(6).is_empty());
            }
        }
    }
}
