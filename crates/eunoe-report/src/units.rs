//! Numbers, written for people.

/// Bytes in the largest binary unit that keeps at least one whole: `22.5 MiB`.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1023.5 {
        return format!("{bytes:.0} B");
    }
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    // 1023.95 and more would round to `1024.0`.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Digits in groups of three: `32,768`.
pub fn count(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Tokens in short: `32K` for 32,768, else all digits.
pub(crate) fn tokens(tokens: usize) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) { format!("{}K", tokens / 1024) } else { count(tokens) }
}

/// `1 item`, `2 items`.
pub fn counted(n: usize, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A share as a percentage, one decimal below 10 %.
pub(crate) fn percent(share: f64) -> String {
    percent_below(share * 100.0, 9.95)
}

/// A share of bytes: one decimal below 20 %, for 12.5 %.
pub(crate) fn share(share: f64) -> String {
    percent_below(share * 100.0, 19.95)
}

fn percent_below(percent: f64, decimal_below: f64) -> String {
    // Whole numbers, after rounding to the decimal, stay whole.
    let is_whole = (percent * 10.0).round() % 10.0 == 0.0;
    let places = if percent.abs() < decimal_below && !is_whole { 1 } else { 0 };
    minus(format!("{percent:.places$} %"))
}

/// A score with two decimals, below a tenth with three.
pub(crate) fn score(score: f64) -> String {
    match score.abs() {
        x if (0.000_5..0.099_5).contains(&x) => minus(format!("{score:.3}")),
        x if x < 0.099_5 => "0.00".to_string(),
        _ => minus(format!("{score:.2}")),
    }
}

/// A difference with its sign: `−0.12`, `+0.031`, `0.00`.
pub(crate) fn signed(value: f64) -> String {
    match score(value).as_str() {
        "0.00" => "0.00".to_string(),
        text if value > 0.0 => format!("+{text}"),
        text => text.to_string(),
    }
}

/// Seconds with two to three digits, minutes from 100 s on.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 0.1 => format!("{:.0} ms", s * 1e3),
        s if s < 1.0 => format!("{s:.2} s"),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// A number of no known unit with about three digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    minus(match size {
        0.0 => "0".to_string(),
        s if !(1e-3..1e6).contains(&s) => format!("{value:.2e}"),
        s if s >= 100.0 => format!("{value:.0}"),
        s if s >= 10.0 => format!("{value:.1}"),
        s if s >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    })
}

/// A p value.
pub(crate) fn p(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_string() } else { format!("p = {p:.3}") }
}

/// A real minus sign in place of the hyphen.
fn minus(text: String) -> String {
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_sensible_digits() {
        assert_eq!((bytes(23_592_960.0).as_str(), bytes(1023.0).as_str()), ("22.5 MiB", "1023 B"));
        assert_eq!((bytes(1024.0).as_str(), bytes(1_048_575.0).as_str()), ("1.0 KiB", "1.0 MiB"));
        assert_eq!(
            [count(0), count(999), count(32_768), count(1_000_000)],
            ["0", "999", "32,768", "1,000,000"]
        );
        assert_eq!([tokens(32_768), tokens(1000), tokens(0)], ["32K", "1,000", "0"]);
        assert_eq!([counted(1, "item"), counted(2, "item")], ["1 item", "2 items"]);
        assert_eq!([share(0.125), percent(0.125), share(0.25)], ["12.5 %", "12 %", "25 %"]);
        assert_eq!([percent(0.0625), percent(0.05), percent(1.0)], ["6.2 %", "5 %", "100 %"]);
        assert_eq!(
            [signed(-0.123), signed(0.031), signed(-0.001), signed(0.000_4)],
            ["−0.12", "+0.031", "−0.001", "0.00"]
        );
        assert_eq!(
            [seconds(0.0004), seconds(0.05), seconds(0.5), seconds(5.0)],
            ["400 µs", "50 ms", "0.50 s", "5.0 s"]
        );
        assert_eq!([seconds(50.0), seconds(300.0)], ["50 s", "5 min"]);
        assert_eq!(
            [number(0.0), number(1234.0), number(0.01234), number(-2.5)],
            ["0", "1234", "0.0123", "−2.50"]
        );
        assert_eq!([p(0.0004), p(0.0312)], ["p < 0.001", "p = 0.031"]);
    }
}
