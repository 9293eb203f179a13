//! Memory reservations on cgroup v2: `memory.low` protects a cgroup only as far as every cgroup above it is protected, too.
//!
//! So each cgroup above a run, up to the root's own, gets the sum of what is reserved below it: no more, since what is left over
//! would protect containers that reserved nothing.

use std::fs;
use std::io;
use std::path::Path;

use super::{Cgroup, ROOT, children};

const FILE: &str = "memory.low";
/// How often a sum that others are changing, too, is made anew; the last of them leaves the right one.
const ROUNDS: usize = 5;

impl Cgroup {
    /// Reserves above what is reserved below, after a run's reservation was set or has gone. Nothing on v1, whose soft limits do not
    /// depend on those above, and where nothing is or was reserved.
    pub(crate) fn reserve_above(&self) -> io::Result<()> {
        let Some((_, dir)) = self.dirs.first().filter(|_| self.v2) else { return Ok(()) };
        reserve(dir, Path::new(ROOT))
    }

    /// Reserves above what is reserved beside it where somebody else has set that back, as systemd does with its units when it is
    /// reloaded. Where nothing is reserved those above are left as they are.
    pub(crate) fn reserve_above_again(&self) -> io::Result<()> {
        let Some((_, dir)) = self.dirs.first().filter(|_| self.v2) else { return Ok(()) };
        reserve_again(dir, Path::new(ROOT))
    }

    /// Whether memory is reserved for it, so that the sums above change when it goes.
    pub(super) fn has_reserved(&self) -> bool {
        self.v2 && self.dirs.first().is_some_and(|(_, dir)| reserved(dir) > 0)
    }
}

fn reserve(dir: &Path, root: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1).take_while(|above| *above != root && above.starts_with(root)) {
        let mut rounds = 0..ROUNDS;
        while let Some(sum) = children(above).iter().map(|child| reserved(child)).reduce(u64::saturating_add)
            && sum != reserved(above)
            && rounds.next().is_some()
        {
            fs::write(above.join(FILE), sum.to_string())?;
        }
    }
    Ok(())
}

fn reserve_again(dir: &Path, root: &Path) -> io::Result<()> {
    let beside = dir.parent().map(children).unwrap_or_default();
    if beside.iter().any(|cgroup| reserved(cgroup) > 0) { reserve(dir, root) } else { Ok(()) }
}

/// What is reserved for a cgroup, bytes; nothing where memory is not controlled.
fn reserved(dir: &Path) -> u64 {
    let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_has_set_back_above_is_set_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let set = |path: &str, low: &str| {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join(FILE), low).unwrap();
        };
        let run = "slice/unit/a";
        for (path, low) in [("slice", "0\n"), ("slice/unit", "0\n"), (run, "4096\n")] {
            set(path, low);
        }
        let supervisors = root.join("slice/unit/supervisors");
        fs::create_dir(&supervisors).unwrap();
        reserve_again(&supervisors, root).unwrap();
        assert_eq!([reserved(&root.join("slice/unit")), reserved(&root.join("slice"))], [4096, 4096]);
        // Nothing is reserved below: what is there is the administrator's.
        set(run, "0\n");
        set("slice", "77\n");
        reserve_again(&supervisors, root).unwrap();
        assert_eq!(reserved(&root.join("slice")), 77);
        reserve_again(&root.join("gone/supervisors"), root).unwrap();
    }

    #[test]
    fn each_cgroup_above_has_the_sum_of_those_below() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let make = |path: &str, low: &str| {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join(FILE), low).unwrap();
        };
        make("slice", "0\n");
        make("slice/unit", "0\n");
        make("slice/daemon", "0\n");
        make("slice/unit/a", "4096\n");
        make("slice/unit/b", "8192\n");
        make("slice/unit/supervisors", "0\n");
        make("other", "5\n");
        reserve(&root.join("slice/unit/a"), root).unwrap();
        assert_eq!(reserved(&root.join("slice/unit")), 12288);
        assert_eq!(reserved(&root.join("slice")), 12288);
        assert!(!root.join(FILE).exists());
        fs::remove_dir_all(root.join("slice/unit/b")).unwrap();
        reserve(&root.join("slice/unit/b"), root).unwrap();
        assert_eq!(reserved(&root.join("slice")), 4096);
        // One that does not control memory reserves nothing.
        fs::remove_file(root.join("slice/unit/a").join(FILE)).unwrap();
        reserve(&root.join("slice/unit/a"), root).unwrap();
        assert_eq!(reserved(&root.join("slice")), 0);
    }
}
