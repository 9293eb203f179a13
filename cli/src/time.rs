//! Moments and durations as users write and read them. The zone is UTC: a log of several hosts has no local time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carrack_api::Timestamp;

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `90`, `90s`, `1m30s`, `250ms`, `2h`, `7d`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration; write it as 90s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit_ms).ok_or_else(bad)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// A moment that a user named: that long ago, or that moment itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long before now.
    Ago(Duration),
    /// This one.
    At(Timestamp),
}

impl Moment {
    /// The moment, given the wall clock.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => {
                Timestamp(now.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
            }
            Self::At(at) => at,
        }
    }
}

/// Reads `10m` (so long ago), `2026-01-02T03:04:05Z`, `2026-01-02T03:04:05`, `2026-01-02`.
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(duration) = parse_duration(text) {
        return Ok(Moment::Ago(duration));
    }
    let at = text.parse::<jiff::Timestamp>().or_else(|_| {
        let civil = text.parse::<jiff::civil::DateTime>()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    match at.map(|at| u64::try_from(at.as_millisecond())) {
        Ok(Ok(ms)) => Ok(Moment::At(Timestamp(ms))),
        _ => Err(format!("{text:?} is no moment; write 10m (so long ago) or 2026-01-31T12:00:00Z")),
    }
}

/// How long something took: `39ms`, `1.2s`, `3m20s`.
pub(crate) fn took(duration: Duration) -> String {
    match duration.as_millis() {
        short @ 0..1000 => format!("{short}ms"),
        _ => carrack_api::human_duration(duration),
    }
}

/// A moment with milliseconds: `2026-01-02T03:04:05.678Z`.
pub(crate) fn moment(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| at.0.to_string(), |at| format!("{at:.3}"))
}

/// A moment with nanoseconds, as Docker writes it before a log line.
pub(crate) fn moment_ns(at_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns))
        .map_or_else(|_| at_ns.to_string(), |at| format!("{at:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in
            [("90", 90_000), ("250ms", 250), ("1m30s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "-1", "5x", "m", "1.5s", "99999999999999999999", "9999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_absolute_or_so_long_ago() {
        let now = Timestamp(1_000_000);
        assert_eq!(parse_moment("10s").map(|m| m.resolve(now)), Ok(Timestamp(990_000)));
        for text in ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00"] {
            assert_eq!(
                parse_moment(text).map(|m| m.resolve(now)),
                Ok(Timestamp(1_767_323_045_000)),
                "{text}"
            );
        }
        assert!(parse_moment("2026-01-02").is_ok());
        assert!(parse_moment("yesterday").is_err());
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(moment(Timestamp(1_767_323_045_678)), "2026-01-02T03:04:05.678Z");
        assert_eq!(moment_ns(1_767_323_045_000_000_007), "2026-01-02T03:04:05.000000007Z");
    }
}
