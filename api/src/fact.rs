//! Facts about a host: what was looked at, how it came out, what a lack costs and what helps.
//!
//! Found by the crates that need what is looked at, printed by `carrack doctor` and logged by the daemon at its start. Owns
//! the words only.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a fact came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// It works, with something less or something to know.
    Note,
    /// It was not tried: that needs root.
    Untried,
    /// Without it no container can run, or none can be reached.
    Missing,
}

/// One fact about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fact {
    /// What it belongs to: `host`, `containers` or `network`.
    pub area: String,
    /// A short name, for example `overlayfs`.
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, in words.
    pub found: String,
    /// What a lack costs; empty when nothing is lacking.
    #[serde(default)]
    pub cost: String,
    /// The command or setting that helps; empty when nothing is lacking or nothing helps.
    #[serde(default)]
    pub hint: String,
}

impl Fact {
    /// Something is as wanted.
    pub fn ok(area: &str, name: &str, found: impl Into<String>) -> Self {
        Self::new(area, name, Verdict::Ok, found.into(), String::new())
    }

    /// Something works, with something less or to know; `cost` may be empty.
    pub fn note(area: &str, name: &str, found: impl Into<String>, cost: impl Into<String>) -> Self {
        Self::new(area, name, Verdict::Note, found.into(), cost.into())
    }

    /// Something that only root can try.
    pub fn untried(area: &str, name: &str) -> Self {
        Self::new(area, name, Verdict::Untried, "needs root to be tried".to_owned(), String::new())
    }

    /// Something that cannot be done without is not there.
    pub fn missing(area: &str, name: &str, found: impl Into<String>, cost: impl Into<String>) -> Self {
        Self::new(area, name, Verdict::Missing, found.into(), cost.into())
    }

    fn new(area: &str, name: &str, verdict: Verdict, found: String, cost: String) -> Self {
        Self { area: area.to_owned(), name: name.to_owned(), verdict, found, cost, hint: String::new() }
    }

    /// The same with what helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// `vxlan: not in this kernel; one host only; modprobe vxlan`.
impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.found)?;
        let rest = [&self.cost, &self.hint];
        rest.into_iter().filter(|part| !part.is_empty()).try_for_each(|part| write!(f, "; {part}"))
    }
}

/// Something of a host that a service may need and most services do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostFeature {
    /// Shares and quotas of CPU time.
    CpuLimits,
    /// A choice of CPUs.
    CpuSets,
    /// Access to devices, rule by rule.
    DeviceRules,
    /// Limits of memory.
    MemoryLimits,
    /// Limits of processes.
    PidsLimits,
}

impl fmt::Display for HostFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CpuLimits => "CPU limits",
            Self::CpuSets => "a choice of CPUs",
            Self::DeviceRules => "access rules for devices",
            Self::MemoryLimits => "memory limits",
            Self::PidsLimits => "limits of processes",
        })
    }
}

/// What a host lacks, with why: `the memory controller is off`.
pub type Lacks = BTreeMap<HostFeature, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_reads_as_one_line() {
        let good = Fact::ok("host", "kernel", "6.12.1");
        assert_eq!(good.to_string(), "kernel: 6.12.1");
        let bad =
            Fact::missing("network", "vxlan", "not in this kernel", "one host only").hint("modprobe vxlan");
        assert_eq!(bad.to_string(), "vxlan: not in this kernel; one host only; modprobe vxlan");
    }
}
