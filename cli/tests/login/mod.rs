//! Logging in and out: what the daemon is asked, what is kept, and how credential helpers are spoken to.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use carrack_api::{Problem, RegistryStacks};

use crate::support::{Server, json, problem};

/// A helper that keeps one entry a server in files beside it, and writes down what it was asked.
const HELPER: &str = r#"#!/bin/sh
dir=$(dirname "$0")
input=$(cat)
echo "$1" >> "$dir/asked"
case "$1" in
store) printf '%s' "$input" > "$dir/kept" ;;
get) [ -f "$dir/kept" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$dir/kept" ;;
erase) rm -f "$dir/kept" ;;
esac
"#;

fn accepting(stacks: &[&str]) -> Server {
    let server = Server::start();
    let stacks = stacks.iter().map(|name| name.parse().unwrap()).collect();
    let answer = RegistryStacks { registry: "reg.test:5000".into(), stacks };
    server.on("POST /v1/registries/login", json(&answer));
    server
}

fn config(server: &Server, text: &str) -> PathBuf {
    let directory = server.directory().join(".docker");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("config.json");
    std::fs::write(&path, text).unwrap();
    path
}

fn install_helper(server: &Server, text: &str) -> PathBuf {
    let directory = server.directory().join("bin");
    std::fs::create_dir_all(&directory).unwrap();
    // Written elsewhere and moved: a file open for writing, by a child of another test too, cannot be run.
    let script = directory.join("script");
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.join("docker-credential-chest");
    let copied = std::process::Command::new("cp").arg("-p").args([&script, &path]).status().unwrap();
    assert!(copied.success());
    directory
}

#[test]
fn a_login_is_checked_by_the_daemon_then_kept_beside_what_was_there() {
    let server = accepting(&["shop"]);
    let path = config(&server, r#"{"psFormat": "x"}"#);
    let ran =
        server.run_with_input(&["login", "reg.test:5000", "-u", "ada", "--password-stdin"], b"s3cret\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "logged in to reg.test:5000 as ada\n");
    assert!(
        ran.err.contains("is kept in") && ran.err.contains("stacks that use it from now on: shop"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("s3cret"));
    let asked = server.requests().pop().unwrap();
    assert!(
        asked
            .contains(r#"{"registry":"reg.test:5000","credentials":{"username":"ada","password":"s3cret"}}"#)
    );
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let wanted =
        serde_json::json!({"psFormat": "x", "auths": {"reg.test:5000": {"auth": "YWRhOnMzY3JldA=="}}});
    assert_eq!(written, wanted);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let ran = server.run(&["logout", "reg.test:5000"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "logged out of reg.test:5000\n"));
    let ran = server.run(&["logout", "reg.test:5000", "-o", "json"]);
    assert!(ran.code == 0 && ran.out.contains("\"was_logged_in\": false"), "{ran:?}");
}

#[test]
fn credentials_that_the_registry_refuses_are_kept_nowhere() {
    let server = Server::start();
    let refusal = Problem::new(403, "registry-refused", "reg.test refused the credentials of ada");
    server.on("POST /v1/registries/login", problem(&refusal));
    let ran = server.run_with_input(&["login", "reg.test", "-u", "ada", "--password-stdin"], b"wrong");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("refused the credentials of ada") && !ran.err.contains("wrong"), "{ran:?}");
    assert!(!server.directory().join(".docker").exists());
}

#[test]
fn a_login_that_cannot_ask_says_how_to_pipe_the_password() {
    let server = Server::start();
    for (arguments, said) in [
        (["login", "reg.test", "-u", "ada"].as_slice(), "no terminal to ask"),
        (&["login", "reg.test", "--password-stdin"], "needs a user name"),
        (&["login", "not a registry", "-u", "a", "--password-stdin"], "is no registry"),
    ] {
        let ran = server.run(arguments);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_helper_keeps_the_password_and_gives_it_to_pulls() {
    let server = accepting(&[]);
    let path = config(&server, r#"{"credHelpers": {"reg.test:5000": "chest"}}"#);
    let directory = install_helper(&server, HELPER);
    let ran = server.run_with_input(&["login", "reg.test:5000", "-u", "ada", "--password-stdin"], b"s3cret");
    assert!(ran.code == 0 && ran.err.contains("docker-credential-chest keeps the password"), "{ran:?}");
    let kept = std::fs::read_to_string(directory.join("kept")).unwrap();
    assert_eq!(kept, r#"{"ServerURL":"reg.test:5000","Username":"ada","Secret":"s3cret"}"#);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("auth\""));

    // Nobody answers the pull: what it sent is what matters.
    let ran = server.run(&["image", "pull", "reg.test:5000/web:1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let asked = server.requests().pop().unwrap();
    assert!(asked.contains(r#""credentials":{"username":"ada","password":"s3cret"}"#), "{asked}");

    let ran = server.run(&["logout", "reg.test:5000"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "logged out of reg.test:5000\n"), "{ran:?}");
    assert!(!directory.join("kept").exists());
    let asked = std::fs::read_to_string(directory.join("asked")).unwrap();
    assert_eq!(asked, "store\nget\nget\nerase\n");
}

#[test]
fn a_helper_that_is_missing_or_fails_is_named() {
    let server = accepting(&[]);
    config(&server, r#"{"credHelpers": {"reg.test": "chest"}}"#);
    let ran = server.run(&["image", "pull", "reg.test/web:1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("credential helper docker-credential-chest is not installed"), "{ran:?}");
    assert!(server.requests().is_empty());

    install_helper(&server, "#!/bin/sh\ncat > /dev/null\necho the chest is locked\nexit 1\n");
    let ran = server.run(&["image", "pull", "reg.test/web:1"]);
    assert!(ran.err.contains("docker-credential-chest failed: the chest is locked"), "{ran:?}");
}

#[test]
fn a_helper_for_all_that_is_missing_stops_nobody_who_has_not_logged_in() {
    let server = Server::start();
    config(&server, r#"{"credsStore": "chest", "auths": {"kept.test": {}}}"#);
    let ran = server.run(&["image", "pull", "web:1"]);
    assert!(
        ran.err.contains("note: docker-credential-chest is not installed; docker.io is asked without"),
        "{ran:?}"
    );
    assert!(server.requests().pop().unwrap().contains(r#""credentials":null"#));
    let ran = server.run(&["image", "pull", "kept.test/web:1"]);
    assert!(ran.err.contains("credential helper docker-credential-chest is not installed"), "{ran:?}");
}

#[test]
fn an_identity_token_is_refused_with_what_to_do() {
    let server = Server::start();
    config(&server, r#"{"auths": {"reg.test": {"auth": "MDAwOg==", "identitytoken": "eyJhbGc"}}}"#);
    let ran = server.run(&["image", "pull", "reg.test/web:1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("identity token") && ran.err.contains("carrack login reg.test"), "{ran:?}");
    assert!(!ran.err.contains("eyJ"));
}
