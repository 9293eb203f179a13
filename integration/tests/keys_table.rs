//! The table of Compose keys in `docs/compose-keys.md`, made of what the loader says becomes of each key and of what live tests
//! have seen. `UPDATE_GOLDEN=1 cargo test -p carrack-integration --test keys_table` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use carrack_compose::outcomes::{Key, Outcome, When, all};
use carrack_integration::observed::{Seen, observed};

fn by_key() -> BTreeMap<&'static str, Seen> {
    observed().map(|observation| (observation.key, observation.seen)).collect()
}

fn is_exact(key: &Key) -> bool {
    matches!(key.outcome, Outcome::Exact { .. })
}

#[test]
fn a_key_is_exact_only_when_a_live_test_sees_its_effect() {
    let exact: BTreeSet<String> = all().filter(|key| is_exact(key)).map(Key::name).collect();
    let seen: BTreeSet<String> = observed().map(|o| o.key.to_owned()).collect();
    assert_eq!(seen.len(), observed().count(), "a key is observed twice");
    let unknown: Vec<_> = seen.difference(&exact).collect();
    assert!(unknown.is_empty(), "observed, but not called exact: {unknown:#?}");
    let missing: Vec<_> = exact.difference(&seen).collect();
    assert!(missing.is_empty(), "called exact, and no live test sees them: {missing:#?}");
}

/// A test that is named says itself what it saw, and fails when that is not what the rows say; here, that it is there and does.
#[test]
fn the_tests_that_see_a_key_are_there_and_say_so() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for observation in observed() {
        let Seen::Test { test, .. } = observation.seen else { continue };
        let text = std::fs::read_to_string(tests.join(format!("{}.rs", test.file))).unwrap_or_default();
        let (key, name) = (observation.key, test.name);
        assert!(text.contains(&format!("#[test]\nfn {name}(")), "{key}: no test {name} in {}.rs", test.file);
        assert!(text.contains(&format!("\"{key}\"")), "{key}: {}.rs does not say that it saw it", test.file);
        assert!(
            text.contains("Notes::of(") && text.contains(".finish();"),
            "{}.rs keeps no notes",
            test.file
        );
    }
}

/// The mappings of the specification's schema and where they stand in a file. What is deeper is asked for by the loader's own tests.
const MAPPINGS: [(&str, &str); 10] = [
    ("", ""),
    ("/$defs/service", "services."),
    ("/$defs/healthcheck", "services.healthcheck."),
    ("/$defs/development", "services.develop."),
    ("/$defs/deployment", "services.deploy."),
    ("/$defs/service_hook", "services.post_start."),
    ("/$defs/network", "networks."),
    ("/$defs/volume", "volumes."),
    ("/$defs/secret", "secrets."),
    ("/$defs/config", "configs."),
];

#[test]
fn every_key_of_the_schema_stands_in_the_table() {
    let schema = include_str!("../../compose/tests/reference/schema/compose-spec.draft2020-12.json");
    let schema: serde_json::Value = serde_json::from_str(schema).expect("the schema is JSON");
    let said = |key: &str| {
        let below = format!("{key}.");
        all().any(|row| match row.path.strip_suffix('*') {
            Some(above) => key.starts_with(above),
            None => row.path == key || row.path.starts_with(&below),
        })
    };
    assert!(!said("services.no_such_key"), "every key is said to be there");
    for (pointer, above) in MAPPINGS {
        let keys = schema.pointer(&format!("{pointer}/properties")).and_then(|keys| keys.as_object());
        for key in keys.expect("keys").keys().filter(|key| !key.starts_with("x-")) {
            assert!(said(&format!("{above}{key}")), "nothing is said of {above}{key}");
        }
    }
}

/// A text as a cell of a table holds it.
fn in_a_cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// What happens without a key, where Docker does otherwise.
const LEFT_OUT: [(&str, &str); 1] = [(
    "services.init",
    "; without the key our init is PID 1, unless the program's file is named `init` or `systemd`; Docker adds none",
)];

/// What is said of a key in the table: a word, and its explanation.
fn cells(key: &Key, seen: &BTreeMap<&str, Seen>) -> (&'static str, String) {
    match key.outcome {
        Outcome::Exact { .. } => match seen.get(key.name().as_str()) {
            Some(Seen::Inside { command, prints, .. }) => (
                "exact",
                format!("in the container `{}` {}", in_a_cell(command), in_a_cell(&prints.describe())),
            ),
            Some(Seen::Test { test, what }) => ("exact", format!("{what} ({})", test.file)),
            // The test above has told that.
            None => ("exact", String::new()),
        },
        Outcome::Mapped(note) => ("mapped", note.replace("{:?}", "NAME").replace("{}", "NAME")),
        Outcome::Refused { when, why, hint, cosmetic } => {
            let word = if when == When::Yet { "not yet" } else { "refused" };
            let lenient = if cosmetic { " (`--lenient` leaves it out)" } else { "" };
            let why = why.replace("{:?}", "NAME").replace("{}", "NAME");
            (word, format!("{why}: {hint}{lenient}"))
        }
        Outcome::Place => ("", String::new()),
    }
}

fn table() -> String {
    let seen = by_key();
    let mut out = String::from(
        "# What becomes of each key of a Compose file\n\n\
         Made by `UPDATE_GOLDEN=1 cargo test -p carrack-integration --test keys_table` from the list that the loader decides by\n\
         (`compose/src/outcomes`) and from what live tests see (`integration/src/observed.rs`). A key that is not here is no key of\n\
         the specification: the loader refuses it and names the nearest one.\n\n\
         | word | meaning |\n|---|---|\n\
         | exact | as the specification says; a live test sees its effect in a container or in the kernel, here is where |\n\
         | mapped | honoured in another way; `deploy` and `check` show this note, `--strict` refuses it |\n\
         | refused | cannot or shall not be done here |\n\
         | not yet | not built yet |\n\n",
    );
    let services: BTreeSet<&str> = all()
        .filter_map(|key| key.path.strip_prefix("services."))
        .map(|path| path.split('.').next().unwrap_or(path))
        .collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for key in all() {
        let (word, _) = cells(key, &seen);
        if !word.is_empty() {
            *counts.entry(word).or_default() += 1;
        }
    }
    let count = |word| counts.get(word).copied().unwrap_or_default();
    let _ = writeln!(
        out,
        "{} keys of a service, {} rows with the keys below them and at the top: {} exact, {} mapped, {} refused, {} not yet.\n",
        services.len(),
        counts.values().sum::<usize>(),
        count("exact"),
        count("mapped"),
        count("refused"),
        count("not yet"),
    );
    out.push_str("| key | | |\n|---|---|---|\n");
    for key in all() {
        let (word, text) = cells(key, &seen);
        if !word.is_empty() {
            let left_out = LEFT_OUT.iter().find(|(path, _)| *path == key.path).map_or("", |(_, text)| text);
            let form = if key.form.is_empty() { String::new() } else { format!(" ({})", key.form) };
            let _ = writeln!(out, "| `{}`{form} | {word} | {text}{left_out} |", key.path);
        }
    }
    out
}

#[test]
fn the_documented_table_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compose-keys.md");
    let table = table();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &table).expect("write docs/compose-keys.md");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == table, "docs/compose-keys.md differs; see the head of this test for how it is made");
}
