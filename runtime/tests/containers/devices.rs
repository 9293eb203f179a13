//! What devices a container can open, on cgroup v1 and v2 by the same tests. Nodes are opened and never read or written.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use carrack_api::{Bytes, Device, Mount, MountSource};
use carrack_runtime::{ExecRequest, StartError, StartRequest};

use rustix::fs::{FileType, Mode, makedev};

use crate::support::{DEADLINE, Host};

crate::trials!(
    only_devices_that_were_given_can_be_opened,
    a_given_device_can_be_used_as_far_as_it_was_given,
    a_command_can_open_no_more_than_its_container,
    a_privileged_container_can_open_all,
    a_host_with_v2_only_and_few_controllers_refuses_or_warns_and_keeps_devices_away,
);

/// The first argument that makes the test binary the child of the last test.
pub(crate) const MODE: &str = "on-cgroup2";

/// A block device of this machine that we may open ourselves, major and minor.
fn disk() -> (u32, u32) {
    let mut names: Vec<String> = fs::read_dir("/sys/dev/block")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let opens = |name: &&String| {
        let about = fs::read_to_string(format!("/sys/dev/block/{name}/uevent")).unwrap();
        let node = about.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        node.is_some_and(|node| fs::File::open(Path::new("/dev").join(node)).is_ok())
    };
    let name = names.iter().find(opens).expect("a block device that root may open");
    let (major, minor) = name.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn node(path: &Path, kind: FileType, device: rustix::fs::Dev) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
}

/// Tries to open nodes that it makes first: one line each, the node and `open` or what the kernel said.
fn script() -> String {
    let (major, minor) = disk();
    format!(
        "mknod /tmp/null c 1 3; mknod /tmp/kmsg c 1 11; mknod /tmp/tun c 10 200; mknod /tmp/disk b {major} {minor}; \
         try() {{ (eval \": $2 $1\") 2>/tmp/why && echo \"$1 $2 open\" || echo \"$1 $2 $(sed 's/.*: //' /tmp/why)\"; }}; \
         try /tmp/null '>'; try /tmp/kmsg '>'; try /tmp/tun '<'; try /tmp/disk '<'; try /tmp/disk '>>'"
    )
}

const DENIED: &str = "Operation not permitted";

fn denied() -> Vec<String> {
    let mut lines = vec!["/tmp/null > open".to_owned()];
    lines.extend(
        ["/tmp/kmsg >", "/tmp/tun <", "/tmp/disk <", "/tmp/disk >>"].map(|what| format!("{what} {DENIED}")),
    );
    lines
}

/// A container that may make nodes.
fn maker(host: &Host, task: &str, script: &str) -> StartRequest {
    let mut request = host.shell(task, script);
    request.spec.security.cap_add = vec!["MKNOD".into()];
    request
}

fn only_devices_that_were_given_can_be_opened() {
    let host = Host::new();
    for init in [true, false] {
        let mut request = maker(&host, if init { "reaped" } else { "bare" }, &script());
        request.spec.init = Some(init);
        assert_eq!(host.output(&request), denied());
    }
    // A node of the host's, bound: only the rules keep it away.
    let mut request = host.shell("bound", "(: > /kmsg) 2>&1 | sed 's/.*: //'");
    let source = MountSource::Bind {
        path: "/dev/kmsg".into(),
        create: false,
        propagation: String::new(),
        alone: false,
    };
    request.spec.mounts = vec![Mount { target: "/kmsg".into(), source, read_only: false }];
    assert_eq!(host.output(&request), [DENIED]);
}

/// Nodes in a directory of the test's, so that it needs none in `/dev`.
fn given(host: &Host) -> Vec<Device> {
    let (major, minor) = disk();
    let nodes = host.dir.path().join("nodes");
    fs::create_dir(&nodes).unwrap();
    let make = |name: &str, kind, device| {
        node(&nodes.join(name), kind, device);
        nodes.join(name).display().to_string()
    };
    let kmsg = make("kmsg", FileType::CharacterDevice, makedev(1, 11));
    let disk = make("disk", FileType::BlockDevice, makedev(major, minor));
    let device = |source: String, target: &str, permissions: &str| Device {
        source,
        target: target.into(),
        permissions: permissions.into(),
    };
    vec![device(kmsg, "/dev/kmsg", "w"), device(disk, "/dev/disk", "r")]
}

fn a_given_device_can_be_used_as_far_as_it_was_given() {
    let host = Host::new();
    let script = "try() { (eval \": $2 $1\") 2>/tmp/why && echo \"$1 $2 open\" || echo \"$1 $2 $(sed 's/.*: //' /tmp/why)\"; }; \
        try /dev/kmsg '>'; try /dev/kmsg '<'; try /dev/disk '<'; try /dev/disk '>>'";
    let mut request = host.shell("given", script);
    request.spec.devices = given(&host);
    let want = ["/dev/kmsg > open", "/dev/kmsg < ", "/dev/disk < open", "/dev/disk >> "];
    let lines = host.output(&request);
    assert_eq!(lines.len(), want.len(), "{lines:?}");
    for (line, want) in lines.iter().zip(want) {
        let want = if want.ends_with("open") { want.to_owned() } else { format!("{want}{DENIED}") };
        assert_eq!(*line, want);
    }
}

fn a_command_can_open_no_more_than_its_container() {
    let host = Host::new();
    let request = maker(&host, "web", "sleep 1000");
    host.runtime().start(&request).unwrap();
    for (case, privileged) in [("a", false), ("b", true)] {
        let script = script().replace("/tmp", &format!("/{case}")).replacen(
            "mknod",
            &format!("mkdir /{case}; mknod"),
            1,
        );
        let order = ExecRequest {
            argv: ["sh", "-c", &script].map(str::to_owned).to_vec(),
            privileged,
            ..Default::default()
        };
        let mut session = host.runtime().exec(&request.id, &order).unwrap();
        let mut text = String::new();
        fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(session.wait_timeout(*DEADLINE).unwrap(), Some(0), "{text}");
        let lines: Vec<String> =
            text.lines().map(|line| line.replace(&format!("/{case}/"), "/tmp/")).collect();
        assert_eq!(lines, denied(), "privileged: {privileged}");
    }
}

fn a_privileged_container_can_open_all() {
    let host = Host::new();
    // A privileged container has the host's devices anyway; these show that the rules are what keeps others from them.
    let script = script().replace("try /tmp/tun '<';", "").replace("; try /tmp/disk '>>'", "");
    let mut request = host.shell("big", &script);
    request.spec.security.privileged = true;
    assert_eq!(host.output(&request), ["/tmp/null > open", "/tmp/kmsg > open", "/tmp/disk < open"]);
}

/// In a mount namespace of its own, in which only a cgroup2 tree is mounted: on a host with v1 that tree has no controllers, so
/// this is also the host of an operator who has switched one off.
fn a_host_with_v2_only_and_few_controllers_refuses_or_warns_and_keeps_devices_away() {
    // Whatever it waits for has a deadline of its own.
    let output = Command::new("/proc/self/exe").arg(MODE).stdin(Stdio::null()).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("all is well"), "{text}");
}

/// The child.
pub(crate) fn on_cgroup2() -> ! {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // Before any thread is there, which would stay behind.
    #[expect(
        unsafe_code,
        reason = "unshare is unsafe for what it could do to descriptors, which stay shared here"
    )]
    // SAFETY: only the mount namespace is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
    }
    let host = Host::new();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let has = |name: &str| controllers.split_whitespace().any(|known| known == name);

    let request = maker(&host, "plain", &script());
    let warnings = host.runtime().start(&request).unwrap().warnings;
    assert_eq!(warnings.iter().any(|text| text.contains("\"pids\"")), !has("pids"), "{warnings:?}");
    host.wait(&request.id);
    assert_eq!(host.lines("plain"), denied());

    // The kernel looks at each way through the filter: many devices must not be too much for it.
    let many = host.dir.path().join("many");
    fs::create_dir(&many).unwrap();
    for minor in 0..1000 {
        node(&many.join(minor.to_string()), FileType::CharacterDevice, makedev(13, minor));
    }
    let mut request = maker(&host, "many", &script());
    let (source, target) = (many.display().to_string(), "/dev/many".to_owned());
    request.spec.devices = vec![Device { source, target, permissions: "rw".into() }];
    assert_eq!(host.output(&request), denied());

    let mut request = host.request("limited", &["sleep", "1000"]);
    request.spec.limits.memory = Some(Bytes(64 << 20));
    match host.runtime().start(&request) {
        Ok(_) => assert!(has("memory")),
        Err(StartError::Spec { field, why }) => {
            assert!(
                !has("memory") && field == "limits.memory" && why.contains("no cgroup controller"),
                "{why}"
            );
        }
        Err(error) => panic!("{error}"),
    }

    nested_cgroups_are_removed(&host);

    let request = host.request("seen", &["sleep", "1000"]);
    host.runtime().start(&request).unwrap();
    let usage = host.runtime().sampler(&request.id).unwrap().sample().unwrap();
    let pressure = fs::exists("/proc/pressure/cpu").unwrap();
    assert_eq!(usage.detail.unwrap().pressure.is_some(), pressure);
    drop(host);
    println!("all is well");
    std::process::exit(0)
}

/// A container that mounts its cgroup may make some below: threaded ones, which list no processes, and many levels. It is ended and
/// removed all the same, and nests only as deep as is looked at.
fn nested_cgroups_are_removed(host: &Host) {
    let script = "mkdir /tmp/own && mount -t cgroup2 none /tmp/own && cd /tmp/own || exit
        mkdir -p sub/inner && echo threaded > sub/cgroup.type && echo threaded > sub/inner/cgroup.type || exit
        sleep 1000 & echo $! > sub/cgroup.threads && echo threaded with $(wc -l < sub/cgroup.threads)
        mkdir deep && cd deep || exit
        for i in $(seq 2 30); do mkdir sub && cd sub || break; done 2> /dev/null
        echo $i levels; exec sleep 1000";
    let mut request = host.shell("nested", script);
    request.spec.security.cap_add = vec!["SYS_ADMIN".into()];
    host.runtime().start(&request).unwrap();
    // One more than there may be: that one is refused.
    host.wait_line("nested", "16 levels");
    assert!(host.lines("nested").contains(&"threaded with 1".to_owned()), "{:?}", host.lines("nested"));
    host.runtime().remove_run(&request.id).unwrap();
    assert!(host.cgroup_dirs().iter().all(|dir| !dir.join("nested.1").exists()));
}
