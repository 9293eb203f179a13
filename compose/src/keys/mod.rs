//! Every key of the specification, once: what its value may be and how the canonical model writes it. Owns the tables and
//! what their words mean; [`check`](crate::check) holds a file against them and [`model`](crate::model) writes by them.

mod build;
mod deploy;
mod read;
mod service;
mod top;

pub(crate) use read::{Wrong, scalar};
pub(crate) use service::SERVICE;
pub(crate) use top::ROOT;

/// A key of a mapping.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) zero: Zero,
    /// The mapping means nothing without it.
    pub(crate) required: bool,
}

/// What the canonical model says of a key that holds nothing: no text, no element, zero or false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    /// Nothing.
    Drop,
    /// What is written; only an absent key is left out.
    Keep,
    /// The key is always there.
    Always,
    /// True is what it is when nothing is written, and is not said.
    DropTrue,
    /// Docker Compose forgets the key in its JSON, and so do we.
    Unsaid,
}

/// What a value may be, in short and in long form.
#[derive(Debug)]
pub(crate) enum Shape {
    /// True or false, also as a word.
    Bool,
    /// True or false and no word for it.
    Flag,
    /// A number that counts as a whole one, and no text.
    Whole,
    /// A whole number within bounds, also as text.
    Int(i64, i64),
    /// A number that counts as a whole one, also as text.
    Number,
    /// A number, also as text.
    Float,
    /// Time of a processor: a number of microseconds or a duration.
    CpuTime,
    /// Text and nothing else.
    Text,
    /// Text of a form of its own.
    Form(Form),
    /// Text of a form of its own, and a number counts as one.
    FormOrNumber(Form),
    /// Text, and a number counts as one.
    TextOrNumber,
    /// Text, and true and false count as one.
    TextOrBool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `1m30s`.
    Duration,
    /// `64m` or a number of bytes.
    Size,
    /// `64m`, always as text.
    Memory,
    /// `0440`: the mode of a file, octal when it is text.
    Mode,
    /// `all` or a number of devices.
    Count,
    /// A list.
    List(&'static Shape),
    /// A list in which nothing stands twice.
    Set(&'static Shape),
    /// A list, or one text in place of it.
    OneOrList(&'static Shape),
    /// `[A=1, B]` or `{A: 1, B: }`; a name alone stays without a value.
    Variables,
    /// The same, and a name alone has the empty value.
    Labels,
    /// A value of such a mapping: any scalar is a text there.
    PairValue,
    /// A mapping of texts and numbers.
    Options,
    /// A mapping of texts or lists of them.
    MultiOptions,
    /// `[name=address]` or `{name: address}`.
    Hosts,
    /// A line or its words; nothing is a value too.
    Command,
    /// A line for a shell, or a list that begins with how it is run.
    Test,
    /// A mapping with these keys.
    Map(&'static [Key]),
    /// A mapping with these keys, or nothing.
    MapOrNull(&'static [Key]),
    /// A mapping with names of the user.
    Dict(&'static Shape),
    /// A mapping with names of the user, or a list of these names.
    Names(&'static Shape),
    /// A text that means this field of a mapping with these keys, or that mapping.
    Short(&'static str, &'static [Key]),
    /// A text, or number, with a syntax of its own that means a mapping with these keys, or that mapping.
    Syntax(&'static [Key]),
    /// True, false, or the old form `{name: x}`.
    External,
    /// One limit, or a mapping with these keys.
    Limit(&'static [Key]),
    /// `all`, or a list of requests for devices.
    Gpus(&'static Shape),
    /// `[default, id=path]` or `{id: path}`.
    Ssh,
}

/// The forms of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    ContainerName,
    PullPolicy,
    Restart,
    /// An address of a host.
    Address,
    /// A port of the host, or a range.
    Published,
}

const fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, zero: Zero::Drop, required: false }
}

impl Key {
    /// Nothing may be written for the key, and means what its absence means.
    pub(crate) fn may_be_null(&self) -> bool {
        matches!(self.shape, Shape::Command | Shape::MapOrNull(_)) || matches!(self.name, "pid")
    }

    const fn keep(self) -> Self {
        Self { name: self.name, shape: self.shape, zero: Zero::Keep, required: self.required }
    }

    const fn always(self) -> Self {
        Self { name: self.name, shape: self.shape, zero: Zero::Always, required: self.required }
    }

    const fn drop_true(self) -> Self {
        Self { name: self.name, shape: self.shape, zero: Zero::DropTrue, required: self.required }
    }

    const fn unsaid(self) -> Self {
        Self { name: self.name, shape: self.shape, zero: Zero::Unsaid, required: self.required }
    }

    const fn required(self) -> Self {
        Self { name: self.name, shape: self.shape, zero: self.zero, required: true }
    }
}

/// The whole range of a number.
const ANY: Shape = Shape::Int(i64::MIN, i64::MAX);
const TEXTS: Shape = Shape::List(&Shape::Text);
const TEXT_SET: Shape = Shape::Set(&Shape::Text);

impl Shape {
    /// What is wanted, for messages.
    pub(crate) fn wanted(&self) -> &'static str {
        match self {
            Self::Bool | Self::Flag => "true or false",
            Self::Int(..) | Self::Number | Self::Whole | Self::Limit(_) => "a whole number",
            Self::Float => "a number",
            Self::CpuTime => "a number of microseconds or a duration",
            Self::Text
            | Self::PairValue
            | Self::Form(_)
            | Self::FormOrNumber(_)
            | Self::TextOrNumber
            | Self::TextOrBool
            | Self::Word(_) => "a string",
            Self::Duration => "a duration",
            Self::Size => "a size",
            Self::Memory => "a size as a string",
            Self::Mode => "the mode of a file",
            Self::Count => "a number or `all`",
            Self::List(_) | Self::Set(_) => "a list",
            Self::OneOrList(_) => "a string or a list",
            Self::Variables | Self::Labels | Self::Hosts | Self::Ssh => "a mapping or a list",
            Self::Options | Self::MultiOptions | Self::Map(_) | Self::MapOrNull(_) | Self::Dict(_) => {
                "a mapping"
            }
            Self::Command | Self::Test => "a string or a list",
            Self::Names(_) => "a list or a mapping",
            Self::Short(..) | Self::Syntax(_) => "a string or a mapping",
            Self::External => "true or false",
            Self::Gpus(_) => "`all` or a list",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The tables know the keys that the schema of the specification knows, and no others.
    #[test]
    fn the_tables_are_those_of_the_specification() {
        let text = include_str!("../../tests/reference/schema/compose-spec.draft2020-12.json");
        let schema: Value = serde_json::from_str(text).unwrap();
        let mut missing = Vec::new();
        compare(&schema, &schema, &Shape::Map(ROOT), "", &mut missing);
        assert!(missing.is_empty(), "{missing:#?}");
    }

    /// All properties that a part of the schema may have, whichever form is used.
    fn properties<'a>(schema: &'a Value, part: &'a Value, out: &mut Vec<(&'a str, &'a Value)>) {
        let part = follow(schema, part);
        for form in ["oneOf", "anyOf"] {
            for one in part[form].as_array().into_iter().flatten() {
                properties(schema, one, out);
            }
        }
        out.extend(part["properties"].as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v)));
    }

    fn follow<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
        match part["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
            Some(pointer) => schema.pointer(pointer).unwrap(),
            None => part,
        }
    }

    /// What a list or a mapping of names holds.
    fn elements<'a>(schema: &'a Value, part: &'a Value, out: &mut Vec<&'a Value>) {
        let part = follow(schema, part);
        for one in part["oneOf"].as_array().into_iter().flatten() {
            elements(schema, one, out);
        }
        out.extend(part.get("items"));
        let patterns = part["patternProperties"].as_object();
        out.extend(patterns.into_iter().flatten().filter(|(k, _)| *k != "^x-").map(|(_, v)| v));
    }

    fn compare(schema: &Value, part: &Value, shape: &Shape, path: &str, missing: &mut Vec<String>) {
        match shape {
            Shape::Map(keys)
            | Shape::MapOrNull(keys)
            | Shape::Short(_, keys)
            | Shape::Syntax(keys)
            | Shape::Limit(keys) => {
                let mut known = Vec::new();
                properties(schema, part, &mut known);
                assert!(!known.is_empty(), "{path}: the schema has no keys here");
                for (name, _) in &known {
                    if !keys.iter().any(|k| k.name == *name) {
                        missing.push(format!("{path}.{name} is not in the table"));
                    }
                }
                for key in *keys {
                    let path = format!("{path}.{}", key.name);
                    match known.iter().find(|(name, _)| *name == key.name) {
                        Some((_, part)) => compare(schema, part, &key.shape, &path, missing),
                        None => missing.push(format!("{path} is not in the schema")),
                    }
                }
            }
            Shape::List(of)
            | Shape::Set(of)
            | Shape::OneOrList(of)
            | Shape::Dict(of)
            | Shape::Names(of)
            | Shape::Gpus(of) => {
                let mut parts = Vec::new();
                elements(schema, part, &mut parts);
                assert!(!parts.is_empty(), "{path}: the schema has no elements here");
                if matches!(
                    of,
                    Shape::Map(_)
                        | Shape::MapOrNull(_)
                        | Shape::Short(..)
                        | Shape::Syntax(_)
                        | Shape::Limit(_)
                ) {
                    let part = parts.into_iter().find(|p| {
                        let mut known = Vec::new();
                        properties(schema, p, &mut known);
                        !known.is_empty()
                    });
                    compare(schema, part.unwrap(), of, path, missing);
                }
            }
            _ => {}
        }
    }
}
