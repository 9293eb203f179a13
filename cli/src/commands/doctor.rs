//! `carrack doctor`: what this kernel and host offer, what is missing and what that costs. Needs no daemon.
//!
//! The facts are found by the crates that need them; this file orders and prints them.

use carrack_net::doctor::Verdict as NetVerdict;
use carrack_runtime::doctor::Level;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::style::Style;
use crate::render::table::{Cell, Table, cut, full};
use crate::terminal::{put, say};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Note,
    Missing,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Fact {
    area: &'static str,
    name: String,
    verdict: Verdict,
    found: String,
    /// What lacking it costs; empty when nothing is lacking.
    cost: String,
}

/// `carrack doctor`.
pub(crate) async fn run(args: &DoctorArgs, context: &Context) -> Outcome {
    let state_dir = args.state_dir.clone();
    let facts = tokio::task::spawn_blocking(move || examine(&state_dir))
        .await
        .map_err(|error| CliError::new("the host could not be examined").caused_by(&error))?;
    let missing = facts.iter().filter(|fact| fact.verdict == Verdict::Missing).count();
    if context.json() {
        context.put_json(&facts)?;
    } else {
        put(&table(&facts).render(context.terminal.width(), context.terminal.colour_out()))?;
        match missing {
            0 => say("this host has all that is needed"),
            _ if !rustix::process::geteuid().is_root() => {
                say("run it as root (sudo carrack doctor): most of this cannot be tried without");
            }
            _ => say(&format!("missing: {missing}; see COST for what does not work without")),
        }
    }
    Ok(if missing == 0 { Code::Ok } else { Code::Error })
}

fn examine(state_dir: &std::path::Path) -> Vec<Fact> {
    let mut facts = vec![user(), disk(state_dir)];
    facts.extend(carrack_runtime::doctor::examine().into_iter().map(|fact| Fact {
        area: "containers",
        name: fact.name.to_owned(),
        verdict: match fact.level {
            Level::Good => Verdict::Ok,
            Level::Reduced => Verdict::Note,
            Level::Missing => Verdict::Missing,
        },
        found: fact.found,
        cost: fact.cost.to_owned(),
    }));
    facts.extend(carrack_net::doctor::examine().into_iter().map(|fact| Fact {
        area: "network",
        name: fact.name.to_owned(),
        verdict: match fact.verdict {
            NetVerdict::Ok => Verdict::Ok,
            NetVerdict::Note => Verdict::Note,
            NetVerdict::Missing => Verdict::Missing,
        },
        found: fact.detail,
        cost: fact.cost.to_owned(),
    }));
    facts
}

fn fact(name: &str, verdict: Verdict, found: String, cost: &str) -> Fact {
    let cost = if verdict == Verdict::Ok { "" } else { cost };
    Fact { area: "host", name: name.into(), verdict, found, cost: cost.into() }
}

fn user() -> Fact {
    let root = rustix::process::geteuid().is_root();
    let verdict = if root { Verdict::Ok } else { Verdict::Missing };
    let found = if root { "root" } else { "not root" };
    fact("user", verdict, found.into(), "the daemon needs root, and most checks below do")
}

/// Less free space than this is worth a word, bytes.
const DISK_LOW: carrack_api::Bytes = carrack_api::Bytes(2 << 30);

fn disk(state_dir: &std::path::Path) -> Fact {
    let existing = state_dir.ancestors().find(|path| path.exists()).unwrap_or(std::path::Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = carrack_api::Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
            let verdict = if free < DISK_LOW { Verdict::Note } else { Verdict::Ok };
            fact("disk", verdict, format!("{free} free for {}", state_dir.display()), "images may not fit")
        }
        Err(error) => fact(
            "disk",
            Verdict::Missing,
            format!("{}: {}", existing.display(), std::io::Error::from(error)),
            "nothing can be stored",
        ),
    }
}

fn table(facts: &[Fact]) -> Table {
    let mut table = Table::new(&[full("AREA"), full("CHECK"), full("RESULT"), cut("FOUND"), cut("COST")]);
    for fact in facts {
        let result = match fact.verdict {
            Verdict::Ok => Cell::styled("ok", Style::Good),
            Verdict::Note => Cell::styled("note", Style::Busy),
            Verdict::Missing => Cell::styled("missing", Style::Bad),
        };
        table.row([
            fact.area.into(),
            fact.name.as_str().into(),
            result,
            fact.found.as_str().into(),
            fact.cost.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_it_costs() {
        let facts = [
            fact("kernel", Verdict::Ok, "6.12".into(), "x"),
            fact("user", Verdict::Missing, "not root".into(), "the daemon needs root"),
        ];
        assert_eq!(
            table(&facts).render(None, false),
            "AREA  CHECK   RESULT   FOUND     COST\nhost  kernel  ok       6.12\nhost  user    missing  not root  \
             the daemon needs root\n"
        );
    }
}
