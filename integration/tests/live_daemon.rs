//! The daemon's death in all its forms: killed under load, away while a container ends, power cut; and a second one.

use std::time::{Duration, Instant};

use carrack_api::{Health, Info, TaskState};
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::load::{Load, Target, beside_at_least};
use carrack_integration::wait::until;

const HELLO: &str = include_str!("../../examples/hello/compose.yaml");
/// Time of load around the kill; the full minute of the issue is `make bench NAME=kill`.
const LOAD: Duration = Duration::from_secs(12);

/// Clients within a container's network that resolve the name anew for every connection.
fn clients(lab: &Lab) -> Load {
    let tasks = lab.tasks("hello");
    let redis =
        tasks.iter().find(|t| t.service.service.as_str() == "redis").and_then(|t| t.pid).expect("redis runs");
    Load {
        target: Target::Name {
            name: "web".into(),
            server: "169.254.1.53:53".parse().expect("an address"),
            port: 80,
        },
        path: "/".into(),
        clients: 4,
        pause: Duration::from_millis(5),
        netns: Some(format!("/proc/{redis}/ns/net").into()),
    }
}

#[test]
fn kill_9_of_the_daemon_under_load_loses_no_request_and_touches_no_container() {
    let mut lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    let before = lab.pids("hello");
    let end = Instant::now() + LOAD;
    let (report, restarts) = beside_at_least(200, &clients(&lab), || {
        let mut restarts = 0;
        // On a slow machine a start may take longer than all of that time.
        while restarts < 2 || Instant::now() < end {
            lab.kill_daemon();
            lab.start();
            restarts += 1;
        }
        restarts
    })
    .expect("the clients run");
    assert!(restarts >= 2 && report.sent >= 200, "{restarts} restarts, {report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    until("all tasks are adopted", SOON, || {
        let tasks = lab.tasks("hello");
        if tasks.iter().all(|t| t.health == Health::Passing) { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    assert_eq!(lab.pids("hello"), before, "no container was touched");
    lab.finish();
}

#[test]
fn scaling_in_and_replacing_under_load_loses_no_request() {
    let lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    let (report, ()) = beside_at_least(100, &clients(&lab), || {
        lab.ok(&["scale", "hello/web=5"]);
        lab.ok(&["scale", "hello/web=2"]);
        lab.deploy(
            "hello",
            &HELLO.replace("image: hello-web:1", "image: hello-web:1\n    labels: {round: two}"),
        );
    })
    .expect("the clients run");
    assert!(report.sent >= 100, "{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    lab.finish();
}

#[test]
fn a_container_that_ends_while_the_daemon_is_away_has_its_exit_code_and_log_and_is_restarted() {
    let mut lab = Lab::started();
    lab.load_images(&["busybox"]);
    lab.deploy(
        "away",
        "services:\n  app:\n    image: busybox:1\n    restart: always\n    init: false\n    command: [sh, -c, 'trap \"echo dying; exit 42\" TERM; echo born; while true; do sleep 0.1; done']\n",
    );
    let before = lab.tasks("away").remove(0);
    let pid = before.pid.expect("it runs") as i32;
    until("it has spoken", SOON, || {
        let text = lab.ok(&["logs", "away/app"]);
        if text.contains("born") { Ok(()) } else { Err(text) }
    });
    lab.kill_daemon();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
        .expect("signal the container");
    until("it is gone", SOON, || {
        if std::path::Path::new(&format!("/proc/{pid}")).exists() { Err("it runs") } else { Ok(()) }
    });
    lab.start();
    let after = until("it runs again", SOON, || {
        let task = lab.tasks("away").remove(0);
        if task.run > before.run && task.state == TaskState::Running {
            Ok(task)
        } else {
            Err(format!("{task:?}"))
        }
    });
    assert_eq!(after.exit.expect("its exit").code, 42);
    let log = lab.ok(&["logs", "away/app"]);
    assert!(log.contains("born") && log.contains("dying"), "{log}");
    lab.finish();
}

/// Which visit this is, as redis counts them.
fn visit(lab: &Lab) -> u64 {
    let line = until("redis counts", SOON, || lab.get("127.0.0.1:8080", "/visits"));
    let number = line.strip_prefix("visit ").and_then(|rest| rest.split(',').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no visit is counted: {line}"))
}

#[test]
fn after_a_power_cut_the_stack_is_back_with_its_slots_volumes_and_ports() {
    let mut lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    let slots = |lab: &Lab| {
        let mut all: Vec<_> = lab
            .tasks("hello")
            .iter()
            .map(|t| (t.service.to_string(), t.slot, t.id, t.addresses.clone()))
            .collect();
        all.sort();
        all
    };
    let before = slots(&lab);
    let epoch = lab.json::<Info>(&["version"]).epoch;
    visit(&lab);
    let visits = visit(&lab);
    lab.ok(&["exec", "hello/redis", "sh", "-c", "printf 'SAVE\\r\\nQUIT\\r\\n' | nc 127.0.0.1 6379"]);
    lab.power_cut();
    lab.start();
    until("everything is passing", SOON, || {
        let tasks = lab.tasks("hello");
        if tasks.len() == 4 && tasks.iter().all(|t| t.health == Health::Passing) {
            Ok(())
        } else {
            Err(format!("{tasks:?}"))
        }
    });
    assert_eq!(slots(&lab), before);
    assert_eq!(visit(&lab), visits + 1, "the volume is the same");
    assert!(lab.json::<Info>(&["version"]).epoch > epoch);
    lab.finish();
}

#[test]
fn stopping_the_daemon_leaves_containers_and_traffic() {
    let mut lab = Lab::started();
    lab.load_images(&["nginx"]);
    lab.deploy("app", "services:\n  web:\n    image: nginx:1\n    ports: ['8080:80']\n");
    let before = lab.pids("app");
    lab.stop_daemon();
    lab.get("127.0.0.1:8080", "/who").expect("the service answers without a daemon");
    let away = lab.carrack(&["ls"]);
    assert_eq!(away.code, 5);
    assert!(away.err.contains("carrack daemon"), "it says how to start one: {}", away.err);
    lab.start();
    assert_eq!(lab.pids("app"), before);
    lab.finish();
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused_with_the_pid_of_the_first() {
    let lab = Lab::started();
    let output = lab.daemon_command().output().expect("start a second daemon");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = lab.json::<Info>(&["version"]).pid;
    assert!(text.contains(&format!("{first}")), "it names pid {first}: {text}");
    lab.finish();
}

#[test]
fn a_second_daemon_with_directories_of_its_own_is_refused_because_the_host_has_one_network() {
    let lab = Lab::started();
    let text = |name: &str| lab.path(name).to_str().expect("a path in UTF-8").to_owned();
    let (state, runtime, socket) = (text("other"), text("other-run"), text("other-run/carrack.sock"));
    let binary = Lab::carrack_binary();
    let output = lab
        .host_command(binary.to_str().expect("a path in UTF-8"), &["daemon", "--state-dir", &state])
        .args(["--runtime-dir", &runtime, "--socket", &socket])
        .output()
        .expect("start a second daemon");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("driven by another running daemon") && said.contains("carrack daemon --stop"),
        "{said}"
    );
    lab.finish();
}
