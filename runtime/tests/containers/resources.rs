//! Limits, samples, out of memory.

use carrack_api::{Bytes, MilliCpus};
use carrack_runtime::StartError;

use crate::support::{Host, eventually};

crate::trials!(
    limits_are_set_in_the_cgroup,
    out_of_memory_is_told_apart_from_a_kill,
    samples_show_what_a_container_uses,
    throttling_is_counted,
    a_kill_for_lack_of_memory_is_counted_and_leaves_the_rest_running,
    cpus_that_are_not_there_are_refused,
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
    request.spec.limits.memory_swap = Some(Bytes(96 << 20));
    request.spec.limits.memory_reservation = Some(Bytes(32 << 20));
    request.spec.limits.pids = Some(20);
    let warnings = host.runtime().start(&request).unwrap().warnings;
    let swap = !warnings.iter().any(|text| text.contains("swap limit"));
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(read(&host, "cpu", "limited", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read(&host, "cpu", "limited", "cpu.shares"), "512");
        assert_eq!(read(&host, "cpuset", "limited", "cpuset.cpus"), "0");
        assert_eq!(read(&host, "memory", "limited", "memory.limit_in_bytes"), (64 << 20).to_string());
        let soft = read(&host, "memory", "limited", "memory.soft_limit_in_bytes");
        assert_eq!(soft, (32 << 20).to_string());
        if swap {
            let both = read(&host, "memory", "limited", "memory.memsw.limit_in_bytes");
            assert_eq!(both, (96 << 20).to_string());
        }
        assert_eq!(read(&host, "pids", "limited", "pids.max"), "20");
    } else {
        let want = [
            ("cpu.max", "50000 100000".to_owned()),
            // As runc turns 512 shares into a weight.
            ("cpu.weight", "59".to_owned()),
            ("cpuset.cpus", "0".to_owned()),
            ("memory.max", (64 << 20).to_string()),
            ("memory.low", (32 << 20).to_string()),
            ("memory.high", "max".to_owned()),
            ("memory.oom.group", "0".to_owned()),
            ("pids.max", "20".to_owned()),
        ];
        for (file, value) in want {
            assert_eq!(read(&host, "", "limited", file), value, "{file}");
        }
        if swap {
            // Beyond the memory.
            assert_eq!(read(&host, "", "limited", "memory.swap.max"), (32 << 20).to_string());
        }
        // It counts only as far as it is reserved above, too.
        let above = |host: &Host| {
            std::fs::read_to_string(host.cgroup_dirs()[0].join("memory.low")).unwrap().trim().to_owned()
        };
        assert_eq!(above(&host), (32 << 20).to_string());
        host.runtime().remove_run(&request.id).unwrap();
        assert_eq!(above(&host), "0");
        let mut request = host.request("no-swap", &["sleep", "1000"]);
        request.spec.limits.memory = Some(Bytes(64 << 20));
        host.runtime().start(&request).unwrap();
        if swap {
            assert_eq!(read(&host, "", "no-swap", "memory.swap.max"), "0");
        }
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
        (now.cpu_us > first.cpu_us + 50_000 && now.pids >= 3 && now.memory.unwrap().0 > 0).then_some(())
    });
}

fn throttling_is_counted() {
    let host = Host::new();
    let mut request = host.shell("slow", "while :; do :; done");
    request.spec.limits.cpus = Some(MilliCpus(50));
    host.runtime().start(&request).unwrap();
    let mut sampler = host.runtime().sampler(&request.id).unwrap();
    let detail = eventually("it is throttled", || {
        let detail = *sampler.sample().unwrap().detail.unwrap();
        // Each time for what is left of 100 ms, which is little when others held it up before.
        (detail.throttled_periods >= 3 && detail.throttled_us >= 10_000).then_some(detail)
    });
    assert!(detail.cpu_periods >= detail.throttled_periods, "{detail:?}");
}

fn a_kill_for_lack_of_memory_is_counted_and_leaves_the_rest_running() {
    let host = Host::new();
    let mut request = host.shell("half", "tail -n1 /dev/zero; echo went on; exec sleep 1000");
    request.spec.limits.memory = Some(Bytes(16 << 20));
    host.runtime().start(&request).unwrap();
    host.wait_line("half", "went on");
    let detail = host.runtime().sampler(&request.id).unwrap().sample().unwrap().detail.unwrap();
    assert_eq!(detail.oom_kills, 1);
    assert!((8 << 20..=16 << 20).contains(&detail.memory_peak.unwrap().0), "{detail:?}");
    // What is stopped then has not ended for lack of memory, but by a signal.
    host.runtime().signal(&request.id, 15).unwrap();
    assert_eq!((host.wait(&request.id).signal, host.wait(&request.id).oom), (Some(15), false));
}

fn cpus_that_are_not_there_are_refused() {
    let host = Host::new();
    for (set, why) in [("0-8000", "more than this host's CPUs"), ("x", "no list of CPUs")] {
        let mut request = host.request("many", &["true"]);
        request.spec.limits.cpuset = Some(set.into());
        match host.runtime().start(&request) {
            Err(StartError::Spec { field, why: text }) => {
                assert_eq!(field, "limits.cpuset");
                assert!(text.contains(why), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn a_pids_limit_stops_a_fork_bomb() {
    let host = Host::new();
    let mut request = host.shell("bomb", "for i in $(seq 100); do sleep 1000 & done; echo all");
    request.spec.limits.pids = Some(15);
    let (exit, lines) = host.run(&request);
    assert_ne!(exit.code, 0);
    assert!(!lines.contains(&"all".to_owned()), "{lines:?}");
}
