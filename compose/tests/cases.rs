//! Files with golden answers: each `cases/NAME.yaml` beside the `NAME.out` that a load of it gives, stack and notes, or
//! problems. `UPDATE_GOLDEN=1 cargo test -p carrack-compose --test cases` writes them anew.

use std::path::Path;

use carrack_compose::{LoadOptions, MemoryFiles, load};
use serde_json::Value;

fn answer(text: &str) -> String {
    let files = MemoryFiles::default().with("/app/compose.yaml", text);
    let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
    match load(&options, &files) {
        Ok(loaded) => {
            let notes: String = loaded
                .notes
                .iter()
                .map(|n| format!("{}{n}\n", if n.detail { "(detail) " } else { "" }))
                .collect();
            let mut stack = serde_json::to_value(&loaded.stack).expect("a stack is JSON");
            prune(&mut stack);
            let stack = serde_json::to_string_pretty(&stack).expect("a stack is JSON");
            format!("{notes}{stack}\n")
        }
        Err(problems) => format!("{problems}\n"),
    }
}

/// Takes away what says nothing, so that the goldens show what the file says.
fn prune(value: &mut Value) {
    let says_nothing = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !says_nothing(v));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_case_gives_its_golden_answer() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        seen += 1;
        let got = answer(&std::fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("out");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(got, wanted, "{} differs from its golden answer", path.display());
    }
    assert!(seen >= 3, "the cases are missing");
}
