//! Top-level networks and volumes.

use carrack_api::{NetworkName, NetworkSpec, VolumeName, VolumeSpec};

use super::Build;
use super::local::Instead;
use crate::fields::{Fields, Item};
use crate::report::Mark;

/// A network of the file.
pub(super) struct NetworkDef {
    pub(super) spec: NetworkSpec,
    pub(super) mark: Mark,
}

/// A volume of the file.
pub(super) struct VolumeDef {
    pub(super) name: VolumeName,
    pub(super) spec: VolumeSpec,
    /// Mounted in its place.
    pub(super) instead: Option<Instead>,
    pub(super) mark: Mark,
}

impl Build<'_> {
    pub(super) fn top_level(&mut self, root: &mut Fields<'_>, stack: &str) {
        for (key, item) in root.take("networks").map(|i| i.entries(self.report)).unwrap_or_default() {
            if let Some(spec) = self.network(key, &item, stack) {
                self.networks.insert(key.to_owned(), NetworkDef { spec, mark: item.mark() });
            }
        }
        if !self.networks.contains_key("default")
            && let Ok(name) = NetworkName::new(format!("{stack}_default"))
        {
            let spec = NetworkSpec { name, internal: false, external: false, labels: Default::default() };
            self.networks.insert("default".into(), NetworkDef { spec, mark: Mark::default() });
        }
        for (key, item) in root.take("volumes").map(|i| i.entries(self.report)).unwrap_or_default() {
            if let Some(volume) = self.volume(key, &item, stack) {
                self.volumes.insert(key.to_owned(), volume);
            }
        }
        self.contents(root, stack);
    }

    /// `external: true`, and the old form `external: {name: x}`.
    pub(super) fn external(&mut self, fields: &mut Fields<'_>) -> (bool, Option<String>) {
        let Some(item) = fields.take("external") else { return (false, None) };
        if item.node.as_map().is_none() {
            return (item.bool(self.report).unwrap_or(false), None);
        }
        let Some(mut inner) = Fields::open(&item, self.report) else { return (false, None) };
        let name = inner.take("name").and_then(|n| n.text(self.report));
        inner.finish(&[], self.report);
        (true, name)
    }

    /// The cluster-wide name: what the file gives, the key itself when it is made elsewhere, else `STACK_KEY`.
    pub(super) fn full_name(
        fields: (Option<String>, Option<String>),
        external: bool,
        key: &str,
        stack: &str,
    ) -> String {
        let default = || if external { key.to_owned() } else { format!("{stack}_{key}") };
        fields.0.or(fields.1).filter(|name| !name.is_empty()).unwrap_or_else(default)
    }

    fn network(&mut self, key: &str, item: &Item<'_>, stack: &str) -> Option<NetworkSpec> {
        if let Err(error) = NetworkName::new(key) {
            item.invalid(error.to_string(), self.report);
            return None;
        }
        let (mut external, mut internal, mut name) =
            (false, false, Self::full_name((None, None), false, key, stack));
        let mut labels = std::collections::BTreeMap::new();
        if let Some(mut fields) = Fields::open(item, self.report) {
            let written = fields.take("name").and_then(|i| i.text(self.report));
            let (is_external, old) = self.external(&mut fields);
            external = is_external;
            name = Self::full_name((written, old), external, key, stack);
            internal = fields.take("internal").and_then(|i| i.bool(self.report)).unwrap_or(false);
            self.network_driver(&mut fields);
            fields.listed("attachable", "networks.attachable", self.report);
            labels = fields.take("labels").map(|i| i.labels(self.report)).unwrap_or_default();
            fields.listed("ipam", "networks.ipam", self.report);
            if let Some(item) = fields.take("enable_ipv4")
                && item.bool(self.report) == Some(false)
            {
                item.listed("networks.enable_ipv4", "false", self.report);
            }
            if let Some(item) = fields.take("enable_ipv6")
                && item.bool(self.report) == Some(true)
            {
                item.listed("networks.enable_ipv6", "", self.report);
            }
            fields.finish(&[], self.report);
        }
        match NetworkName::new(name) {
            Ok(name) => Some(NetworkSpec { name, internal, external, labels }),
            Err(error) => {
                item.invalid(error.to_string(), self.report);
                None
            }
        }
    }

    fn network_driver(&mut self, fields: &mut Fields<'_>) {
        if let Some(item) = fields.take("driver")
            && let Some(driver) = item.text(self.report)
        {
            match driver.as_str() {
                "" | "default" | "bridge" | "overlay" => {}
                _ => item.listed("networks.driver", "others", self.report),
            }
        }
        fields.listed("driver_opts", "networks.driver_opts", self.report);
    }

    fn volume(&mut self, key: &str, item: &Item<'_>, stack: &str) -> Option<VolumeDef> {
        let (mut spec, mut instead) = (VolumeSpec::default(), None);
        let mut name = Self::full_name((None, None), false, key, stack);
        if let Some(mut fields) = Fields::open(item, self.report) {
            let written = fields.take("name").and_then(|i| i.text(self.report));
            let (external, old) = self.external(&mut fields);
            spec.external = external;
            name = Self::full_name((written, old), external, key, stack);
            spec.labels = fields.take("labels").map(|i| i.labels(self.report)).unwrap_or_default();
            if let Some(item) = fields.take("driver")
                && let Some(driver) = item.text(self.report)
                && !["", "default", "local"].contains(&driver.as_str())
            {
                item.listed("volumes.driver", "others", self.report);
            }
            if let Some(item) = fields.take("driver_opts")
                && item.node.as_map().is_some_and(|m| !m.entries.is_empty())
            {
                instead = self.local_options(&item);
            }
            fields.finish(&[], self.report);
        }
        match VolumeName::new(name) {
            Ok(name) => Some(VolumeDef { name, spec, instead, mark: item.mark() }),
            Err(error) => {
                item.invalid(error.to_string(), self.report);
                None
            }
        }
    }
}
