//! What the cgroups of this host can do for a container: asked of the container's own, so that nobody is believed who only
//! offers it.

use std::collections::BTreeSet;
use std::fs;

use super::Cgroup;

/// What can be limited in a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// It is a cgroup v2.
    pub v2: bool,
    /// Its controllers.
    pub controllers: BTreeSet<String>,
    /// Swap can be limited.
    pub swap: bool,
    /// The CPUs it can be put on, as `0-3,5`; empty when that is not known.
    pub cpus: String,
}

impl Cgroup {
    /// What can be limited in this cgroup, which exists.
    pub fn facts(&self) -> CgroupFacts {
        let read = |controller: &str, name: &str| {
            self.dir(controller).and_then(|dir| fs::read_to_string(dir.join(name)).ok()).unwrap_or_default()
        };
        let has =
            |controller: &str, name: &str| self.dir(controller).is_some_and(|dir| dir.join(name).exists());
        let v2 = self.is_v2();
        let controllers = match v2 {
            true => read("", "cgroup.controllers").split_whitespace().map(str::to_owned).collect(),
            false => self.dirs().iter().flat_map(|(names, _)| names.split(',').map(str::to_owned)).collect(),
        };
        let (swap, cpus) = match v2 {
            true => (has("memory", "memory.swap.max"), read("cpuset", "cpuset.cpus.effective")),
            false => (has("memory", "memory.memsw.limit_in_bytes"), read("cpuset", "cpuset.effective_cpus")),
        };
        CgroupFacts { v2, controllers, swap, cpus: cpus.trim().to_owned() }
    }
}
