//! What names and values of a project mean for each other: names that nothing has, keys that exclude each other, values
//! that contradict. Owns these checks; types of single values are checked with the file that they stand in.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{INACTIVE, cycles};
use crate::check::{at, join};
use crate::keys::{self, SERVICE, Shape};
use crate::report::{Mark, Report};
use crate::suggest;
use crate::yaml::{Entry, Map, Node};

/// Checks a project in normal form.
pub(super) fn check(root: &Map, report: &mut Report) {
    let mut check = Check { root, report };
    for entry in check.section("services") {
        match entry.value.as_map() {
            Some(service) => check.service(service, entry),
            None if entry.value.is_null() => check.no_image(entry),
            // Of another type: told when the file was checked.
            None => {}
        }
    }
    check.container_names();
    check.resources();
    check.circles();
}

struct Check<'a, 'r> {
    root: &'a Map,
    report: &'r mut Report,
}

fn text<'a>(map: &'a Map, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Node::as_text).filter(|t| !t.is_empty())
}

fn is_true(map: &Map, key: &str) -> bool {
    map.get(key).is_some_and(|n| keys::scalar(&Shape::Bool, n).is_ok_and(|v| v == true))
}

fn mappings<'a>(map: &'a Map, key: &str) -> impl Iterator<Item = (usize, Mark, &'a Map)> {
    let list = map.get(key).and_then(Node::as_list).unwrap_or_default();
    list.iter().enumerate().filter_map(|(index, node)| Some((index, node.mark, node.as_map()?)))
}

/// A value by the names of its keys.
fn below<'a>(map: &'a Map, keys: &[&str]) -> Option<&'a Node> {
    let (last, above) = keys.split_last()?;
    let mut map = map;
    for key in above {
        map = map.get(key)?.as_map()?;
    }
    map.get(last).filter(|n| !n.is_null())
}

impl<'a> Check<'a, '_> {
    fn section(&self, name: &str) -> &'a [Entry] {
        self.root.get(name).and_then(Node::as_map).map(|m| m.entries.as_slice()).unwrap_or_default()
    }

    fn has(&self, section: &str, name: &str) -> bool {
        self.root.get(section).and_then(Node::as_map).is_some_and(|m| m.get(name).is_some())
    }

    /// A name that must be one of a section.
    fn known(&mut self, section: &str, name: &str, mark: Mark, path: &str) {
        if self.has(section, name) {
            return;
        }
        let names = self.section(section).iter().map(|e| e.key.as_str());
        let what = section.trim_end_matches('s');
        let message = match section {
            "secrets" | "configs" | "models" => format!("there is no {what} {name:?} at the top of the file"),
            _ => format!("there is no {what} {name} in this file"),
        };
        match suggest::nearest(name, names) {
            Some(meant) => self.report.invalid_hint(mark, path, message, format!("did you mean `{meant}`?")),
            None if section == "volumes" => {
                let hint =
                    format!("add `volumes: {{{name}: {{}}}}` at the top, or write ./{name} for a directory");
                self.report.invalid_hint(mark, path, message, hint);
            }
            None if section == "services" => self.report.invalid(mark, path, message),
            None => {
                self.report.invalid_hint(
                    mark,
                    path,
                    message,
                    format!("add it under `{section}:` at the top"),
                );
            }
        }
    }

    fn service(&mut self, service: &'a Map, entry: &Entry) {
        let path = format!("services.{}", entry.key);
        if text(service, "image").is_none()
            && service.get("build").is_none()
            && service.get("provider").is_none()
        {
            self.no_image(entry);
        }
        self.build(service, &path);
        self.names(service, &path);
        self.dependencies(service, &path);
        self.scale(service, &path);
        self.limits(service, &path);
        self.mounts(service, &path);
        self.watches(service, &path);
        self.devices(service, &path);
    }

    fn no_image(&mut self, entry: &Entry) {
        let path = format!("services.{}", entry.key);
        let hint = "for example `image: nginx:1.27`, or `build: .`";
        self.report.invalid_hint(entry.mark, &path, "the service has neither an image nor a build", hint);
    }

    fn build(&mut self, service: &'a Map, path: &str) {
        let Some(build) = service.get("build").and_then(Node::as_map) else { return };
        let path = format!("{path}.build");
        if let (Some(inline), Some(_)) = (build.get("dockerfile_inline"), text(build, "dockerfile")) {
            let message = "`dockerfile` and `dockerfile_inline` exclude each other";
            self.report.invalid(inline.mark, &join(&path, "dockerfile_inline"), message);
        }
        let contexts = build.get("additional_contexts").and_then(Node::as_map);
        for entry in contexts.map(|m| m.entries.as_slice()).unwrap_or_default() {
            let Some(other) = entry.value.as_text().and_then(|t| t.strip_prefix("service:")) else {
                continue;
            };
            let path = join(&join(&path, "additional_contexts"), &entry.key);
            self.known("services", other, entry.value.mark, &path);
            let builds = below(self.root, &["services", other, "build"]).is_some();
            if self.has("services", other) && !builds {
                self.report.invalid(entry.value.mark, &path, format!("service {other} is not built"));
            }
        }
        let platforms = build.get("platforms").and_then(Node::as_list).unwrap_or_default();
        if let (Some(first), Some(platform)) = (platforms.first(), text(service, "platform"))
            && !platforms.iter().any(|p| p.as_text() == Some(platform))
        {
            let message = format!("the platforms built for do not include {platform}, the service's own");
            self.report.invalid(first.mark, &join(&path, "platforms"), message);
        }
        for (index, mark, secret) in mappings(build, "secrets") {
            self.source("secrets", secret, mark, &at(&join(&path, "secrets"), index));
        }
    }

    /// What a secret or config of a service is made of.
    fn source(&mut self, section: &str, used: &Map, mark: Mark, path: &str) {
        match text(used, "source") {
            Some(source) => self.known(section, source, mark, path),
            None => self.report.invalid(mark, path, "`source` is missing"),
        }
    }

    /// Networks, volumes, secrets, configs and models that the service uses.
    fn names(&mut self, service: &'a Map, path: &str) {
        let networks = service.get("networks").and_then(Node::as_map);
        let networks = networks.map(|m| m.entries.as_slice()).unwrap_or_default();
        if let (Some(mode), [first, ..]) = (service.get("network_mode"), networks)
            && !mode.is_null()
        {
            let message = "`network_mode` and `networks` exclude each other";
            self.report.invalid(first.mark, &join(path, "networks"), message);
        }
        for entry in networks {
            self.known("networks", &entry.key, entry.mark, &join(&join(path, "networks"), &entry.key));
        }
        for (index, mark, volume) in mappings(service, "volumes") {
            if let (Some("volume"), Some(source)) = (text(volume, "type"), text(volume, "source")) {
                self.known("volumes", source, mark, &at(&join(path, "volumes"), index));
            }
        }
        for section in ["secrets", "configs"] {
            for (index, mark, used) in mappings(service, section) {
                self.source(section, used, mark, &at(&join(path, section), index));
            }
        }
        let models = service.get("models").and_then(Node::as_map);
        for entry in models.map(|m| m.entries.as_slice()).unwrap_or_default() {
            self.known("models", &entry.key, entry.mark, &join(&join(path, "models"), &entry.key));
        }
    }

    fn dependencies(&mut self, service: &'a Map, path: &str) {
        let map = service.get("depends_on").and_then(Node::as_map);
        for entry in map.map(|m| m.entries.as_slice()).unwrap_or_default() {
            let path = join(&join(path, "depends_on"), &entry.key);
            let required = entry.value.as_map().and_then(|m| m.get("required"));
            let required = required.is_none_or(|n| keys::scalar(&Shape::Bool, n).is_ok_and(|v| v == true));
            if !required || self.has("services", &entry.key) {
                continue;
            }
            if self.has(INACTIVE, &entry.key) {
                let message = format!("service {} is in no active profile", entry.key);
                let hint = "ask for its profile with --profile, or write `required: false`";
                self.report.invalid_hint(entry.mark, &path, message, hint);
            } else {
                self.known("services", &entry.key, entry.mark, &path);
            }
        }
    }

    /// A value of the service as the model has it.
    fn typed(&self, service: &Map, keys: &[&str]) -> Option<(Json, Mark)> {
        let mut table = SERVICE;
        let (last, above) = keys.split_last()?;
        for key in above {
            match &table.iter().find(|k| k.name == *key)?.shape {
                Shape::Map(keys) | Shape::MapOrNull(keys) => table = keys,
                _ => return None,
            }
        }
        let shape = &table.iter().find(|k| k.name == *last)?.shape;
        let node = below(service, keys)?;
        Some((keys::scalar(shape, node).ok()?, node.mark))
    }

    fn scale(&mut self, service: &Map, path: &str) {
        let scale = self.typed(service, &["scale"]);
        let replicas = self.typed(service, &["deploy", "replicas"]);
        if let (Some((a, mark)), Some((b, _))) = (&scale, &replicas)
            && a != b
        {
            let message = format!("`scale` is {a} and `deploy.replicas` {b}");
            self.report.invalid_hint(*mark, &join(path, "scale"), message, "write one of them");
        }
        let count = scale.map(|s| ("scale", s)).or(replicas.map(|r| ("deploy.replicas", r)));
        let Some((key, (value, mark))) = count else { return };
        let value = value.as_i64().unwrap_or(1);
        if value < 0 {
            self.report.invalid(mark, &join(path, key), format!("{value} is less than 0"));
        }
        if value > 1
            && let Some(name) = service.get("container_name").filter(|n| !n.is_null())
        {
            let hint = "take away container_name or the replicas; tasks are named stack/service.1, .2, ...";
            let message = "one name cannot belong to several replicas";
            self.report.invalid_hint(name.mark, &join(path, "container_name"), message, hint);
        }
    }

    /// The same limit in two places must be the same.
    fn limits(&mut self, service: &Map, path: &str) {
        const PAIRS: [(&str, &str, &str); 4] = [
            ("cpus", "limits", "cpus"),
            ("mem_limit", "limits", "memory"),
            ("mem_reservation", "reservations", "memory"),
            ("pids_limit", "limits", "pids"),
        ];
        for (key, part, field) in PAIRS {
            let other = self.typed(service, &["deploy", "resources", part, field]);
            if let (Some((a, mark)), Some((b, _))) = (self.typed(service, &[key]), other)
                && a != b
            {
                let message = format!("says something else than `deploy.resources.{part}.{field}`");
                self.report.invalid_hint(mark, &join(path, key), message, "write one of them");
            }
        }
    }

    fn mounts(&mut self, service: &Map, path: &str) {
        let mut taken: BTreeMap<&str, String> = BTreeMap::new();
        let tmpfs = service.get("tmpfs").and_then(Node::as_list).unwrap_or_default();
        let tmpfs = tmpfs.iter().enumerate().filter_map(|(index, node)| {
            let target = node.as_text()?.split(':').next()?;
            Some((target, node.mark, at(&join(path, "tmpfs"), index)))
        });
        let volumes = mappings(service, "volumes").filter_map(|(index, mark, volume)| {
            Some((text(volume, "target")?, mark, at(&join(path, "volumes"), index)))
        });
        for (target, mark, path) in tmpfs.chain(volumes) {
            if let Some(other) = taken.get(target) {
                self.report.invalid(mark, &path, format!("{target} is already mounted by {other}"));
            } else {
                taken.insert(target, path);
            }
        }
        for (index, mark, volume) in mappings(service, "volumes") {
            let path = at(&join(path, "volumes"), index);
            if text(volume, "target").is_none() {
                self.report.invalid(mark, &path, "the mount has no target");
            }
            if text(volume, "type") == Some("bind") && text(volume, "source").is_none() {
                let message = "the bind mount has no source";
                self.report.invalid_hint(mark, &path, message, "name a path of the host");
            }
        }
    }

    fn watches(&mut self, service: &Map, path: &str) {
        let Some(develop) = service.get("develop").and_then(Node::as_map) else { return };
        for (index, mark, watch) in mappings(develop, "watch") {
            let path = at(&join(path, "develop.watch"), index);
            let needs = !matches!(text(watch, "action"), Some("rebuild" | "restart") | None);
            if needs && text(watch, "target").is_none() {
                self.report.invalid(mark, &path, "an action that is not rebuild or restart needs a `target`");
            }
            if watch.get("path").is_some() && text(watch, "path").is_none() {
                self.report.invalid(mark, &join(&path, "path"), "the path is empty");
            }
        }
    }

    fn devices(&mut self, service: &Map, path: &str) {
        let reserved = below(service, &["deploy", "resources", "reservations"]).and_then(Node::as_map);
        let reserved = reserved.into_iter().flat_map(|r| mappings(r, "devices"));
        let reserved = reserved.map(|d| (d, "deploy.resources.reservations.devices"));
        for ((index, mark, device), key) in reserved.chain(mappings(service, "gpus").map(|d| (d, "gpus"))) {
            if device.get("count").is_some() && device.get("device_ids").is_some() {
                let message = "`count` and `device_ids` exclude each other";
                self.report.invalid(mark, &at(&join(path, key), index), message);
            }
        }
    }

    /// One name is that of one container.
    fn container_names(&mut self) {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in self.section("services") {
            let Some(node) = entry.value.as_map().and_then(|s| s.get("container_name")) else { continue };
            let Some(name) = node.as_text().filter(|n| !n.is_empty()) else { continue };
            if let Some(other) = taken.insert(name, &entry.key) {
                let path = format!("services.{}.container_name", entry.key);
                let message = format!("{name:?} is the name of the container of service {other} already");
                self.report.invalid(node.mark, &path, message);
            }
        }
    }

    /// Secrets and configs come from one place, and what is made elsewhere has no keys but its name.
    fn resources(&mut self) {
        for (section, sources) in
            [("secrets", &["file", "environment"][..]), ("configs", &["file", "environment", "content"][..])]
        {
            for entry in self.section(section) {
                let Some(fields) = entry.value.as_map() else { continue };
                let path = join(section, &entry.key);
                let given: Vec<&str> =
                    sources.iter().copied().filter(|s| fields.get(s).is_some_and(|n| !n.is_null())).collect();
                let list = sources.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
                match given.as_slice() {
                    [] if !is_true(fields, "external") => {
                        let hint = "or `external: true` when it is made elsewhere";
                        self.report.invalid_hint(entry.mark, &path, format!("it needs one of {list}"), hint);
                    }
                    [_, second, ..] => {
                        let mark = fields.entry(second).map_or(entry.mark, |e| e.mark);
                        self.report.invalid(mark, &path, format!("{list} exclude each other"));
                    }
                    _ => {}
                }
            }
        }
        for entry in self.section("volumes") {
            let Some(fields) = entry.value.as_map() else { continue };
            if !is_true(fields, "external") {
                continue;
            }
            let other =
                |e: &&Entry| !matches!(e.key.as_str(), "name" | "external") && !e.key.starts_with("x-");
            for odd in fields.entries.iter().filter(other) {
                let path = join(&join("volumes", &entry.key), &odd.key);
                let message = "means nothing beside `external: true`: the volume is made elsewhere";
                self.report.invalid(odd.mark, &path, message);
            }
        }
    }

    fn circles(&mut self) {
        let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for entry in self.section("services") {
            let depends = entry.value.as_map().and_then(|s| s.get("depends_on")).and_then(Node::as_map);
            let names = depends.map(|m| m.entries.iter().map(|e| e.key.as_str()).collect());
            edges.insert(&entry.key, names.unwrap_or_default());
        }
        for circle in cycles::find(&edges) {
            let Some(first) = circle.first() else { continue };
            let next = circle.get(1).unwrap_or(first);
            let depends = below(self.root, &["services", first, "depends_on"]).and_then(Node::as_map);
            let mark = depends.and_then(|m| m.entry(next)).map_or(Mark::default(), |e| e.mark);
            let path = format!("services.{first}.depends_on.{next}");
            let message =
                format!("services wait for each other in a circle: {} -> {first}", circle.join(" -> "));
            self.report.invalid(mark, &path, message);
        }
    }
}
