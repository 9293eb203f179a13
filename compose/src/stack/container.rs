//! The keys of a service that a container has one for one.

use std::collections::BTreeMap;

use carrack_api::{ContainerSpec, Device, Namespace, Ulimit, parse_signal};

use super::Build;
use crate::fields::{Fields, Item};
use crate::suggest;
use crate::yaml::Node;

/// Limits of a process that Linux knows.
const ULIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

impl Build<'_> {
    pub(super) fn container(&mut self, fields: &mut Fields<'_>) -> ContainerSpec {
        let mut out = ContainerSpec::default();
        self.process(fields, &mut out);
        self.names(fields, &mut out);
        out.init = fields.take("init").and_then(|i| i.bool(self.report));
        out.tty = self.flag(fields, "tty");
        out.stdin_open = self.flag(fields, "stdin_open");
        out.read_only = self.flag(fields, "read_only");
        out.shm_size = fields.take("shm_size").and_then(|i| i.bytes(self.report));
        out.oom_score_adj = fields.take("oom_score_adj").and_then(|i| i.number(self.report));
        out.ulimits = self.ulimits(fields);
        out.sysctls = fields.take("sysctls").map(|i| i.labels(self.report)).unwrap_or_default();
        out.devices = self.devices(fields);
        out.device_rules = self.device_rules(fields);
        out.pull = self.pull(fields);
        out.pid = self.namespace(fields, "pid", &[]);
        out.ipc = self.namespace(fields, "ipc", &["private", "shareable"]);
        out.uts = self.namespace(fields, "uts", &[]);
        out.post_start = self.hooks(fields, "post_start");
        out.pre_stop = self.hooks(fields, "pre_stop");
        out.cgroup = self.namespace(fields, "cgroup", &["private"]);
        self.users(fields);
        out
    }

    fn flag(&mut self, fields: &mut Fields<'_>, key: &'static str) -> bool {
        fields.take(key).and_then(|i| i.bool(self.report)).unwrap_or(false)
    }

    fn process(&mut self, fields: &mut Fields<'_>, out: &mut ContainerSpec) {
        out.entrypoint = fields.take("entrypoint").map(|i| i.texts(self.report));
        out.command = fields.take("command").map(|i| i.texts(self.report));
        out.user = fields.take("user").and_then(|i| i.text(self.report)).filter(|u| !u.is_empty());
        out.groups = fields.take("group_add").map(|i| i.texts(self.report)).unwrap_or_default();
        out.working_dir =
            fields.take("working_dir").and_then(|i| i.text(self.report)).filter(|d| !d.is_empty());
        out.stop_grace = fields.take("stop_grace_period").and_then(|i| i.duration(self.report));
        if let Some(item) = fields.take("stop_signal")
            && let Some(signal) = item.text(self.report)
        {
            if parse_signal(&signal).is_none() {
                let hint = "for example SIGTERM, SIGINT or SIGQUIT";
                item.invalid_hint(format!("there is no signal {signal:?}"), hint, self.report);
            }
            out.stop_signal = Some(signal);
        }
    }

    fn names(&mut self, fields: &mut Fields<'_>, out: &mut ContainerSpec) {
        out.hostname = fields.take("hostname").and_then(|i| i.text(self.report)).filter(|h| !h.is_empty());
        out.domainname =
            fields.take("domainname").and_then(|i| i.text(self.report)).filter(|d| !d.is_empty());
        out.dns = fields.take("dns").map(|i| i.texts(self.report)).unwrap_or_default();
        out.dns_search = fields.take("dns_search").map(|i| i.texts(self.report)).unwrap_or_default();
        out.dns_options = fields.take("dns_opt").map(|i| i.texts(self.report)).unwrap_or_default();
        if let Some(item) = fields.take("extra_hosts") {
            for (name, addresses) in item.entries(self.report) {
                for address in addresses.texts(self.report) {
                    let address = address.trim_start_matches('[').trim_end_matches(']').to_owned();
                    out.extra_hosts.push((name.to_owned(), address));
                }
            }
        }
    }

    pub(super) fn ulimits(&mut self, fields: &mut Fields<'_>) -> BTreeMap<String, Ulimit> {
        let mut out = BTreeMap::new();
        let Some(item) = fields.take("ulimits") else { return out };
        for (name, item) in item.entries(self.report) {
            if !ULIMITS.contains(&name) {
                let hint = suggest::nearest(name, ULIMITS).map(|n| format!("did you mean `{n}`?"));
                let kind = crate::report::DiagnosticKind::UnknownKey;
                self.report.problem(kind, item.mark(), &item.path, "unknown limit", hint);
                continue;
            }
            let limit = if item.node.as_map().is_some() {
                let Some(mut fields) = Fields::open(&item, self.report) else { continue };
                let soft = fields.take("soft").and_then(|i| i.int(self.report));
                let hard = fields.take("hard").and_then(|i| i.int(self.report));
                fields.finish(&[], self.report);
                soft.zip(hard)
            } else {
                item.int(self.report).map(|both| (both, both))
            };
            match limit {
                Some((soft, hard)) if soft >= -1 && hard >= -1 => {
                    out.insert(name.to_owned(), Ulimit { soft, hard });
                }
                Some(_) => item.invalid("a limit is -1 (unlimited), 0 or more", self.report),
                None if item.node.as_map().is_some() => {
                    item.invalid("a limit needs `soft` and `hard`", self.report);
                }
                None => {}
            }
        }
        out
    }

    fn devices(&mut self, fields: &mut Fields<'_>) -> Vec<Device> {
        let mut out = Vec::new();
        let Some(item) = fields.take("devices") else { return out };
        for item in item.items(self.report) {
            let Some(mut fields) = Fields::open(&item, self.report) else { continue };
            let mut text = |key| fields.take(key).and_then(|i| i.text(self.report));
            let (source, target, permissions) = (text("source"), text("target"), text("permissions"));
            fields.finish(&[], self.report);
            let source = source.unwrap_or_default();
            if !source.starts_with('/') {
                item.listed("services.devices", "VENDOR/CLASS=NAME (CDI)", self.report);
                continue;
            }
            let permissions = permissions.filter(|p| !p.is_empty()).unwrap_or_else(|| "rwm".into());
            if !permissions.chars().all(|c| "rwm".contains(c)) {
                item.invalid(format!("permissions {permissions:?} are not of r, w and m"), self.report);
            }
            let target = target.filter(|t| !t.is_empty()).unwrap_or_else(|| source.clone());
            out.push(Device { source, target, permissions });
        }
        out
    }

    fn namespace(&mut self, fields: &mut Fields<'_>, key: &'static str, own: &[&str]) -> Namespace {
        let Some(item) = fields.take(key) else { return Namespace::Private };
        match item.node.as_text() {
            Some("host") => return Namespace::Host,
            Some("shareable") if own.contains(&"shareable") => {
                item.listed("services.ipc", "shareable", self.report);
            }
            Some(word) if word.is_empty() || own.contains(&word) => {}
            Some(word) if key == "ipc" && (shares(word) || word == "none") => {
                item.listed("services.ipc", "service:NAME, container:NAME, none", self.report);
            }
            Some(word) if key == "pid" && shares(word) => {
                item.listed("services.pid", "service:NAME, container:NAME", self.report);
            }
            Some(_) | None => item.invalid_hint("expected host", "or leave it out", self.report),
        }
        Namespace::Private
    }

    fn users(&mut self, fields: &mut Fields<'_>) {
        if let Some(item) = fields.take("userns_mode")
            && item.node.as_text().is_none_or(|mode| !["", "host"].contains(&mode))
        {
            item.listed("services.userns_mode", "others", self.report);
        }
    }
}

/// `service:x` or `container:x`.
pub(super) fn shares(word: &str) -> bool {
    word.starts_with("service:") || word.starts_with("container:")
}

/// The text of a node, for keys that are read twice.
pub(super) fn text_of(item: &Item<'_>) -> Option<String> {
    Node::as_text(item.node).map(str::to_owned)
}
