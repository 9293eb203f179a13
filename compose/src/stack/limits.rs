//! Limits and reservations: the keys of a service and those of `deploy.resources`, which must agree.

use carrack_api::{Bytes, Limits, MilliCpus, Reservations};

use super::Build;
use super::deploy::Deploy;
use crate::fields::Fields;

/// What a container may use and what placement sets aside for it.
pub(super) struct Resources {
    pub(super) limits: Limits,
    pub(super) reservations: Reservations,
}

/// "Unlimited" where a number is wanted: more than any machine has, and still a signed 64-bit number.
const UNLIMITED: Bytes = Bytes(i64::MAX as u64);
/// The kernel's period when `cpu_period` is not written, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Periods that the kernel takes, in microseconds.
const CPU_PERIODS_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The largest `mem_swappiness`, a percentage.
const SWAPPINESS_MAX: u64 = 100;

impl Build<'_> {
    pub(super) fn limits(&mut self, fields: &mut Fields<'_>, deploy: &Deploy) -> Resources {
        let memory = fields.take("mem_limit");
        let memory_value = memory.as_ref().and_then(|i| i.bytes(self.report)).filter(|b| b.0 > 0);
        let memory = self.agree(memory, memory_value, deploy.limits.memory, "limits.memory");
        let reserved = fields.take("mem_reservation");
        let reserved_value = reserved.as_ref().and_then(|i| i.bytes(self.report)).filter(|b| b.0 > 0);
        let reserved =
            self.agree(reserved, reserved_value, deploy.reservations.memory, "reservations.memory");
        let cpus = fields.take("cpus");
        let cpus_value = cpus.as_ref().and_then(|i| i.cpus(self.report)).filter(|c| c.0 > 0);
        let cpus = self.agree(cpus, cpus_value, deploy.limits.cpus, "limits.cpus");
        let period = self.period(fields, cpus);
        let quota = self.quota(fields, cpus, period);
        let pids = fields.take("pids_limit");
        let pids_value =
            pids.as_ref().and_then(|i| i.int(self.report)).map(|n| u64::try_from(n).unwrap_or(0));
        let pids = self.agree(pids, pids_value, deploy.limits.pids, "limits.pids");
        let limits = Limits {
            cpus: cpus.or(quota),
            cpu_shares: fields.take("cpu_shares").and_then(|i| i.number(self.report)).filter(|n| *n > 0),
            cpuset: fields.take("cpuset").and_then(|i| i.text(self.report)).filter(|c| !c.is_empty()),
            memory,
            memory_swap: self.swap(fields),
            memory_reservation: reserved,
            pids,
            cpu_period: period,
            swappiness: self.swappiness(fields),
            io: self.blkio(fields),
        };
        let reservations = Reservations {
            cpus: deploy.reservations.cpus.unwrap_or_default(),
            memory: reserved.unwrap_or_default(),
        };
        Resources { limits, reservations }
    }

    /// Two keys that mean the same may both be written, but not differ.
    fn agree<T: PartialEq + Copy>(
        &mut self,
        item: Option<crate::fields::Item<'_>>,
        written: Option<T>,
        deploy: Option<T>,
        other: &str,
    ) -> Option<T> {
        if let (Some(item), Some(a), Some(b)) = (item, written, deploy)
            && a != b
        {
            let message = format!("differs from deploy.resources.{other}");
            item.invalid_hint(message, "write only one of them", self.report);
        }
        written.or(deploy)
    }

    fn swap(&mut self, fields: &mut Fields<'_>) -> Option<Bytes> {
        let item = fields.take("memswap_limit")?;
        if item.node.as_text() == Some("-1") {
            return Some(UNLIMITED);
        }
        item.bytes(self.report).filter(|b| b.0 > 0)
    }

    /// The time within which the CPU limit holds, in microseconds.
    fn period(&mut self, fields: &mut Fields<'_>, cpus: Option<MilliCpus>) -> Option<u64> {
        let item = fields.take("cpu_period")?;
        let period = match item.node.as_text().and_then(|t| crate::units::duration(t).ok()) {
            Some(time) => u64::try_from(time.as_micros()).ok(),
            None => item.number::<u32>(self.report).map(u64::from),
        }
        .filter(|us| *us > 0)?;
        if !CPU_PERIODS_US.contains(&period) {
            let hint = "in microseconds: 1000 to 1000000";
            item.invalid_hint(format!("{period} is no period that the kernel takes"), hint, self.report);
            return None;
        }
        if cpus.is_none() && !fields.has("cpu_quota") {
            item.listed("services.cpu_period", "alone", self.report);
            return None;
        }
        Some(period)
    }

    /// `cpu_quota` of `cpu_period` is a number of CPUs.
    fn quota(
        &mut self,
        fields: &mut Fields<'_>,
        cpus: Option<MilliCpus>,
        period: Option<u64>,
    ) -> Option<MilliCpus> {
        let item = fields.take("cpu_quota")?;
        let quota = match item.node.as_text().and_then(|t| crate::units::duration(t).ok()) {
            Some(time) => i64::try_from(time.as_micros()).ok()?,
            None => item.int(self.report)?,
        };
        let quota = u64::try_from(quota).ok().filter(|q| *q > 0)?;
        if cpus.is_some() {
            item.invalid_hint("`cpus` says it already", "write only one of them", self.report);
        }
        Some(MilliCpus(quota.saturating_mul(1000) / period.unwrap_or(CPU_PERIOD_US)))
    }

    fn swappiness(&mut self, fields: &mut Fields<'_>) -> Option<u64> {
        let item = fields.take("mem_swappiness")?;
        let value = item.number::<u64>(self.report)?;
        if value > SWAPPINESS_MAX {
            item.invalid_hint(format!("{value} is out of range"), "0 to 100", self.report);
            return None;
        }
        Some(value)
    }
}
