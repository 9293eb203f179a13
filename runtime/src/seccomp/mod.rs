//! Our seccomp profile and its compiler. Pure: from capabilities to a BPF program; loading is the executor's.
//!
//! The profile is an allow-list in the spirit of Docker's, without io_uring, userfaultfd, keyrings, bpf, sockets of
//! AF_VSOCK and AF_ALG and new user namespaces. What is not allowed fails with EPERM; `clone3` fails with ENOSYS, so that C
//! libraries fall back to `clone`, whose flags a filter can see.

mod compile;
mod table;

pub(crate) use compile::{Instruction, compile, from_bytes, to_bytes};

use std::collections::{BTreeMap, BTreeSet};

/// What a rule does with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Let it through.
    Allow,
    /// Fail it with an errno.
    Errno(u16),
    /// Let it through when all conditions of one alternative hold, else EPERM.
    AllowWhen(Vec<Condition>),
}

/// A condition on the low 32 bits of an argument (the high ones must then be zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The argument equals the value.
    Equal(u8, u32),
    /// The argument has none of these bits (the high half is not looked at).
    NoBits(u8, u32),
    /// The argument is none of these values.
    NotIn(u8, &'static [u32]),
}

/// The rules for a container with these capabilities (names without `CAP_`).
pub(crate) fn profile(capabilities: &BTreeSet<String>) -> BTreeMap<u32, Rule> {
    let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
    rules.extend(table::ALWAYS.iter().map(|number| (*number, Rule::Allow)));
    rules.insert(table::CLONE3, Rule::Errno(libc::ENOSYS as u16));
    rules.insert(table::CLONE, Rule::AllowWhen(vec![Condition::NoBits(0, table::CLONE_NEW_NAMESPACES)]));
    rules.insert(table::SOCKET, Rule::AllowWhen(vec![Condition::NotIn(0, &table::SOCKET_FAMILIES_DENIED)]));
    rules.insert(
        table::PERSONALITY,
        Rule::AllowWhen(table::PERSONALITIES.iter().map(|value| Condition::Equal(0, *value)).collect()),
    );
    for (capability, numbers) in table::BY_CAPABILITY {
        if capabilities.contains(*capability) {
            rules.extend(numbers.iter().map(|number| (*number, Rule::Allow)));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(capabilities: &[&str], number: u32, args: [u64; 6]) -> u32 {
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        compile::simulate(&compile(&profile(&capabilities)), table::ARCH, number, args)
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
    const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
    const KILL: u32 = 0x8000_0000;

    #[test]
    fn ordinary_calls_pass_and_the_dangerous_ones_do_not() {
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_futex, libc::SYS_ptrace, libc::SYS_openat]
        {
            assert_eq!(run(&[], number as u32, [0; 6]), ALLOW, "{number}");
        }
        for number in [
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            9999,
            0xffff_ffff,
        ] {
            assert_eq!(run(&[], number as u32, [0; 6]), EPERM, "{number}");
        }
    }

    #[test]
    fn every_allowed_number_is_found_by_the_search_and_its_neighbours_are_not() {
        let capabilities = BTreeSet::new();
        let rules = profile(&capabilities);
        let program = compile(&rules);
        for number in 0..600 {
            let want = match rules.get(&number) {
                Some(Rule::Allow) => ALLOW,
                Some(Rule::Errno(errno)) => 0x0005_0000 | u32::from(*errno),
                Some(Rule::AllowWhen(_)) => continue,
                None => EPERM,
            };
            assert_eq!(compile::simulate(&program, table::ARCH, number, [0; 6]), want, "{number}");
        }
    }

    #[test]
    fn arguments_decide() {
        let clone = libc::SYS_clone as u32;
        assert_eq!(run(&[], clone, [libc::CLONE_VM as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&[], clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(run(&["SYS_ADMIN"], clone, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&[], libc::SYS_clone3 as u32, [0; 6]), ENOSYS);
        let socket = libc::SYS_socket as u32;
        for (family, want) in [
            (libc::AF_INET, ALLOW),
            (libc::AF_UNIX, ALLOW),
            (libc::AF_NETLINK, ALLOW),
            (libc::AF_VSOCK, EPERM),
            (libc::AF_ALG, EPERM),
        ] {
            assert_eq!(run(&[], socket, [family as u64, 0, 0, 0, 0, 0]), want, "{family}");
        }
        let personality = libc::SYS_personality as u32;
        assert_eq!(run(&[], personality, [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&[], personality, [0x0004_0000, 0, 0, 0, 0, 0]), EPERM);
    }

    #[test]
    fn other_architectures_and_x32_are_refused() {
        let program = compile(&profile(&BTreeSet::new()));
        assert_eq!(compile::simulate(&program, 0x4000_0003, 1, [0; 6]), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(compile::simulate(&program, table::ARCH, 0x4000_0000 | 1, [0; 6]), EPERM);
    }

    #[test]
    fn capabilities_open_their_calls() {
        assert_eq!(run(&["SYS_CHROOT"], libc::SYS_chroot as u32, [0; 6]), ALLOW);
        assert_eq!(run(&[], libc::SYS_chroot as u32, [0; 6]), EPERM);
        assert_eq!(run(&["SYS_ADMIN"], libc::SYS_mount as u32, [0; 6]), ALLOW);
        assert_eq!(run(&["SYS_TIME"], libc::SYS_settimeofday as u32, [0; 6]), ALLOW);
    }

    #[test]
    fn the_program_is_short_enough_for_the_kernel_and_survives_its_file() {
        let all = table::BY_CAPABILITY.iter().map(|(name, _)| (*name).to_owned()).collect();
        let program = compile(&profile(&all));
        assert!(program.len() < 2048, "{} instructions", program.len());
        assert_eq!(from_bytes(&to_bytes(&program)).unwrap(), program);
        assert!(from_bytes(&[1, 2, 3]).is_none());
    }
}
