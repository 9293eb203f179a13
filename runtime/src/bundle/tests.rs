//! The bundle as text: what a default container gets, and each rule by itself.

use std::collections::BTreeMap;

use carrack_api::{Bytes, ContainerSpec, Limits, MilliCpus, Security, Ulimit};

use super::*;
use crate::request::RunId;

fn cgroup(v2: bool) -> CgroupFacts {
    let controllers = ["cpu", "cpuset", "memory", "pids"].map(str::to_owned).into();
    CgroupFacts { v2, controllers, swap: true, cpus: "0-1".into() }
}

fn host() -> HostFacts {
    HostFacts {
        cpus: 2,
        capabilities: ALL_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
        ulimits: BTreeMap::from([("nofile".to_owned(), (1024, 4096))]),
        most_open_files: 1 << 20,
        cgroup: cgroup(false),
        ..Default::default()
    }
}

fn request(spec: ContainerSpec) -> StartRequest {
    StartRequest {
        id: RunId::new("t1", 1),
        spec,
        image: ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/bin".into(), "A=image".into()],
            ..Default::default()
        },
        lowerdirs: vec!["/layer".into()],
        network: Network::Namespace("/run/netns/x".into()),
        hostname: "web-1".into(),
        addresses: Vec::new(),
        resolv_conf: None,
        host_gateway: None,
        env: BTreeMap::new(),
        files: Vec::new(),
        log: Default::default(),
    }
}

fn prepared() -> Prepared {
    Prepared {
        rootfs: "/carrack/rootfs".into(),
        cgroup: "/carrack-x/t1.1".into(),
        cgroup_view: "/carrack/cgroup".into(),
        netns: Some("/proc/self/fd/7".into()),
        ..Default::default()
    }
}

#[test]
fn a_program_that_is_an_init_is_the_first_process_unless_the_user_wants_ours() {
    let ours = |program: &str, init: Option<bool>| {
        let spec = ContainerSpec { entrypoint: Some(vec![program.into()]), init, ..Default::default() };
        build(&request(spec), &prepared(), &host()).unwrap().init
    };
    assert!(ours("/entry", None) && ours("initdb", None) && ours("/opt/init/run", None));
    assert!(!ours("/init", None) && !ours("/sbin/init", None) && !ours("/lib/systemd/systemd", None));
    assert!(ours("/init", Some(true)) && !ours("/entry", Some(false)));
}

fn json_of(spec: ContainerSpec) -> (Value, Vec<String>) {
    let bundle = build(&request(spec), &prepared(), &host()).unwrap();
    (serde_json::to_value(&bundle.spec).unwrap(), bundle.warnings)
}

fn error_of(spec: ContainerSpec) -> String {
    build(&request(spec), &prepared(), &host()).unwrap_err().to_string()
}

#[test]
fn a_default_container_is_confined() {
    let (json, warnings) = json_of(ContainerSpec::default());
    assert_eq!(warnings, Vec::<String>::new());
    let process = &json["process"];
    assert_eq!(process["args"], json!(["/entry", "serve"]));
    assert_eq!(process["env"], json!(["PATH=/bin", "HOSTNAME=web-1", "A=image", "HOME=/"]));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["noNewPrivileges"], true);
    let capabilities = process["capabilities"]["bounding"].as_array().unwrap().len();
    assert_eq!(capabilities, 10);
    for gone in ["CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_AUDIT_WRITE", "CAP_SETFCAP"] {
        assert!(!process["capabilities"]["bounding"].as_array().unwrap().contains(&json!(gone)), "{gone}");
    }
    assert_eq!(json["hostname"], "web-1");
    assert_eq!(json["linux"]["resources"]["pids"], json!({ "limit": 4096 }));
    assert_eq!(json["linux"]["resources"]["devices"][0]["allow"], false);
    assert_eq!(json["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    assert!(json["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert!(json["linux"]["readonlyPaths"].as_array().unwrap().contains(&json!("/proc/sys")));
    let kinds: Vec<_> =
        json["linux"]["namespaces"].as_array().unwrap().iter().map(|ns| ns["type"].clone()).collect();
    assert_eq!(json!(kinds), json!(["mount", "cgroup", "pid", "ipc", "uts", "network"]));
}

#[test]
fn command_and_entrypoint_follow_docker() {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let args = |entrypoint, command| {
        json_of(ContainerSpec { entrypoint, command, ..Default::default() }).0["process"]["args"].clone()
    };
    assert_eq!(args(None, words(&["x"])), json!(["/entry", "x"]));
    assert_eq!(args(words(&["/e"]), None), json!(["/e"]));
    assert_eq!(args(words(&["/e"]), words(&["x"])), json!(["/e", "x"]));
    assert_eq!(args(words(&[]), words(&["x"])), json!(["x"]));
    let nothing = ContainerSpec { entrypoint: words(&[]), ..Default::default() };
    assert_eq!(error_of(nothing), "neither the service nor its image names a command");
}

#[test]
fn variables_are_replaced_added_and_removed() {
    let env = BTreeMap::from([
        ("A".to_owned(), Some("spec".to_owned())),
        ("PATH".to_owned(), None),
        ("B".to_owned(), Some(String::new())),
    ]);
    let (json, _) = json_of(ContainerSpec { env, tty: true, ..Default::default() });
    assert_eq!(json["process"]["env"], json!(["HOSTNAME=web-1", "TERM=xterm", "A=spec", "B=", "HOME=/"]));
}

#[test]
fn limits_are_converted_and_clamped() {
    let mut spec = ContainerSpec::default();
    spec.limits.cpus = Some(MilliCpus(500));
    spec.limits.memory = Some(Bytes(64 << 20));
    spec.limits.pids = Some(0);
    let (json, warnings) = json_of(spec.clone());
    assert_eq!(json["linux"]["resources"]["cpu"], json!({ "quota": 50_000, "period": 100_000 }));
    assert_eq!(json["linux"]["resources"]["memory"], json!({ "limit": 64 << 20, "swap": 64 << 20 }));
    assert_eq!(json["linux"]["resources"]["pids"], json!({ "limit": -1 }));
    assert!(warnings.is_empty());
    spec.limits.cpus = Some(MilliCpus(64_000));
    let (json, warnings) = json_of(spec.clone());
    assert_eq!(json["linux"]["resources"]["cpu"]["quota"], 200_000);
    assert_eq!(warnings, ["CPU limit 64 is more than the node's 2 CPUs"]);
    spec.limits.memory_swap = Some(Bytes(1));
    assert!(error_of(spec).starts_with("limits.memory_swap: "));
    spec = ContainerSpec::default();
    spec.limits.memory_swap = Some(Bytes(1 << 30));
    assert!(error_of(spec.clone()).contains("but not the memory"));
    spec.limits.memory_swap = Some(Bytes(i64::MAX as u64));
    assert_eq!(json_of(spec).0["linux"]["resources"]["memory"], json!({ "swap": -1 }));
}

fn build_on(cgroup: CgroupFacts, limits: Limits) -> Result<(Value, Vec<String>), StartError> {
    let spec = ContainerSpec { limits, ..Default::default() };
    let bundle = build(&request(spec), &prepared(), &HostFacts { cgroup, ..host() })?;
    Ok((serde_json::to_value(&bundle.spec).unwrap()["linux"]["resources"].clone(), bundle.warnings))
}

#[test]
fn swap_on_v2_is_what_goes_beyond_the_memory() {
    let swap = |memory_swap| {
        let limits = Limits { memory: Some(Bytes(64)), memory_swap, ..Default::default() };
        let (resources, _) = build_on(cgroup(true), limits).unwrap();
        assert_eq!(resources["memory"], json!({ "limit": 64 }));
        resources["unified"]["memory.swap.max"].clone()
    };
    assert_eq!(swap(None), "0");
    assert_eq!(swap(Some(Bytes(64))), "0");
    assert_eq!(swap(Some(Bytes(96))), "32");
    assert_eq!(swap(Some(Bytes(i64::MAX as u64))), "max");
}

#[test]
fn what_was_asked_for_and_cannot_be_kept_is_refused() {
    let without = |missing: &str| {
        let mut facts = cgroup(true);
        facts.controllers.remove(missing);
        facts
    };
    type Ask = fn(&mut Limits);
    let cases: [(&str, &str, Ask); 7] = [
        ("memory", "limits.memory", |limits| limits.memory = Some(Bytes(64))),
        ("memory", "limits.memory_reservation", |limits| limits.memory_reservation = Some(Bytes(64))),
        ("memory", "limits.memory_swap", |limits| limits.memory_swap = Some(Bytes(64))),
        ("cpu", "limits.cpus", |limits| limits.cpus = Some(MilliCpus(500))),
        ("cpu", "limits.cpu_shares", |limits| limits.cpu_shares = Some(512)),
        ("cpuset", "limits.cpuset", |limits| limits.cpuset = Some("0".into())),
        ("pids", "limits.pids", |limits| limits.pids = Some(10)),
    ];
    for (missing, field, ask) in cases {
        let mut limits = Limits::default();
        ask(&mut limits);
        let refused = build_on(without(missing), limits.clone()).unwrap_err();
        assert!(matches!(&refused, StartError::Spec { field: named, .. } if named == field), "{refused}");
        assert!(refused.to_string().contains(missing), "{refused}");
        // Where nothing was asked for, nothing is refused.
        let (_, warnings) = build_on(without(missing), Limits::default()).unwrap();
        assert_eq!(warnings.len(), usize::from(missing == "pids"), "{warnings:?}");
    }
    let (resources, _) = build_on(without("pids"), Limits { pids: Some(0), ..Default::default() }).unwrap();
    assert_eq!(resources["pids"], Value::Null);
}

#[test]
fn disks_swappiness_and_period_are_those_asked_for_where_the_host_can() {
    let rate = |rate| vec![carrack_api::IoRate { path: "/dev/sda".into(), rate }];
    let io = carrack_api::IoLimits { read_bps: rate(1), write_iops: rate(2), ..Default::default() };
    let limits = Limits { io, cpus: Some(MilliCpus(500)), cpu_period: Some(50_000), ..Default::default() };
    let mut facts = cgroup(true);
    assert!(
        matches!(build_on(facts.clone(), limits.clone()), Err(StartError::Spec { field, .. }) if field == "limits.io")
    );
    facts.controllers.insert("io".into());
    let spec = ContainerSpec { limits, ..Default::default() };
    let prepared = Prepared { disks: [("/dev/sda".to_owned(), (8, 0))].into(), ..prepared() };
    let bundle = build(&request(spec), &prepared, &HostFacts { cgroup: facts, ..host() }).unwrap();
    let resources = serde_json::to_value(&bundle.spec).unwrap()["linux"]["resources"].clone();
    assert_eq!(resources["blockIO"]["throttleReadBpsDevice"], json!([{ "major": 8, "minor": 0, "rate": 1 }]));
    assert_eq!(resources["blockIO"]["throttleWriteIOPSDevice"][0]["rate"], 2);
    assert_eq!((&resources["cpu"]["quota"], &resources["cpu"]["period"]), (&json!(25_000), &json!(50_000)));

    let swappy = Limits { swappiness: Some(10), ..Default::default() };
    assert!(matches!(build_on(cgroup(true), swappy.clone()), Err(StartError::Spec { .. })));
    assert_eq!(build_on(cgroup(false), swappy).unwrap().0["memory"]["swappiness"], 10);
}

#[test]
fn a_cpuset_is_on_this_hosts_cpus() {
    let ask = |set: &str| build_on(cgroup(true), Limits { cpuset: Some(set.into()), ..Default::default() });
    for fine in ["0", "0-1", "1,0", "0,0-1"] {
        assert!(ask(fine).is_ok(), "{fine}");
    }
    for bad in ["2", "0-2", "1-0", "a", "0-", "-1", "0-99999999999", "8192"] {
        assert!(matches!(ask(bad), Err(StartError::Spec { .. })), "{bad}");
    }
}

#[test]
fn ulimits_are_clamped_to_what_the_node_may_give() {
    let ulimits = BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 8000, hard: -1 })]);
    let spec = ContainerSpec { ulimits, ..Default::default() };
    let (json, warnings) = json_of(spec.clone());
    assert_eq!(
        json["process"]["rlimits"],
        json!([{ "type": "RLIMIT_NOFILE", "soft": 8000, "hard": 1_048_576 }])
    );
    assert_eq!(warnings, ["ulimit nofile is 1048576 instead of unlimited: the kernel's fs.nr_open"]);
    let mut host = host();
    host.capabilities.remove("SYS_RESOURCE");
    let bundle = build(&request(spec), &prepared(), &host).unwrap();
    let json = serde_json::to_value(&bundle.spec).unwrap();
    assert_eq!(json["process"]["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096 }]));
    assert!(bundle.warnings[0].contains("CAP_SYS_RESOURCE"), "{:?}", bundle.warnings);
}

#[test]
fn capabilities_follow_docker() {
    let names = |security: Security| {
        let spec = ContainerSpec { security, ..Default::default() };
        build(&request(spec), &prepared(), &host()).unwrap().capabilities.into_iter().collect::<Vec<_>>()
    };
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(Security {
            cap_drop: list(&["ALL"]),
            cap_add: list(&["CAP_NET_RAW", "chown"]),
            ..Default::default()
        }),
        ["CHOWN", "NET_RAW"]
    );
    assert_eq!(
        names(Security { cap_add: list(&["ALL"]), cap_drop: list(&["MKNOD"]), ..Default::default() }).len(),
        40
    );
    assert_eq!(names(Security { privileged: true, ..Default::default() }).len(), 41);
    let security = Security { cap_add: list(&["NOPE"]), ..Default::default() };
    assert_eq!(
        error_of(ContainerSpec { security, ..Default::default() }),
        "cap_add: \"NOPE\" is no capability"
    );
}

#[test]
fn without_no_new_privileges_the_executor_gets_what_it_needs_to_load_the_filter() {
    let security = Security { no_new_privileges: Some(false), ..Default::default() };
    let bundle =
        build(&request(ContainerSpec { security, ..Default::default() }), &prepared(), &host()).unwrap();
    let json = serde_json::to_value(&bundle.spec).unwrap();
    assert_eq!(json["process"].get("noNewPrivileges"), None);
    assert!(
        json["process"]["capabilities"]["effective"].as_array().unwrap().contains(&json!("CAP_SYS_ADMIN"))
    );
    assert!(!bundle.capabilities.contains("SYS_ADMIN") && bundle.seccomp);
}

#[test]
fn what_belongs_to_the_host_is_refused() {
    let sysctl = |name: &str| ContainerSpec {
        sysctls: BTreeMap::from([(name.to_owned(), "1".to_owned())]),
        ..Default::default()
    };
    assert!(error_of(sysctl("kernel.panic")).starts_with("sysctls: "));
    assert!(error_of(sysctl("vm.swappiness")).starts_with("sysctls: "));
    assert_eq!(json_of(sysctl("net.core.somaxconn")).0["linux"]["sysctl"]["net.core.somaxconn"], "1");
    for dir in ["/proc/self/fd/7", "/sys", "/a/../b"] {
        let spec = ContainerSpec { working_dir: Some(dir.into()), ..Default::default() };
        assert!(error_of(spec).starts_with("working directory"), "{dir}");
    }
    let spec = ContainerSpec { stop_signal: Some("SIGNOPE".into()), ..Default::default() };
    assert!(error_of(spec).starts_with("stop_signal: "));
}

#[test]
fn mounts_of_the_user_come_after_their_parents_and_replace_ours() {
    let bind = |target: &str| ReadyMount {
        target: target.into(),
        kind: MountKind::Bind { source: "/carrack/mounts/0".into(), devices: target == "/a" },
        read_only: target == "/a",
    };
    let mut prepared = prepared();
    prepared.mounts = vec![bind("/a/b/c"), bind("/a"), bind("/dev/shm")];
    let bundle = build(&request(ContainerSpec::default()), &prepared, &host()).unwrap();
    let json = serde_json::to_value(&bundle.spec).unwrap();
    let mounts = json["mounts"].as_array().unwrap();
    let targets: Vec<_> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(
        targets,
        ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/a", "/dev/shm", "/a/b/c"]
    );
    assert_eq!(mounts[6]["options"], json!(["rbind", "ro", "rro"]));
    assert_eq!(mounts[7]["options"], json!(["rbind", "rw", "rnodev"]));
}
