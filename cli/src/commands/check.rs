//! `carrack check`: what many hosts would change or break for a Compose project. Asks no daemon.

use std::fmt::Write as _;

use carrack_compose::{Finding, Graduation, Verdict};
use serde_json::json;

use crate::args::CheckArgs;
use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::style::{Style, clean, paint};
use crate::terminal::put;
use crate::{project, render};

/// `carrack check`.
pub(crate) fn run(args: &CheckArgs, context: &Context) -> Outcome {
    let found = project::graduate(&args.project, &args.strictness)?;
    if context.json() {
        context.put_json(&value(&found))?;
    } else {
        put(&text(&found, context.terminal.colour_out()))?;
    }
    Ok(if found.worst().is_some_and(Verdict::stops) { Code::Error } else { Code::Ok })
}

fn value(found: &Graduation) -> serde_json::Value {
    let findings: Vec<_> = found
        .findings
        .iter()
        .map(|finding| {
            let Finding { verdict, position, key, text, hint } = finding;
            json!({
                "verdict": verdict.word(), "file": position.file, "line": position.line,
                "column": position.column, "key": key, "text": text, "hint": hint,
            })
        })
        .collect();
    json!({
        "stack": found.stack, "services": found.services, "findings": findings,
        "ready": !found.worst().is_some_and(Verdict::stops),
    })
}

fn text(found: &Graduation, colour: bool) -> String {
    let mut out = String::new();
    for finding in &found.findings {
        let style = match finding.verdict {
            Verdict::Invalid | Verdict::Refused => Style::Bad,
            Verdict::Breaks | Verdict::Changes => Style::Busy,
            Verdict::Mapped => Style::Dim,
        };
        // The word is padded before it is painted: colours have no width.
        let word = paint(&format!("{:8}", finding.verdict.word()), style, colour);
        let key = if finding.key.is_empty() { String::new() } else { format!("{}: ", clean(&finding.key)) };
        let _ = writeln!(out, "{word} {}: {key}{}", finding.position, clean(&finding.text));
        if let Some(hint) = &finding.hint {
            let _ = writeln!(out, "         hint: {}", clean(hint));
        }
    }
    let name = found.stack.as_ref().map_or("the project", |name| name.as_str());
    let services = render::count(found.services, "service");
    let count = |verdict| found.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let verdicts = [Verdict::Invalid, Verdict::Refused, Verdict::Breaks, Verdict::Changes, Verdict::Mapped];
    let counts: Vec<String> = verdicts
        .into_iter()
        .filter(|verdict| count(*verdict) > 0)
        .map(|verdict| format!("{} {}", count(verdict), verdict.word()))
        .collect();
    let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
    let verdict = match found.worst() {
        Some(Verdict::Invalid | Verdict::Refused) => "cannot be deployed as it is",
        Some(Verdict::Breaks) => "runs on one host, and must change before it moves to several",
        Some(Verdict::Changes | Verdict::Mapped) | None => "is ready for several hosts",
    };
    let _ = writeln!(out, "{name}, {services}: {verdict}{counts}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_compose::{LoadOptions, MemoryFiles, graduate};

    fn found(text: &str) -> Graduation {
        let files = MemoryFiles::default().with("/app/compose.yaml", text);
        graduate(&LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() }, &files)
    }

    #[test]
    fn findings_are_told_with_place_and_hint_and_counted() {
        let text = text(
            &found("services:\n  web:\n    image: nginx\n    container_name: web1\n    gpus: all\n"),
            false,
        );
        assert_eq!(
            text,
            "changes  compose.yaml:4:21: services.web.container_name: the name belongs to one container: the service cannot have \
             several replicas\n         hint: take it away; other services use the name of the service\n\
             refused  compose.yaml:5:5: services.web.gpus: GPUs are not built yet\n         \
             hint: name the device nodes in `devices`, and keep tasks on nodes that have them with a constraint\n\
             app, 1 service: cannot be deployed as it is (1 refused, 1 changes)\n"
        );
    }

    #[test]
    fn a_project_without_findings_is_ready() {
        let ready = found("services: {web: {image: nginx}}");
        assert_eq!(text(&ready, false), "app, 1 service: is ready for several hosts\n");
        assert_eq!(value(&ready)["ready"], true);
        assert_eq!(value(&found("services: ["))["ready"], false);
    }
}
