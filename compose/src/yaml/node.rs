//! The tree. Owns no meaning: scalars stay text until someone asks for a type.

use std::collections::HashMap;

use crate::report::Mark;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
    pub(crate) tag: Option<Tag>,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text; `plain` when it was not quoted and so may be a number or a boolean.
    Scalar { text: String, plain: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Map),
}

/// The tags that Compose gives a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Takes the value of earlier files away.
    Reset,
    /// Replaces the value of earlier files in place of merging with it.
    Override,
}

/// A mapping in the order of the file; keys are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Map {
    pub(crate) entries: Vec<Entry>,
}

/// A key, its place and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) mark: Mark,
    pub(crate) value: Node,
}

impl Map {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|e| e.key == key).map(|e| &e.value)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|e| e.key == key).map(|e| &mut e.value)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|e| e.key == key)?;
        Some(self.entries.remove(index))
    }

    /// Sets a key, in its old place when it is there.
    pub(crate) fn set(&mut self, key: &str, mark: Mark, value: Node) {
        match self.get_mut(key) {
            Some(node) => *node = value,
            None => self.entries.push(Entry { key: key.to_owned(), mark, value }),
        }
    }
}

/// A mapping that many keys are put into: finding one takes no longer when there are many.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    entries: Vec<Option<Entry>>,
    places: HashMap<String, usize>,
}

impl From<Map> for Filling {
    fn from(map: Map) -> Self {
        let mut filling = Self::default();
        map.entries.into_iter().for_each(|entry| filling.push(entry));
        filling
    }
}

impl Filling {
    /// Adds an entry behind all others; a key that is there already is found in its old place.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.places.entry(entry.key.clone()).or_insert(self.entries.len());
        self.entries.push(Some(entry));
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.places.get(key).and_then(|place| self.entries.get_mut(*place)?.as_mut())
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(slot) = self.places.remove(key).and_then(|place| self.entries.get_mut(place)) {
            *slot = None;
        }
    }

    /// Sets a key, in its old place when it is there.
    pub(crate) fn set(&mut self, key: &str, mark: Mark, value: Node) {
        match self.get_mut(key) {
            Some(entry) => entry.value = value,
            None => self.push(Entry { key: key.to_owned(), mark, value }),
        }
    }

    pub(crate) fn finish(self) -> Map {
        Map { entries: self.entries.into_iter().flatten().collect() }
    }
}

impl Node {
    pub(crate) fn new(value: Value, mark: Mark) -> Self {
        Self { value, mark, tag: None }
    }

    /// Text that is text, whatever it looks like.
    pub(crate) fn text(text: impl Into<String>, mark: Mark) -> Self {
        Self::new(Value::Scalar { text: text.into(), plain: false }, mark)
    }

    /// Text that may be a number or a boolean.
    pub(crate) fn plain(text: impl Into<String>, mark: Mark) -> Self {
        Self::new(Value::Scalar { text: text.into(), plain: true }, mark)
    }

    pub(crate) fn null(mark: Mark) -> Self {
        Self::new(Value::Null, mark)
    }

    pub(crate) fn map(entries: Vec<Entry>, mark: Mark) -> Self {
        Self::new(Value::Map(Map { entries }), mark)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(crate) fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            Value::Null | Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    pub(crate) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            Value::Null | Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            Value::Null | Value::Scalar { .. } | Value::Map(_) => None,
        }
    }

    /// The text of a scalar as written.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { text, plain } => match super::plain(text, *plain) {
                super::Plain::Bool(_) => "a boolean",
                super::Plain::Int(_) | super::Plain::Float(_) => "a number",
                super::Plain::Time => "a date",
                super::Plain::Text => "a string",
            },
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Entry {
    pub(crate) fn new(key: impl Into<String>, value: Node) -> Self {
        Self { key: key.into(), mark: value.mark, value }
    }
}
