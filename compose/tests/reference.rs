//! The cases of `reference/`: Compose files with the canonical model that Docker Compose gives them, or with its refusal; and
//! `reference/carrack/`, our own in the same form, several files of a project too.
//! Each must give the same model, or be refused with a message that names file and line. The score is a part of
//! `docs/compose.md`: `UPDATE_DOCS=1 cargo test -p carrack-compose --test reference` writes it anew.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use carrack_compose::{Diagnostics, DiskFiles, LoadOptions, config};
use serde_json::{Map, Value};

/// One line of `cases.jsonl`.
struct Case {
    id: String,
    suite: String,
    file: String,
    /// All files of the project; the first one alone when nothing else is said.
    files: Vec<PathBuf>,
    root: PathBuf,
    golden: Option<PathBuf>,
    /// What the case is expected to end with here; some of the reference's own answers are not what it should say.
    accepted: bool,
    project: String,
    /// `docker stack config` takes the file.
    swarm: bool,
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

fn cases() -> Vec<Case> {
    let lists = ["cases.jsonl", "carrack/cases.jsonl"];
    let text = lists.map(|list| std::fs::read_to_string(dir().join(list)).unwrap()).concat();
    text.lines().map(|line| case(&serde_json::from_str(line).unwrap())).collect()
}

fn case(line: &Value) -> Case {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let (expect, skip) = (text("expect"), text("skip"));
    // The reasons say what ours should do where the reference is wrong.
    let accepted = match (skip.contains("ours should accept"), skip.contains("ours should refuse")) {
        (true, _) => true,
        (_, true) => false,
        (false, false) => expect == "ok",
    };
    let golden = (skip.is_empty() && accepted).then(|| dir().join(text("golden")));
    let files: Vec<String> = match line["files"].as_array() {
        Some(files) => files.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => vec![text("file")],
    };
    let swarm = ["docker_stack_config_28_2_2", "docker_stack_config_28_5_2"];
    Case {
        id: text("id"),
        files: files.iter().map(|f| dir().join(f)).collect(),
        suite: text("suite"),
        file: text("file"),
        root: dir().join(text("root")),
        golden,
        accepted,
        project: text("project"),
        swarm: swarm.iter().any(|key| line[key] == "ok"),
    }
}

/// As the reference was asked: no environment, all profiles, a given name.
fn options(case: &Case) -> LoadOptions {
    LoadOptions {
        files: case.files.clone(),
        working_dir: dir(),
        project_name: Some(case.project.clone()),
        env: [("HOME".to_owned(), "/nonexistent".to_owned())].into(),
        profiles: vec!["*".into()],
        ..LoadOptions::default()
    }
}

/// Why a case fails.
fn failure(case: &Case) -> Option<String> {
    match (config(&options(case), &DiskFiles::default()), case.accepted) {
        (Ok(config), true) => {
            let Some(golden) = &case.golden else { return None };
            let wanted = std::fs::read_to_string(golden).unwrap();
            let wanted = wanted.replace("${ROOT}", &case.root.display().to_string());
            let wanted = plain(serde_json::from_str(&wanted).unwrap());
            difference(&plain(config.model.clone()), &wanted, "")
                .or_else(|| round_trip(case, &config.to_yaml(), &config.model))
        }
        (Err(problems), false) => placed(case, &problems),
        (Ok(_), false) => Some("is accepted".into()),
        (Err(problems), true) => Some(format!("is refused: {problems}")),
    }
}

/// A problem names the file, or another one that it uses, and a line of it.
fn placed(case: &Case, problems: &Diagnostics) -> Option<String> {
    let below = case.files[0].parent().unwrap();
    let known = |file: &str| match case.suite.as_str() {
        "carrack" => dir().join(file).starts_with(below) && dir().join(file).is_file(),
        _ => case.file.ends_with(file),
    };
    let placed = problems.0.iter().all(|p| !p.file.is_empty() && known(&p.file) && p.line > 0);
    (!placed).then(|| format!("is refused without a place: {problems}"))
}

/// The YAML that is printed gives the same model again.
fn round_trip(case: &Case, yaml: &str, model: &Value) -> Option<String> {
    let files = DiskFiles::with_stdin(yaml.as_bytes().to_vec());
    let again = LoadOptions { files: vec!["-".into()], working_dir: case.root.clone(), ..options(case) };
    match config(&again, &files) {
        Ok(again) => difference(&again.model, model, "").map(|d| format!("is another one after YAML: {d}")),
        Err(problems) => Some(format!("cannot be read back from YAML: {problems}\n{yaml}")),
    }
}

/// Without what counts as nothing: `x-*`, and an empty command or entrypoint.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let nothing = |(k, v): &(String, Value)| {
                k.starts_with("x-") || v.is_null() && matches!(k.as_str(), "command" | "entrypoint")
            };
            Value::Object(
                map.into_iter()
                    .filter(|entry| !nothing(entry))
                    .map(|(k, v)| (k, plain(v)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(list) => Value::Array(list.into_iter().map(plain).collect()),
        other => other,
    }
}

/// The first place at which two values differ.
fn difference(ours: &Value, theirs: &Value, path: &str) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let nothing = Value::String("(absent)".into());
                let (a, b) = (a.get(key).unwrap_or(&nothing), b.get(key).unwrap_or(&nothing));
                difference(a, b, &format!("{path}.{key}"))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{path}[{i}]")))
        }
        (a, b) => (a != b).then(|| format!("{path} is {a}, and {b} in the reference")),
    }
}

/// Which key of the specification a case is about, from its name.
fn subject(case: &Case) -> String {
    let name = case.id.split_once('_').map_or(case.id.as_str(), |(_, name)| name);
    let name = name.trim_end_matches(".yaml");
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match case.suite.as_str() {
        "awesome-compose" => "applications".into(),
        "carrack" => format!("{} (carrack)", name.split('-').next().unwrap_or(name)),
        "spec-examples" => {
            let parts = name.split('-').filter(|p| !digits(p));
            format!("{} (text)", parts.collect::<Vec<_>>().join(" "))
        }
        _ if name.starts_with("neg-") => "mistakes".into(),
        _ => {
            let name = name.strip_prefix("key-").unwrap_or(name);
            name.split('-').next().unwrap_or(name).into()
        }
    }
}

/// Cases, those that pass, and those that `docker stack config` answers as expected.
#[derive(Default, Clone, Copy)]
struct Score {
    cases: usize,
    passed: usize,
    swarm: usize,
}

impl Score {
    fn add(&mut self, case: &Case, passed: bool) {
        self.cases += 1;
        self.passed += usize::from(passed);
        self.swarm += usize::from(case.swarm == case.accepted);
    }

    fn row(&self, name: &str) -> String {
        format!("| {name} | {} | {} | {} |\n", self.cases, self.passed, self.swarm)
    }
}

fn table(title: &str, scores: &BTreeMap<String, Score>) -> String {
    let mut out = format!("| {title} | cases | Carrack | `docker stack config` |\n|---|--:|--:|--:|\n");
    let mut all = Score::default();
    for (name, score) in scores {
        out += &score.row(name);
        all.cases += score.cases;
        all.passed += score.passed;
        all.swarm += score.swarm;
    }
    out + &all.row("**all**")
}

const BEGIN: &str =
    "<!-- score: begin, written by `UPDATE_DOCS=1 cargo test -p carrack-compose --test reference` -->\n";
const END: &str = "<!-- score: end -->\n";

/// The part of the document, as it should be and as it is.
fn documented(part: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compose.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/compose.md has the mark where the score begins");
    let (old, after) = rest.split_once(END).expect("docs/compose.md has the mark where the score ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{part}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(old, part, "the score in docs/compose.md is old; UPDATE_DOCS=1 writes it anew");
}

#[test]
fn every_case_gives_what_the_reference_gives() {
    let cases = cases();
    assert!(cases.len() >= 372 + 100, "cases are missing");
    let (mut suites, mut subjects) = (BTreeMap::new(), BTreeMap::new());
    let mut failures = Vec::new();
    for case in &cases {
        let failure = failure(case);
        suites.entry(case.suite.clone()).or_insert(Score::default()).add(case, failure.is_none());
        subjects.entry(subject(case)).or_insert(Score::default()).add(case, failure.is_none());
        failures.extend(failure.map(|why| format!("{}: {why}", case.file)));
    }
    let part = format!("{}\n{}", table("suite", &suites), table("about", &subjects));
    println!("{part}");
    assert!(
        failures.is_empty(),
        "{} of {} cases fail:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    documented(&part);
}
