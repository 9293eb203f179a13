//! What is in force inside a container, asked from inside.

use std::collections::BTreeMap;

use carrack_api::{Namespace, Security, Ulimit};
use carrack_runtime::Network;

use crate::support::{Host, open_files};

crate::trials!(
    a_default_container_is_confined,
    the_filter_is_loaded_also_without_no_new_privileges,
    a_privileged_container_has_all_and_no_filter,
    users_are_found_in_the_image,
    working_directory_and_environment_are_as_asked,
    a_read_only_root_with_tmpfs,
    nothing_of_the_host_is_open_inside,
    namespaces_of_the_host_on_request,
    ulimits_are_set_or_clamped,
    open_files_are_limited_as_the_daemons_were_at_its_start,
    the_own_cgroup_cannot_be_written,
);

/// `/proc/self/status` as key and value.
fn status(lines: &[String]) -> BTreeMap<String, String> {
    lines
        .iter()
        .filter_map(|line| line.split_once(":"))
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect()
}

fn a_default_container_is_confined() {
    let host = Host::new();
    for (task, init) in [("reaped", true), ("bare", false)] {
        let mut request = host.shell(
            task,
            "cat /proc/self/status; head -c1 /proc/kcore | wc -c; ls /sys/firmware | wc -l; \
             (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo WROTE; \
             mount -t tmpfs t /tmp 2>/dev/null && echo MOUNTED; unshare -U true 2>/dev/null && echo USERNS; \
             mknod /tmp/n c 1 3 2>/dev/null && echo MKNOD; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname",
        );
        request.spec.init = Some(init);
        let lines = host.output(&request);
        let status = status(&lines);
        assert_eq!(status["NoNewPrivs"], "1");
        assert_eq!(status["Seccomp"], "2");
        // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status[set], "00000000000405fb", "{set}");
        }
        assert_eq!((&*status["CapInh"], &*status["CapAmb"]), ("0000000000000000", "0000000000000000"));
        for bad in ["WROTE", "MOUNTED", "USERNS", "MKNOD"] {
            assert!(!lines.iter().any(|line| line == bad), "{bad}");
        }
        assert_eq!(lines[lines.len() - 4..], ["0", "0", "0", "box"]);
    }
}

fn the_filter_is_loaded_also_without_no_new_privileges() {
    let host = Host::new();
    for user in [None, Some("app".to_owned())] {
        let mut request = host.shell(if user.is_some() { "user" } else { "root" }, "cat /proc/self/status");
        request.spec.security = Security { no_new_privileges: Some(false), ..Default::default() };
        request.spec.user = user.clone();
        let status = status(&host.output(&request));
        assert_eq!((&*status["NoNewPrivs"], &*status["Seccomp"]), ("0", "2"), "{user:?}");
        assert_eq!(status["CapBnd"], "00000000000405fb", "{user:?}");
        let effective = if user.is_some() { "0000000000000000" } else { "00000000000405fb" };
        assert_eq!(status["CapEff"], effective, "{user:?}");
    }
}

fn a_privileged_container_has_all_and_no_filter() {
    let host = Host::new();
    let mut request = host.shell("big", "cat /proc/self/status; mount -t tmpfs t /tmp && echo MOUNTED");
    request.spec.security.privileged = true;
    let lines = host.output(&request);
    let status = status(&lines);
    assert_eq!((&*status["NoNewPrivs"], &*status["Seccomp"]), ("0", "0"));
    assert_eq!(lines.last().unwrap(), "MOUNTED");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains(&format!("CapBnd:\t{}", status["CapBnd"])), "all that the host has");
}

fn users_are_found_in_the_image() {
    let host = Host::new();
    let cases = [
        ("app", "uid=1000(app) gid=1001(app) groups=1001(app),2000(extra)", "/home/app"),
        ("1000", "uid=1000(app) gid=1001(app) groups=1001(app),2000(extra)", "/home/app"),
        ("app:audio", "uid=1000(app) gid=29(audio)", "/home/app"),
        ("4321:4322", "uid=4321 gid=4322", "/"),
    ];
    for (index, (user, want, home)) in cases.into_iter().enumerate() {
        let mut request = host.shell(&format!("u{index}"), "id; echo $HOME");
        request.spec.user = Some(user.into());
        let lines = host.output(&request);
        assert!(lines[0].starts_with(want), "{user}: {lines:?}");
        assert_eq!(lines[1], home, "{user}");
    }
    let mut request = host.shell("more", "id");
    request.spec.user = Some("app".into());
    request.spec.groups = vec!["audio".into(), "77".into()];
    assert!(host.output(&request)[0].contains("29(audio)"));
}

fn working_directory_and_environment_are_as_asked() {
    let host = Host::new();
    let mut request =
        host.shell("env", "pwd; echo $A-$B; cat /etc/hosts /etc/hostname /etc/resolv.conf; stat -c %a .");
    request.spec.working_dir = Some("/srv/new/dir".into());
    request.image.env = vec!["A=image".into()];
    request.spec.env = BTreeMap::from([("B".to_owned(), Some("spec".to_owned()))]);
    request.spec.extra_hosts =
        vec![("db".into(), "10.9.9.9".into()), ("host.docker.internal".into(), "host-gateway".into())];
    let lines = host.output(&request);
    assert_eq!(lines[..2], ["/srv/new/dir", "image-spec"]);
    for want in ["10.1.2.3\tbox", "10.9.9.9\tdb", "10.1.2.1\thost.docker.internal", "127.0.0.1\tlocalhost"] {
        assert!(lines.iter().any(|line| line == want), "{want}: {lines:?}");
    }
    assert_eq!(lines[lines.len() - 3..], ["box", "nameserver 169.254.1.1", "755"]);
}

fn a_read_only_root_with_tmpfs() {
    use carrack_api::{Bytes, Mount, MountSource};
    let host = Host::new();
    let mut request = host.shell(
        "ro",
        "touch /x 2>/dev/null && echo WROTE; touch /run/y && echo tmp; df -k /run /dev/shm | tail -2; touch /dev/shm/z && echo shm",
    );
    request.spec.read_only = true;
    request.spec.shm_size = Some(Bytes(8 << 20));
    let source = MountSource::Tmpfs { size: Some(Bytes(4 << 20)), mode: None, options: Vec::new() };
    request.spec.mounts = vec![Mount { target: "/run".into(), source, read_only: false }];
    let lines = host.output(&request);
    assert_eq!(lines[0], "tmp", "{lines:?}");
    assert!(lines[1].contains(" 4096 ") && lines[2].contains(" 8192 "), "{lines:?}");
    assert_eq!(lines[3], "shm");
}

fn nothing_of_the_host_is_open_inside() {
    let host = Host::new();
    for (task, init) in [("reaped", true), ("bare", false)] {
        let mut request = host.shell(task, "ls -l /proc/self/fd /proc/$$/fd; echo done");
        request.spec.init = Some(init);
        for line in host.output(&request).iter().filter(|line| line.contains(" -> ")) {
            let target = line.rsplit(" -> ").next().unwrap();
            let fine = target.starts_with("pipe:") || target == "/dev/null" || target.starts_with("/proc/");
            assert!(fine, "{line}");
        }
    }
}

fn namespaces_of_the_host_on_request() {
    let host = Host::new();
    let own = |name: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy().into_owned()
    };
    let script = "for n in pid ipc uts net mnt cgroup; do readlink /proc/self/ns/$n; done";
    let lines = host.output(&host.shell("own", script));
    for (index, name) in ["pid", "ipc", "uts", "net", "mnt", "cgroup"].iter().enumerate() {
        assert_ne!(lines[index], own(name), "{name}");
    }
    let mut request = host.shell("hosts", script);
    (request.spec.pid, request.spec.ipc, request.spec.uts) =
        (Namespace::Host, Namespace::Host, Namespace::Host);
    request.network = Network::Host;
    let lines = host.output(&request);
    for (index, name) in ["pid", "ipc", "uts", "net"].iter().enumerate() {
        assert_eq!(lines[index], own(name), "{name}");
    }
}

fn ulimits_are_set_or_clamped() {
    let host = Host::new();
    let mut request = host.shell("limits", "ulimit -n; ulimit -Hn");
    request.spec.ulimits = BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 123, hard: 456 })]);
    assert_eq!(host.output(&request), ["123", "456"]);
    let mut request = host.shell("huge", "true");
    request.spec.ulimits =
        BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 9_000_000, hard: 9_000_000 })]);
    // Without CAP_SYS_RESOURCE it is the node's own, with it the most that the kernel gives to anybody; a refusal would be wrong in
    // both cases.
    match host.runtime().start(&request) {
        Ok(started) => {
            let held = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = held.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
            let resource = u64::from_str_radix(line.trim(), 16).unwrap() & (1 << 24) != 0;
            let most =
                std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse::<i64>().unwrap();
            let given = resource && most >= 9_000_000;
            assert_eq!(started.warnings.is_empty(), given, "{:?}", started.warnings);
            host.wait(&request.id);
        }
        Err(error) => panic!("{error}"),
    }
}

fn open_files_are_limited_as_the_daemons_were_at_its_start() {
    use std::io::Read;
    let host = Host::new();
    let want = open_files().to_string();
    let request = host.shell("limits", "ulimit -n; exec sleep 1000");
    host.runtime().start(&request).unwrap();
    host.wait_line("limits", &want);
    let argv = ["sh", "-c", "ulimit -n"].map(str::to_owned).to_vec();
    let order = carrack_runtime::ExecRequest { argv, ..Default::default() };
    let mut session = host.runtime().exec(&request.id, &order).unwrap();
    let mut text = String::new();
    std::fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), want);
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(own.current, own.maximum, "the daemon takes all it may have");
}

fn the_own_cgroup_cannot_be_written() {
    let host = Host::new();
    let lines = host.output(&host.shell(
        "cg",
        "ls /sys/fs/cgroup; for f in $(ls /sys/fs/cgroup/memory/*limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null); do \
         (echo 1000000000 > $f) 2>/dev/null && echo WROTE; cat $f > /dev/null && echo read; done; \
         touch /sys/fs/cgroup/x 2>/dev/null && echo WROTE; true",
    ));
    assert!(lines.iter().any(|line| line == "read"), "{lines:?}");
    assert!(!lines.iter().any(|line| line == "WROTE"), "{lines:?}");
}
