//! `carrack defaults`: every default and what it means.

use std::collections::BTreeMap;

use serde_json::json;

use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::terminal::put;

/// `carrack defaults`.
pub(crate) fn run(context: &Context) -> Outcome {
    let defaults = carrack_api::defaults::table();
    if context.json() {
        let map: BTreeMap<&str, _> = defaults
            .iter()
            .map(|(name, value, meaning)| (*name, json!({ "value": value, "meaning": meaning })))
            .collect();
        context.put_json(&map)?;
        return Ok(Code::Ok);
    }
    let mut table = Table::new(&[full("DEFAULT"), full("VALUE"), cut("MEANING")]);
    for (name, value, meaning) in defaults {
        table.row([name.into(), value.into(), meaning.into()]);
    }
    put(&table.render(context.terminal.width(), context.terminal.colour_out()))?;
    Ok(Code::Ok)
}
