//! Bytes, counts and shares: read from flags, written for people.

/// Reads a number of bytes: `1048576`, `64MiB`, `1.5GiB`, `2GB`.
///
/// # Errors
/// One line that says what is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let wrong =
        || format!("`{text}` is not a number of bytes; write for example `64MiB`, `1.5GiB` or `1048576`");
    let (number, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let number = number.trim_end();
    let digits_only = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = if digits_only { number.parse::<f64>().map_err(|_| wrong())? } else { return Err(wrong()) };
    let bytes = value * unit as f64;
    // Above 2^53 a float no longer counts single bytes, and no machine has that much memory.
    if bytes < 1.0 || bytes > (1u64 << 53) as f64 || (unit == 1 && bytes.fract() != 0.0) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// Writes bytes for people, in the largest binary unit that keeps at least one whole: `22.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and more would round to `1024.0`.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Writes `part` of `whole` as a percentage; nothing of nothing is 0 %.
pub fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    format!("{share:.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_binary_and_decimal_units() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("512B"), Ok(512));
        assert_eq!(parse_bytes("1048576"), Ok(1_048_576));
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused() {
        for text in
            ["", "MiB", "-1", "0", "1.5", "inf", "1e9", "NaN", "64MIB", "64 tok", "99999999TiB", "1.2.3MiB"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_written_with_one_decimal() {
        // 24 MiB - 1.5 MiB = 22.5 MiB = 23,592,960 B.
        assert_eq!(bytes(23_592_960), "22.5 MiB");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }
}
