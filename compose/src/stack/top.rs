//! Top-level networks, volumes, secrets and configs.

use carrack_api::{NetworkName, NetworkSpec, VolumeName, VolumeSpec};

use super::Build;
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
            let spec = NetworkSpec { name, internal: false, external: false };
            self.networks.insert("default".into(), NetworkDef { spec, mark: Mark::default() });
        }
        for (key, item) in root.take("volumes").map(|i| i.entries(self.report)).unwrap_or_default() {
            if let Some((name, spec)) = self.volume(key, &item, stack) {
                self.volumes.insert(key.to_owned(), VolumeDef { name, spec, mark: item.mark() });
            }
        }
        for (key, item) in root.take("secrets").map(|i| i.entries(self.report)).unwrap_or_default() {
            self.stored(&item);
            self.secrets.insert(key.to_owned());
        }
        for (key, item) in root.take("configs").map(|i| i.entries(self.report)).unwrap_or_default() {
            self.stored(&item);
            self.configs.insert(key.to_owned());
        }
    }

    /// `external: true`, and the old form `external: {name: x}`.
    fn external(&mut self, fields: &mut Fields<'_>) -> (bool, Option<String>) {
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
    fn full_name(fields: (Option<String>, Option<String>), external: bool, key: &str, stack: &str) -> String {
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
        if let Some(mut fields) = Fields::open(item, self.report) {
            let written = fields.take("name").and_then(|i| i.text(self.report));
            let (is_external, old) = self.external(&mut fields);
            external = is_external;
            name = Self::full_name((written, old), external, key, stack);
            internal = fields.take("internal").and_then(|i| i.bool(self.report)).unwrap_or(false);
            self.network_driver(&mut fields);
            fields.note("attachable", "every network is open to further tasks", self.report);
            fields.note("labels", "labels of networks are not kept", self.report);
            fields.note("ipam", "addresses come from the cluster's own range", self.report);
            if let Some(item) = fields.take("enable_ipv4")
                && item.bool(self.report) == Some(false)
            {
                item.unsupported("networks without IPv4 are not built yet", None, self.report);
            }
            if let Some(item) = fields.take("enable_ipv6")
                && item.bool(self.report) == Some(true)
            {
                item.note("addresses are IPv4 only for now", self.report);
            }
            fields.finish(&[], self.report);
        }
        match NetworkName::new(name) {
            Ok(name) => Some(NetworkSpec { name, internal, external }),
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
                other => {
                    let hint = Some("use bridge or overlay, which are the same here, or leave it out");
                    item.unsupported(format!("there is no network driver {other:?}"), hint, self.report);
                }
            }
        }
        fields.note("driver_opts", "options of a network's driver mean nothing here", self.report);
    }

    fn volume(&mut self, key: &str, item: &Item<'_>, stack: &str) -> Option<(VolumeName, VolumeSpec)> {
        let mut spec = VolumeSpec::default();
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
                let hint = Some("use local, or leave it out");
                item.unsupported(format!("there is no volume driver {driver:?}"), hint, self.report);
            }
            if let Some(item) = fields.take("driver_opts")
                && item.node.as_map().is_some_and(|m| !m.entries.is_empty())
            {
                let hint = Some("mount it on the host and use a bind mount");
                item.unsupported("options of a volume's driver are not built yet", hint, self.report);
            }
            fields.finish(&[], self.report);
        }
        match VolumeName::new(name) {
            Ok(name) => Some((name, spec)),
            Err(error) => {
                item.invalid(error.to_string(), self.report);
                None
            }
        }
    }

    /// A secret or config: its own keys are checked; that it cannot be used yet is told where it is used.
    fn stored(&mut self, item: &Item<'_>) {
        let Some(mut fields) = Fields::open(item, self.report) else { return };
        for key in
            ["file", "environment", "content", "name", "labels", "driver", "driver_opts", "template_driver"]
        {
            fields.take(key);
        }
        self.external(&mut fields);
        fields.finish(&[], self.report);
    }
}
