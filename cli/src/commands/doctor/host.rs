//! Facts of the host as a whole: who asks, room for the state.

use std::path::Path;

use carrack_api::Bytes;
use carrack_api::fact::Fact;

pub(super) const AREA: &str = "host";

/// Less free space than this is worth a word.
const DISK_LOW: Bytes = Bytes(2 << 30);
/// Fewer free inodes than this are: an image has some ten thousand files.
const FILES_LOW: u64 = 100_000;

pub(super) fn facts(state_dir: &Path) -> Vec<Fact> {
    vec![user(), disk(state_dir)]
}

fn user() -> Fact {
    match rustix::process::geteuid().is_root() {
        true => Fact::ok(AREA, "user", "root"),
        false => Fact::note(
            AREA,
            "user",
            "not root",
            "the daemon needs root, and some of what follows to be tried",
        )
        .hint("sudo carrack doctor"),
    }
}

fn disk(state_dir: &Path) -> Fact {
    let name = "disk";
    let existing = state_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = match rustix::fs::statvfs(existing) {
        Ok(stat) => stat,
        Err(error) => {
            let found = format!("{}: {}", existing.display(), std::io::Error::from(error));
            return Fact::missing(AREA, name, found, "nothing can be stored")
                .hint("carrack daemon --state-dir DIR");
        }
    };
    let free = Bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
    let found = format!("{free} free for {}", state_dir.display());
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let found = format!("{} is mounted read-only", existing.display());
        return Fact::missing(AREA, name, found, "nothing can be stored")
            .hint("carrack daemon --state-dir DIR");
    }
    // Filesystems that make inodes as they go say 0 of 0.
    if stat.f_files > 0 && stat.f_favail < FILES_LOW {
        let found = format!("{found}, and only {} inodes", stat.f_favail);
        return Fact::note(AREA, name, found, "images of many files may not fit")
            .hint("carrack image prune -a");
    }
    match free < DISK_LOW {
        false => Fact::ok(AREA, name, found),
        true => Fact::note(AREA, name, found, "images may not fit")
            .hint("carrack image prune -a, or carrack daemon --state-dir DIR"),
    }
}
