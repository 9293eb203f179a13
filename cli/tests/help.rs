//! The whole help as golden files in `tests/help/`. `CARRACK_UPDATE_GOLDEN=1 cargo test -p carrack --test help` writes them anew.

use std::path::Path;
use std::process::Command;

const VERBS: &[&[&str]] = &[
    &[],
    &["daemon"],
    &["deploy"],
    &["build"],
    &["check"],
    &["config"],
    &["up"],
    &["down"],
    &["ls"],
    &["ps"],
    &["inspect"],
    &["scale"],
    &["run"],
    &["stop"],
    &["start"],
    &["restart"],
    &["kill"],
    &["set"],
    &["wait"],
    &["port"],
    &["logs"],
    &["exec"],
    &["attach"],
    &["cp"],
    &["stats"],
    &["dns"],
    &["events"],
    &["rm"],
    &["login"],
    &["logout"],
    &["image"],
    &["image", "load"],
    &["image", "pull"],
    &["image", "ls"],
    &["image", "inspect"],
    &["image", "tag"],
    &["image", "save"],
    &["image", "prune"],
    &["image", "rm"],
    &["volume"],
    &["volume", "ls"],
    &["volume", "inspect"],
    &["volume", "prune"],
    &["volume", "rm"],
    &["network"],
    &["network", "create"],
    &["network", "ls"],
    &["network", "inspect"],
    &["network", "rm"],
    &["network", "prune"],
    &["secret"],
    &["secret", "create"],
    &["secret", "ls"],
    &["secret", "inspect"],
    &["secret", "rm"],
    &["config", "create"],
    &["config", "ls"],
    &["config", "inspect"],
    &["config", "rm"],
    &["doctor"],
    &["version"],
    &["defaults"],
    &["completions"],
    &["man"],
    &["uninstall"],
];

fn help(verb: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_carrack"))
        .args(verb)
        .arg("--help")
        .env_remove("CARRACK_HOST")
        .output()
        .expect("run carrack");
    assert!(output.status.success(), "{verb:?}");
    assert!(output.stderr.is_empty(), "help is data: {verb:?}");
    String::from_utf8(output.stdout).expect("help in UTF-8")
}

#[test]
fn every_verb_has_the_help_that_was_reviewed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let update = std::env::var_os("CARRACK_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for verb in VERBS {
        let name = if verb.is_empty() { "carrack".to_owned() } else { verb.join("-") };
        let path = directory.join(format!("{name}.txt"));
        let now = help(verb);
        if update {
            std::fs::write(&path, &now).expect("write a golden file");
        } else if std::fs::read_to_string(&path).unwrap_or_default() != now {
            wrong.push(format!("{}:\n{now}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "help differs from its golden file:\n{}", wrong.join("\n"));
}

#[test]
fn every_verb_that_is_listed_is_covered_here() {
    let overview = help(&[]);
    let (groups, _) = overview.split_once("\nOptions:\n").expect("verbs, then options");
    let names: Vec<&str> = groups
        .lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        assert!(VERBS.contains(&[name].as_slice()), "{name} has no golden file");
    }
}

#[test]
fn the_overview_fits_an_old_terminal_and_help_verb_is_the_same_as_verb_help() {
    for line in help(&[]).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_carrack")).args(["help", "logs"]).output().expect("run carrack");
    assert_eq!(String::from_utf8(output.stdout).expect("help in UTF-8"), help(&["logs"]));
}

#[test]
fn help_fits_a_terminal() {
    for verb in VERBS {
        for line in help(verb).lines() {
            assert!(line.chars().count() <= 130, "{verb:?}: {line}");
        }
    }
}

/// The reference in `docs/verbs.md` is the help, verb by verb, without the options that every verb has.
#[test]
fn the_reference_in_the_docs_is_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verbs.md");
    let mut text = String::from(
        "# Verbs\n\nWhat `carrack help VERB` prints, for reading at one sitting; written by the test of the help, so it is always the\n\
         binary's own words. `carrack man DIR` writes the same as manual pages.\n",
    );
    for verb in VERBS {
        let title =
            if verb.is_empty() { "carrack".to_owned() } else { format!("carrack {}", verb.join(" ")) };
        text.push_str(&format!(
            "\n## {title}\n\n```text\n{}```\n",
            without_global_options(&help(verb), verb.is_empty())
        ));
    }
    if std::env::var_os("CARRACK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("write the reference");
    }
    let now = std::fs::read_to_string(&path).expect("read the reference");
    assert!(
        now == text,
        "docs/verbs.md is not the help; CARRACK_UPDATE_GOLDEN=1 cargo test -p carrack --test help"
    );
}

fn without_global_options(help: &str, keep: bool) -> String {
    let mut paragraphs: Vec<&str> = help.trim_end().split("\n\n").collect();
    paragraphs.retain(|paragraph| keep || !paragraph.starts_with("Options of every command:"));
    paragraphs.join("\n\n") + "\n"
}
