//! `[SOURCE:]TARGET[:OPTIONS]` of volumes and devices becomes the long form.

use super::Canon;
use crate::report::Mark;
use crate::source::clean;
use crate::yaml::{Entry, Map, Node, Value};

impl Canon<'_> {
    pub(super) fn volumes(&mut self, service: &mut Map, path: &str) {
        let Some(Value::List(list)) = service.get_mut("volumes").map(|n| &mut n.value) else { return };
        for (index, node) in list.iter_mut().enumerate() {
            let path = format!("{path}.volumes[{index}]");
            if self.report.opaque(node) {
                continue;
            }
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
        match mount(&sections(text), text, mark) {
            Ok((mut node, unknown)) => {
                for option in unknown {
                    self.report.note(
                        mark,
                        &format!("{path}.{option}"),
                        "it is not known as an option and left out",
                    );
                }
                if let Some(fields) = node.as_map_mut()
                    && fields.get("type").and_then(Node::as_text) == Some("bind")
                {
                    self.absolute(fields, "source");
                }
                Some(node)
            }
            Err(why) => {
                let hint = "write \"SOURCE:TARGET\" or \"SOURCE:TARGET:ro\"";
                self.report.invalid_hint(mark, path, why, hint);
                None
            }
        }
    }

    /// `SOURCE[:TARGET[:PERMISSIONS]]`.
    pub(super) fn devices(&mut self, service: &mut Map, path: &str) {
        let Some(Value::List(list)) = service.get_mut("devices").map(|n| &mut n.value) else { return };
        for (index, node) in list.iter_mut().enumerate() {
            let Some(text) = node.as_text().filter(|_| !self.report.opaque(node)) else { continue };
            let parts: Vec<&str> = text.split(':').collect();
            let (source, target, permissions) = match parts.as_slice() {
                [source] | [source, ""] => (*source, *source, "rwm"),
                [source, target] => (*source, *target, "rwm"),
                [source, "", permissions] => (*source, *source, *permissions),
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

/// The parts between colons; a letter alone and its colon are the drive of a Windows path and belong to what follows.
fn sections(text: &str) -> Vec<String> {
    if text.len() <= 2 {
        return vec![text.to_owned()];
    }
    let mut out: Vec<String> = Vec::new();
    for part in text.split(':') {
        match out.last_mut() {
            Some(drive) if drive.len() == 1 && drive.starts_with(char::is_alphabetic) => {
                drive.push(':');
                drive.push_str(part);
            }
            _ => out.push(part.to_owned()),
        }
    }
    out
}

/// `C:\x`, `C:/x`, `\\pipe`.
pub(super) fn is_windows_path(text: &str) -> bool {
    let mut chars = text.chars();
    let drive = chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.next() == Some(':');
    text.starts_with("\\\\") || (drive && chars.next().is_some_and(|c| c == '/' || c == '\\'))
}

/// The long form of a mount given in parts, and options that nobody knows.
fn mount<'a>(parts: &'a [String], text: &str, mark: Mark) -> Result<(Node, Vec<&'a str>), String> {
    let (source, target, options) = match parts {
        [target] => (None, target.as_str(), ""),
        [source, target] => (Some(source.as_str()), target.as_str(), ""),
        [source, target, options] => (Some(source.as_str()), target.as_str(), options.as_str()),
        _ => return Err(format!("{text:?} has too many colons")),
    };
    if parts.iter().any(String::is_empty) {
        return Err(format!("{text:?} has an empty part"));
    }
    let drive = |s: &str| s.starts_with(char::is_alphabetic) && s.get(1..2) == Some(":");
    let is_path = |s: &str| s.starts_with(['.', '/', '~']) || s.starts_with("\\\\") || drive(s);
    let bind = source.is_some_and(is_path);
    let kind = if bind { "bind" } else { "volume" };
    let mut entries = vec![Entry::new("type", Node::text(kind, mark))];
    let (mut of_bind, mut of_volume) = (Vec::new(), Vec::new());
    entries.extend(source.map(|source| Entry::new("source", Node::text(source, mark))));
    entries.push(Entry::new("target", Node::text(clean(target), mark)));
    let mut odd = Vec::new();
    if bind {
        of_bind.push(Entry::new("create_host_path", Node::plain("true", mark)));
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let field = |key, value: &str| Entry::new(key, Node::plain(value, mark));
        match option {
            "ro" => entries.push(field("read_only", "true")),
            // How a mount is cached between a Mac and its virtual machine.
            "rw" | "cached" | "consistent" | "delegated" => {}
            "z" | "Z" => of_bind.push(field("selinux", option)),
            "nocopy" => of_volume.push(field("nocopy", "true")),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                of_bind.push(field("propagation", option));
            }
            unknown => odd.push(unknown),
        }
    }
    if !of_bind.is_empty() {
        entries.push(Entry::new("bind", Node::map(of_bind, mark)));
    }
    if !of_volume.is_empty() || (!bind && text.len() > 2) {
        entries.push(Entry::new("volume", Node::map(of_volume, mark)));
    }
    Ok((Node::map(entries, mark), odd))
}

/// Docker Compose takes `v:/data` for a path on a Windows drive. There are none here: a mount that was read so becomes
/// what its writer meant, the volume `v`.
pub(crate) fn undrive(root: &mut Node) {
    let services = root.as_map_mut().and_then(|m| m.get_mut("services")).and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(|s| s.entries.iter_mut()) {
        let Some(service) = service.value.as_map_mut() else { continue };
        let Some(Value::List(list)) = service.get_mut("volumes").map(|n| &mut n.value) else { continue };
        for node in list {
            let Some(meant) = meant(node) else { continue };
            *node = Node { tag: node.tag, ..meant };
        }
    }
}

fn meant(node: &Node) -> Option<Node> {
    let fields = node.as_map()?;
    let text = |key: &str| fields.get(key).and_then(Node::as_text);
    let (source, target) = (text("source"), text("target")?);
    let drive = |s: &str| is_windows_path(s) && s.as_bytes().get(2) == Some(&b'/');
    let parts: Vec<String> = match source {
        None if drive(target) => target.splitn(2, ':').map(str::to_owned).collect(),
        Some(source) if drive(source) && !target.starts_with('/') => {
            source.splitn(2, ':').chain([target]).map(str::to_owned).collect()
        }
        _ => return None,
    };
    mount(&parts, &parts.join(":"), node.mark).ok().map(|(node, _)| node)
}
