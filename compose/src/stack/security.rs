//! Capabilities, privilege and profiles.

use carrack_api::Security;

use super::Build;
use crate::fields::{Fields, Item};
use crate::suggest;

/// The capabilities of Linux, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

impl Build<'_> {
    pub(super) fn security(&mut self, fields: &mut Fields<'_>) -> Security {
        let mut out = Security {
            privileged: fields.take("privileged").and_then(|i| i.bool(self.report)).unwrap_or(false),
            cap_add: self.capabilities(fields, "cap_add"),
            cap_drop: self.capabilities(fields, "cap_drop"),
            ..Security::default()
        };
        for item in fields.take("security_opt").map(|i| i.items(self.report)).unwrap_or_default() {
            self.security_option(&item, &mut out);
        }
        out
    }

    fn capabilities(&mut self, fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
        let mut out = Vec::new();
        for item in fields.take(key).map(|i| i.items(self.report)).unwrap_or_default() {
            let Some(text) = item.text(self.report) else { continue };
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if name == "ALL" || CAPABILITIES.contains(&name) {
                out.push(name.to_owned());
                continue;
            }
            let lower: Vec<String> = CAPABILITIES.iter().map(|c| c.to_ascii_lowercase()).collect();
            let meant = suggest::nearest(&name.to_ascii_lowercase(), lower.iter().map(String::as_str));
            let hint = match meant {
                Some(meant) => format!("did you mean `{}`?", meant.to_ascii_uppercase()),
                None => "for example NET_ADMIN or SYS_PTRACE".into(),
            };
            item.invalid_hint(format!("there is no capability {text:?}"), &hint, self.report);
        }
        out
    }

    fn security_option(&mut self, item: &Item<'_>, out: &mut Security) {
        let Some(text) = item.text(self.report) else { return };
        let (key, value) = text.split_once(['=', ':']).unwrap_or((&text, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => out.no_new_privileges = Some(true),
            ("no-new-privileges", "false") => out.no_new_privileges = Some(false),
            ("seccomp", "unconfined") => out.seccomp_unconfined = true,
            ("seccomp", "builtin") => {}
            ("seccomp", _) => {
                item.listed("services.security_opt", "seccomp:FILE", self.report);
            }
            ("apparmor", "unconfined") => {
                item.listed("services.security_opt", "apparmor:unconfined", self.report);
            }
            ("label", _) => item.listed("services.security_opt", "label", self.report),
            _ => item.listed("services.security_opt", "others", self.report),
        }
    }
}
