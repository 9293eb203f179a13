//! Durations, sizes and CPU shares as Compose writes them.

use std::time::Duration;

use carrack_api::{Bytes, MilliCpus};

/// `1h30m`, `1.5s`, `100ms`, `0`; also days and weeks.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = |why: &str| format!("{text:?} is not a duration: {why}");
    let body = text.trim();
    if body == "0" {
        return Ok(Duration::ZERO);
    }
    if body.is_empty() {
        return Err(bad("it is empty"));
    }
    let mut rest = body.strip_prefix('+').unwrap_or(body);
    if rest.starts_with('-') {
        return Err(bad("it is negative"));
    }
    let mut total = 0u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (whole, fraction) = rest[..digits].split_once('.').unwrap_or((&rest[..digits], ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(bad("a number is missing"));
        }
        let number = |text: &str| match text {
            "" => Ok(0),
            text => text.parse::<u128>().map_err(|_| bad("it is too long")),
        };
        // More digits than that are less than a nanosecond of a week.
        let fraction = &fraction[..fraction.len().min(18)];
        let (whole, parts) = (number(whole)?, 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0)));
        let fraction = number(fraction)?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => 86_400 * SECOND,
            "w" => 604_800 * SECOND,
            "" => return Err(bad("a unit is missing")),
            unknown => return Err(bad(&format!("unknown unit {unknown:?}"))),
        };
        total = whole
            .checked_mul(unit)
            .and_then(|t| t.checked_add(fraction * unit / parts))
            .and_then(|t| t.checked_add(total))
            .ok_or_else(|| bad("it is too long"))?;
        rest = &rest[letters..];
    }
    // As long as Go's durations are.
    let nanos = i64::try_from(total).map_err(|_| bad("it is too long"))?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;

/// A duration as Go writes it: `1m30s`, `500ms`, `0s`.
pub(crate) fn show_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fraction = |nanos: u128, unit: u128| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let width = unit.to_string().len() - 1;
        let rest = format!("{rest:0width$}");
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() { whole.to_string() } else { format!("{whole}.{rest}") }
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let seconds = time.as_secs();
            let rest = format!("{}s", fraction(nanos % 60_000_000_000, 1_000_000_000));
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

/// `64m`, `1.5gb`, `2GiB`, `1024`: binary units, as Docker reads them.
pub fn bytes(text: &str) -> Result<Bytes, String> {
    let bad = |why: &str| format!("{text:?} is not a size: {why}");
    let body = text.trim();
    let digits = body.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(body.len());
    let number: f64 = body[..digits].parse().map_err(|_| bad("a number is missing"))?;
    let suffix = body[digits..].trim_start().to_ascii_lowercase();
    let unit = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        unknown => return Err(bad(&format!("unknown unit {unknown:?}"))),
    };
    if unit == 0
        && let Ok(exact) = body[..digits].parse::<u64>()
    {
        return Ok(Bytes(exact));
    }
    let value = number * 1024f64.powi(unit);
    if value >= u64::MAX as f64 {
        return Err(bad("it is too large"));
    }
    Ok(Bytes(value as u64))
}

/// `0.5`, `2`, `1.25`: thousandths of a core.
pub fn cpus(text: &str) -> Result<MilliCpus, String> {
    let value: f64 = text.trim().parse().map_err(|_| format!("{text:?} is not a number of CPUs"))?;
    if !(0.0..=1e6).contains(&value) {
        return Err(format!("{text:?} is not a number of CPUs"));
    }
    Ok(MilliCpus((value * 1000.0).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases = [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            ("0", 0),
            ("1d", 86_400_000),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "10", "s", "10x", "-1s", "1..2s", "10 s", "99999999999999999999w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (500, "500ms"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (86_400_000, "24h0m0s"),
            (3_600_000 + 1, "1h0m0.001s"),
        ];
        for (ms, text) in cases {
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(show_duration(Duration::from_nanos(1_500)), "1.5µs");
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            ("64m", 64 << 20),
            ("1.5gb", 3 << 29),
            ("2GiB", 2 << 30),
            ("1024", 1024),
            ("1 kb", 1024),
            ("7b", 7),
        ];
        for (text, size) in cases {
            assert_eq!(bytes(text), Ok(Bytes(size)), "{text}");
        }
        for bad in ["", "m", "1zz", "-1", "1.2.3m", "99999999p"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_are_thousandths() {
        assert_eq!(cpus("0.5"), Ok(MilliCpus(500)));
        assert_eq!(cpus("2"), Ok(MilliCpus(2000)));
        assert!(cpus("-1").is_err() && cpus("x").is_err() && cpus("NaN").is_err());
    }
}
