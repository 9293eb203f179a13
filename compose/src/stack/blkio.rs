//! `blkio_config` and `device_cgroup_rules`.

use carrack_api::{DeviceKind, DeviceRule, IoLimits, IoRate};

use super::Build;
use crate::fields::Fields;
use crate::outcomes;

impl Build<'_> {
    pub(super) fn blkio(&mut self, fields: &mut Fields<'_>) -> IoLimits {
        let mut out = IoLimits::default();
        let Some(item) = fields.take("blkio_config") else { return out };
        let Some(mut fields) = Fields::open(&item, self.report) else { return out };
        out.read_bps = self.rates(&mut fields, "device_read_bps");
        out.write_bps = self.rates(&mut fields, "device_write_bps");
        out.read_iops = self.rates(&mut fields, "device_read_iops");
        out.write_iops = self.rates(&mut fields, "device_write_iops");
        fields.finish(&outcomes::refused("services.blkio_config"), self.report);
        out
    }

    fn rates(&mut self, fields: &mut Fields<'_>, key: &'static str) -> Vec<IoRate> {
        let mut out = Vec::new();
        for item in fields.take(key).map(|i| i.items(self.report)).unwrap_or_default() {
            let Some(mut fields) = Fields::open(&item, self.report) else { continue };
            let path = fields.take("path").and_then(|i| i.text(self.report)).filter(|p| !p.is_empty());
            let rate = fields.take("rate");
            fields.finish(&[], self.report);
            let (Some(path), Some(rate)) = (path, rate) else {
                item.invalid("the entry needs `path` and `rate`", self.report);
                continue;
            };
            if !path.starts_with('/') {
                let hint = "name a block device, for example /dev/sda";
                item.invalid_hint(format!("{path:?} is no absolute path"), hint, self.report);
                continue;
            }
            let number = rate.bytes(self.report).map(|bytes| bytes.0);
            out.extend(number.map(|rate| IoRate { path, rate }));
        }
        out
    }

    /// Rules as the devices controller of cgroup v1 reads them: `c 10:229 rw`, `b *:* m`, `a`.
    pub(super) fn device_rules(&mut self, fields: &mut Fields<'_>) -> Vec<DeviceRule> {
        let mut out = Vec::new();
        for item in fields.take("device_cgroup_rules").map(|i| i.items(self.report)).unwrap_or_default() {
            let Some(text) = item.text(self.report) else { continue };
            match device_rule(&text) {
                Some(rule) => out.push(rule),
                None => {
                    let hint = "write the kind (a, b or c), MAJOR:MINOR or *, and r, w, m: \"c 10:229 rw\"";
                    item.invalid_hint(format!("{text:?} is no rule for devices"), hint, self.report);
                }
            }
        }
        out
    }
}

fn device_rule(text: &str) -> Option<DeviceRule> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, permissions] = words[..] else { return None };
    let kind = match kind {
        "a" => None,
        "b" => Some(DeviceKind::Block),
        "c" => Some(DeviceKind::Character),
        _ => return None,
    };
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse::<u32>().ok().map(Some) };
    let (major, minor) = numbers.split_once(':')?;
    let (major, minor) = (number(major)?, number(minor)?);
    // The kernel has no rule for one minor number of all drivers.
    if major.is_none() && minor.is_some() || !permissions.chars().all(|c| "rwm".contains(c)) {
        return None;
    }
    Some(DeviceRule { kind, major, minor, permissions: permissions.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_the_kernel_reads_them() {
        let rule = |kind, major, minor, permissions: &str| {
            Some(DeviceRule { kind, major, minor, permissions: permissions.into() })
        };
        assert_eq!(device_rule("c 10:229 rw"), rule(Some(DeviceKind::Character), Some(10), Some(229), "rw"));
        assert_eq!(device_rule("b 8:* m"), rule(Some(DeviceKind::Block), Some(8), None, "m"));
        assert_eq!(device_rule("a *:* rwm"), rule(None, None, None, "rwm"));
        for bad in ["", "c", "c 1:1", "d 1:1 r", "c 1 r", "c 1:1 x", "c x:1 r", "c *:1 r", "c 1:1 r w"] {
            assert_eq!(device_rule(bad), None, "{bad}");
        }
    }
}
