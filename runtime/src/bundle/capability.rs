//! Which capabilities a container has.

use std::collections::BTreeSet;

use carrack_api::Security;

use super::HostFacts;
use crate::error::StartError;

/// All capabilities of Linux 6.x by number.
pub(crate) const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default without NET_RAW, MKNOD, AUDIT_WRITE and SETFCAP.
pub(super) const DEFAULT: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Docker's rules: `ALL` first, then what is dropped, then what is added. What the host itself lacks is left out.
pub(super) fn resolve(
    security: &Security,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<BTreeSet<String>, StartError> {
    let add = names("cap_add", &security.cap_add)?;
    let drop = names("cap_drop", &security.cap_drop)?;
    let all = || ALL.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let wanted: BTreeSet<String> = if security.privileged {
        all()
    } else if add.contains("ALL") {
        all().difference(&drop).cloned().collect()
    } else {
        let base = if drop.contains("ALL") { &[][..] } else { &DEFAULT[..] };
        let base: BTreeSet<String> = base.iter().map(|name| (*name).to_owned()).collect();
        base.difference(&drop).cloned().chain(add.iter().cloned()).collect()
    };
    for name in add.difference(&host.capabilities).filter(|name| *name != "ALL") {
        warnings.push(format!("capability {name} is not given: this host lacks it"));
    }
    Ok(wanted.intersection(&host.capabilities).cloned().collect())
}

/// Whether a container may make device nodes anywhere in its files and use them, as far as its device rules go.
pub(crate) fn may_make_devices(security: &Security) -> bool {
    let adds = |name: &str| {
        security.cap_add.iter().any(|text| {
            let upper = text.to_ascii_uppercase();
            upper.strip_prefix("CAP_").unwrap_or(&upper) == name
        })
    };
    security.privileged || adds("ALL") || adds("MKNOD")
}

fn names(field: &str, given: &[String]) -> Result<BTreeSet<String>, StartError> {
    given
        .iter()
        .map(|text| {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if name == "ALL" || ALL.contains(&name) {
                Ok(name.to_owned())
            } else {
                Err(StartError::Spec { field: field.into(), why: format!("{text:?} is no capability") })
            }
        })
        .collect()
}
