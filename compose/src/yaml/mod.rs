//! YAML as the loader sees it: a tree whose every value knows its place. Owns parsing, anchors, merge keys, duplicate keys
//! and the bounds on hostile input; knows nothing of Compose but the tags `!reset` and `!override`.

mod node;
mod parse;
mod scalar;

pub(crate) use node::{Entry, Map, Node, Tag, Value};
pub(crate) use parse::parse;
pub(crate) use scalar::{Plain, plain};
