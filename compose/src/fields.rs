//! Reading a mapping so that no key can be forgotten: each key is taken once, and what is left at the end is refused. Owns
//! the typed readers of single values; knows no key itself.

use std::time::Duration;

use carrack_api::{Bytes, MilliCpus};

use crate::canon::scalar_text;
use crate::outcomes::{self, Outcome};
use crate::report::{DiagnosticKind, Mark, Report};
use crate::suggest;
use crate::units;
use crate::yaml::{Map, Node, Plain, Value, plain};

/// A key that the specification knows and Carrack refuses, why, and what to do instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) key: &'static str,
    pub(crate) why: &'static str,
    pub(crate) hint: Option<&'static str>,
    /// The application runs as well without it.
    pub(crate) cosmetic: bool,
}

/// A mapping of which keys are taken one by one.
pub(crate) struct Fields<'a> {
    pub(crate) path: String,
    pub(crate) mark: Mark,
    map: &'a Map,
    known: Vec<&'static str>,
}

/// A value with its path.
#[derive(Debug, Clone)]
pub(crate) struct Item<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

impl<'a> Fields<'a> {
    /// A mapping; what is none is told, and nothing at all is none either.
    pub(crate) fn open(item: &Item<'a>, report: &mut Report) -> Option<Self> {
        match &item.node.value {
            Value::Map(map) => {
                Some(Self { path: item.path.clone(), mark: item.node.mark, map, known: Vec::new() })
            }
            Value::Null => None,
            Value::Scalar { .. } | Value::List(_) => {
                item.expected("a mapping", report);
                None
            }
        }
    }

    /// The value of a key; none when the key is absent or holds nothing.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.take_null(key).filter(|item| !item.node.is_null())
    }

    /// The value of a key, nothing included.
    pub(crate) fn take_null(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let node = self.map.get(key)?;
        Some(Item { node, path: join(&self.path, key) })
    }

    /// The mapping has the key; this does not take it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some()
    }

    /// Takes a key that means nothing here and says so.
    pub(crate) fn note(&mut self, key: &'static str, text: &str, report: &mut Report) {
        if let Some(item) = self.take(key) {
            report.note(item.node.mark, &item.path, text);
        }
    }

    /// Takes a key and says what the list of keys says of it.
    pub(crate) fn listed(&mut self, key: &'static str, path: &str, report: &mut Report) {
        if let Some(item) = self.take(key) {
            item.listed(path, "", report);
        }
    }

    /// Refuses what was not taken.
    pub(crate) fn finish(self, refused: &[Refused], report: &mut Report) {
        for entry in &self.map.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) || (key.starts_with("x-") && key != "x-carrack") {
                continue;
            }
            let path = join(&self.path, key);
            if let Some(known) = refused.iter().find(|r| r.key == key) {
                let harmless = match &entry.value.value {
                    Value::Null => true,
                    Value::Scalar { text, plain } => *plain && text == "false",
                    Value::List(list) => list.is_empty(),
                    Value::Map(map) => map.entries.is_empty(),
                };
                if !harmless {
                    report.refuse(entry.mark, &path, known.why, known.hint, known.cosmetic);
                }
                continue;
            }
            if key == "x-carrack" {
                report.unsupported(entry.mark, &path, "x-carrack is not built yet", None);
                continue;
            }
            let words = self.known.iter().copied().chain(refused.iter().map(|r| r.key));
            let hint = match suggest::nearest(key, words) {
                Some(meant) => Some(format!("did you mean `{meant}`?")),
                None => Some("keys of your own begin with `x-`".to_owned()),
            };
            report.problem(DiagnosticKind::UnknownKey, entry.mark, &path, "unknown key", hint);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Item<'a> {
    pub(crate) fn mark(&self) -> Mark {
        self.node.mark
    }

    pub(crate) fn expected(&self, what: &str, report: &mut Report) {
        report.invalid(self.node.mark, &self.path, format!("expected {what}, found {}", self.node.kind()));
    }

    pub(crate) fn invalid(&self, message: impl Into<String>, report: &mut Report) {
        report.invalid(self.node.mark, &self.path, message);
    }

    pub(crate) fn invalid_hint(&self, message: impl Into<String>, hint: &str, report: &mut Report) {
        report.invalid_hint(self.node.mark, &self.path, message, hint);
    }

    pub(crate) fn unsupported(&self, message: impl Into<String>, hint: Option<&str>, report: &mut Report) {
        report.unsupported(self.node.mark, &self.path, message, hint);
    }

    pub(crate) fn note(&self, text: impl Into<String>, report: &mut Report) {
        report.note(self.node.mark, &self.path, text);
    }

    /// Notes or refuses it as the list of keys says for this key and form.
    pub(crate) fn listed(&self, key: &str, form: &str, report: &mut Report) {
        self.listed_as(key, form, self.node.as_text().unwrap_or_default(), report);
    }

    /// The same, with what stands for `{}` in the text.
    pub(crate) fn listed_as(&self, key: &str, form: &str, value: &str, report: &mut Report) {
        let written = |text: &str| text.replace("{:?}", &format!("{value:?}")).replace("{}", value);
        match outcomes::find(key, form).map(|row| row.outcome) {
            Some(Outcome::Mapped(note)) => self.note(written(note), report),
            Some(Outcome::Refused { why, hint, cosmetic, .. }) => {
                report.refuse(self.node.mark, &self.path, &written(why), Some(hint), cosmetic);
            }
            // A row that is not there would be silence; a test asks for each.
            None | Some(Outcome::Exact { .. } | Outcome::Place) => {
                debug_assert!(false, "no row of {key} ({form}) says what becomes of it");
                self.unsupported("is not built yet", None, report);
            }
        }
    }

    /// A scalar that is a text and nothing else, because it is in quotes or came out of a longer text.
    pub(crate) fn is_quoted(&self) -> bool {
        matches!(self.node.value, Value::Scalar { plain: false, .. })
    }

    /// A scalar as text; numbers and booleans are texts here.
    pub(crate) fn text(&self, report: &mut Report) -> Option<String> {
        let text = scalar_text(self.node);
        if text.is_none() {
            self.expected("a string", report);
        }
        text
    }

    /// The scalar as written, without reading it as a number.
    fn raw(&self, what: &str, report: &mut Report) -> Option<&'a str> {
        let text = self.node.as_text();
        if text.is_none() {
            self.expected(what, report);
        }
        text
    }

    pub(crate) fn bool(&self, report: &mut Report) -> Option<bool> {
        match self.raw("true or false", report)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "y" | "on" | "t" => Some(true),
            "false" | "0" | "no" | "n" | "off" | "f" => Some(false),
            _ => {
                self.expected("true or false", report);
                None
            }
        }
    }

    pub(crate) fn int(&self, report: &mut Report) -> Option<i64> {
        let value = match plain(self.raw("a whole number", report)?, true) {
            Plain::Int(value) => i64::try_from(value).ok(),
            Plain::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(value as i64),
            Plain::Float(_) | Plain::Bool(_) | Plain::Time | Plain::Text => None,
        };
        if value.is_none() {
            self.expected("a whole number", report);
        }
        value
    }

    /// A whole number within what `T` holds.
    pub(crate) fn number<T: TryFrom<i64>>(&self, report: &mut Report) -> Option<T> {
        let value = self.int(report)?;
        let fits = T::try_from(value).ok();
        if fits.is_none() {
            self.invalid(format!("{value} is out of range"), report);
        }
        fits
    }

    fn read<T>(
        &self,
        what: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        hint: &str,
        report: &mut Report,
    ) -> Option<T> {
        match parse(self.raw(what, report)?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.invalid_hint(why, hint, report);
                None
            }
        }
    }

    pub(crate) fn duration(&self, report: &mut Report) -> Option<Duration> {
        self.read("a duration", units::duration, "for example 10s, 1m30s or 500ms", report)
    }

    pub(crate) fn bytes(&self, report: &mut Report) -> Option<Bytes> {
        self.read("a size", units::bytes, "for example 64m, 1.5gb or a number of bytes", report)
    }

    pub(crate) fn cpus(&self, report: &mut Report) -> Option<MilliCpus> {
        self.read("a number of CPUs", units::cpus, "for example 0.5 or 2", report)
    }

    /// The elements of a list.
    pub(crate) fn items(&self, report: &mut Report) -> Vec<Item<'a>> {
        match &self.node.value {
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(index, node)| Item { node, path: format!("{}[{index}]", self.path) })
                .collect(),
            Value::Null => Vec::new(),
            Value::Scalar { .. } | Value::Map(_) => {
                self.expected("a list", report);
                Vec::new()
            }
        }
    }

    /// The elements of a list of texts.
    pub(crate) fn texts(&self, report: &mut Report) -> Vec<String> {
        self.items(report).iter().filter_map(|item| item.text(report)).collect()
    }

    /// The entries of a mapping whose keys are names of the user's; `x-` keys are left out.
    pub(crate) fn entries(&self, report: &mut Report) -> Vec<(&'a str, Item<'a>)> {
        match &self.node.value {
            Value::Map(map) => map
                .entries
                .iter()
                .map(|e| {
                    let path = format!("{}.{}", self.path, e.key);
                    (e.key.as_str(), Item { node: &e.value, path })
                })
                .collect(),
            Value::Null => Vec::new(),
            Value::Scalar { .. } | Value::List(_) => {
                self.expected("a mapping", report);
                Vec::new()
            }
        }
    }

    /// A mapping of texts, such as labels; nothing counts as the empty text.
    pub(crate) fn labels(&self, report: &mut Report) -> std::collections::BTreeMap<String, String> {
        let mut out = std::collections::BTreeMap::new();
        for (key, item) in self.entries(report) {
            if item.node.is_null() {
                out.insert(key.to_owned(), String::new());
            } else if let Some(text) = item.text(report) {
                out.insert(key.to_owned(), text);
            }
        }
        out
    }

    /// One of the given words.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)], report: &mut Report) -> Option<T> {
        let text = self.text(report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match suggest::nearest(&text, list.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("use one of: {}", list.join(", ")),
        };
        self.invalid_hint(format!("{text:?} is not known here"), &hint, report);
        None
    }
}
