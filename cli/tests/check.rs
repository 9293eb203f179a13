//! `carrack check` and what `carrack deploy` refuses, run as a user runs them, where no daemon is: what is wrong with a file is told
//! before anybody is asked.

use std::path::Path;
use std::process::{Command, Output};

const EXACT: &str = "services:\n  web:\n    image: nginx:1\n    restart: always\n";
const MAPPED: &str = "services:\n  web:\n    image: nginx:1\n    attach: false\n";
const COSMETIC: &str = "services:\n  web:\n    image: nginx:1\n    credential_spec: {file: x}\n";
const REFUSED: &str = "services:\n  web:\n    image: nginx:1\n    use_api_socket: true\n";
const INVALID: &str = "services:\n  web:\n    image: nginx:1\n    prots: ['80:80']\n";
const BREAKS: &str = "services:\n  web:\n    build: .\n";
const GLOBAL: &str = "services:\n  web:\n    image: nginx:1\n    deploy: {mode: global, replicas: 3}\n";
const OPTION: &str = "services:\n  web:\n    image: nginx:1\n    volumes: ['/etc:/x:nosuid']\n";
const SYSCTL: &str = "services:\n  web:\n    image: nginx:1\n    sysctls: {vm.max_map_count: 262144}\n";
const IMAGE: &str = "services:\n  web:\n    image: UPPER:bad:tag\n";
const SECRETS: &str = "services: {web: {image: 'nginx:1', secrets: [s, e]}}\nsecrets:\n  s: {file: ./none}\n  e: {environment: NONE}\n";
const MIXED: &str = "services: {web: {image: 'nginx:1', attach: false, use_api_socket: true}}\n";

fn carrack(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carrack"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("CARRACK_HOST", dir.join("no.sock"))
        .output()
        .expect("run carrack")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The verb on one file: its exit code, what it printed, and what it said beside it.
fn verb(verb: &str, file: &str, args: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("compose.yaml"), file).expect("write the file");
    let output = carrack(dir.path(), &[&[verb, "-p", "shop"], args].concat());
    let (out, err) = (text(&output.stdout).to_owned(), text(&output.stderr).to_owned());
    (output.status.code().expect("an exit code"), out, err)
}

#[test]
fn a_check_says_all_and_ends_with_one_when_the_file_cannot_move() {
    for (file, args, code, told) in [
        (EXACT, &[][..], 0, "is ready for several hosts"),
        (EXACT, &["--strict"], 0, "is ready for several hosts"),
        (MAPPED, &[], 0, "mapped   compose.yaml:4:13: services.web.attach"),
        (MAPPED, &["--strict"], 1, "refused  compose.yaml:4:13: services.web.attach"),
        (COSMETIC, &[], 1, "refused  compose.yaml:4:5: services.web.credential_spec"),
        (COSMETIC, &["--lenient"], 0, "mapped   compose.yaml:4:5: services.web.credential_spec: left out"),
        (REFUSED, &[], 1, "refused  compose.yaml:4:5: services.web.use_api_socket"),
        (REFUSED, &["--lenient"], 1, "refused  compose.yaml:4:5: services.web.use_api_socket"),
        (INVALID, &[], 1, "invalid  compose.yaml:4:5: services.web.prots: unknown key"),
        (INVALID, &["--lenient"], 1, "did you mean `ports`?"),
        (GLOBAL, &[], 0, "mapped   compose.yaml:4:38: services.web.deploy.replicas: left out"),
        (OPTION, &[], 0, "mapped   compose.yaml:4:15: services.web.volumes[0].nosuid: it is not known"),
        (SYSCTL, &[], 1, "invalid  compose.yaml:4:15: services.web.sysctls.vm.max_map_count"),
        (
            IMAGE,
            &[],
            1,
            "invalid  compose.yaml:3:5: services.web.image: \"UPPER:bad:tag\" is not an image reference",
        ),
        (SECRETS, &[], 1, "/none cannot be read: entity not found"),
        (
            SECRETS,
            &[],
            1,
            "invalid  compose.yaml:4:20: secrets.e.environment: the environment variable NONE is not set",
        ),
        (BREAKS, &[], 1, "breaks   compose.yaml:3:12: services.web.build"),
    ] {
        let (found, out, err) = verb("check", file, args);
        assert_eq!(found, code, "{file}{args:?}: {out}{err}");
        assert!(out.contains(told) && err.is_empty(), "{file}{args:?}: {out}{err}");
    }
}

#[test]
fn a_check_says_the_same_as_json() {
    let (code, out, _) = verb("check", MIXED, &["--strict", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let findings = found["findings"].as_array().expect("a list");
    let keys: Vec<_> = findings.iter().map(|f| (f["verdict"].as_str(), f["key"].as_str())).collect();
    let refused = |key| (Some("refused"), Some(key));
    assert_eq!(keys, [refused("services.web.attach"), refused("services.web.use_api_socket")], "{out}");
    assert_eq!(code, 1);
}

/// Exit code 5 is that of no daemon: nothing was wrong with the file.
#[test]
fn a_deploy_refuses_before_it_asks_a_daemon() {
    for (file, args, code, told) in [
        (EXACT, &[][..], 5, "no carrack daemon answers"),
        (EXACT, &["--strict"], 5, "no carrack daemon answers"),
        (MAPPED, &[], 5, "note: compose.yaml:4:13: services.web.attach"),
        (MAPPED, &["--strict"], 1, "without --strict it is a note"),
        (COSMETIC, &[], 1, "--lenient leaves it out"),
        (COSMETIC, &["--lenient"], 5, "services.web.credential_spec: left out: is a setting of Windows"),
        (REFUSED, &[], 1, "compose.yaml:4:5: services.web.use_api_socket: there is no Docker API socket"),
        (REFUSED, &["--lenient"], 1, "compose.yaml:4:5: services.web.use_api_socket"),
        (INVALID, &["--lenient"], 1, "did you mean `ports`?"),
        (IMAGE, &[], 1, "the repository name must be lower case\n    3 |"),
        // What is told of a line takes nothing from what else stands in it.
        (MIXED, &["--strict"], 1, "services.web.attach"),
        (MIXED, &["--strict"], 1, "services.web.use_api_socket"),
        (EXACT, &["--strict", "--lenient"], 2, "cannot be used with"),
    ] {
        let (found, out, err) = verb("deploy", file, args);
        assert_eq!(found, code, "{file}{args:?}: {out}{err}");
        assert!(err.contains(told) && out.is_empty(), "{file}{args:?}: {out}{err}");
    }
}
