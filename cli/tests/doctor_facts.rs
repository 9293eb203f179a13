//! `carrack doctor` where little is allowed: whatever is lacking, it says what that costs and what to do next.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it could not try")]

use std::process::Command;

use carrack_api::fact::{Fact, Verdict};

/// Environments by the command that makes them: what this test has, less and less of root's capabilities, the root of a user
/// namespace, and nobody.
const REDUCED: [&[&str]; 6] = [
    &["env"],
    &["setpriv", "--bounding-set=-net_admin"],
    &["setpriv", "--bounding-set=-sys_admin"],
    &["setpriv", "--bounding-set=-all"],
    &["unshare", "--user", "--map-root-user"],
    &["unshare", "--user"],
];

/// What `doctor` says there; nothing where such an environment cannot be made.
fn facts(environment: &[&str], state_dir: &str) -> Option<Vec<Fact>> {
    let (program, arguments) = environment.split_first().unwrap();
    let run = |command: &[&str]| Command::new(program).args(arguments).args(command).output().unwrap();
    let possible = run(&["true"]);
    if !possible.status.success() {
        // Root can always have less; whether user namespaces are to be had is the host's.
        assert!(
            *program != "setpriv" || !rustix::process::geteuid().is_root(),
            "{environment:?}: {possible:?}"
        );
        eprintln!("not here: {environment:?}: {}", String::from_utf8_lossy(&possible.stderr));
        return None;
    }
    let output = run(&[env!("CARGO_BIN_EXE_carrack"), "doctor", "-o", "json", "--state-dir", state_dir]);
    let facts = serde_json::from_slice(&output.stdout);
    Some(facts.unwrap_or_else(|error| panic!("{environment:?}: {error}: {output:?}")))
}

#[test]
fn every_lack_has_a_cost_and_a_next_command() {
    let dir = tempfile::tempdir().unwrap();
    let usual = dir.path().join("state");
    for environment in REDUCED {
        // Nothing can be stored in the second, nor is the third a place.
        for state_dir in [usual.to_str().unwrap(), "/proc/carrack", "carrack"] {
            for fact in facts(environment, state_dir).into_iter().flatten() {
                let whole = match fact.verdict {
                    Verdict::Ok => fact.cost.is_empty() && fact.hint.is_empty(),
                    Verdict::Untried => !fact.hint.is_empty(),
                    Verdict::Note | Verdict::Missing => !fact.cost.is_empty() && !fact.hint.is_empty(),
                };
                assert!(whole, "{environment:?}, {state_dir}: {fact:?}");
            }
        }
    }
}

#[test]
fn what_a_capability_is_missing_for_is_not_put_down_to_a_module() {
    let Some(facts) = facts(&["setpriv", "--bounding-set=-net_admin"], "/proc/carrack") else { return };
    let fact = |name: &str| facts.iter().find(|fact| fact.name == name).unwrap();
    if fact("veth").verdict == Verdict::Untried {
        return;
    }
    assert!(fact("capabilities").found.contains("CAP_NET_ADMIN"), "{facts:#?}");
    for name in ["veth", "nftables", "vxlan"] {
        assert!(fact(name).hint.contains("see capabilities"), "{}", fact(name));
    }
}
