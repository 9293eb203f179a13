//! `carrack doctor`: what this kernel and host offer, what is missing, what that costs and what helps. Needs no daemon.
//!
//! The facts are found by the crates that need them, those of the host as a whole in `host` and `unit`; `render::facts` prints
//! them.

mod host;
mod unit;

use std::path::Path;

use carrack_api::fact::{Fact, Verdict};

use crate::args::DoctorArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::facts;
use crate::terminal::{put, say};

/// `carrack doctor`.
pub(crate) async fn run(args: &DoctorArgs, context: &Context) -> Outcome {
    let state_dir = args.state_dir.clone();
    let found = tokio::task::spawn_blocking(move || examine(&state_dir))
        .await
        .map_err(|error| CliError::new("the host could not be examined").caused_by(&error))?;
    if context.json() {
        context.put_json(&found)?;
    } else {
        put(&facts::render(&found, context.terminal.width(), context.terminal.colour_out()))?;
        say(&facts::summary(&found));
    }
    let met = found.iter().all(|fact| matches!(fact.verdict, Verdict::Ok | Verdict::Note));
    Ok(if met { Code::Ok } else { Code::Error })
}

fn examine(state_dir: &Path) -> Vec<Fact> {
    let mut facts = host::facts(state_dir);
    facts.extend(unit::facts());
    facts.extend(carrack_runtime::doctor::examine(state_dir));
    facts.extend(carrack_net::doctor::examine());
    facts
}
