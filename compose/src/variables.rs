//! The variables that files name, for those who want to know what can be set. Owns what is remembered of each; what a
//! template means is [`interpolate`](crate::interpolate)'s.

use std::collections::BTreeMap;

use crate::yaml::{Node, Value};

/// Longest default that is looked for and shown, in bytes.
const DEFAULT_MAX_BYTES: usize = 256;

/// A variable that a project's files name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variable {
    /// One place says that it must be set.
    pub required: bool,
    /// What stands for it when it is not set; the first place that says something.
    pub default: Option<String>,
    /// What stands for it when it is set.
    pub alternate: Option<String>,
}

/// Variables by name.
pub type Variables = BTreeMap<String, Variable>;

/// Adds the variables of all values below `node`.
pub(crate) fn collect(node: &Node, found: &mut Variables) {
    match &node.value {
        Value::Null => {}
        Value::Scalar { text, .. } => scan(text, found),
        Value::List(list) => list.iter().for_each(|node| collect(node, found)),
        Value::Map(map) => map.entries.iter().for_each(|entry| collect(&entry.value, found)),
    }
}

/// The text has a variable in it; `$$` is a dollar.
pub(crate) fn is_template(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let next = rest[at + 1..].chars().next();
        if next.is_some_and(|c| c == '{' || c == '_' || c.is_ascii_alphabetic()) {
            return true;
        }
        rest = rest.get(at + 1 + usize::from(next == Some('$'))..).unwrap_or_default();
    }
    false
}

fn scan(text: &str, found: &mut Variables) {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let braced = rest.strip_prefix('{');
        let body = braced.unwrap_or(rest);
        let length = body.find(|c: char| !(c == '_' || c.is_ascii_alphanumeric())).unwrap_or(body.len());
        let (name, after) = body.split_at(length);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        // What stands within the braces is looked through as well.
        rest = after;
        let variable = found.entry(name.to_owned()).or_default();
        if braced.is_none() {
            continue;
        }
        let after = after.strip_prefix(':').unwrap_or(after);
        let (operator, word) = (after.chars().next(), after.get(1..).unwrap_or_default());
        match operator {
            Some('-') if variable.default.is_none() => variable.default = word_of(word),
            Some('+') if variable.alternate.is_none() => variable.alternate = word_of(word),
            Some('?') => variable.required = true,
            _ => {}
        }
    }
}

/// The text up to the brace that closes it.
fn word_of(text: &str) -> Option<String> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices().take_while(|(at, _)| *at <= DEFAULT_MAX_BYTES) {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(text[..at].to_owned()),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_with_what_stands_for_them() {
        let mut found = Variables::new();
        scan("$A ${B:-x} ${C?must} ${D+y} $$E ${F-${G:-z}} $1 ${} ${H", &mut found);
        let shown: Vec<String> = found
            .iter()
            .map(|(name, v)| {
                let [default, alternate] = [&v.default, &v.alternate].map(|t| t.as_deref().unwrap_or("."));
                format!("{name} {} {default} {alternate}", v.required)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "A false . .",
                "B false x .",
                "C true . .",
                "D false . y",
                "F false ${G:-z} .",
                "G false z .",
                "H false . ."
            ]
        );
    }

    #[test]
    fn a_template_is_text_with_a_variable() {
        for (text, is) in
            [("a$B", true), ("${B}", true), ("$$B", false), ("a$", false), ("$1", false), ("$$$B", true)]
        {
            assert_eq!(is_template(text), is, "{text}");
        }
    }
}
