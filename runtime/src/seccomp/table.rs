//! The system calls of the profile by number, and the constants of this architecture.

use libc as c;

#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: u32 = 333;
#[cfg(target_arch = "aarch64")]
const IO_PGETEVENTS: u32 = 292;

/// Calls of every architecture that every container may make. Those newer than our libc crate are numbered.
const COMMON: &[u32] = &[
    c::SYS_accept as u32, c::SYS_accept4 as u32, c::SYS_adjtimex as u32, c::SYS_bind as u32, c::SYS_brk as u32,
    c::SYS_capget as u32, c::SYS_capset as u32, c::SYS_chdir as u32, c::SYS_clock_adjtime as u32,
    c::SYS_clock_getres as u32, c::SYS_clock_gettime as u32, c::SYS_clock_nanosleep as u32, c::SYS_close as u32,
    c::SYS_close_range as u32, c::SYS_connect as u32, c::SYS_copy_file_range as u32, c::SYS_dup as u32,
    c::SYS_dup3 as u32, c::SYS_epoll_create1 as u32, c::SYS_epoll_ctl as u32, c::SYS_epoll_pwait as u32,
    c::SYS_epoll_pwait2 as u32, c::SYS_eventfd2 as u32, c::SYS_execve as u32, c::SYS_execveat as u32,
    c::SYS_exit as u32, c::SYS_exit_group as u32, c::SYS_faccessat as u32, c::SYS_faccessat2 as u32,
    c::SYS_fadvise64 as u32, c::SYS_fallocate as u32, c::SYS_fanotify_mark as u32, c::SYS_fchdir as u32,
    c::SYS_fchmod as u32, c::SYS_fchmodat as u32, c::SYS_fchown as u32, c::SYS_fchownat as u32, c::SYS_fcntl as u32,
    c::SYS_fdatasync as u32, c::SYS_fgetxattr as u32, c::SYS_flistxattr as u32, c::SYS_flock as u32,
    c::SYS_fremovexattr as u32, c::SYS_fsetxattr as u32, c::SYS_fstat as u32, c::SYS_fstatfs as u32,
    c::SYS_fsync as u32, c::SYS_ftruncate as u32, c::SYS_futex as u32, c::SYS_futex_waitv as u32,
    c::SYS_getcpu as u32, c::SYS_getcwd as u32, c::SYS_getdents64 as u32, c::SYS_getegid as u32,
    c::SYS_geteuid as u32, c::SYS_getgid as u32, c::SYS_getgroups as u32, c::SYS_getitimer as u32,
    c::SYS_getpeername as u32, c::SYS_getpgid as u32, c::SYS_getpid as u32, c::SYS_getppid as u32,
    c::SYS_getpriority as u32, c::SYS_getrandom as u32, c::SYS_getresgid as u32, c::SYS_getresuid as u32,
    c::SYS_getrlimit as u32, c::SYS_get_robust_list as u32, c::SYS_getrusage as u32, c::SYS_getsid as u32,
    c::SYS_getsockname as u32, c::SYS_getsockopt as u32, c::SYS_gettid as u32, c::SYS_gettimeofday as u32,
    c::SYS_getuid as u32, c::SYS_getxattr as u32, c::SYS_inotify_add_watch as u32, c::SYS_inotify_init1 as u32,
    c::SYS_inotify_rm_watch as u32, c::SYS_io_cancel as u32, c::SYS_ioctl as u32, c::SYS_io_destroy as u32,
    c::SYS_io_getevents as u32, IO_PGETEVENTS, c::SYS_ioprio_get as u32, c::SYS_ioprio_set as u32,
    c::SYS_io_setup as u32, c::SYS_io_submit as u32, c::SYS_kill as u32, c::SYS_landlock_add_rule as u32,
    c::SYS_landlock_create_ruleset as u32, c::SYS_landlock_restrict_self as u32, c::SYS_lgetxattr as u32,
    c::SYS_linkat as u32, c::SYS_listen as u32, c::SYS_listxattr as u32, c::SYS_llistxattr as u32,
    c::SYS_lremovexattr as u32, c::SYS_lseek as u32, c::SYS_lsetxattr as u32, c::SYS_madvise as u32,
    c::SYS_membarrier as u32, c::SYS_memfd_create as u32, c::SYS_memfd_secret as u32, c::SYS_mincore as u32,
    c::SYS_mkdirat as u32, c::SYS_mknodat as u32, c::SYS_mlock as u32, c::SYS_mlock2 as u32, c::SYS_mlockall as u32,
    c::SYS_mmap as u32, c::SYS_mprotect as u32, c::SYS_mq_getsetattr as u32, c::SYS_mq_notify as u32,
    c::SYS_mq_open as u32, c::SYS_mq_timedreceive as u32, c::SYS_mq_timedsend as u32, c::SYS_mq_unlink as u32,
    c::SYS_mremap as u32, c::SYS_msgctl as u32, c::SYS_msgget as u32, c::SYS_msgrcv as u32, c::SYS_msgsnd as u32,
    c::SYS_msync as u32, c::SYS_munlock as u32, c::SYS_munlockall as u32, c::SYS_munmap as u32,
    c::SYS_name_to_handle_at as u32, c::SYS_nanosleep as u32, c::SYS_newfstatat as u32, c::SYS_openat as u32,
    c::SYS_openat2 as u32, c::SYS_pidfd_open as u32, c::SYS_pidfd_send_signal as u32, c::SYS_pipe2 as u32,
    c::SYS_pkey_alloc as u32, c::SYS_pkey_free as u32, c::SYS_pkey_mprotect as u32, c::SYS_ppoll as u32,
    c::SYS_prctl as u32, c::SYS_pread64 as u32, c::SYS_preadv as u32, c::SYS_preadv2 as u32, c::SYS_prlimit64 as u32,
    c::SYS_process_mrelease as u32, c::SYS_process_vm_readv as u32, c::SYS_process_vm_writev as u32,
    c::SYS_pselect6 as u32, c::SYS_ptrace as u32, c::SYS_pwrite64 as u32, c::SYS_pwritev as u32,
    c::SYS_pwritev2 as u32, c::SYS_read as u32, c::SYS_readahead as u32, c::SYS_readlinkat as u32,
    c::SYS_readv as u32, c::SYS_recvfrom as u32, c::SYS_recvmmsg as u32, c::SYS_recvmsg as u32,
    c::SYS_remap_file_pages as u32, c::SYS_removexattr as u32, c::SYS_renameat as u32, c::SYS_renameat2 as u32,
    c::SYS_restart_syscall as u32, c::SYS_rseq as u32, c::SYS_rt_sigaction as u32, c::SYS_rt_sigpending as u32,
    c::SYS_rt_sigprocmask as u32, c::SYS_rt_sigqueueinfo as u32, c::SYS_rt_sigreturn as u32,
    c::SYS_rt_sigsuspend as u32, c::SYS_rt_sigtimedwait as u32, c::SYS_rt_tgsigqueueinfo as u32,
    c::SYS_sched_getaffinity as u32, c::SYS_sched_getattr as u32, c::SYS_sched_getparam as u32,
    c::SYS_sched_get_priority_max as u32, c::SYS_sched_get_priority_min as u32, c::SYS_sched_getscheduler as u32,
    c::SYS_sched_rr_get_interval as u32, c::SYS_sched_setaffinity as u32, c::SYS_sched_setattr as u32,
    c::SYS_sched_setparam as u32, c::SYS_sched_setscheduler as u32, c::SYS_sched_yield as u32, c::SYS_seccomp as u32,
    c::SYS_semctl as u32, c::SYS_semget as u32, c::SYS_semop as u32, c::SYS_semtimedop as u32,
    c::SYS_sendfile as u32, c::SYS_sendmmsg as u32, c::SYS_sendmsg as u32, c::SYS_sendto as u32,
    c::SYS_setfsgid as u32, c::SYS_setfsuid as u32, c::SYS_setgid as u32, c::SYS_setgroups as u32,
    c::SYS_setitimer as u32, c::SYS_setpgid as u32, c::SYS_setpriority as u32, c::SYS_setregid as u32,
    c::SYS_setresgid as u32, c::SYS_setresuid as u32, c::SYS_setreuid as u32, c::SYS_setrlimit as u32,
    c::SYS_set_robust_list as u32, c::SYS_setsid as u32, c::SYS_setsockopt as u32, c::SYS_set_tid_address as u32,
    c::SYS_setuid as u32, c::SYS_setxattr as u32, c::SYS_shmat as u32, c::SYS_shmctl as u32, c::SYS_shmdt as u32,
    c::SYS_shmget as u32, c::SYS_shutdown as u32, c::SYS_sigaltstack as u32, c::SYS_signalfd4 as u32,
    c::SYS_socketpair as u32, c::SYS_splice as u32, c::SYS_statfs as u32, c::SYS_statx as u32,
    c::SYS_symlinkat as u32, c::SYS_sync as u32, c::SYS_sync_file_range as u32, c::SYS_syncfs as u32,
    c::SYS_sysinfo as u32, c::SYS_tee as u32, c::SYS_tgkill as u32, c::SYS_timer_create as u32,
    c::SYS_timer_delete as u32, c::SYS_timer_getoverrun as u32, c::SYS_timer_gettime as u32,
    c::SYS_timer_settime as u32, c::SYS_timerfd_create as u32, c::SYS_timerfd_gettime as u32,
    c::SYS_timerfd_settime as u32, c::SYS_times as u32, c::SYS_tkill as u32, c::SYS_truncate as u32,
    c::SYS_umask as u32, c::SYS_uname as u32, c::SYS_unlinkat as u32, c::SYS_utimensat as u32,
    c::SYS_vmsplice as u32, c::SYS_wait4 as u32, c::SYS_waitid as u32, c::SYS_write as u32, c::SYS_writev as u32,
    451 /* cachestat */, 452 /* fchmodat2 */, 453 /* map_shadow_stack */, 454 /* futex_wake */, 455 /* futex_wait */,
    456 /* futex_requeue */, 457 /* statmount */, 458 /* listmount */, 462 /* mseal */, 463 /* setxattrat */,
    464 /* getxattrat */, 465 /* listxattrat */, 466 /* removexattrat */,
];

/// Older calls that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[u32] = &[
    335, /* uretprobe */
    c::SYS_access as u32, c::SYS_alarm as u32, c::SYS_arch_prctl as u32, c::SYS_chmod as u32, c::SYS_chown as u32,
    c::SYS_creat as u32, c::SYS_dup2 as u32, c::SYS_epoll_create as u32, c::SYS_epoll_wait as u32,
    c::SYS_eventfd as u32, c::SYS_fork as u32, c::SYS_futimesat as u32, c::SYS_getdents as u32,
    c::SYS_getpgrp as u32, c::SYS_inotify_init as u32, c::SYS_lchown as u32, c::SYS_link as u32, c::SYS_lstat as u32,
    c::SYS_mkdir as u32, c::SYS_mknod as u32, c::SYS_modify_ldt as u32, c::SYS_open as u32, c::SYS_pause as u32,
    c::SYS_pipe as u32, c::SYS_poll as u32, c::SYS_readlink as u32, c::SYS_rename as u32, c::SYS_rmdir as u32,
    c::SYS_select as u32, c::SYS_signalfd as u32, c::SYS_stat as u32, c::SYS_symlink as u32, c::SYS_time as u32,
    c::SYS_unlink as u32, c::SYS_utime as u32, c::SYS_utimes as u32, c::SYS_vfork as u32,
];

/// aarch64 was born without them.
#[cfg(target_arch = "aarch64")]
const LEGACY: &[u32] = &[];

/// Calls that every container may make.
pub(super) static ALWAYS: std::sync::LazyLock<Vec<u32>> = std::sync::LazyLock::new(|| [COMMON, LEGACY].concat());

/// Calls that come with a capability.
pub(super) const BY_CAPABILITY: &[(&str, &[u32])] = &[
    (
        "DAC_READ_SEARCH",
        &[
            c::SYS_open_by_handle_at as u32,
        ],
    ),
    (
        "SYS_ADMIN",
        &[
            c::SYS_clone as u32, c::SYS_fanotify_init as u32, c::SYS_fsconfig as u32, c::SYS_fsmount as u32,
            c::SYS_fsopen as u32, c::SYS_fspick as u32, c::SYS_mount as u32, c::SYS_mount_setattr as u32,
            c::SYS_move_mount as u32, c::SYS_open_tree as u32, c::SYS_perf_event_open as u32, c::SYS_quotactl as u32,
            c::SYS_quotactl_fd as u32, c::SYS_setdomainname as u32, c::SYS_sethostname as u32, c::SYS_setns as u32,
            c::SYS_syslog as u32, c::SYS_umount2 as u32, c::SYS_unshare as u32, c::SYS_bpf as u32,
            c::SYS_clone3 as u32,
        ],
    ),
    (
        "SYS_BOOT",
        &[
            c::SYS_reboot as u32,
        ],
    ),
    (
        "SYS_CHROOT",
        &[
            c::SYS_chroot as u32,
        ],
    ),
    (
        "SYS_MODULE",
        &[
            c::SYS_delete_module as u32, c::SYS_init_module as u32, c::SYS_finit_module as u32,
        ],
    ),
    (
        "SYS_PACCT",
        &[
            c::SYS_acct as u32,
        ],
    ),
    (
        "SYS_PTRACE",
        &[
            c::SYS_kcmp as u32, c::SYS_pidfd_getfd as u32, c::SYS_process_madvise as u32,
        ],
    ),
    (
        "SYS_TIME",
        &[
            c::SYS_settimeofday as u32, c::SYS_clock_settime as u32,
        ],
    ),
    (
        "SYS_TTY_CONFIG",
        &[
            c::SYS_vhangup as u32,
        ],
    ),
    (
        "SYS_NICE",
        &[
            c::SYS_get_mempolicy as u32, c::SYS_mbind as u32, c::SYS_set_mempolicy as u32,
            c::SYS_set_mempolicy_home_node as u32,
        ],
    ),
    (
        "SYSLOG",
        &[
            c::SYS_syslog as u32,
        ],
    ),
    (
        "BPF",
        &[
            c::SYS_bpf as u32,
        ],
    ),
    (
        "PERFMON",
        &[
            c::SYS_perf_event_open as u32,
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    ("SYS_RAWIO", &[c::SYS_iopl as u32, c::SYS_ioperm as u32]),
];

pub(super) const CLONE: u32 = c::SYS_clone as u32;
pub(super) const CLONE3: u32 = c::SYS_clone3 as u32;
pub(super) const SOCKET: u32 = c::SYS_socket as u32;
pub(super) const PERSONALITY: u32 = c::SYS_personality as u32;

/// Flags of `clone` that make namespaces.
pub(super) const CLONE_NEW_NAMESPACES: u32 = (c::CLONE_NEWNS
    | c::CLONE_NEWUTS
    | c::CLONE_NEWIPC
    | c::CLONE_NEWUSER
    | c::CLONE_NEWPID
    | c::CLONE_NEWNET
    | c::CLONE_NEWCGROUP) as u32;

/// Families with global reach (vsock) or a history of kernel holes (alg).
pub(super) const SOCKET_FAMILIES_DENIED: [u32; 2] = [c::AF_ALG as u32, c::AF_VSOCK as u32];

/// Linux, Linux32, with and without UNAME26, and "tell me".
pub(super) const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AUDIT_ARCH_X86_64`. Numbers of the x32 ABI (bit 30) lie above every rule and are refused as unknown.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCH: u32 = 0xc000_003e;
/// `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "aarch64")]
pub(super) const ARCH: u32 = 0xc000_00b7;
