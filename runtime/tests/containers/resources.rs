//! Limits, samples, out of memory.

use carrack_api::{Bytes, MilliCpus};

use crate::support::{Host, eventually};

crate::trials!(
    limits_are_set_in_the_cgroup,
    out_of_memory_is_told_apart_from_a_kill,
    samples_show_what_a_container_uses,
    a_pids_limit_stops_a_fork_bomb,
);

fn read(host: &Host, controller: &str, task: &str, file: &str) -> String {
    let dirs = host.cgroup_dirs();
    let dir = dirs.iter().find(|dir| dir.parent().unwrap().ends_with(controller)).or(dirs.first()).unwrap();
    std::fs::read_to_string(dir.join(format!("{task}.1")).join(file)).unwrap().trim().to_owned()
}

fn limits_are_set_in_the_cgroup() {
    let host = Host::new();
    let mut request = host.request("limited", &["sleep", "1000"]);
    request.spec.limits.cpus = Some(MilliCpus(500));
    request.spec.limits.cpu_shares = Some(512);
    request.spec.limits.cpuset = Some("0".into());
    request.spec.limits.memory = Some(Bytes(64 << 20));
    request.spec.limits.pids = Some(20);
    host.runtime().start(&request).unwrap();
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(read(&host, "cpu", "limited", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read(&host, "cpu", "limited", "cpu.shares"), "512");
        assert_eq!(read(&host, "cpuset", "limited", "cpuset.cpus"), "0");
        assert_eq!(read(&host, "memory", "limited", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(read(&host, "pids", "limited", "pids.max"), "20");
    } else {
        assert_eq!(read(&host, "", "limited", "cpu.max"), "50000 100000");
        assert_eq!(read(&host, "", "limited", "memory.max"), (64 << 20).to_string());
        assert_eq!(read(&host, "", "limited", "pids.max"), "20");
    }
    let mut request = host.request("greedy", &["true"]);
    request.spec.limits.cpus = Some(MilliCpus(1_000_000));
    let started = host.runtime().start(&request).unwrap();
    assert!(started.warnings[0].contains("CPU limit 1000"), "{:?}", started.warnings);
}

fn out_of_memory_is_told_apart_from_a_kill() {
    let host = Host::new();
    for (task, init) in [("reaped", true), ("bare", false)] {
        // `tail` keeps all of an endless line.
        let mut request = host.request(task, &["tail", "-n1", "/dev/zero"]);
        request.spec.init = Some(init);
        request.spec.limits.memory = Some(Bytes(16 << 20));
        let (exit, _) = host.run(&request);
        assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), true), "{task}");
        let peak = exit.peak_memory.unwrap().0;
        assert!((8 << 20..=16 << 20).contains(&peak), "{peak}");
    }
}

fn samples_show_what_a_container_uses() {
    let host = Host::new();
    let request = host.shell("busy", "yes > /dev/null & sleep 1000");
    host.runtime().start(&request).unwrap();
    let mut sampler = host.runtime().sampler(&request.id).unwrap();
    let first = sampler.sample().unwrap();
    eventually("CPU time rises", || {
        let now = sampler.sample().unwrap();
        (now.cpu_us > first.cpu_us + 50_000 && now.pids >= 3 && now.memory.0 > 0).then_some(())
    });
}

fn a_pids_limit_stops_a_fork_bomb() {
    let host = Host::new();
    let mut request = host.shell("bomb", "for i in $(seq 100); do sleep 1000 & done; echo all");
    request.spec.limits.pids = Some(15);
    let (exit, lines) = host.run(&request);
    assert_ne!(exit.code, 0);
    assert!(!lines.contains(&"all".to_owned()), "{lines:?}");
}
