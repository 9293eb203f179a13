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
use crate::yaml::{Entry, Map, Node, Value};

pub(crate) use pairs::scalar_text;
pub(crate) use ports::range as port_range;

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
                    self.pairs(fields, "labels", &path);
                    self.absolute(fields, "file");
                }
            }
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
        named(service, "depends_on", |mark| {
            let field = |key, text: &str| Entry::new(key, Node::plain(text, mark));
            Node::map(vec![field("condition", "service_started"), field("required", "true")], mark)
        });
        for key in ["secrets", "configs"] {
            each_text(service, key, |text, mark| {
                Node::map(vec![Entry::new("source", Node::text(text, mark))], mark)
            });
        }
        wrapped(service, "extends", "service");
        wrapped(service, "build", "context");
        if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
            let path = format!("{path}.build");
            for key in ["args", "labels"] {
                self.pairs(build, key, &path);
            }
        }
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

    /// Makes the path in `fields[key]` absolute.
    fn absolute(&mut self, fields: &mut Map, key: &str) {
        if let Some(Value::Scalar { text, .. }) = fields.get_mut(key).map(|n| &mut n.value) {
            *text = self.path(text);
        }
    }

    /// An absolute path, with `~` for the home directory of the user.
    fn path(&self, text: &str) -> String {
        if let Some(rest) = text.strip_prefix('~')
            && (rest.is_empty() || rest.starts_with('/'))
        {
            // Without a home it stays as it is, and is refused where an absolute path is wanted.
            let Some(home) = self.env.get("HOME").filter(|h| !h.is_empty()) else { return text.to_owned() };
            return resolve(Path::new(home), rest.trim_start_matches('/')).display().to_string();
        }
        resolve(self.base, text).display().to_string()
    }
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
    let mut map = Map::default();
    for item in list {
        // What is no name stays a list, for the decoder to refuse.
        let Some(name) = item.as_text() else { return };
        map.set(name, item.mark, value(item.mark));
    }
    node.value = Value::Map(map);
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
