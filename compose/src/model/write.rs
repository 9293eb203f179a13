//! A tree in long form becomes JSON, by the tables of keys. Owns what is left out because it says nothing.

use serde_json::{Map as JsonMap, Value as Json};

use crate::check::{at, join};
use crate::keys::{self, Key, Shape, Wrong, Zero};
use crate::report::{DiagnosticKind, Report};
use crate::words;
use crate::yaml::{Map, Node, Value};

/// For whom the model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As Docker Compose writes JSON, with what it forgets and the names it gives.
    Reference,
    /// As a Compose file.
    File,
}

pub(super) struct Writer<'a> {
    pub(super) style: Style,
    pub(super) report: &'a mut Report,
}

impl Writer<'_> {
    /// The value of a node; what has no meaning for its shape is told and left out.
    pub(super) fn value(&mut self, node: &Node, shape: &Shape, path: &str) -> Json {
        if self.report.opaque(node) {
            return node.as_text().map_or(Json::Null, Json::from);
        }
        match (shape, &node.value) {
            (Shape::Map(keys) | Shape::MapOrNull(keys) | Shape::Short(_, keys), Value::Map(map)) => {
                self.map(map, keys, path)
            }
            (Shape::Syntax(keys), Value::Map(map)) => self.map(map, keys, path),
            (Shape::Limit(keys), Value::Map(map)) => self.map(map, keys, path),
            (Shape::Dict(of) | Shape::Names(of), Value::Map(map)) => self.dict(map, of, path),
            (
                Shape::List(of) | Shape::Set(of) | Shape::OneOrList(of) | Shape::Gpus(of),
                Value::List(list),
            ) => self.list(list, of, path),
            (Shape::OneOrList(of), Value::Scalar { .. }) => Json::Array(vec![self.value(node, of, path)]),
            (Shape::Gpus(_), Value::Scalar { .. }) => serde_json::json!([{"count": -1}]),
            (Shape::Short(field, _), Value::Scalar { .. }) => {
                let text = self.value(node, &Shape::Text, path);
                Json::Object(JsonMap::from_iter([((*field).to_owned(), text)]))
            }
            (Shape::Variables, Value::Map(map)) => self.pairs(map, path, Json::Null),
            (Shape::Labels | Shape::Options, Value::Map(map)) => self.pairs(map, path, Json::from("")),
            (Shape::Variables | Shape::Labels, Value::List(list)) => {
                let empty = if matches!(shape, Shape::Labels) { Json::from("") } else { Json::Null };
                Json::Object(list.iter().filter_map(Node::as_text).map(|t| pair(t, &empty)).collect())
            }
            (Shape::MultiOptions, Value::Map(map)) => self.multi(map, path),
            (Shape::Hosts, Value::Map(map)) => self.hosts(map),
            (Shape::Hosts, Value::List(list)) => {
                let entries = list.iter().filter_map(Node::as_text).filter_map(host).collect();
                self.hosts(&Map { entries })
            }
            (Shape::Ssh, Value::Map(map)) => {
                let keys = map.entries.iter().map(|e| match e.value.as_text() {
                    Some(path) => format!("{}={path}", e.key).into(),
                    None => Json::from(e.key.as_str()),
                });
                Json::Array(keys.collect())
            }
            (Shape::Ssh, Value::List(list)) => self.list(list, &Shape::Text, path),
            (Shape::Command | Shape::Test, Value::List(list)) => self.list(list, &Shape::Text, path),
            (Shape::Command, Value::Scalar { text, .. }) => self.command(node, text, path),
            (Shape::Test, Value::Scalar { text, .. }) => serde_json::json!(["CMD-SHELL", text]),
            (Shape::Command | Shape::MapOrNull(_), Value::Null) => Json::Null,
            (Shape::External, Value::Map(_)) => Json::Bool(true),
            // Docker Compose's JSON has no other word for a limit of zero.
            (Shape::Limit(_), Value::Scalar { .. })
                if self.style == Style::Reference && keys::scalar(shape, node).is_ok_and(|v| v == 0) =>
            {
                Json::Object(JsonMap::new())
            }
            (_, Value::Scalar { .. }) => match keys::scalar(shape, node) {
                Ok(value) => self.escaped(value),
                // Told when the file was checked.
                Err(wrong) => self.wrong(node, path, wrong),
            },
            _ => self.wrong(node, path, Wrong::other(shape, node)),
        }
    }

    fn wrong(&mut self, node: &Node, path: &str, wrong: Wrong) -> Json {
        self.report.problem(DiagnosticKind::Invalid, node.mark, path, wrong.message, wrong.hint);
        Json::Null
    }

    /// In a file, a dollar sign would begin a variable.
    fn escaped(&self, value: Json) -> Json {
        match value {
            Json::String(text)
                if self.style == Style::File && !self.report.keeps_variables() && text.contains('$') =>
            {
                text.replace('$', "$$").into()
            }
            other => other,
        }
    }

    fn map(&mut self, map: &Map, keys: &[Key], path: &str) -> Json {
        let mut out = JsonMap::new();
        for key in keys {
            if key.zero == Zero::Unsaid && self.style == Style::Reference {
                continue;
            }
            let value = match map.get(key.name) {
                Some(node) if !node.is_null() || matches!(key.shape, Shape::MapOrNull(_)) => {
                    Some(self.value(node, &key.shape, &join(path, key.name)))
                }
                Some(node) if !key.may_be_null() => {
                    Some(self.wrong(node, &join(path, key.name), Wrong::other(&key.shape, node)))
                }
                Some(_) | None => None,
            };
            let value = match (value.filter(|v| !v.is_null()), key.zero) {
                (Some(Json::Bool(true)), Zero::DropTrue) => None,
                // An empty text is not what its absence is: a name or a context would be made up for that.
                (Some(value), _) if self.style == Style::File && (value == "" || says(key)) => Some(value),
                (Some(value), Zero::Drop | Zero::Unsaid) => Some(value).filter(|v| !is_zero(v, &key.shape)),
                (Some(value), Zero::Keep | Zero::Always | Zero::DropTrue) => Some(value),
                (None, Zero::Always) if key.required || self.style == Style::Reference => {
                    Some(self.nothing(&key.shape))
                }
                (None, _) => None,
            };
            if let Some(value) = value {
                out.insert(self.name(key, path), value);
            }
        }
        Json::Object(out)
    }

    /// Docker Compose writes the keys below `blkio_config` in JSON as its program names them.
    fn name(&self, key: &Key, path: &str) -> String {
        let named = self.style == Style::Reference && path.contains(".blkio_config.");
        match key.name {
            "path" if named => "Path".into(),
            "rate" if named => "Rate".into(),
            "weight" if named => "Weight".into(),
            name => name.into(),
        }
    }

    /// What stands for a key that is always there.
    fn nothing(&mut self, shape: &Shape) -> Json {
        match shape {
            Shape::Bool => false.into(),
            Shape::Text | Shape::Word(_) => "".into(),
            Shape::Size => "0".into(),
            Shape::Number | Shape::Int(..) => 0.into(),
            Shape::Map(keys) => self.map(&Map::default(), keys, ""),
            _ => Json::Null,
        }
    }

    fn dict(&mut self, map: &Map, of: &Shape, path: &str) -> Json {
        let entry = |e: &crate::yaml::Entry, writer: &mut Self| {
            (e.key.clone(), writer.value(&e.value, of, &join(path, &e.key)))
        };
        Json::Object(map.entries.iter().map(|e| entry(e, self)).collect())
    }

    fn list(&mut self, list: &[Node], of: &Shape, path: &str) -> Json {
        Json::Array(list.iter().enumerate().map(|(i, n)| self.value(n, of, &at(path, i))).collect())
    }

    fn pairs(&mut self, map: &Map, path: &str, empty: Json) -> Json {
        let value = |e: &crate::yaml::Entry, writer: &mut Self| match &e.value.value {
            Value::Null => empty.clone(),
            _ => writer.value(&e.value, &Shape::PairValue, &join(path, &e.key)),
        };
        Json::Object(map.entries.iter().map(|e| (e.key.clone(), value(e, self))).collect())
    }

    fn multi(&mut self, map: &Map, path: &str) -> Json {
        let value = |e: &crate::yaml::Entry, writer: &mut Self| match &e.value.value {
            Value::List(list) => writer.list(list, &Shape::PairValue, &join(path, &e.key)),
            _ => Json::Array(vec![writer.value(&e.value, &Shape::PairValue, &join(path, &e.key))]),
        };
        Json::Object(map.entries.iter().map(|e| (e.key.clone(), value(e, self))).collect())
    }

    /// `name=address` for each address, in order.
    fn hosts(&self, map: &Map) -> Json {
        let mut out = Vec::new();
        for entry in &map.entries {
            let addresses = match &entry.value.value {
                Value::List(list) => list.iter().filter_map(Node::as_text).collect(),
                _ => vec![entry.value.as_text().unwrap_or_default()],
            };
            for address in &addresses {
                let inner =
                    address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).filter(|a| !a.is_empty());
                out.push(format!("{}={}", entry.key, inner.unwrap_or(address)));
            }
        }
        out.sort();
        Json::Array(out.into_iter().map(|text| self.escaped(text.into())).collect())
    }

    fn command(&mut self, node: &Node, text: &str, path: &str) -> Json {
        match words::split(text) {
            Ok(split) => Json::Array(split.words.into_iter().map(|w| self.escaped(w.into())).collect()),
            Err(why) => self.wrong(node, path, Wrong { message: why.to_owned(), hint: None }),
        }
    }
}

/// Even without an element it is something else than its absence.
fn says(key: &Key) -> bool {
    key.required || key.name == "device_ids"
}

fn pair(text: &str, empty: &Json) -> (String, Json) {
    match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.into()),
        None => (text.to_owned(), empty.clone()),
    }
}

fn host(text: &str) -> Option<crate::yaml::Entry> {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':'))?;
    Some(crate::yaml::Entry::new(name, Node::text(address, crate::report::Mark::default())))
}

fn is_zero(value: &Json, shape: &Shape) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(value) => value.as_f64() == Some(0.0),
        Json::String(text) => {
            text.is_empty()
                || match shape {
                    Shape::Size => text == "0",
                    Shape::Duration => text == "0s",
                    _ => false,
                }
        }
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => {
            let of_keys = matches!(shape, Shape::Map(_) | Shape::MapOrNull(_) | Shape::Short(..));
            map.is_empty() && !of_keys
        }
    }
}
