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
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| bad("a number is missing"))?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "" => return Err(bad("a unit is missing")),
            unknown => return Err(bad(&format!("unknown unit {unknown:?}"))),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad("it is too long"))
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
