//! Short forms become long ones, so that merging and decoding see one form per key, and relative paths become absolute.
//! Owns every short syntax of the specification; what is malformed is told here, what is merely of the wrong type is left
//! for the decoder to tell.

mod pairs;
mod ports;
mod volumes;

use std::collections::BTreeMap;
use std::path::Path;

use crate::report::{Mark, Report};
use crate::source::resolve;
use crate::words;
use crate::yaml::{Entry, Filling, Map, Node, Tag, Value};

pub(crate) use pairs::scalar_text;
pub(crate) use ports::{range as port_range, span as port_span};
pub(crate) use volumes::undrive;

/// What the short forms of a file are read against.
pub(crate) struct Canon<'a> {
    /// Relative paths of the file start here.
    pub(crate) base: &'a Path,
    /// For `~`.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Where problems go.
    pub(crate) report: &'a mut Report,
    /// Ports that ranges may still be written out to; begins at [`PORTS_MAX`].
    pub(crate) ports_left: usize,
}

/// Published ports of one file at most, ranges written out.
pub(crate) const PORTS_MAX: usize = 20_000;

/// Service keys whose short form is one string in place of a list.
const LISTS: [&str; 7] = ["dns", "dns_search", "dns_opt", "tmpfs", "label_file", "env_file", "profiles"];

impl Canon<'_> {
    /// Brings a whole file into long form.
    pub(crate) fn file(&mut self, root: &mut Node) {
        let Some(root) = root.as_map_mut() else { return };
        if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
            for entry in &mut services.entries {
                self.service(&mut entry.value, &format!("services.{}", entry.key));
            }
        }
        for section in ["networks", "volumes", "secrets", "configs"] {
            let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) else { continue };
            for entry in &mut map.entries {
                let path = format!("{section}.{}", entry.key);
                if let Some(fields) = entry.value.as_map_mut() {
                    self.old_external(fields, &path);
                    self.pairs(fields, "labels", &path);
                    self.absolute(fields, "file");
                    if section == "volumes" {
                        self.bound_volume(fields);
                    }
                }
            }
        }
    }

    /// The name in the old form of `external` is no other than the one beside it.
    fn old_external(&mut self, fields: &Map, path: &str) {
        let old = fields.get("external").and_then(Node::as_map).and_then(|e| e.get("name"));
        if let (Some(old), Some(name)) = (old, fields.get("name"))
            && old.as_text() != name.as_text()
        {
            let message = "`name` and `external.name` are two names";
            self.report.invalid_hint(
                old.mark,
                &format!("{path}.external.name"),
                message,
                "write only `name`",
            );
        }
    }

    fn service(&mut self, node: &mut Node, path: &str) {
        let Some(service) = node.as_map_mut() else { return };
        for key in ["environment", "labels", "annotations", "sysctls"] {
            self.pairs(service, key, path);
        }
        for key in LISTS {
            listed(service, key);
        }
        for key in ["command", "entrypoint"] {
            self.command(service, key, path);
        }
        self.extra_hosts(service, path);
        self.ports(service, path);
        self.volumes(service, path);
        self.devices(service, path);
        self.env_files(service);
        self.label_files(service);
        named(service, "networks", Node::null);
        named(service, "models", Node::null);
        named(service, "depends_on", |mark| {
            let field = |key, text: &str| Entry::new(key, Node::plain(text, mark));
            Node::map(vec![field("condition", "service_started"), field("required", "true")], mark)
        });
        for key in ["secrets", "configs"] {
            each_text(service, key, of_source);
        }
        if let Some(gpus) = service.get_mut("gpus")
            && gpus.as_text() == Some("all")
        {
            let all = vec![Entry::new("count", Node::text("all", gpus.mark))];
            gpus.value = Value::List(vec![Node::map(all, gpus.mark)]);
        }
        wrapped(service, "extends", "service");
        wrapped(service, "build", "context");
        if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
            self.build(build, &format!("{path}.build"));
        }
        self.watched(service);
        if let Some(extends) = service.get_mut("extends").and_then(Node::as_map_mut) {
            self.absolute(extends, "file");
        }
        if let Some(deploy) = service.get_mut("deploy").and_then(Node::as_map_mut) {
            self.pairs(deploy, "labels", &format!("{path}.deploy"));
        }
        if let Some(test) =
            service.get_mut("healthcheck").and_then(Node::as_map_mut).and_then(|h| h.get_mut("test"))
            && let Value::Scalar { text, .. } = &test.value
        {
            let mark = test.mark;
            test.value = Value::List(vec![Node::text("CMD-SHELL", mark), Node::text(text.clone(), mark)]);
        }
    }

    /// A command of one line becomes its words.
    fn command(&mut self, service: &mut Map, key: &str, path: &str) {
        let Some(node) = service.get_mut(key) else { return };
        let Value::Scalar { text, .. } = &node.value else { return };
        let path = format!("{path}.{key}");
        match words::split(text) {
            Ok(split) => {
                if let Some(operator) = split.cut_at {
                    let text = format!(
                        "no shell runs this line, so it ends before `{operator}`, as in Docker Compose; \
                         write [\"sh\", \"-c\", \"...\"] for a shell"
                    );
                    self.report.note(node.mark, &path, text);
                }
                let mark = node.mark;
                node.value = Value::List(split.words.into_iter().map(|w| Node::text(w, mark)).collect());
            }
            Err(why) => self.report.invalid(node.mark, &path, why),
        }
    }

    fn env_files(&mut self, service: &mut Map) {
        let Some(Value::List(list)) = service.get_mut("env_file").map(|n| &mut n.value) else { return };
        for node in list {
            let mark = node.mark;
            if let Some(text) = node.as_text() {
                node.value = Value::Map(Map { entries: vec![Entry::new("path", Node::text(text, mark))] });
            }
            if let Some(fields) = node.as_map_mut() {
                self.absolute(fields, "path");
            }
        }
    }

    fn label_files(&mut self, service: &mut Map) {
        let Some(Value::List(list)) = service.get_mut("label_file").map(|n| &mut n.value) else { return };
        for node in list {
            if let Value::Scalar { text, .. } = &mut node.value {
                *text = self.path(text);
            }
        }
    }

    fn build(&mut self, build: &mut Map, path: &str) {
        if let Some(contexts) = build.get("additional_contexts").and_then(Node::as_list) {
            for (index, node) in
                contexts.iter().enumerate().filter(|(_, n)| n.as_text().is_some_and(unpaired))
            {
                let path = format!("{path}.additional_contexts[{index}]");
                self.report.invalid_hint(
                    node.mark,
                    &path,
                    "expected NAME=CONTEXT",
                    "for example \"lib=../lib\"",
                );
            }
        }
        for key in ["args", "labels", "additional_contexts"] {
            self.pairs(build, key, path);
        }
        self.ssh_keys(build, path);
        each_text(build, "secrets", of_source);
        self.extra_hosts(build, path);
        self.build_paths(build);
    }

    /// A key is the agent's own, or has a path.
    fn ssh_keys(&mut self, build: &mut Map, path: &str) {
        self.pairs(build, "ssh", path);
        let keys = build.get("ssh").and_then(Node::as_map);
        for entry in keys.into_iter().flat_map(|m| &m.entries) {
            if entry.key != "default" && entry.value.is_null() && entry.value.tag != Some(Tag::Reset) {
                let path = format!("{path}.ssh.{}", entry.key);
                self.report.invalid(entry.mark, &path, "a key is `default` or ID=PATH");
            }
        }
    }

    /// What an image is built from: a directory, unless it lies elsewhere or is another service.
    fn build_paths(&mut self, build: &mut Map) {
        let contexts = build.get_mut("additional_contexts").and_then(Node::as_map_mut);
        let more = contexts.into_iter().flat_map(|m| m.entries.iter_mut().map(|e| &mut e.value));
        for node in more {
            self.context(node);
        }
        if let Some(node) = build.get_mut("context") {
            self.context(node);
        }
        let keys = build.get_mut("ssh").and_then(Node::as_map_mut);
        for entry in keys.into_iter().flat_map(|m| m.entries.iter_mut()) {
            if let Value::Scalar { text, .. } = &mut entry.value.value {
                *text = self.path(text);
            }
        }
    }

    fn context(&self, node: &mut Node) {
        const ELSEWHERE: [&str; 4] = ["service:", "git@", "github.com/", "docker-image:"];
        if let Value::Scalar { text, .. } = &mut node.value
            && !text.contains("://")
            && !ELSEWHERE.iter().any(|start| text.starts_with(start))
        {
            *text = self.path(text);
        }
    }

    fn watched(&mut self, service: &mut Map) {
        let develop = service.get_mut("develop").and_then(Node::as_map_mut);
        let Some(Value::List(list)) = develop.and_then(|d| d.get_mut("watch")).map(|n| &mut n.value) else {
            return;
        };
        for fields in list.iter_mut().filter_map(Node::as_map_mut) {
            self.absolute(fields, "path");
        }
    }

    /// A volume that is a directory of the host.
    fn bound_volume(&mut self, fields: &mut Map) {
        let is = |map: &Map, key: &str, value: &str| map.get(key).and_then(Node::as_text) == Some(value);
        if !is(fields, "driver", "local") {
            return;
        }
        if let Some(options) = fields.get_mut("driver_opts").and_then(Node::as_map_mut)
            && is(options, "o", "bind")
        {
            self.absolute(options, "device");
        }
    }

    /// Makes the path in `fields[key]` absolute.
    fn absolute(&mut self, fields: &mut Map, key: &str) {
        if let Some(Value::Scalar { text, .. }) = fields.get_mut(key).map(|n| &mut n.value) {
            *text = self.path(text);
        }
    }

    /// An absolute path, with `~` for the home directory of the user; one that is absolute already stays as it is.
    fn path(&self, text: &str) -> String {
        if let Some(rest) = text.strip_prefix('~')
            && let Some(home) = self.env.get("HOME").filter(|h| !h.is_empty())
        {
            return resolve(Path::new(home), rest.trim_start_matches('/')).display().to_string();
        }
        let open = self.report.keeps_variables() && text.starts_with('$');
        if open || text.is_empty() || text.starts_with(['/', '~']) || volumes::is_windows_path(text) {
            // Without a home `~` stays as it is, and is refused where an absolute path is wanted.
            return text.to_owned();
        }
        resolve(self.base, text).display().to_string()
    }
}

/// What is built without saying from where is built from the directory of the project.
pub(crate) fn contexts(root: &mut Node, dir: &Path) {
    let services = root.as_map_mut().and_then(|m| m.get_mut("services")).and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(|s| s.entries.iter_mut()) {
        let build = service.value.as_map_mut().and_then(|s| s.get_mut("build"));
        let Some((mark, build)) = build.and_then(|b| Some((b.mark, b.as_map_mut()?))) else { continue };
        if build.get("context").is_none() {
            build.set("context", mark, Node::text(dir.display().to_string(), mark));
        }
    }
}

/// A name alone where a pair is wanted.
fn unpaired(text: &str) -> bool {
    !text.contains('=')
}

/// A secret or config by its name.
fn of_source(name: &str, mark: Mark) -> Node {
    Node::map(vec![Entry::new("source", Node::text(name, mark))], mark)
}

/// One string becomes a list of it.
fn listed(service: &mut Map, key: &str) {
    if let Some(node) = service.get_mut(key)
        && matches!(node.value, Value::Scalar { .. } | Value::Map(_))
    {
        let inner = Node { tag: None, ..node.clone() };
        node.value = Value::List(vec![inner]);
    }
}

/// One string becomes a mapping with it under `field`.
fn wrapped(service: &mut Map, key: &str, field: &str) {
    if let Some(node) = service.get_mut(key)
        && let Value::Scalar { text, .. } = &node.value
    {
        let value = Node::text(text.clone(), node.mark);
        node.value = Value::Map(Map { entries: vec![Entry::new(field, value)] });
    }
}

/// A list of names becomes a mapping from them.
fn named(service: &mut Map, key: &str, value: impl Fn(Mark) -> Node) {
    let Some(node) = service.get_mut(key) else { return };
    let Value::List(list) = &node.value else { return };
    let mut map = Filling::default();
    for item in list {
        // What is no name stays a list, for the decoder to refuse.
        let Some(name) = item.as_text() else { return };
        map.set(name, item.mark, value(item.mark));
    }
    node.value = Value::Map(map.finish());
}

/// Strings of a list become what `long` makes of them.
fn each_text(service: &mut Map, key: &str, long: impl Fn(&str, Mark) -> Node) {
    let Some(Value::List(list)) = service.get_mut(key).map(|n| &mut n.value) else { return };
    for node in list {
        if let Some(text) = node.as_text() {
            *node = Node { tag: node.tag, ..long(text, node.mark) };
        }
    }
}
