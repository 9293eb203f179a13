//! Environment and labels of a container, with the files they come from.

use std::collections::BTreeMap;
use std::path::Path;

use carrack_api::ContainerSpec;

use super::Build;
use crate::dotenv;
use crate::fields::{Fields, Item};
use crate::report::{DiagnosticKind, Mark};
use crate::source::FILE_MAX_BYTES;

/// A file of variables and how it is read.
struct Variables<'a> {
    path: &'a str,
    required: bool,
    raw: bool,
}

impl Build<'_> {
    pub(super) fn environment(&mut self, fields: &mut Fields<'_>, out: &mut ContainerSpec) {
        let mut own = BTreeMap::new();
        for (name, item) in fields.take("environment").map(|i| i.entries(self.report)).unwrap_or_default() {
            // A name alone takes the user's value, and takes the image's variable away when there is none.
            let value = if item.node.is_null() {
                self.env.get(name).cloned()
            } else {
                let Some(text) = item.text(self.report) else { continue };
                Some(text)
            };
            own.insert(name.to_owned(), value);
        }
        let mut found = BTreeMap::new();
        for item in fields.take("env_file").map(|i| i.items(self.report)).unwrap_or_default() {
            self.env_file(&item, &own, &mut found);
        }
        out.env.extend(found.into_iter().map(|(name, value)| (name, Some(value))));
        out.env.extend(own);
        if let Some(item) = fields.take("label_file") {
            let mut labels = BTreeMap::new();
            for item in item.items(self.report) {
                if let Some(path) = item.text(self.report) {
                    let file = Variables { path: &path, required: true, raw: false };
                    let before = labels.clone();
                    self.variables(&item, &file, &|name| before.get(name).cloned(), &mut labels);
                }
            }
            out.labels.extend(labels);
        }
        if let Some(item) = fields.take("labels") {
            out.labels.extend(item.labels(self.report));
        }
    }

    /// Reads one file into `found`. In its `${VAR}` the user's environment wins over the service's own, and that over what
    /// this file and earlier ones say.
    fn env_file(
        &mut self,
        item: &Item<'_>,
        own: &BTreeMap<String, Option<String>>,
        found: &mut BTreeMap<String, String>,
    ) {
        let Some(mut fields) = Fields::open(item, self.report) else { return };
        let path = fields.take("path").and_then(|i| i.text(self.report));
        let required = fields.take("required").and_then(|i| i.bool(self.report)).unwrap_or(true);
        let raw = match fields.take("format") {
            Some(item) => item.choice(&[("raw", true), ("", false)], self.report).unwrap_or(false),
            None => false,
        };
        fields.finish(&[], self.report);
        let Some(path) = path else {
            item.invalid("the entry has no `path`", self.report);
            return;
        };
        let outer = self.env;
        let lookup = |name: &str| {
            let own = || own.get(name).and_then(Option::as_ref);
            outer.get(name).or_else(own).cloned()
        };
        self.variables(item, &Variables { path: &path, required, raw }, &lookup, found);
    }

    /// Reads a file of variables into `found`.
    fn variables(
        &mut self,
        item: &Item<'_>,
        file: &Variables<'_>,
        lookup: &dyn Fn(&str) -> Option<String>,
        found: &mut BTreeMap<String, String>,
    ) {
        let path = file.path;
        let content = match self.files.read(Path::new(path)) {
            Ok(content) if content.len() <= FILE_MAX_BYTES => content,
            Ok(_) => {
                item.invalid(format!("file {path} is larger than {FILE_MAX_BYTES} bytes"), self.report);
                return;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if file.required {
                    let hint = "make it, or write `required: false`";
                    item.invalid_hint(format!("file {path} is not found"), hint, self.report);
                }
                return;
            }
            Err(error) => {
                item.invalid(format!("file {path} cannot be read: {error}"), self.report);
                return;
            }
        };
        let Ok(text) = String::from_utf8(content) else {
            item.invalid(format!("file {path} is not UTF-8 text"), self.report);
            return;
        };
        let read = if file.raw {
            dotenv::parse_raw(&text, lookup, found)
        } else {
            dotenv::parse(&text, lookup, found)
        };
        if let Err(error) = read {
            let file = self.report.add_file(path);
            let mark = Mark { line: error.line, column: 1, ..file };
            self.report.problem(DiagnosticKind::Syntax, mark, &item.path, error.message, None);
        }
    }
}
