//! What this host offers to containers, as data: looked at, or tried for real where looking does not tell.
//!
//! Owns the facts of cgroups, filesystems and the kernel. Leaves nothing behind. Owns not: printing, and what the network
//! needs (`carrack_net::doctor`).

mod cgroups;
mod confine;
mod overlay;
mod system;

use std::path::Path;

use carrack_api::fact::{Fact, Lacks};

const AREA: &str = "containers";

/// What helps where root is refused something.
const REFUSED: &str =
    "root needs CAP_SYS_ADMIN here: see capabilities; run it on the host, outside of containers";

/// All facts. `state_dir` is where images and writable layers are, or will be.
pub fn examine(state_dir: &Path) -> Vec<Fact> {
    let mut facts = glance();
    facts.push(overlay::fact(state_dir));
    facts
}

/// What is known by looking alone: quick, and nothing is made. For the start of a daemon.
pub fn glance() -> Vec<Fact> {
    let command_line = system::command_line();
    let mut facts = vec![system::kernel()];
    facts.extend(system::modules());
    facts.extend(cgroups::facts(&cgroups::look(), &command_line));
    facts.push(confine::namespaces());
    facts.push(confine::user_namespaces());
    facts.push(confine::seccomp());
    facts.push(confine::system_calls());
    facts.push(confine::capabilities());
    facts.push(confine::security_module());
    facts.push(system::pressure(&command_line));
    facts.push(system::open_files());
    facts.push(system::processes());
    facts.push(system::clock());
    facts
}

/// What services may need and this host cannot do, with why.
pub fn lacks() -> Lacks {
    cgroups::lacks(&cgroups::look(), &system::command_line())
}

/// The boot option is to be added to the kernel's command line, or taken off it.
fn boot_option(verb: &str, option: &str) -> String {
    match Path::new("/etc/default/grub").exists() {
        true => format!("{verb} {option}: GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot"),
        false => format!("{verb} {option} on the kernel's command line and reboot"),
    }
}

#[cfg(test)]
mod tests {
    use carrack_api::fact::Verdict;

    use super::*;

    #[test]
    fn every_fact_that_is_not_good_says_what_it_costs_and_no_good_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let facts = examine(dir.path());
        for name in ["kernel", "cgroups", "overlayfs", "user namespaces", "pressure (PSI)"] {
            assert!(facts.iter().any(|fact| fact.name == name), "{name} was not looked at");
        }
        for fact in facts {
            assert!(!fact.found.is_empty());
            match fact.verdict {
                Verdict::Ok => assert!(fact.cost.is_empty() && fact.hint.is_empty(), "{fact:?}"),
                Verdict::Note | Verdict::Missing => {
                    assert!(!fact.cost.is_empty() && !fact.hint.is_empty(), "{fact:?}");
                }
                Verdict::Untried => assert!(!fact.hint.is_empty(), "{fact:?}"),
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was left");
    }
}
