//! Each row ends as it says, and the specification's schema has no key without a row.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::{Key, Outcome, all};
use crate::project;
use crate::report::{Diagnostic, DiagnosticKind, Note, Report};
use crate::yaml::{Node, Value};
use crate::{LoadOptions, MemoryFiles, stack};

const SCHEMA: &str = include_str!("../../tests/reference/schema/compose-spec.draft2020-12.json");

/// The example as a whole file.
fn file(key: &Key) -> String {
    if !key.path.starts_with("services.") {
        return key.example.to_owned();
    }
    let keys = key.example.trim();
    let inner = match keys.strip_prefix('{').and_then(|k| k.strip_suffix('}')) {
        Some(inner) => inner.to_owned(),
        None => keys.to_owned(),
    };
    let image = if inner.contains("image: nginx") { "" } else { "image: i, " };
    format!(
        "services: {{s: {{{image}{inner}}}, t: {{image: t, command: [t]}}, u: {{image: u, volumes: ['vol:/u']}}}}\n\
         volumes: {{vol: {{}}}}\nnetworks: {{n: {{}}}}\n\
         secrets: {{c: {{file: a.env}}}}\nconfigs: {{c: {{file: a.env}}}}\n"
    )
}

fn files(text: &str) -> MemoryFiles {
    MemoryFiles::default()
        .with("/app/compose.yaml", text)
        .with("/app/a.env", "A=1\nB=${A}\n")
        .with("/app/small.conf", "x")
        .with("/app/other.yaml", "{services: {o: {image: o, command: [o]}}}")
        .with("/app/inner.yaml", "{services: {o: {image: 'o:${A:-0}', volumes: ['./x:/x']}}}")
}

/// What a load gives, as text; `without` takes a key away first.
struct Given {
    /// The stack, or nothing when there are problems.
    stack: Option<Json>,
    problems: Vec<Diagnostic>,
    notes: Vec<Note>,
}

fn give(text: &str, without: Option<&str>) -> Given {
    let files = files(text);
    let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
    let mut report = Report::default();
    let Some(mut project) = project::read(&options, &files, &mut report) else {
        return Given { stack: None, problems: report.finish().unwrap_err().0, notes: Vec::new() };
    };
    if let Some(path) = without {
        let segments: Vec<&str> = path.split('.').collect();
        take_away(&mut project.root, &segments);
    }
    let stack = stack::build(&project, &files, &mut report).map(|built| {
        let others = format!("{:?} {:?}", built.builds, built.inactive);
        serde_json::json!([built.stack, others])
    });
    match report.finish() {
        Ok(notes) => Given { stack, problems: Vec::new(), notes },
        Err(problems) => Given { stack: None, problems: problems.0, notes: Vec::new() },
    }
}

/// Takes a key away wherever names or numbers stand between the parts of its path.
fn take_away(node: &mut Node, path: &[&str]) {
    match &mut node.value {
        Value::Map(map) => {
            if map.get(path[0]).is_some() {
                match path.len() {
                    1 => drop(map.remove(path[0])),
                    _ => take_away(map.get_mut(path[0]).unwrap(), &path[1..]),
                }
                return;
            }
            map.entries.iter_mut().for_each(|entry| take_away(&mut entry.value, path));
        }
        Value::List(list) => list.iter_mut().for_each(|node| take_away(node, path)),
        Value::Null | Value::Scalar { .. } => {}
    }
}

/// The key's text with anything in the place of its value.
fn says(text: &str, message: &str) -> bool {
    let (before, after) = match text.split_once("{:?}").or_else(|| text.split_once("{}")) {
        Some(parts) => parts,
        None => return text == message,
    };
    message.starts_with(before) && message.ends_with(after)
}

/// `services.s.ports[0].target` is `services.ports.target`, and `services.develop.*` is all below.
fn is_at(key: &Key, path: &str) -> bool {
    let segments: Vec<&str> = path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    let wanted: Vec<&str> = key.path.trim_end_matches(".*").split('.').collect();
    // The key itself, or the element or mapping that it stands in.
    let within = |wanted: &[&str]| {
        let mut left = segments.iter();
        wanted.iter().all(|part| left.any(|segment| segment == part))
    };
    within(&wanted) || wanted.len() > 2 && within(&wanted[..wanted.len() - 1])
}

fn judge(key: &Key) -> Result<(), String> {
    let text = file(key);
    let given = give(&text, None);
    let told: Vec<String> = given
        .problems
        .iter()
        .map(ToString::to_string)
        .chain(given.notes.iter().filter(|n| !n.detail || key.path == "version").map(ToString::to_string))
        .collect();
    match key.outcome {
        Outcome::Place => Ok(()),
        Outcome::Exact { anyway } => {
            let bind = "is a path of the node that takes the deploy";
            // A bind mount is noted for its own sake.
            if told.iter().any(|t| !t.contains(bind)) || given.stack.is_none() {
                return Err(format!("is to be exact, and the load says {told:?}"));
            }
            // Followed before the tree is decoded; `what_is_followed_changes_what_runs` asks for them.
            let followed = ["name", "include", "services.profiles", "services.extends"];
            if followed.iter().any(|f| key.path.starts_with(f)) {
                return Ok(());
            }
            let without = give(&text, Some(key.path));
            let same = without.stack == given.stack;
            match (anyway, same) {
                (false, true) => Err("is to be exact, and changes nothing".into()),
                (true, false) => {
                    Err(format!("is to be so anyway, and changes the stack:\n{:#?}", without.problems))
                }
                _ => Ok(()),
            }
        }
        Outcome::Mapped(note) => {
            let found =
                given.notes.iter().any(|n| says(note, &n.text) && is_at(key, &n.key) && n.position.line > 0);
            if found { Ok(()) } else { Err(format!("is to be mapped ({note}), and the load says {told:?}")) }
        }
        Outcome::Refused { why, hint, .. } => {
            let found = given.problems.iter().any(|p| {
                let same = says(why, &p.message) && p.hint.as_deref().is_some_and(|h| h.starts_with(hint));
                same && p.kind == DiagnosticKind::Unsupported
                    && is_at(key, &p.path)
                    && p.line > 0
                    && p.column > 0
            });
            if found { Ok(()) } else { Err(format!("is to be refused ({why}), and the load says {told:?}")) }
        }
    }
}

#[test]
fn every_row_ends_as_it_says() {
    let wrong: Vec<String> = all()
        .filter_map(|key| judge(key).err().map(|why| format!("{}: {why}\n{}", key.name(), file(key))))
        .collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_followed_changes_what_runs() {
    let with = "services: {s: {image: i, extends: {service: o, file: other.yaml}}}";
    for (with, without) in [
        (
            "services: {s: {image: i, extends: {service: t}}, t: {image: t, command: [a]}}",
            "services: {s: {image: i}, t: {image: t, command: [a]}}",
        ),
        (with, "services: {s: {image: i}}"),
        (
            "services: {s: {image: i, profiles: [p]}, t: {image: t}}",
            "services: {s: {image: i}, t: {image: t}}",
        ),
        ("{name: p, services: {s: {image: i}}}", "services: {s: {image: i}}"),
        ("{include: [other.yaml], services: {s: {image: i}}}", "services: {s: {image: i}}"),
        (
            "{include: [{path: inner.yaml, env_file: a.env}], services: {s: {image: i}}}",
            "{include: [inner.yaml], services: {s: {image: i}}}",
        ),
        (
            "{include: [{path: inner.yaml, project_directory: /sub}], services: {s: {image: i}}}",
            "{include: [inner.yaml], services: {s: {image: i}}}",
        ),
    ] {
        assert!(give(with, None).stack.is_some(), "{with}");
        assert_ne!(give(with, None).stack, give(without, None).stack, "{with}");
    }
}

#[test]
fn cosmetic_refusals_are_left_out_when_asked_and_mapped_keys_refused_when_asked() {
    for key in all() {
        let options = |strict, lenient| LoadOptions {
            working_dir: "/app".into(),
            strict,
            lenient,
            ..LoadOptions::default()
        };
        let files = files(&file(key));
        match key.outcome {
            Outcome::Refused { cosmetic, .. } => {
                let lenient = crate::load(&options(false, true), &files);
                assert_eq!(lenient.is_ok(), cosmetic, "{}: {:?}", key.name(), lenient.err());
                if let Ok(loaded) = lenient {
                    assert!(loaded.notes.iter().any(|n| n.text.starts_with("left out: ")), "{}", key.name());
                }
            }
            Outcome::Mapped(_) if key.path != "version" => {
                let problems = crate::load(&options(true, false), &files).expect_err(key.path);
                assert!(problems.0.iter().all(|p| p.kind == DiagnosticKind::Unsupported), "{}", key.name());
            }
            Outcome::Mapped(_) | Outcome::Exact { .. } | Outcome::Place => {}
        }
    }
}

#[test]
fn rows_are_unique_and_say_something() {
    let mut seen = BTreeSet::new();
    for key in all() {
        assert!(seen.insert(key.name()), "{} stands twice", key.name());
        match key.outcome {
            Outcome::Refused { why, hint, .. } => {
                assert!(!why.is_empty() && !hint.is_empty(), "{}", key.name())
            }
            Outcome::Mapped(note) => assert!(!note.is_empty(), "{}", key.name()),
            Outcome::Exact { .. } | Outcome::Place => {}
        }
    }
}

/// All paths of the schema, without the names of users and `x-` keys.
fn schema_paths() -> BTreeSet<String> {
    fn walk(schema: &Json, node: &Json, path: &str, seen: &mut Vec<String>, out: &mut BTreeSet<String>) {
        if let Some(reference) = node["$ref"].as_str() {
            if seen.iter().any(|s| s == reference) {
                return;
            }
            seen.push(reference.to_owned());
            walk(schema, schema.pointer(reference.trim_start_matches('#')).unwrap(), path, seen, out);
            seen.pop();
        }
        for form in ["oneOf", "anyOf", "allOf"] {
            for one in node[form].as_array().into_iter().flatten() {
                walk(schema, one, path, seen, out);
            }
        }
        for (key, below) in node["properties"].as_object().into_iter().flatten() {
            if !key.starts_with("x-") {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(schema, below, &path, seen, out);
                out.insert(path);
            }
        }
        for (pattern, below) in node["patternProperties"].as_object().into_iter().flatten() {
            if pattern != "^x-" {
                walk(schema, below, path, seen, out);
            }
        }
        for below in [&node["items"], &node["additionalProperties"]].into_iter().filter(|b| b.is_object()) {
            walk(schema, below, path, seen, out);
        }
    }
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    let mut out = BTreeSet::new();
    walk(&schema, &schema, "", &mut Vec::new(), &mut out);
    out
}

#[test]
fn every_key_of_the_specification_has_an_outcome() {
    let paths = schema_paths();
    let service = |p: &&String| p.starts_with("services.") && p.matches('.').count() == 1;
    assert_eq!(paths.iter().filter(service).count(), 93, "the specification's keys of a service");
    let covers = |key: &Key, path: &str| match key.path.strip_suffix(".*") {
        Some(above) => path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.')),
        None => key.path == path,
    };
    let missing: Vec<&String> = paths.iter().filter(|p| !all().any(|key| covers(key, p))).collect();
    assert!(missing.is_empty(), "no outcome is given for {missing:#?}");
    // And no row is of a key that is not there; one is newer than the schema.
    let unknown: Vec<&str> = all()
        .filter(|key| !paths.iter().any(|path| covers(key, path)))
        .map(|key| key.path)
        .filter(|path| *path != "services.pull_refresh_after")
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in the specification");
}
