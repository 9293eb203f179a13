//! Images and programs that mean no good: what an image may say, and what a program may do, without hurting anybody else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use carrack_api::{Bytes, Device, Mount, MountSource, VolumeName};
use carrack_runtime::{ExecRequest, LogLimit, RunState, StartError, StartRequest};
use rustix::fs::{CWD, FileType, Mode};

use crate::probe;
use crate::support::{Host, eventually};

crate::trials!(
    users_that_are_none_are_refused,
    a_huge_passwd_or_a_strange_one_is_an_error,
    working_directories_lead_nowhere_else,
    what_is_no_program_is_refused,
    environments_are_bounded,
    an_unknown_stop_signal_is_terminate,
    volumes_where_they_cannot_be_are_refused_for_good,
    a_working_directory_is_made_inside_a_mount,
    device_nodes_of_images_and_volumes_cannot_be_opened,
    a_start_that_fails_anywhere_leaves_nothing,
    a_fork_bomb_hurts_only_itself,
    out_of_memory_hurts_only_the_offender,
    endless_output_is_bounded,
    a_million_lines_are_written_and_the_last_are_kept,
    a_program_may_close_leave_and_ignore_everything,
);

/// A start that must fail, for good: the node tries none of these again.
fn refused(host: &Host, request: &StartRequest) -> StartError {
    match host.runtime().start(request) {
        Ok(_) => panic!("it started: {:?} {:?}", host.wait(&request.id), host.lines(&request.id.task)),
        Err(error) => {
            assert!(
                !matches!(
                    error,
                    StartError::System { .. } | StartError::Network { .. } | StartError::PreviousRun(_)
                ),
                "this would be tried again for ever: {error}"
            );
            assert!(!host.dir.path().join("run/tasks").join(&request.id.task).exists(), "{error}");
            error
        }
    }
}

fn users_that_are_none_are_refused() {
    let host = Host::new();
    let users = [
        "4294967296",
        "4294967295",
        "-1",
        "+0",
        "0x0",
        "99999999999999999999",
        "ghost",
        "app:ghost",
        "app:-1",
        "0:4294967296",
        " ",
        "root ",
        "root\n",
        "a/b",
        "app:app:app",
        "\u{202e}root",
    ];
    for user in users {
        let mut request = host.shell("user", "id");
        request.image.user = user.into();
        let error = refused(&host, &request);
        assert!(matches!(&error, StartError::User { user: named, .. } if named == user), "{user:?}: {error}");
    }
}

fn a_huge_passwd_or_a_strange_one_is_an_error() {
    let host = Host::new();
    let etc = host.busybox().join("etc");
    let good = fs::read(etc.join("group")).unwrap();
    // In as many groups as fit, and in more than the kernel takes.
    let groups =
        |count: u32| (0..count).map(|gid| format!("g{gid}:x:{}:app\n", 3000 + gid)).collect::<String>();
    let mut request = host.shell("many", "id -G | wc -w");
    request.spec.user = Some("app".into());
    fs::write(etc.join("group"), groups(1000)).unwrap();
    assert_eq!(host.output(&request), ["1001"]);
    request.id.task = "toomany".into();
    fs::write(etc.join("group"), groups(66_000)).unwrap();
    assert!(matches!(refused(&host, &request), StartError::User { .. }));
    fs::write(etc.join("group"), good).unwrap();
    // A gigabyte, a pipe that nobody writes, a directory.
    fs::File::options().write(true).open(etc.join("passwd")).unwrap().set_len(1 << 30).unwrap();
    assert!(refused(&host, &request).to_string().contains("/etc/passwd"));
    fs::remove_file(etc.join("passwd")).unwrap();
    rustix::fs::mknodat(CWD, etc.join("passwd"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    refused(&host, &request);
    fs::remove_file(etc.join("passwd")).unwrap();
    fs::create_dir(etc.join("passwd")).unwrap();
    refused(&host, &request);
}

fn working_directories_lead_nowhere_else() {
    let host = Host::new();
    let layer = host.busybox();
    symlink("/proc/self/fd/7", layer.join("fd")).unwrap();
    symlink("../../../../../../etc", layer.join("up")).unwrap();
    symlink("loop", layer.join("loop")).unwrap();
    for dir in [
        "/proc/self/fd/7",
        "/proc",
        "/sys",
        "/dev/fd/3",
        "//proc//self/cwd",
        "/./proc/1/root",
        "/a/../b",
        "../..",
        "/fd",
        "/fd/..",
        "/loop",
        "/etc/passwd",
        "/etc/passwd/x",
        "/bin/sh",
    ] {
        let mut request = host.shell("dir", "pwd");
        request.image.working_dir = dir.into();
        let error = refused(&host, &request);
        assert!(matches!(error, StartError::WorkingDir { .. }), "{dir}: {error}");
    }
    for (index, (dir, want)) in
        [("up", "/etc"), ("relative/dir", "/relative/dir"), ("", "/")].into_iter().enumerate()
    {
        let mut request = host.shell(&format!("good{index}"), "pwd -P");
        request.image.working_dir = dir.into();
        assert_eq!(host.output(&request), [want]);
    }
}

fn what_is_no_program_is_refused() {
    let host = Host::new();
    let layer = host.busybox();
    rustix::fs::mknodat(CWD, layer.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o777), 0).unwrap();
    fs::write(layer.join("empty"), "").unwrap();
    fs::write(layer.join("noloader"), "#!/nowhere/sh\n").unwrap();
    fs::write(layer.join("text"), "only text\n").unwrap();
    for name in ["empty", "noloader", "text"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(layer.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("self", layer.join("self")).unwrap();
    for program in [
        "/etc",
        "/dev/null",
        "/fifo",
        "/empty",
        "/noloader",
        "/text",
        "/etc/not-executable",
        "/self",
        "/nosuch",
        "nosuch",
        "",
        "/proc",
        "/proc/self/status",
        "/bin/sh/x",
    ] {
        for init in [true, false] {
            let mut request = host.request("program", &[]);
            request.spec.command = None;
            (request.image.entrypoint, request.spec.init) = (vec![program.into()], Some(init));
            refused(&host, &request);
        }
    }
}

fn environments_are_bounded() {
    let host = Host::new();
    let with = |task: &str, env: Vec<String>| {
        let mut request = host.shell(task, "env | grep -c ^V; env | grep ^NAME");
        request.image.env = env;
        request
    };
    assert_eq!(host.output(&with("bare", vec!["NAME".into(), "V".into()])), ["1", "NAME="]);
    for (task, env) in [
        ("nul", vec!["A=\0".to_owned()]),
        ("nameless", vec!["=x".to_owned()]),
        ("long", vec![format!("V={}", "x".repeat(1 << 20))]),
        ("longest", vec![format!("V={}", "x".repeat(131_070))]),
        ("all", (0..60).map(|number| format!("V{number}={}", "x".repeat(120_000))).collect()),
    ] {
        for init in [true, false] {
            let mut request = with(task, env.clone());
            request.spec.init = Some(init);
            let error = refused(&host, &request).to_string();
            assert!(error.len() < 500, "{task}: {} bytes of error", error.len());
        }
    }
    // The longest there is.
    assert_eq!(
        host.output(&with("fits", vec![format!("V={}", "x".repeat(131_069)), "NAME=1".into()])),
        ["1", "NAME=1"]
    );
    let mut request = host.request("many", &["env"]);
    request.image.env = (0..100_000).map(|number| format!("V{number}=")).collect();
    let lines = host.output(&request);
    assert_eq!(lines.iter().filter(|line| line.starts_with('V')).count(), 100_000);
}

fn an_unknown_stop_signal_is_terminate() {
    let host = Host::new();
    for (index, signal) in ["SIGBANANA", "99", "-1", "0", "4294967311", "TERM\0"].into_iter().enumerate() {
        let mut request = host.request(&format!("s{index}"), &["true"]);
        request.image.stop_signal = Some(signal.into());
        let started = host.runtime().start(&request).unwrap();
        assert_eq!(started.stop_signal, 15, "{signal}");
        assert!(started.warnings[0].contains("stop signal"), "{:?}", started.warnings);
        let mut request = host.request("own", &["true"]);
        request.spec.stop_signal = Some(signal.into());
        refused(&host, &request);
    }
}

fn bind(path: &Path, target: &str) -> Mount {
    let source = MountSource::Bind {
        path: path.display().to_string(),
        create: false,
        propagation: String::new(),
        alone: false,
    };
    Mount { target: target.into(), source, read_only: false }
}

fn volumes_where_they_cannot_be_are_refused_for_good() {
    let host = Host::new();
    let layer = host.busybox();
    symlink("/", layer.join("door")).unwrap();
    symlink("/proc", layer.join("kernel")).unwrap();
    symlink("/dev/null", layer.join("nothing")).unwrap();
    let refuse = |target: &str, source: MountSource| {
        let mut request = host.shell("volume", "true");
        request.spec.mounts = vec![Mount { target: target.into(), source, read_only: false }];
        let error = refused(&host, &request);
        assert!(matches!(&error, StartError::Mount { .. }), "{target}: {error}");
    };
    let named = || MountSource::Volume { name: VolumeName::new("v").unwrap(), nocopy: false, subpath: None };
    for target in [
        "/",
        "//",
        "/door",
        "/door/proc",
        "/kernel",
        "/kernel/sys",
        "/nothing",
        "/proc",
        "/proc/self/fd",
        "/proc/sys",
        "/proc/kcore",
        "/sys",
        "/sys/fs/cgroup",
        "/sys/kernel/new",
        "/dev",
        "/dev/pts",
        "/dev/null",
        "/dev/null/x",
        "/dev/zero",
        "/dev/tty",
        "/dev/console",
        "/dev/ptmx",
        "/dev/stdin",
        "/dev/fd",
        "/etc/passwd",
        "/etc/passwd/x",
        "/bin/busybox",
        "relative",
        "/a/../b",
        "",
    ] {
        refuse(target, named());
        refuse(target, MountSource::Anonymous);
        refuse(target, MountSource::Tmpfs { size: None, mode: None, options: Vec::new() });
        let mut request = host.shell("image", "true");
        request.image.volumes = vec![target.into()];
        assert!(matches!(refused(&host, &request), StartError::Mount { .. }), "{target}");
    }
    let file = host.dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (source, target) in [
        (&*file, "/data"),
        (host.dir.path().parent().unwrap(), "/etc/passwd"),
        (&*file, "/dev/null"),
        (&*file, "/sys/nosuch"),
    ] {
        let mut request = host.shell("bind", "true");
        request.spec.mounts = vec![bind(source, target)];
        assert!(matches!(refused(&host, &request), StartError::Mount { .. }), "{target}");
    }
    let mut request = host.shell("device", "true");
    for target in ["/data/null", "/dev/../x", "/dev"] {
        let (source, permissions) = ("/dev/null".to_owned(), "rwm".to_owned());
        request.spec.devices = vec![Device { source, target: target.into(), permissions }];
        assert!(matches!(refused(&host, &request), StartError::Device { .. }), "{target}");
    }
    // What looks alike and is fine; the name of the last is longer than a file's may be.
    let long = format!("/{}", "ü-".repeat(80));
    let mut request = host.shell("fine", "touch /door/srv/x /dev/shm/x /dev/own/x && cat /data/file");
    request.image.volumes =
        vec!["/door/srv".into(), "/data".into(), "/dev/shm".into(), "/dev/own".into(), long];
    assert_eq!(host.output(&request), ["from the image"]);
}

fn a_working_directory_is_made_inside_a_mount() {
    let host = Host::new();
    let project = host.dir.path().join("project");
    fs::create_dir(&project).unwrap();
    let mut request = host.shell("made", "pwd; touch here");
    request.spec.mounts = vec![bind(&project, "/app")];
    request.spec.working_dir = Some("/app/sub/dir".into());
    assert_eq!(host.output(&request), ["/app/sub/dir"]);
    assert!(project.join("sub/dir/here").exists());
    let mut request = host.shell("readonly", "pwd");
    request.spec.mounts = vec![Mount { read_only: true, ..bind(&project, "/app") }];
    request.spec.working_dir = Some("/app/sub".into());
    assert_eq!(host.output(&request), ["/app/sub"]);
}

fn device_nodes_of_images_and_volumes_cannot_be_opened() {
    let host = Host::new();
    let layer = host.busybox();
    let nodes = host.dir.path().join("nodes");
    fs::create_dir(&nodes).unwrap();
    // The harmless one, which every device rule allows: only the mount can keep it away.
    for dir in [&layer, &nodes] {
        let null = rustix::fs::makedev(1, 3);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, dir.join("null"), FileType::CharacterDevice, mode, null).unwrap();
        // mknod is subject to the umask.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.join("null"), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let script = "for n in /null /bound/null /dev/null; do (echo x > $n) 2>/dev/null && echo $n; done; true";
    let mut request = host.shell("nodes", script);
    request.spec.mounts = vec![bind(&nodes, "/bound")];
    assert_eq!(host.output(&request), ["/dev/null"]);
    // Who may make nodes may use them.
    request.id.task = "maker".into();
    request.spec.security.cap_add = vec!["MKNOD".into()];
    let mut want = vec!["/null", "/bound/null", "/dev/null"];
    // A mount of the host without devices (/tmp of a distribution) is one inside, too.
    if rustix::fs::statvfs(&nodes).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::NODEV) {
        want.remove(1);
    }
    assert_eq!(host.output(&request), want);
}

fn a_start_that_fails_anywhere_leaves_nothing() {
    let host = Host::new();
    type Change = fn(&mut StartRequest);
    let cases: [(&str, Change); 9] = [
        ("sysctl", |r| r.spec.sysctls = BTreeMap::from([("net.core.somaxconn".into(), "words".into())])),
        ("nosysctl", |r| r.spec.sysctls = BTreeMap::from([("net.no.such".into(), "1".into())])),
        ("hostname", |r| r.spec.hostname = Some("x".repeat(300))),
        ("cpuset", |r| r.spec.limits.cpuset = Some("4000".into())),
        ("memory", |r| r.spec.limits.memory = Some(Bytes(4096))),
        ("pids", |r| r.spec.limits.pids = Some(1)),
        ("domain", |r| r.spec.domainname = Some("x".repeat(300))),
        ("layer", |r| r.lowerdirs = vec!["/nonexistent/layer".into()]),
        ("netns", |r| r.network = carrack_runtime::Network::Namespace("/etc/passwd".into())),
    ];
    for (task, change) in cases {
        for tty in [false, true] {
            let mut request = host.shell(task, "true");
            request.spec.tty = tty;
            change(&mut request);
            let error = match host.runtime().start(&request) {
                // Too small a limit may show only when the program runs.
                Ok(_) if ["memory", "pids"].contains(&task) => {
                    host.wait(&request.id);
                    host.runtime().remove_task(task, true).unwrap();
                    continue;
                }
                Ok(_) => panic!("{task} started"),
                Err(error) => error,
            };
            assert!(!error.to_string().is_empty());
            for left in [format!("run/tasks/{task}"), format!("state/tasks/{task}")] {
                assert!(!host.dir.path().join(&left).exists(), "{left} after {error}");
            }
            assert!(host.cgroup_dirs().iter().all(|dir| !dir.join(format!("{task}.1")).exists()), "{error}");
        }
    }
    // Mounts, processes and directories: `Host` looks when it is dropped.
}

fn a_fork_bomb_hurts_only_itself() {
    let host = Host::new();
    let mut bomb = host.request("bomb", &[probe::PATH, probe::MODE, "fork-bomb"]);
    bomb.spec.mounts = probe::mounts();
    bomb.spec.limits.pids = Some(64);
    bomb.spec.limits.cpus = Some(carrack_api::MilliCpus(500));
    host.runtime().start(&bomb).unwrap();
    host.wait_line("bomb", "lit");
    let mut sampler = host.runtime().sampler(&bomb.id).unwrap();
    eventually("it is at its limit", || (sampler.sample().unwrap().pids == 64).then_some(()));
    assert_eq!(host.output(&host.shell("other", "echo fine")), ["fine"]);
    assert!(sampler.sample().unwrap().pids <= 64);
    host.runtime().kill(&bomb.id).unwrap();
    assert_eq!(host.wait(&bomb.id).code, 137);
}

fn out_of_memory_hurts_only_the_offender() {
    let host = Host::new();
    let neighbour = host.request("neighbour", &["sleep", "1000"]);
    host.runtime().start(&neighbour).unwrap();
    let mut greedy = host.request("greedy", &["tail", "-n1", "/dev/zero"]);
    greedy.spec.limits.memory = Some(Bytes(16 << 20));
    let started = host.runtime().start(&greedy).unwrap();
    let exit = host.wait(&greedy.id);
    assert_eq!((exit.code, exit.oom), (137, true), "{}", exit.describe());
    assert!((8 << 20..=16 << 20).contains(&exit.peak_memory.unwrap().0));
    assert_ne!(started.supervisor_pid, started.init_pid);
    let state = host.runtime().inspect(&neighbour.id).unwrap().unwrap().state;
    assert!(matches!(state, RunState::Running { .. }), "{state:?}");
    // Of several processes the kernel takes one; the program goes on, and its end is no lack of memory.
    let mut half = host.shell("half", "tail -n1 /dev/zero; echo went on; exit 3");
    half.spec.limits.memory = Some(Bytes(16 << 20));
    let (exit, lines) = host.run(&half);
    assert_eq!((exit.code, exit.oom), (3, false), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "went on");
}

/// Resident memory of a process that it had at most, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

fn endless_output_is_bounded() {
    let host = Host::new();
    let hold = "while [ ! -e /stop ]; do usleep 20000; done";
    let mut request = host.shell("flood", &format!("head -c 200000000 /dev/zero; echo; echo end; {hold}"));
    request.log = LogLimit { total: Bytes(5 << 20), file: Bytes(1 << 20) };
    let started = host.runtime().start(&request).unwrap();
    let before = peak_memory(started.supervisor_pid);
    // A reader beside it gives an endless line in parts.
    let tail = || {
        let query = carrack_runtime::LogQuery { tail: Some(1), ..Default::default() };
        let mut reader = host.runtime().logs("flood", query).unwrap();
        reader.next_lines(10).unwrap().pop()
    };
    eventually("all of it is read", || tail().filter(|line| line.text == b"end"));
    let grown = peak_memory(started.supervisor_pid).saturating_sub(before);
    assert!(grown < 8 << 20, "the supervisor grew by {grown} bytes");
    let log = host.dir.path().join("state/tasks/flood/log");
    let size: u64 = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 5 << 20, "{size} bytes of log");
    let order = ExecRequest { argv: vec!["touch".into(), "/stop".into()], ..Default::default() };
    host.runtime().exec(&request.id, &order).unwrap().wait().unwrap();
    assert_eq!(host.wait(&request.id).code, 0);
}

fn a_million_lines_are_written_and_the_last_are_kept() {
    let host = Host::new();
    let mut request = host.shell("lines", "seq 1000000");
    request.log = LogLimit { total: Bytes(2 << 20), file: Bytes(400 << 10) };
    let (exit, lines) = host.run(&request);
    assert_eq!(exit.code, 0);
    assert_eq!(lines.last().unwrap(), "1000000");
    let numbers: Vec<u32> = lines[1..].iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 100_000, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "none is missing in between");
}

fn a_program_may_close_leave_and_ignore_everything() {
    let host = Host::new();
    for init in [true, false] {
        let request = |task: &str, script: &str| {
            let mut request = host.shell(&format!("{task}-{init}"), script);
            request.spec.init = Some(init);
            request
        };
        // Closes its streams and works on.
        let silent = request("silent", "exec <&- >&- 2>&-; usleep 300000; exit 3");
        assert_eq!(host.run(&silent).0.code, 3);
        // Leaves grandchildren that hold the streams open.
        let leaves = request("leaves", "echo begin; ( (sleep 1000 &) & ); exit 4");
        let (exit, lines) = host.run(&leaves);
        assert_eq!((exit.code, &lines[..]), (4, &["begin".to_owned()][..]));
        // Ignores what it can.
        let stubborn =
            request("stubborn", "trap '' TERM HUP INT QUIT; echo ready; while true; do usleep 50000; done");
        host.runtime().start(&stubborn).unwrap();
        host.wait_line(&stubborn.id.task, "ready");
        for signal in [15, 1, 2, 3] {
            host.runtime().signal(&stubborn.id, signal).unwrap();
        }
        let state = host.runtime().inspect(&stubborn.id).unwrap().unwrap().state;
        assert!(matches!(state, RunState::Running { .. }), "{state:?}");
        host.runtime().kill(&stubborn.id).unwrap();
        assert_eq!(host.wait(&stubborn.id).code, 137);
        for task in ["silent", "leaves", "stubborn"] {
            let name = format!("{task}-{init}.1");
            for dir in host.cgroup_dirs() {
                let procs = fs::read_to_string(dir.join(&name).join("cgroup.procs")).unwrap_or_default();
                assert_eq!(procs, "", "{name}");
            }
        }
    }
}
