//! `${VAR}` in values. Owns the grammar of templates; where a variable's value comes from is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{DiagnosticKind, Report};
use crate::yaml::{Node, Value};

/// Deepest nesting of `${A:-${B}}`, in levels.
const NESTING_MAX: usize = 32;
/// Longest value after interpolation, in bytes.
const RESULT_MAX_BYTES: usize = 1 << 20;

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("invalid template: `${{` has no closing `}}`")]
    Unclosed,
    #[error("invalid template: `${{` needs a variable's name after it")]
    NoName,
    #[error("invalid template: {0:?} is no operator; use :- - :? ? :+ or +")]
    Operator(String),
    #[error("required variable {name} is missing a value{}", if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    Required { name: String, message: String },
    #[error("variables nested deeper than {NESTING_MAX} levels")]
    Nesting,
    #[error("longer than {RESULT_MAX_BYTES} bytes after its variables are filled in")]
    TooLong,
}

/// Replaces the variables of `text`; names without a value and without a default go to `unset` and become empty.
pub(crate) fn interpolate(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut BTreeSet<String>,
) -> Result<String, TemplateError> {
    if !text.contains('$') {
        return Ok(text.to_owned());
    }
    let mut template = Template { rest: text, lookup, unset };
    template.text(0, true)
}

struct Template<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: &'a mut BTreeSet<String>,
}

impl Template<'_> {
    /// Text up to the end, or within braces up to the brace that closes them. What is not `used` is only skipped.
    fn text(&mut self, depth: usize, used: bool) -> Result<String, TemplateError> {
        if depth > NESTING_MAX {
            return Err(TemplateError::Nesting);
        }
        let mut out = String::new();
        let mut braces = 0usize;
        while let Some(c) = self.rest.chars().next() {
            match c {
                '}' if depth > 0 && braces == 0 => return Ok(out),
                '$' => out.push_str(&self.variable(depth, used)?),
                _ => {
                    match c {
                        '{' if depth > 0 => braces += 1,
                        '}' => braces = braces.saturating_sub(1),
                        _ => {}
                    }
                    out.push(c);
                    self.skip(c.len_utf8());
                }
            }
            if out.len() > RESULT_MAX_BYTES {
                return Err(TemplateError::TooLong);
            }
        }
        if depth > 0 { Err(TemplateError::Unclosed) } else { Ok(out) }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn name(&mut self) -> String {
        let first = |c: char| c == '_' || c.is_ascii_alphabetic();
        if !self.rest.starts_with(first) {
            return String::new();
        }
        let length =
            self.rest.find(|c: char| !(c == '_' || c.is_ascii_alphanumeric())).unwrap_or(self.rest.len());
        let name = self.rest[..length].to_owned();
        self.skip(length);
        name
    }

    /// At `$`.
    fn variable(&mut self, depth: usize, used: bool) -> Result<String, TemplateError> {
        self.skip(1);
        if self.rest.starts_with('$') {
            self.skip(1);
            return Ok("$".into());
        }
        if !self.rest.starts_with('{') {
            let name = self.name();
            // A dollar before anything else is one.
            return Ok(if name.is_empty() { "$".into() } else { self.value(&name, used) });
        }
        self.skip(1);
        let name = self.name();
        if name.is_empty() {
            return Err(if self.rest.contains('}') {
                TemplateError::NoName
            } else {
                TemplateError::Unclosed
            });
        }
        let result = self.braced(&name, depth, used)?;
        if !self.rest.starts_with('}') {
            return Err(TemplateError::Unclosed);
        }
        self.skip(1);
        Ok(result)
    }

    fn value(&mut self, name: &str, used: bool) -> String {
        let value = (self.lookup)(name);
        if value.is_none() && used {
            self.unset.insert(name.to_owned());
        }
        value.unwrap_or_default()
    }

    /// Within braces, behind the name; stops before the closing brace.
    fn braced(&mut self, name: &str, depth: usize, used: bool) -> Result<String, TemplateError> {
        if self.rest.is_empty() {
            return Err(TemplateError::Unclosed);
        }
        if self.rest.starts_with('}') {
            return Ok(self.value(name, used));
        }
        let colon = self.rest.starts_with(':');
        let operator = self.rest.chars().nth(usize::from(colon)).unwrap_or(' ');
        if !['-', '?', '+'].contains(&operator) {
            let shown = self.rest.split('}').next().unwrap_or_default().to_owned();
            let closed = self.rest.contains('}');
            return Err(if closed { TemplateError::Operator(shown) } else { TemplateError::Unclosed });
        }
        self.skip(1 + usize::from(colon));
        let current = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
        match (operator, current) {
            ('-', Some(value)) => self.text(depth + 1, false).map(|_| value),
            ('-', None) => self.text(depth + 1, used),
            ('+', Some(_)) => self.text(depth + 1, used),
            ('+', None) => self.text(depth + 1, false).map(|_| String::new()),
            (_, Some(value)) => self.text(depth + 1, false).map(|_| value),
            (_, None) => {
                let message = self.text(depth + 1, used)?;
                if used {
                    return Err(TemplateError::Required { name: name.to_owned(), message });
                }
                Ok(String::new())
            }
        }
    }
}

/// Fills in the variables of all values below `node`; keys stay as they are.
pub(crate) fn interpolate_tree(
    node: &mut Node,
    path: &str,
    env: &BTreeMap<String, String>,
    report: &mut Report,
) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar { text, plain } => {
            if !text.contains('$') {
                return;
            }
            // What a variable holds is text, whatever it looks like.
            *plain = false;
            let mut unset = BTreeSet::new();
            match interpolate(text, &|name| env.get(name).cloned(), &mut unset) {
                Ok(value) => *text = value,
                Err(error) => {
                    let hint = match &error {
                        TemplateError::Unclosed | TemplateError::NoName | TemplateError::Operator(_) => {
                            Some("write `$$` for a dollar sign".to_owned())
                        }
                        TemplateError::Required { name, .. } => {
                            Some(format!("set {name} in the environment or in .env"))
                        }
                        _ => None,
                    };
                    report.problem(DiagnosticKind::Invalid, node.mark, path, error.to_string(), hint);
                }
            }
            for name in unset {
                report.note(node.mark, path, format!("variable {name} is not set; an empty text is used"));
            }
        }
        Value::List(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                interpolate_tree(item, &format!("{path}[{index}]"), env, report);
            }
        }
        Value::Map(map) => {
            for entry in &mut map.entries {
                let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                interpolate_tree(&mut entry.value, &below, env, report);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        interpolate(text, &lookup, &mut BTreeSet::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn variables_are_filled_in_as_compose_does() {
        let cases = [
            ("x$A-${A}y", "xa-ay"),
            ("$$A $${A}", "$A ${A}"),
            ("${U}|$U", "|"),
            ("${U:-d} ${U-d} ${E:-d} ${E-d} ${A:-d}", "d d d  a"),
            ("${U:+r} ${U+r} ${E:+r} ${E+r} ${A:+r}", "   r r"),
            ("${A:?e} ${A?e} ${E?e}", "a a "),
            ("${U:-${V:-${A}}}", "a"),
            ("${U:-{\"x\":1}}z", "{\"x\":1}z"),
            ("${U-$$}", "$"),
            ("${A:-${U:?not asked}}", "a"),
            ("${U:-http://x:80/?a=b}", "http://x:80/?a=b"),
            ("$ a$ $1 $(x) ^$", "$ a$ $1 $(x) ^$"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn wrong_templates_are_refused() {
        assert_eq!(
            fill("${U:?must be set}").unwrap_err(),
            "required variable U is missing a value: must be set"
        );
        assert_eq!(fill("${E:?}").unwrap_err(), "required variable E is missing a value");
        for bad in ["${", "${}", "${A", "${A:-b", "${1}", "${A!b}", "${A:b}"] {
            assert!(fill(bad).is_err(), "{bad}");
        }
        assert!(fill(&"${U:-".repeat(10_000)).is_err());
    }

    #[test]
    fn unset_names_are_told() {
        let mut unset = BTreeSet::new();
        interpolate("$X ${Y} ${Z:-d} ${W:+${V}}", &|_| None, &mut unset).unwrap();
        assert_eq!(unset.into_iter().collect::<Vec<_>>(), ["X", "Y"]);
    }
}
