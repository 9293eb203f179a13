//! Lists of `NAME=VALUE` become mappings: environment, labels, sysctls, build arguments, extra hosts.

use super::Canon;
use crate::yaml::{Entry, Filling, Map, Node, Plain, Value, plain};

/// The text of a scalar as Compose prints it where a text is wanted: numbers in their shortest form.
pub(crate) fn scalar_text(node: &Node) -> Option<String> {
    let Value::Scalar { text, plain: is_plain } = &node.value else { return None };
    Some(match plain(text, *is_plain) {
        Plain::Bool(value) => value.to_string(),
        Plain::Int(value) => value.to_string(),
        Plain::Float(value) => float_text(value),
        Plain::Time => return None,
        Plain::Text => text.clone(),
    })
}

/// A number as Go prints it: with an exponent when it is very small or very large.
fn float_text(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value > 0.0 { '+' } else { '-' };
        return if value.is_nan() { "NaN".into() } else { format!("{sign}Inf") };
    }
    if value == 0.0 || (1e-4..1e6).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

impl Canon<'_> {
    /// `[A=1, B]` becomes `{A: 1, B: null}`.
    pub(super) fn pairs(&mut self, fields: &mut Map, key: &str, path: &str) {
        let Some(node) = fields.get_mut(key) else { return };
        let Value::List(list) = &node.value else { return };
        let mut map = Filling::default();
        for (index, item) in list.iter().enumerate() {
            let Some(text) = scalar_text(item) else {
                let message = format!("expected NAME=VALUE, found {}", item.kind());
                self.report.invalid(item.mark, &format!("{path}.{key}[{index}]"), message);
                continue;
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Node::text(value, item.mark)),
                None => (text.as_str(), Node::null(item.mark)),
            };
            // A blank there is what is left of `NAME = VALUE`.
            let variable = matches!(key, "environment" | "args");
            if name.is_empty() || (variable && name.ends_with(char::is_whitespace)) {
                let message = match name {
                    "" => format!("{text:?} has no name before `=`"),
                    _ => format!("the name {name:?} ends in a blank"),
                };
                self.report.invalid(item.mark, &format!("{path}.{key}[{index}]"), message);
                continue;
            }
            map.set(name, item.mark, value);
        }
        node.value = Value::Map(map.finish());
    }

    /// `["a=1.2.3.4", "b:::1"]` becomes `{a: [1.2.3.4], b: [::1]}`; a name may have several addresses.
    pub(super) fn extra_hosts(&mut self, service: &mut Map, path: &str) {
        let Some(node) = service.get_mut("extra_hosts") else { return };
        let mut map = Filling::default();
        match &node.value {
            Value::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    let pair = item.as_text().and_then(|t| t.split_once('=').or_else(|| t.split_once(':')));
                    match pair {
                        Some((name, addresses)) if !name.is_empty() && !addresses.is_empty() => {
                            for address in addresses.split(',') {
                                add_host(&mut map, name, Node::text(address, item.mark));
                            }
                        }
                        _ => self.report.invalid_hint(
                            item.mark,
                            &format!("{path}.extra_hosts[{index}]"),
                            "expected a name and an address",
                            "write \"name=1.2.3.4\"",
                        ),
                    }
                }
            }
            Value::Map(hosts) => {
                for entry in &hosts.entries {
                    match &entry.value.value {
                        Value::List(list) => {
                            list.iter().for_each(|a| add_host(&mut map, &entry.key, a.clone()));
                        }
                        _ => add_host(&mut map, &entry.key, entry.value.clone()),
                    }
                }
            }
            Value::Null | Value::Scalar { .. } => return,
        }
        node.value = Value::Map(map.finish());
    }
}

fn add_host(map: &mut Filling, name: &str, address: Node) {
    match map.get_mut(name).map(|e| &mut e.value.value) {
        Some(Value::List(list)) => list.push(address),
        _ => {
            let mark = address.mark;
            let value = Node::new(Value::List(vec![address]), mark);
            map.push(Entry { key: name.to_owned(), mark, value });
        }
    }
}
