//! What a lab's host holds of Carrack, without the names and addresses that differ between equal states: two hosts that run
//! the same have the same [`HostState`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::inventory::cgroup_roots;
use crate::lab::Lab;

/// Kinds of objects, and how many there are of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState(BTreeMap<String, usize>);

impl HostState {
    /// Looks at the host of a lab now.
    pub fn of(lab: &Lab) -> Self {
        let mut state = Self::default();
        state.network(lab);
        state.mounts(lab);
        state.processes(lab);
        state.cgroups(lab);
        state.files(lab);
        state
    }

    /// What differs from another state, a line each.
    pub fn difference(&self, wanted: &Self) -> Vec<String> {
        let kinds: BTreeSet<&String> = self.0.keys().chain(wanted.0.keys()).collect();
        let count = |state: &Self, kind: &String| state.0.get(kind).copied().unwrap_or(0);
        kinds
            .into_iter()
            .filter(|kind| count(self, kind) != count(wanted, kind))
            .map(|kind| format!("{kind}: {} instead of {}", count(self, kind), count(wanted, kind)))
            .collect()
    }

    fn add(&mut self, kind: impl Into<String>) {
        *self.0.entry(kind.into()).or_default() += 1;
    }

    /// Links, addresses, routes, neighbours and the whole ruleset, as words.
    fn network(&mut self, lab: &Lab) {
        for (what, program, arguments) in [
            ("link", "ip", &["-br", "link"][..]),
            ("address", "ip", &["-br", "-4", "addr"]),
            ("route", "ip", &["-4", "route"]),
            ("neighbour", "ip", &["-4", "neigh", "show", "nud", "permanent"]),
        ] {
            let output = lab.host_command(program, arguments).output();
            let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            text.lines().for_each(|line| self.add(format!("{what} {}", plain(line))));
        }
        // Lines are filled up to a width, so words are counted.
        let rules = lab.host_command("nft", &["-nn", "list", "ruleset"]).output();
        let rules = rules.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        for word in rules.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()) {
            self.add(format!("nft {}", plain(word)));
        }
    }

    /// Mounts in the daemon's namespace, which is a copy of this machine's.
    fn mounts(&mut self, lab: &Lab) {
        let own = mount_targets("/proc/self/mountinfo");
        let theirs = lab.running_daemon().map(|pid| mount_targets(&format!("/proc/{pid}/mountinfo")));
        for target in theirs.unwrap_or_default().into_iter().filter(|target| !own.contains(target)) {
            self.add(format!("mount {}", plain(&target)));
        }
    }

    /// Processes in the host's network namespace and in our cgroups, and the network namespaces that are held open.
    fn processes(&mut self, lab: &Lab) {
        let own = fs::metadata(lab.netns()).map(|m| m.ino()).ok();
        let cgroup = lab.cgroup_name().map(|name| format!("/{name}/"));
        let mut namespaces = BTreeSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let path = entry.path();
            let netns = fs::metadata(path.join("ns/net")).map(|m| m.ino()).ok();
            let contained = cgroup.as_ref().is_some_and(|cgroup| {
                fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(cgroup))
            });
            if !(contained || (own.is_some() && netns == own)) {
                continue;
            }
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            // The lab's own.
            if line.starts_with(b"docker-registry") {
                continue;
            }
            let words: Vec<_> = line.split(|byte| *byte == 0).take(2).map(String::from_utf8_lossy).collect();
            self.add(format!("process {}", plain(&words.join(" "))));
            namespaces.extend(netns);
            if lab.running_daemon() == Some(pid) {
                namespaces.extend(held_namespaces(&path.join("fd")));
            }
        }
        namespaces.iter().for_each(|_| self.add("network namespace"));
    }

    fn cgroups(&mut self, lab: &Lab) {
        let Some(parent) = lab.cgroup_name() else { return };
        for root in cgroup_roots() {
            for entry in fs::read_dir(root.join(&parent)).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    self.add(format!("cgroup {}", plain(&entry.file_name().to_string_lossy())));
                }
            }
        }
    }

    /// Directories of runs, layers, anonymous volumes, and what was written beside its place. Logs may outlive their tasks.
    fn files(&mut self, lab: &Lab) {
        self.below(&lab.runtime().join("tasks"), "run", 2);
        for task in entries(&lab.state().join("tasks")) {
            for part in entries(&task) {
                let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    self.add("writable layer");
                } else if name == "volumes" {
                    entries(&part).for_each(|_| self.add("anonymous volume"));
                }
            }
        }
        for directory in ["node", "scheduler", "images"] {
            for file in entries(&lab.state().join(directory)) {
                if file.extension().is_some_and(|e| e == "tmp" || e == "new") {
                    self.add(format!("unfinished {}", plain(&file.to_string_lossy())));
                }
            }
        }
        entries(&lab.state().join("images/tmp")).for_each(|_| self.add("unfinished image"));
    }

    fn below(&mut self, directory: &Path, what: &str, depth: u32) {
        for path in entries(directory) {
            self.add(format!("{what} at depth {depth}"));
            if depth > 1 {
                self.below(&path, what, depth - 1);
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn mount_targets(mountinfo: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// Inodes of the network namespaces that a process holds by descriptor.
fn held_namespaces(fds: &Path) -> BTreeSet<u64> {
    entries(fds)
        .filter_map(|fd| {
            let target = fs::read_link(fd).ok()?;
            target.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// A text without what tells one task from another: digits, and the hexadecimal names of links and addresses.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let word = word.split('@').next().unwrap_or(word).trim_matches('"');
        let hexadecimal =
            |word: &str| word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if word.starts_with("ck") {
            return "ck*".to_owned();
        }
        if hexadecimal(word) {
            return "HEX".to_owned();
        }
        let mut out = String::new();
        for character in word.chars() {
            match character {
                '0'..='9' if out.ends_with('N') => {}
                '0'..='9' => out.push('N'),
                other => out.push(other),
            }
        }
        out
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_states_of_other_tasks_look_equal() {
        assert_eq!(plain("ck12ab@if2 UP 0a:58:0a:c0:00:02"), plain("ck99fe@if77 UP 0a:58:0a:c0:00:99"));
        assert_eq!(plain("10.192.0.7 dev ck1 scope link"), plain("10.192.0.213 dev ck2 scope link"));
        let one = HostState(BTreeMap::from([("link ck*".to_owned(), 2)]));
        assert_eq!(one.difference(&HostState::default()), ["link ck*: 2 instead of 0"]);
        assert!(one.difference(&one.clone()).is_empty());
    }
}
