//! `docs/security.md` says what the code does: its tables are written from here and compared.

use std::collections::BTreeSet;
use std::path::Path;

use super::{MASKED_PATHS, READ_ONLY_PATHS, capability};
use crate::seccomp::{self, Rule};

/// Docker's default capabilities (moby, `oci/caps/defaults.go`).
const DOCKER: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Docker's masked and read-only paths (moby, `oci/defaults.go`), up to 28.
const DOCKER_MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Calls that matter to an attacker.
const CALLS: &[(&str, i64)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
    ("clock_settime", libc::SYS_clock_settime),
    ("delete_module", libc::SYS_delete_module),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("finit_module", libc::SYS_finit_module),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("fspick", libc::SYS_fspick),
    ("init_module", libc::SYS_init_module),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("kcmp", libc::SYS_kcmp),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("nfsservctl", libc::SYS_nfsservctl),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pivot_root", libc::SYS_pivot_root),
    ("quotactl", libc::SYS_quotactl),
    ("reboot", libc::SYS_reboot),
    ("request_key", libc::SYS_request_key),
    ("setdomainname", libc::SYS_setdomainname),
    ("sethostname", libc::SYS_sethostname),
    ("setns", libc::SYS_setns),
    ("settimeofday", libc::SYS_settimeofday),
    ("swapoff", libc::SYS_swapoff),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("vhangup", libc::SYS_vhangup),
];

fn capabilities() -> String {
    let all: BTreeSet<&str> = capability::DEFAULT.iter().chain(&DOCKER).copied().collect();
    let given = |list: &[&str], name: &str| if list.contains(&name) { "given" } else { "-" };
    let rows = all.iter().map(|name| {
        format!("| {name} | {} | {} |\n", given(&capability::DEFAULT, name), given(&DOCKER, name))
    });
    format!("| capability | Carrack | Docker |\n|---|---|---|\n{}", rows.collect::<String>())
}

fn paths() -> String {
    let docker = |kind: &str, path: &str| match kind {
        "masked" if DOCKER_MASKED.contains(&path) => "masked",
        "read-only" => "read-only",
        _ => "-",
    };
    let each = "/sys/devices/system/cpu/cpuN/thermal_throttle";
    let mut rows: Vec<(&str, &str)> = MASKED_PATHS.iter().map(|path| (*path, "masked")).collect();
    rows.push((each, "masked"));
    rows.extend(READ_ONLY_PATHS.iter().map(|path| (*path, "read-only")));
    rows.push(("/sys", "read-only"));
    rows.sort_unstable();
    let rows = rows.iter().map(|(path, kind)| format!("| `{path}` | {kind} | {} |\n", docker(kind, path)));
    format!("| path | Carrack | Docker |\n|---|---|---|\n{}", rows.collect::<String>())
}

fn calls() -> String {
    let default = capability::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let rules = seccomp::profile(&default);
    let refused = CALLS.iter().filter(|(_, number)| {
        u32::try_from(*number)
            .is_ok_and(|number| !matches!(rules.get(&number), Some(Rule::Allow | Rule::AllowWhen(_))))
    });
    let names: Vec<String> = refused.map(|(name, _)| format!("`{name}`")).collect();
    assert_eq!(names.len(), CALLS.len(), "a call on the list is allowed: {names:?}");
    names.chunks(8).map(|line| line.join(", ") + ",\n").collect::<String>().trim_end_matches(",\n").to_owned()
        + "\n"
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let mut new = old.clone();
    for (name, table) in [("capabilities", capabilities()), ("paths", paths()), ("calls", calls())] {
        let mark = format!("<!-- table: {name} -->\n");
        let (before, rest) = new.split_once(&mark).expect("the mark of a table");
        let (_, after) = rest.split_once("<!-- end -->").expect("the end of a table");
        new = format!("{before}{mark}\n{table}\n<!-- end -->{after}");
    }
    if std::env::var_os("CARRACK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &new).unwrap();
    } else {
        assert_eq!(old, new, "CARRACK_UPDATE_GOLDEN=1 writes docs/security.md anew");
    }
}
