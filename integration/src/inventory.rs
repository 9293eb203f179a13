//! What the kernel of this machine holds that Carrack could have left: the invariant "as before" made checkable.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A set of lines, each one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks at everything now.
    pub fn take() -> Self {
        let mut lines = BTreeSet::new();
        lines.extend(names("/run/netns").map(|name| format!("netns {name}")));
        lines.extend(names("/sys/class/net").map(|name| format!("link {name}")));
        lines.extend(mounts());
        lines.extend(cgroups(Path::new("/sys/fs/cgroup"), 3));
        lines.extend(output("nft", &["list", "tables"]).lines().map(|table| format!("nft {table}")));
        lines.extend(output("ip", &["-o", "addr"]).lines().filter_map(address));
        lines.extend(processes());
        Self(lines)
    }

    /// What is here and was not in `before`. What is gone meanwhile was not ours to count.
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn names(dir: &str) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        // `ip netns add` makes it once in the life of a host, for all namespaces that have a name.
        .filter(|target| *target != "/run/netns")
        .map(|target| format!("mount {target}"))
        .collect()
}

/// Where a cgroup at the top of a hierarchy is a directory: below `/sys/fs/cgroup` itself on pure cgroup v2, else below each
/// hierarchy in it.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    names("/sys/fs/cgroup").map(|hierarchy| root.join(hierarchy)).collect()
}

fn cgroups(dir: &Path, depth: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("carrack") {
            found.push(format!("cgroup {}", path.display()));
        }
        if depth > 1 {
            found.extend(cgroups(&path, depth - 1));
        }
    }
    found
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

fn address(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(format!("address {} on {}", words.get(3)?, words.get(1)?))
}

/// Processes of our binary, and processes in our cgroups.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for pid in names("/proc").filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let ours = exe.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name == "carrack" || name.starts_with("carrack (deleted")
        });
        let contained =
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains("/carrack-"));
        if ours || contained {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push(format!("process {pid} {}", String::from_utf8_lossy(&line).replace('\0', " ").trim()));
        }
    }
    found
}
