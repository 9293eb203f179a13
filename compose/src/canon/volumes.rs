//! `[SOURCE:]TARGET[:OPTIONS]` of volumes and devices becomes the long form.

use super::Canon;
use crate::report::Mark;
use crate::yaml::{Entry, Map, Node, Value};

impl Canon<'_> {
    pub(super) fn volumes(&mut self, service: &mut Map, path: &str) {
        let Some(Value::List(list)) = service.get_mut("volumes").map(|n| &mut n.value) else { return };
        for (index, node) in list.iter_mut().enumerate() {
            let path = format!("{path}.volumes[{index}]");
            if let Some(text) = node.as_text() {
                let text = text.to_owned();
                if let Some(long) = self.volume(&text, node.mark, &path) {
                    *node = Node { tag: node.tag, ..long };
                }
                continue;
            }
            let Some(fields) = node.as_map_mut() else { continue };
            if fields.get("type").and_then(Node::as_text) == Some("bind") {
                self.absolute(fields, "source");
            }
        }
    }

    fn volume(&mut self, text: &str, mark: Mark, path: &str) -> Option<Node> {
        let hint = "write \"SOURCE:TARGET\" or \"SOURCE:TARGET:ro\"";
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => (None, *target, ""),
            [source, target] => (Some(*source), *target, ""),
            [source, target, options] => (Some(*source), *target, *options),
            _ => {
                self.report.invalid_hint(mark, path, format!("{text:?} has too many colons"), hint);
                return None;
            }
        };
        if target.is_empty() || source == Some("") {
            self.report.invalid_hint(mark, path, format!("{text:?} has an empty part"), hint);
            return None;
        }
        let is_path = |s: &str| s.starts_with(['.', '/', '~']);
        let bind = source.filter(|s| is_path(s));
        let kind = if bind.is_some() { "bind" } else { "volume" };
        let mut entries = vec![Entry::new("type", Node::text(kind, mark))];
        let mut inner = Vec::new();
        if let Some(source) = source {
            let source = if bind.is_some() { self.path(source) } else { source.to_owned() };
            entries.push(Entry::new("source", Node::text(source, mark)));
        }
        entries.push(Entry::new("target", Node::text(target, mark)));
        if bind.is_some() {
            inner.push(Entry::new("create_host_path", Node::plain("true", mark)));
        }
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let field = |key, value: &str| Entry::new(key, Node::plain(value, mark));
            match option {
                "ro" => entries.push(field("read_only", "true")),
                "rw" => {}
                "z" | "Z" => inner.push(field("selinux", option)),
                "nocopy" if bind.is_none() => inner.push(field("nocopy", "true")),
                "cached" | "consistent" | "delegated" => entries.push(field("consistency", option)),
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if bind.is_some() => {
                    inner.push(field("propagation", option));
                }
                unknown => {
                    self.report.invalid(mark, path, format!("unknown option {unknown:?}"));
                    return None;
                }
            }
        }
        if !inner.is_empty() {
            entries.push(Entry::new(kind, Node::map(inner, mark)));
        }
        Some(Node::map(entries, mark))
    }

    /// `SOURCE[:TARGET[:PERMISSIONS]]`.
    pub(super) fn devices(&mut self, service: &mut Map, path: &str) {
        let Some(Value::List(list)) = service.get_mut("devices").map(|n| &mut n.value) else { return };
        for (index, node) in list.iter_mut().enumerate() {
            let Some(text) = node.as_text() else { continue };
            let parts: Vec<&str> = text.split(':').collect();
            let (source, target, permissions) = match parts.as_slice() {
                [source] => (*source, *source, "rwm"),
                [source, second] if !second.starts_with('/') => (*source, *source, *second),
                [source, target] => (*source, *target, "rwm"),
                [source, target, permissions] => (*source, *target, *permissions),
                _ => {
                    let path = format!("{path}.devices[{index}]");
                    let message = format!("{text:?} has too many colons");
                    self.report.invalid_hint(node.mark, &path, message, "write \"/dev/x:/dev/y:rwm\"");
                    continue;
                }
            };
            let field = |key, value: &str| Entry::new(key, Node::text(value, node.mark));
            let entries =
                vec![field("source", source), field("target", target), field("permissions", permissions)];
            *node = Node { tag: node.tag, ..Node::map(entries, node.mark) };
        }
    }
}
