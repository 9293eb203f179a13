//! What single keys of a service become, and how they are refused.

use carrack_compose::{DiagnosticKind, Diagnostics, LoadOptions, Loaded, MemoryFiles, load};
use serde_json::{Value, json};

fn project(text: &str) -> Result<Loaded, Diagnostics> {
    let files = MemoryFiles::default().with("/app/compose.yaml", text).with("/app/a.env", "A=1\nB=${A}2\n");
    let env = [("HOME", "/home/me"), ("TAG", "1.27")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    load(&LoadOptions { working_dir: "/app".into(), env: env.into(), ..LoadOptions::default() }, &files)
}

fn service(keys: &str) -> Result<Loaded, Diagnostics> {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    let image = if keys.contains("image:") { "" } else { "    image: i\n" };
    project(&format!(
        "services:\n  s:\n{image}{keys}  other: {{image: o}}\nvolumes: {{v: {{}}}}\nnetworks: {{n: {{}}}}\n"
    ))
}

/// The value at `pointer` in the service's spec.
fn at(keys: &str, pointer: &str) -> Value {
    let loaded = service(keys).unwrap_or_else(|problems| panic!("{keys}: {problems}"));
    let spec = serde_json::to_value(&loaded.stack.services["s"]).expect("a service is JSON");
    spec.pointer(pointer).cloned().unwrap_or(Value::Null)
}

fn check(cases: &[(&str, &str, Value)]) {
    for (keys, pointer, expected) in cases {
        assert_eq!(at(keys, pointer), *expected, "{keys} at {pointer}");
    }
}

#[test]
fn commands_and_names_become_the_containers() {
    check(&[
        ("image: nginx:$TAG", "/task/container/image", json!("nginx:1.27")),
        (
            "command: redis-server --save '60 1'",
            "/task/container/command",
            json!(["redis-server", "--save", "60 1"]),
        ),
        ("command: []", "/task/container/command", json!([])),
        ("command:", "/task/container/command", Value::Null),
        ("entrypoint: ['a', '1']", "/task/container/entrypoint", json!(["a", "1"])),
        ("user: '1000'", "/task/container/user", json!("1000")),
        ("group_add: [mail, 7]", "/task/container/groups", json!(["mail", "7"])),
        ("hostname: h", "/task/container/hostname", json!("h")),
        ("stop_signal: SIGINT", "/task/container/stop_signal", json!("SIGINT")),
        ("stop_grace_period: 1m30s", "/task/container/stop_grace", json!(90_000)),
        ("tty: true", "/task/container/tty", json!(true)),
        ("stdin_open: 'yes'", "/task/container/stdin_open", json!(true)),
        ("init: false", "/task/container/init", json!(false)),
        ("pid: host", "/task/container/pid", json!("host")),
        ("dns: 1.1.1.1", "/task/container/dns", json!(["1.1.1.1"])),
        (
            "extra_hosts: ['a=1.2.3.4', 'b:host-gateway']",
            "/task/container/extra_hosts",
            json!([["a", "1.2.3.4"], ["b", "host-gateway"]]),
        ),
        ("extra_hosts: {a: '[::1]'}", "/task/container/extra_hosts", json!([["a", "::1"]])),
        ("pull_policy: if_not_present", "/task/container/pull", json!("missing")),
        ("pull_policy: missing", "/task/container/pull", json!("missing")),
        ("pull_policy: always", "/task/container/pull", json!("always")),
        ("pull_policy: never", "/task/container/pull", json!("never")),
        ("pull_policy: daily", "/task/container/pull", json!({"every": {"seconds": 86_400}})),
        ("pull_policy: weekly", "/task/container/pull", json!({"every": {"seconds": 604_800}})),
        ("pull_policy: every_12h", "/task/container/pull", json!({"every": {"seconds": 43_200}})),
        ("pull_policy: every_1w2d", "/task/container/pull", json!({"every": {"seconds": 777_600}})),
        ("pull_policy: every_0s", "/task/container/pull", json!("always")),
        (
            "pull_policy: refresh\npull_refresh_after: 90s",
            "/task/container/pull",
            json!({"every": {"seconds": 90}}),
        ),
        ("platform: linux/arm64", "/placement/platform", json!("linux/arm64")),
    ]);
}

#[test]
fn environment_comes_from_files_the_user_and_the_file_itself() {
    check(&[
        (
            "environment: [A=1, 'B=x=y', TAG, NOPE]",
            "/task/container/env",
            json!({"A": "1", "B": "x=y", "TAG": "1.27", "NOPE": null}),
        ),
        (
            "environment: {A: 1.10, B: true, C: '1.10', D: 0x10}",
            "/task/container/env",
            json!({"A": "1.1", "B": "true", "C": "1.10", "D": "16"}),
        ),
        ("env_file: a.env", "/task/container/env", json!({"A": "1", "B": "12"})),
        ("env_file: a.env\nenvironment: {A: x}", "/task/container/env", json!({"A": "x", "B": "x2"})),
        ("env_file: [{path: ./no.env, required: false}]", "/task/container/env", json!({})),
        ("env_file: [{path: a.env, format: raw}]", "/task/container/env", json!({"A": "1", "B": "${A}2"})),
        (
            "label_file: a.env\nlabels: [A=z, c]",
            "/task/container/labels",
            json!({"A": "z", "B": "12", "c": ""}),
        ),
    ]);
}

#[test]
fn ports_are_written_out() {
    let port = |target: u16, published: Option<u16>, ip: Option<&str>, protocol: &str, mode: &str| json!({"target": target, "published": published, "host_ip": ip, "protocol": protocol, "mode": mode});
    check(&[
        ("ports: [80]", "/ports", json!([port(80, None, None, "tcp", "ingress")])),
        (
            "ports: ['8080-8081:80-81/udp']",
            "/ports",
            json!([
                port(80, Some(8080), None, "udp", "ingress"),
                port(81, Some(8081), None, "udp", "ingress")
            ]),
        ),
        (
            "ports: ['127.0.0.1:80:80', '[::1]::81']",
            "/ports",
            json!([
                port(80, Some(80), Some("127.0.0.1"), "tcp", "ingress"),
                port(81, None, Some("::1"), "tcp", "ingress")
            ]),
        ),
        (
            "ports: [{target: 53, published: '53', protocol: udp, mode: host}]",
            "/ports",
            json!([port(53, Some(53), None, "udp", "host")]),
        ),
        (
            "expose: [80, '90-91/udp']",
            "/expose",
            json!([{"port": 80, "protocol": "tcp"}, {"port": 90, "protocol": "udp"}, {"port": 91, "protocol": "udp"}]),
        ),
    ]);
}

#[test]
fn mounts_are_resolved() {
    let bind = |path: &str, target: &str, ro: bool| json!({"target": target, "source": {"bind": {"path": path, "create": true, "propagation": ""}}, "read_only": ro});
    let volume = |target: &str, ro: bool, nocopy: bool| json!({"target": target, "source": {"volume": {"name": "app_v", "nocopy": nocopy, "subpath": null}}, "read_only": ro});
    check(&[
        (
            "volumes: ['./a/../b:/b:ro', '~/c:/c/', '/abs:/x:z']",
            "/task/container/mounts",
            json!([bind("/app/b", "/b", true), bind("/home/me/c", "/c", false), bind("/abs", "/x", false)]),
        ),
        (
            "volumes: ['v:/data', 'v:/ro:ro,nocopy']",
            "/task/container/mounts",
            json!([volume("/data", false, false), volume("/ro", true, true)]),
        ),
        ("volumes: ['/anon']", "/task/container/mounts/0/source", json!("anonymous")),
        (
            "volumes: [{type: bind, source: ., target: /x, bind: {create_host_path: false, propagation: rslave}}]",
            "/task/container/mounts/0/source",
            json!({"bind": {"path": "/app", "create": false, "propagation": "rslave"}}),
        ),
        (
            "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 64m, mode: 0o1777}}]",
            "/task/container/mounts/0/source",
            json!({"tmpfs": {"size": 67_108_864, "mode": 1023}}),
        ),
        (
            "tmpfs: /run:size=1m,mode=755,ro",
            "/task/container/mounts/0",
            json!({"target": "/run", "source": {"tmpfs": {"size": 1_048_576, "mode": 493}}, "read_only": true}),
        ),
        ("shm_size: 1gb", "/task/container/shm_size", json!(1_u64 << 30)),
    ]);
}

#[test]
fn limits_scale_and_restart() {
    check(&[
        ("mem_limit: 64m\ncpus: '0.5'\npids_limit: -1", "/task/container/limits/memory", json!(64 << 20)),
        ("mem_limit: 64m\nmemswap_limit: -1", "/task/container/limits/memory_swap", json!(i64::MAX)),
        ("cpus: 0.25", "/task/container/limits/cpus", json!(250)),
        ("cpu_quota: 50000", "/task/container/limits/cpus", json!(500)),
        ("pids_limit: -1", "/task/container/limits/pids", json!(0)),
        (
            "deploy: {resources: {limits: {cpus: '2', memory: 1g, pids: 7}}}",
            "/task/container/limits/pids",
            json!(7),
        ),
        (
            "deploy: {resources: {reservations: {cpus: '1', memory: 50M}}}",
            "/task/reservations",
            json!({"cpus": 1000, "memory": 52_428_800}),
        ),
        ("scale: 2", "/mode", json!({"replicated": {"replicas": 2}})),
        ("deploy: {mode: global}", "/mode", json!("global")),
        ("restart: unless-stopped", "/task/restart/condition", json!("any")),
        ("restart: no", "/task/restart/condition", json!("never")),
        (
            "restart: on-failure:3",
            "/task/restart",
            json!({"condition": "on_failure", "max_attempts": 3, "delay": null}),
        ),
        ("image: i", "/task/restart/condition", json!("on_failure")),
        (
            "restart: always\ndeploy: {restart_policy: {condition: none}}",
            "/task/restart/condition",
            json!("never"),
        ),
        (
            "deploy: {restart_policy: {delay: 5s}}",
            "/task/restart",
            json!({"condition": "any", "max_attempts": null, "delay": 5000}),
        ),
        (
            "deploy: {update_config: {order: stop-first, parallelism: 2, delay: 10s}}",
            "/update",
            json!({"order": "stop-first", "parallelism": 2, "delay": 10_000, "monitor": null}),
        ),
        (
            "deploy: {placement: {constraints: [node.labels.a == b], max_replicas_per_node: 1}}",
            "/placement/constraints",
            json!(["node.labels.a == b"]),
        ),
        (
            "ulimits: {nofile: {soft: 1, hard: 2}, core: -1}",
            "/task/container/ulimits",
            json!({"core": {"soft": -1, "hard": -1}, "nofile": {"soft": 1, "hard": 2}}),
        ),
        (
            "sysctls: [net.core.somaxconn=1024]",
            "/task/container/sysctls",
            json!({"net.core.somaxconn": "1024"}),
        ),
    ]);
}

#[test]
fn networks_names_and_order() {
    check(&[
        ("image: i", "/task/network", json!({"networks": {"default": {"aliases": []}}})),
        ("networks: [n]", "/task/network", json!({"networks": {"n": {"aliases": []}}})),
        (
            "networks: {n: {aliases: [a]}, default: }",
            "/task/network",
            json!({"networks": {"default": {"aliases": []}, "n": {"aliases": ["a"]}}}),
        ),
        ("network_mode: host", "/task/network", json!("host")),
        ("network_mode: none", "/task/network", json!("none")),
        ("container_name: boss", "/task/network", json!({"networks": {"default": {"aliases": ["boss"]}}})),
        ("depends_on: [other]", "/depends_on", json!({"other": {"condition": "started", "required": true}})),
        (
            "depends_on: {other: {condition: service_healthy}}",
            "/depends_on/other/condition",
            json!("healthy"),
        ),
        ("links: ['other:db']", "/depends_on/other/condition", json!("started")),
    ]);
    let linked = service("links: ['other:db']").unwrap();
    let other = serde_json::to_value(&linked.stack.services["other"]).unwrap();
    assert_eq!(other.pointer("/task/network/networks/default/aliases"), Some(&json!(["db"])));
}

#[test]
fn security_and_health() {
    check(&[
        (
            "cap_add: [CAP_NET_ADMIN, sys_ptrace]\ncap_drop: [all]",
            "/task/container/security/cap_add",
            json!(["NET_ADMIN", "SYS_PTRACE"]),
        ),
        (
            "security_opt: ['no-new-privileges:false', 'seccomp=unconfined']",
            "/task/container/security/seccomp_unconfined",
            json!(true),
        ),
        (
            "security_opt: ['no-new-privileges:false']",
            "/task/container/security/no_new_privileges",
            json!(false),
        ),
        (
            "devices: ['/dev/a', '/dev/b:/dev/c:r']",
            "/task/container/devices/1",
            json!({"source": "/dev/b", "target": "/dev/c", "permissions": "r"}),
        ),
        (
            "healthcheck: {test: curl -f x || exit 1, interval: 5s, retries: 2}",
            "/task/container/healthcheck/test",
            json!({"shell": "curl -f x || exit 1"}),
        ),
        ("healthcheck: {test: [CMD, a, b]}", "/task/container/healthcheck/test", json!({"exec": ["a", "b"]})),
        ("healthcheck: {disable: true}", "/task/container/healthcheck/test", json!("disabled")),
        ("healthcheck: {interval: 5s}", "/task/container/healthcheck/test", json!("inherit")),
    ]);
}

#[test]
fn what_is_wrong_is_told_with_place_and_hint() {
    let cases = [
        ("prots: []", "4:5: services.s.prots: unknown key\n  hint: did you mean `ports`?"),
        (
            "deploy: {replica: 3}",
            "4:14: services.s.deploy.replica: unknown key\n  hint: did you mean `replicas`?",
        ),
        ("ports: ['70000:80']", "4:13: services.s.ports[0]: \"70000\" is no port; ports are 1 to 65535"),
        ("ports: '80'", "4:12: services.s.ports: expected a list, found a string"),
        ("privileged: [1]", "4:17: services.s.privileged: expected true or false, found a list"),
        (
            "stop_grace_period: 10x",
            "services.s.stop_grace_period: \"10x\" is not a duration: unknown unit \"x\"",
        ),
        ("mem_limit: 5zz", "services.s.mem_limit: \"5zz\" is not a size: unknown unit \"zz\""),
        ("restart: allways", "\"allways\" is no restart policy\n  hint: did you mean `always`?"),
        ("volumes: ['nope:/x']", "there is no volume nope in this file"),
        ("networks: [m]", "there is no network m in this file\n  hint: did you mean `n`?"),
        ("depends_on: [othr]", "there is no service othr in this file\n  hint: did you mean `other`?"),
        ("network_mode: host\nnetworks: [n]", "exclude each other"),
        (
            "mem_limit: 64m\ndeploy: {resources: {limits: {memory: 65m}}}",
            "differs from deploy.resources.limits.memory",
        ),
        ("scale: 2\ndeploy: {replicas: 3}", "differs from deploy.replicas"),
        ("container_name: ab\nscale: 2", "one name cannot belong to several replicas"),
        ("environment: [=x]", "has no name before `=`"),
        ("env_file: no.env", "file /app/no.env is not found"),
        ("command: ${NOPE?must be set}", "required variable NOPE is missing a value: must be set"),
        ("cap_add: [NET_ADMN]", "there is no capability \"NET_ADMN\"\n  hint: did you mean `NET_ADMIN`?"),
        ("healthcheck: {test: [curl, x]}", "\"curl\" is no kind of test"),
        ("depends_on: [s]", "service s depends on itself"),
        ("ports: ['80:80', '80:81']", "services.s.ports[1]: port 80/tcp is published already"),
        ("working_dir: rel", "4:5: services.s.working_dir: \"rel\" is not absolute"),
        ("mem_limit: 1m", "4:5: services.s.deploy.resources.limits.memory: 1 MiB is too little"),
        ("secrets: [nope]", "there is no secret \"nope\" at the top of the file"),
        ("ulimits: {nofiles: 1}", "unknown limit\n  hint: did you mean `nofile`?"),
    ];
    for (keys, expected) in cases {
        let problems = service(keys).expect_err(keys).to_string();
        assert!(problems.contains(expected), "{keys}: expected {expected:?} in:\n{problems}");
        assert!(problems.starts_with("compose.yaml:"), "{keys}: no place in {problems}");
    }
}

#[test]
fn what_is_not_built_yet_says_so() {
    let cases = [
        "gpus: all",
        "blkio_config: {weight: 300}",
        "mac_address: 02:42:ac:11:00:02",
        "pre_start: [{command: x}]",
        "volumes_from: ['container:x']",
        "network_mode: service:other",
        "deploy: {mode: replicated-job}",
        "deploy: {rollback_config: {parallelism: 1}}",
        "volumes: [{type: image, source: a, target: /x}]",
        "tmpfs: '/t:huge=always'",
        "networks: {n: {ipv4_address: 10.0.0.2}}",
        "x-carrack: {autoscale: {}}",
        "security_opt: ['seccomp:./p.json']",
    ];
    for keys in cases {
        let problems = service(keys).expect_err(keys);
        assert!(problems.0.iter().all(|p| p.kind == DiagnosticKind::Unsupported), "{keys}: {problems}");
        assert!(problems.0.iter().all(|p| p.line == 4), "{keys}: {problems}");
    }
}

#[test]
fn what_is_mapped_is_noted() {
    let cases = [
        (
            "container_name: boss",
            "services.s.container_name: is a further name of the service on its networks",
        ),
        ("logging: {driver: json-file, options: {max-size: 10m}}", "Carrack keeps the last 50 MB"),
        ("volumes: ['./d:/d']", "/app/d is a path of the node that takes the deploy; the tasks stay there"),
        ("command: echo a && b", "so it ends before `&`"),
        ("pull_refresh_after: 12h", "has a meaning only with `pull_policy: refresh`"),
        ("pull_policy: refresh", "without pull_refresh_after it means every day"),
        ("user: $NOPE", "variable NOPE is not set; an empty text is used"),
        ("links: ['other:db']", "is an alias that the whole network sees"),
        ("develop: {watch: []}", "means nothing here"),
    ];
    for (keys, expected) in cases {
        let notes: Vec<String> =
            service(keys).expect(keys).notes.iter().filter(|n| !n.detail).map(ToString::to_string).collect();
        assert!(
            notes.iter().any(|n| n.contains(expected) && n.starts_with("compose.yaml:4:")),
            "{keys}: {notes:?}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text =
        "services:\n  a: {image: i, prots: 1}\n  b: {ports: ['x']}\n  c: {image: i, gpus: all}\nvolume: {}\n";
    let problems = project(text).unwrap_err();
    let lines: Vec<u32> = problems.0.iter().map(|p| p.line).collect();
    assert_eq!(lines, [2, 3, 3, 4, 5], "{problems}");
}

#[test]
fn a_later_finding_is_shown_where_the_key_stands() {
    let loaded = service("ports: ['1-2:1-2', '8080:80']\nmem_limit: 64m\nenvironment: [A=1]").unwrap();
    let place = |path: &str| loaded.position_of(path).map(|p| p.to_string());
    assert_eq!(place("services.s.ports[2].published").as_deref(), Some("compose.yaml:4:24"));
    assert_eq!(place("services.s.deploy.resources.limits.memory").as_deref(), Some("compose.yaml:5:5"));
    assert_eq!(place("services.s.task.container.env.A").as_deref(), Some("compose.yaml:6:19"));
    assert_eq!(place("services.s.task.container.image").as_deref(), Some("compose.yaml:3:5"));
    assert_eq!(place("services.s.nowhere.at.all").as_deref(), Some("compose.yaml:2:3"));
    assert_eq!(place("nowhere"), None);
}
