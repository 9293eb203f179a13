//! YAML as the loader sees it: a tree whose every value knows its place. Owns parsing, anchors, merge keys, duplicate keys
//! and the bounds on hostile input; knows nothing of Compose but the tags `!reset` and `!override`.

mod node;
mod parse;
mod relax;
mod scalar;

pub(crate) use node::{Entry, Filling, Map, Node, Tag, Value};
#[cfg(test)]
pub(crate) use parse::parse;
pub(crate) use parse::parse_all;
pub(crate) use scalar::{Plain, is_null, plain};
