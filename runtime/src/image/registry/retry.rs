//! How long to wait before an answer is asked for again, and when to give up. Pure.

use std::time::Duration;

use super::super::error::Error;

/// Failures in a row, without a byte of progress, after which a request is given up.
const FAILURES_MAX: u32 = 5;
/// Failures of one request in all, whatever progress each brought.
const FAILURES_TOTAL_MAX: u32 = 100;
/// Wait after the first failure; doubled for each further one.
const DELAY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// Wait after a 429 that does not say how long.
const THROTTLED_DELAY: Duration = Duration::from_secs(2);
/// Longest wait that a registry may ask for; beyond it the pull fails and says so.
pub(super) const THROTTLED_MAX: Duration = Duration::from_secs(60);
/// Longest time one request waits because its registry asked for it.
const THROTTLED_TOTAL_MAX: Duration = Duration::from_secs(300);
/// Parts of a wait that are taken off it at random, per mille at most.
pub(super) const JITTER_MAX: u64 = 500;

/// The same for the first question of a conversation: somebody waits for the answer.
const FAILURES_QUICK_MAX: u32 = 3;

/// The attempts at one request.
#[derive(Debug)]
pub(in crate::image) struct Attempts {
    failures_max: u32,
    failures: u32,
    total: u32,
    waited: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { failures_max: FAILURES_MAX, failures: 0, total: 0, waited: Duration::ZERO }
    }
}

impl Attempts {
    /// For the first question of a conversation.
    pub(super) fn quick() -> Self {
        Self { failures_max: FAILURES_QUICK_MAX, ..Self::default() }
    }

    /// The request brought something before it failed: failures in a row start anew.
    pub(in crate::image) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How long to wait before the next attempt after `error`; `None` gives up. `jitter` is a random
    /// number below [`JITTER_MAX`], by which a wait of our own choice is shortened.
    pub(super) fn next(&mut self, error: &Error, jitter: u64) -> Option<Duration> {
        self.total += 1;
        if self.total >= FAILURES_TOTAL_MAX {
            return None;
        }
        if let Error::Throttled { wait, .. } = error {
            // What is asked for is kept to, and then some: everyone else was told the same.
            let delay = match wait {
                Some(wait) if *wait > THROTTLED_MAX => return None,
                Some(wait) => *wait + DELAY_FIRST * u32::try_from(jitter).unwrap_or(0) / 100,
                None => THROTTLED_DELAY,
            };
            self.waited += delay;
            return (self.waited <= THROTTLED_TOTAL_MAX).then_some(delay);
        }
        self.failures += 1;
        if !is_transient(error) || self.failures >= self.failures_max {
            return None;
        }
        let delay = DELAY_FIRST.saturating_mul(1 << (self.failures - 1).min(16)).min(DELAY_MAX);
        Some(delay - delay * u32::try_from(jitter.min(JITTER_MAX)).unwrap_or(0) / 1000)
    }
}

/// Whether the same request may be answered better in a moment.
pub(super) fn is_transient(error: &Error) -> bool {
    match error {
        Error::Transport { .. } | Error::Throttled { .. } => true,
        // A body may end early without a sign of it.
        Error::SizeMismatch { expected, actual, .. } => actual < expected,
        Error::Registry { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

/// What `Retry-After` asks for: seconds, or a moment seen from `now` (seconds since the epoch).
pub(super) fn parse_retry_after(text: &str, now: u64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::from_secs(parse_http_date(text)?.saturating_sub(now)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since the epoch.
fn parse_http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.split_once(", ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = words[..] else { return None };
    let clock: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hours @ 0..=23, minutes @ 0..=59, seconds @ 0..=60] = clock[..] else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = (month.len() == 3).then(|| MONTHS.find(month))??;
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || month % 3 != 0 {
        return None;
    }
    let month = u64::try_from(month / 3).ok()? + 1;
    // Days of the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Error {
        Error::Transport { registry: "r".into(), image: "i".into(), reason: "cut".into() }
    }

    fn throttled(wait: Option<u64>) -> Error {
        Error::Throttled { registry: "r".into(), image: "i".into(), wait: wait.map(Duration::from_secs) }
    }

    fn status(status: u16) -> Error {
        Error::Registry { registry: "r".into(), image: "i".into(), status, detail: String::new() }
    }

    #[test]
    fn failures_wait_longer_each_time_and_end() {
        let mut attempts = Attempts::default();
        let waits: Vec<_> = std::iter::from_fn(|| attempts.next(&broken(), 0)).collect();
        assert_eq!(waits, [200, 400, 800, 1600].map(Duration::from_millis));
        let mut attempts = Attempts::quick();
        assert_eq!(std::iter::from_fn(|| attempts.next(&broken(), 0)).count(), 2);
        let mut attempts = Attempts::default();
        assert_eq!(attempts.next(&status(503), JITTER_MAX), Some(Duration::from_millis(100)));
        for status in [status(404), status(400), status(403)] {
            assert_eq!(Attempts::default().next(&status, 0), None);
        }
    }

    #[test]
    fn progress_buys_further_attempts_but_not_for_ever() {
        let mut attempts = Attempts::default();
        let mut count = 0;
        while attempts.next(&broken(), 0).is_some() {
            attempts.progressed();
            count += 1;
        }
        assert_eq!(count, FAILURES_TOTAL_MAX - 1);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept_within_bounds() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.next(&throttled(Some(7)), 0), Some(Duration::from_secs(7)));
        assert!(attempts.next(&throttled(Some(7)), 400).unwrap() > Duration::from_secs(7));
        assert_eq!(attempts.next(&throttled(None), 0), Some(THROTTLED_DELAY));
        assert_eq!(attempts.next(&throttled(Some(3600)), 0), None, "nobody waits an hour");
        let mut attempts = Attempts::default();
        let waits = std::iter::from_fn(|| attempts.next(&throttled(Some(60)), 0)).count();
        assert_eq!(waits, 5);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_777;
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0)),
            ("Thu, 29 Feb 1996 00:00:00 GMT", Some(825_552_000 - now)),
            ("soon", None),
            ("-1", None),
            ("Sun, 06 anF 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ] {
            assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
