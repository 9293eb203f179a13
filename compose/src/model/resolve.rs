//! `env_file` and `label_file`: what they hold becomes part of the service. Owns in which order values win.

use std::collections::BTreeMap;
use std::path::Path;

use super::Environment;
use crate::check::at;
use crate::dotenv;
use crate::report::{DiagnosticKind, Mark, Report};
use crate::source::{FILE_MAX_BYTES, FileSource};
use crate::yaml::{Filling, Map, Node};

/// Bytes of all these files at most, each counted as often as it is used.
const TOTAL_MAX_BYTES: usize = 32 << 20;

/// Reads the files that services name.
pub(super) fn files(root: &mut Map, env: &Environment, files: &dyn FileSource, report: &mut Report) {
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return };
    let mut reader = Reader { files, report, left: TOTAL_MAX_BYTES };
    for entry in &mut services.entries {
        let path = format!("services.{}", entry.key);
        if let Some(service) = entry.value.as_map_mut() {
            reader.environment(service, env, &path);
            reader.labels(service, &path);
        }
    }
}

struct Reader<'a> {
    files: &'a dyn FileSource,
    report: &'a mut Report,
    /// Bytes that may still be read.
    left: usize,
}

impl Reader<'_> {
    /// Values of the files, under those of `environment`. Their variables take what the user set, then what `environment`
    /// says, then what files before say.
    fn environment(&mut self, service: &mut Map, env: &Environment, path: &str) {
        let Some(list) = service.remove("env_file").map(|e| e.value) else { return };
        let own: Vec<_> =
            service.get("environment").and_then(Node::as_map).map(|m| m.entries.clone()).unwrap_or_default();
        let texts = own.iter().filter_map(|e| Some((e.key.clone(), crate::canon::scalar_text(&e.value)?)));
        let mut found: BTreeMap<String, String> = texts.collect();
        let said = found.clone();
        for (index, node) in list.as_list().unwrap_or_default().iter().enumerate() {
            let Some(fields) = node.as_map() else { continue };
            let Some(file) = fields.get("path").and_then(Node::as_text) else { continue };
            let is = |key: &str, word: &str| fields.get(key).and_then(Node::as_text) == Some(word);
            let required = !["false", "False", "FALSE", "no", "off", "n"].iter().any(|w| is("required", w));
            let path = at(&format!("{path}.env_file"), index);
            let Some(text) = self.text(node.mark, &path, file, required) else { continue };
            let lookup = |name: &str| env.get(name).or_else(|| said.get(name)).cloned();
            let read = if is("format", "raw") {
                dotenv::parse_raw(&text, &lookup, &mut found)
            } else {
                dotenv::parse(&text, &lookup, &mut found)
            };
            if let Err(error) = read {
                self.wrong(file, text, &path, error);
            }
        }
        let mark = list.mark;
        let mut map = Filling::default();
        for (name, value) in found {
            map.set(&name, mark, Node::text(value, mark));
        }
        for entry in own {
            map.set(&entry.key, entry.mark, entry.value);
        }
        service.set("environment", mark, Node::map(map.finish().entries, mark));
    }

    fn labels(&mut self, service: &mut Map, path: &str) {
        let Some(list) = service.get("label_file").cloned() else { return };
        let mut found = BTreeMap::new();
        for (index, node) in list.as_list().unwrap_or_default().iter().enumerate() {
            let Some(file) = node.as_text() else { continue };
            let path = at(&format!("{path}.label_file"), index);
            let Some(text) = self.text(node.mark, &path, file, true) else { continue };
            let before = found.clone();
            if let Err(error) = dotenv::parse(&text, &|name| before.get(name).cloned(), &mut found) {
                self.wrong(file, text, &path, error);
            }
        }
        let own = service.get("labels").and_then(Node::as_map).map(|m| m.entries.clone()).unwrap_or_default();
        let mut map = Filling::default();
        for (name, value) in found {
            map.set(&name, list.mark, Node::text(value, list.mark));
        }
        for entry in own {
            map.set(&entry.key, entry.mark, entry.value);
        }
        service.set("labels", list.mark, Node::map(map.finish().entries, list.mark));
    }

    fn wrong(&mut self, file: &str, text: String, path: &str, error: dotenv::EnvError) {
        let file = self.report.add_file(file);
        self.report.keep_text(file, text);
        let mark = Mark { line: error.line, column: 1, ..file };
        self.report.problem(DiagnosticKind::Syntax, mark, path, error.message, None);
    }

    fn text(&mut self, mark: Mark, path: &str, file: &str, required: bool) -> Option<String> {
        if self.left == 0 {
            // Told already.
            return None;
        }
        let content = self.files.read(Path::new(file));
        let read = content.as_ref().map_or(0, Vec::len);
        let left = self.left;
        self.left = left.saturating_sub(read);
        let message = match content {
            Ok(content) if content.len() > FILE_MAX_BYTES => {
                format!("file {file} is larger than {FILE_MAX_BYTES} bytes")
            }
            Ok(content) if content.len() > left => {
                format!("the services' files have more than {TOTAL_MAX_BYTES} bytes together")
            }
            Ok(content) => match String::from_utf8(content) {
                Ok(text) => return Some(text),
                Err(_) => format!("file {file} is not UTF-8 text"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if required {
                    let hint = "make it, or write `required: false`";
                    self.report.invalid_hint(mark, path, format!("file {file} is not found"), hint);
                }
                return None;
            }
            Err(error) => format!("file {file} cannot be read: {error}"),
        };
        self.report.invalid(mark, path, message);
        None
    }
}
