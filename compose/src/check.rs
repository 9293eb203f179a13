//! Holds a file, as written and with its variables filled in, against the tables of keys. Owns what is told of a key that
//! does not exist and of a value of another type; what names in the file mean is `model`'s.

use std::collections::HashMap;

use crate::keys::{self, Key, Shape, Wrong};
use crate::report::{DiagnosticKind, Report};
use crate::suggest;
use crate::yaml::{Map, Node, Plain, Tag, Value, plain};

/// Checks a whole file.
pub(crate) fn file(root: &Node, report: &mut Report) {
    Check { report }.value(root, &Shape::Map(keys::ROOT), "");
}

/// Checks what all files are together: keys that are needed are there, and none is left without a value.
pub(crate) fn merged(root: &Node, report: &mut Report) {
    whole(root, &Shape::Map(keys::ROOT), "", report);
}

fn whole(node: &Node, shape: &Shape, path: &str, report: &mut Report) {
    match (shape, &node.value) {
        (
            Shape::Map(keys)
            | Shape::MapOrNull(keys)
            | Shape::Short(_, keys)
            | Shape::Syntax(keys)
            | Shape::Limit(keys),
            Value::Map(map),
        ) => {
            for key in keys.iter() {
                let below = join(path, key.name);
                match map.entry(key.name) {
                    Some(entry) if entry.value.is_null() && !key.may_be_null() => {
                        let Wrong { message, hint } = Wrong::other(&key.shape, &entry.value);
                        report.problem(DiagnosticKind::Invalid, entry.mark, &below, message, hint);
                    }
                    Some(entry) => whole(&entry.value, &key.shape, &below, report),
                    None if key.required => {
                        report.invalid(node.mark, path, format!("`{}` is missing", key.name));
                    }
                    None => {}
                }
            }
        }
        (Shape::Dict(of) | Shape::Names(of), Value::Map(map)) => {
            map.entries.iter().for_each(|e| whole(&e.value, of, &join(path, &e.key), report));
        }
        (Shape::List(of) | Shape::Set(of) | Shape::OneOrList(of) | Shape::Gpus(of), Value::List(list)) => {
            list.iter().enumerate().for_each(|(i, n)| whole(n, of, &at(path, i), report));
        }
        _ => {}
    }
}

struct Check<'a> {
    report: &'a mut Report,
}

impl Check<'_> {
    fn wrong(&mut self, node: &Node, path: &str, wrong: Wrong) {
        self.report.problem(DiagnosticKind::Invalid, node.mark, path, wrong.message, wrong.hint);
    }

    fn scalar(&mut self, node: &Node, shape: &Shape, path: &str) {
        if self.report.opaque(node) {
            return;
        }
        if let Err(wrong) = keys::scalar(shape, node) {
            self.wrong(node, path, wrong);
        }
    }

    /// Nothing is allowed everywhere: another file may say more, and what is left of it is told when all are merged.
    fn value(&mut self, node: &Node, shape: &Shape, path: &str) {
        if node.tag == Some(Tag::Reset) || node.is_null() || self.report.opaque(node) {
            return;
        }
        match (shape, &node.value) {
            (Shape::Map(keys) | Shape::MapOrNull(keys), Value::Map(map)) => self.map(map, keys, path),
            (Shape::Short(_, keys) | Shape::Syntax(keys) | Shape::Limit(keys), Value::Map(map)) => {
                self.map(map, keys, path)
            }
            (Shape::Syntax(_), Value::Scalar { .. }) => self.syntax(node, shape, path),
            (Shape::Dict(of) | Shape::Names(of), Value::Map(map)) => self.dict(map, of, path),
            (Shape::Names(_), Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, n)| self.scalar(n, &Shape::Text, &at(path, i)));
                self.distinct(list, path);
            }
            (Shape::List(of) | Shape::OneOrList(of) | Shape::Gpus(of), Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, n)| self.value(n, of, &at(path, i)));
            }
            (Shape::Set(of), Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, n)| self.value(n, of, &at(path, i)));
                self.distinct(list, path);
            }
            (Shape::OneOrList(of), Value::Scalar { .. }) => self.value(node, of, path),
            (Shape::Gpus(_), Value::Scalar { .. }) => self.scalar(node, &Shape::Word(&["all"]), path),
            (Shape::Command | Shape::Test, Value::List(list)) => self.words(list, shape, path),
            (Shape::Options, Value::Map(map)) => self.options(map, path),
            (Shape::Variables | Shape::Labels, Value::Map(map)) => self.scalars(map, path),
            (Shape::Hosts, Value::Map(map)) => self.hosts(map, path),
            (Shape::Variables | Shape::Labels | Shape::Hosts | Shape::Ssh, Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, n)| self.value(n, &Shape::Text, &at(path, i)));
            }
            (Shape::MultiOptions | Shape::Ssh, Value::Map(map)) => self.multi(map, path),
            (Shape::External, Value::Map(map)) => self.external(map, path),
            (_, Value::Scalar { .. }) => self.scalar(node, shape, path),
            _ => self.wrong(node, path, Wrong::other(shape, node)),
        }
    }

    fn map(&mut self, map: &Map, keys: &[Key], path: &str) {
        for entry in &map.entries {
            let below = join(path, &entry.key);
            match keys.iter().find(|k| k.name == entry.key) {
                Some(key) => self.value(&entry.value, &key.shape, &below),
                None if entry.key.starts_with("x-") => {}
                None => {
                    let hint = match suggest::nearest(&entry.key, keys.iter().map(|k| k.name)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => "keys of your own begin with `x-`".to_owned(),
                    };
                    let kind = DiagnosticKind::UnknownKey;
                    self.report.problem(kind, entry.mark, &below, "unknown key", Some(hint));
                }
            }
        }
    }

    fn dict(&mut self, map: &Map, of: &Shape, path: &str) {
        for entry in &map.entries {
            let below = join(path, &entry.key);
            let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if entry.key.is_empty() || !entry.key.chars().all(valid) {
                let hint = "use letters, digits, `.`, `_` and `-`";
                self.report.invalid_hint(entry.mark, &below, format!("{:?} is no name", entry.key), hint);
            }
            self.value(&entry.value, of, &below);
        }
    }

    /// Options of drivers; true and false are no values of theirs, but are of those of a storage.
    fn options(&mut self, map: &Map, path: &str) {
        self.scalars(map, path);
        if path.ends_with("storage_opt") {
            return;
        }
        for entry in &map.entries {
            if let Value::Scalar { text, plain: is_plain } = &entry.value.value
                && matches!(plain(text, *is_plain), Plain::Bool(_))
            {
                self.wrong(
                    &entry.value,
                    &join(path, &entry.key),
                    Wrong::other(&Shape::TextOrNumber, &entry.value),
                );
            }
        }
    }

    fn hosts(&mut self, map: &Map, path: &str) {
        for entry in &map.entries {
            let below = join(path, &entry.key);
            if entry.key.is_empty() || entry.key.contains([':', '=']) {
                self.report.invalid(entry.mark, &below, format!("{:?} is no name of a host", entry.key));
            }
            match &entry.value.value {
                Value::Null if entry.value.tag != Some(Tag::Reset) => {
                    self.wrong(&entry.value, &below, Wrong::other(&Shape::Text, &entry.value));
                }
                Value::List(list) => {
                    list.iter().enumerate().for_each(|(i, n)| self.scalar(n, &Shape::Text, &at(&below, i)));
                }
                _ => self.value(&entry.value, &Shape::Text, &below),
            }
        }
    }

    fn scalars(&mut self, map: &Map, path: &str) {
        for entry in map.entries.iter().filter(|e| e.key.is_empty()) {
            self.report.invalid(entry.mark, path, "a name is empty");
        }
        for entry in map.entries.iter().filter(|e| !e.value.is_null() && e.value.tag != Some(Tag::Reset)) {
            self.scalar(&entry.value, &Shape::PairValue, &join(path, &entry.key));
        }
    }

    fn multi(&mut self, map: &Map, path: &str) {
        for entry in &map.entries {
            let below = join(path, &entry.key);
            match &entry.value.value {
                Value::Null => {}
                Value::List(list) => {
                    list.iter()
                        .enumerate()
                        .for_each(|(i, n)| self.scalar(n, &Shape::PairValue, &at(&below, i)));
                }
                _ => self.scalar(&entry.value, &Shape::PairValue, &below),
            }
        }
    }

    fn external(&mut self, map: &Map, path: &str) {
        for entry in &map.entries {
            if entry.key == "name" {
                self.value(&entry.value, &Shape::Text, &join(path, "name"));
            } else if !entry.key.starts_with("x-") {
                let hint = Some("write `external: true` and `name: NAME` beside it".to_owned());
                let kind = DiagnosticKind::UnknownKey;
                self.report.problem(kind, entry.mark, &join(path, &entry.key), "unknown key", hint);
            }
        }
    }

    fn words(&mut self, list: &[Node], shape: &Shape, path: &str) {
        list.iter().enumerate().for_each(|(i, n)| self.scalar(n, &Shape::Text, &at(path, i)));
        let Some(first) = list.first().filter(|_| matches!(shape, Shape::Test)) else { return };
        if !matches!(first.as_text(), Some("CMD" | "CMD-SHELL" | "NONE")) {
            let message = "the list begins with CMD, CMD-SHELL or NONE";
            let hint = "or write the test as one string, which a shell runs";
            self.report.invalid_hint(first.mark, &at(path, 0), message, hint);
        }
    }

    /// The text is read where short forms become long; here only its type is looked at.
    fn syntax(&mut self, node: &Node, shape: &Shape, path: &str) {
        let Value::Scalar { text, plain: is_plain } = &node.value else { return };
        let Shape::Syntax(keys) = shape else { return };
        let numbers = keys.iter().any(|k| k.name == "published");
        let typed = plain(text, *is_plain);
        if matches!(typed, Plain::Bool(_) | Plain::Float(_) | Plain::Time)
            || (!numbers && typed != Plain::Text)
        {
            self.wrong(node, path, Wrong::other(shape, node));
        }
    }

    fn distinct(&mut self, list: &[Node], path: &str) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, node) in list.iter().enumerate() {
            let Some(text) = node.as_text() else { continue };
            if let Some(first) = seen.get(text) {
                let message = format!("{text:?} stands here twice, first as element {first}");
                self.report.invalid(node.mark, &at(path, index), message);
            } else {
                seen.insert(text, index);
            }
        }
    }
}

pub(crate) fn at(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
