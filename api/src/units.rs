//! Units of the specs: bytes, CPU shares of a core, durations. Owns how they are written and read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// CPU time in thousandths of one core: `1500` is one and a half cores.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct MilliCpus(pub u64);

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        if milli == 0 {
            return f.pad(&whole.to_string());
        }
        f.pad(format!("{whole}.{milli:03}").trim_end_matches('0'))
    }
}

/// An amount of memory or disk in bytes; shown with binary prefixes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if value.fract() == 0.0 || unit == 0 {
            f.pad(&format!("{value:.0} {}", UNITS[unit]))
        } else {
            f.pad(&format!("{value:.1} {}", UNITS[unit]))
        }
    }
}

/// Wall-clock time in milliseconds since the Unix epoch.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved later by `delay`, saturating.
    pub fn after(self, delay: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Serde for durations in whole milliseconds, as all specs and bodies write them (`*_ms` on the wire).
pub mod duration_ms {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Writes whole milliseconds.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// [`duration_ms`] for an optional duration.
pub mod option_duration_ms {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Writes whole milliseconds or null.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration_ms::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads whole milliseconds or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

/// A duration as people read it in a table: `0.4s`, `12s`, `3m20s`, `5h`, `2d`.
pub fn human_duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0..=9 => format!("{:.1}s", value.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        600..=5_999 => format!("{}m", seconds / 60),
        6_000..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_written_as_people_read_them() {
        assert_eq!(MilliCpus(1500).to_string(), "1.5");
        assert_eq!(MilliCpus(2000).to_string(), "2");
        assert_eq!(MilliCpus(50).to_string(), "0.05");
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(64 << 20).to_string(), "64 MiB");
        assert_eq!(Bytes(1_600_000).to_string(), "1.5 MiB");
        assert_eq!(human_duration(Duration::from_millis(420)), "0.4s");
        assert_eq!(human_duration(Duration::from_secs(200)), "3m20s");
        assert_eq!(human_duration(Duration::from_secs(7200)), "2h");
    }
}
