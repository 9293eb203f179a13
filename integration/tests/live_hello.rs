//! The main job on real kernel objects: hello with nginx and redis behind names, VIPs and ports; scale, updates, isolation.

use std::collections::BTreeSet;

use carrack_api::{Health, Rollout, ServiceStatus, StackStatus, TaskState};
use carrack_integration::lab::{HOST_ADDRESS, Lab, SOON};
use carrack_integration::wait::until;

const HELLO: &str = include_str!("../../examples/hello/compose.yaml");

fn service(lab: &Lab, stack: &str, name: &str) -> ServiceStatus {
    let stacks: Vec<StackStatus> = lab.json(&["ls"]);
    let stack = stacks.into_iter().find(|s| s.name.as_str() == stack).expect("the stack is listed");
    stack.services.into_iter().find(|s| s.service.service.as_str() == name).expect("the service is listed")
}

/// Distinct first lines of answers, asked until `wanted` of them are seen.
fn answers(lab: &Lab, address: &str, wanted: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    until("distinct answers", SOON, || {
        seen.insert(lab.get(address, "/").map_err(|e| format!("{address}: {e}; seen {seen:?}"))?);
        if seen.len() >= wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    seen
}

#[test]
fn hello_answers_by_port_by_vip_and_by_name_and_leaves_nothing() {
    let lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);

    let web = service(&lab, "hello", "web");
    assert_eq!((web.replicas, web.passing, &web.rollout), (3, 3, &Rollout::Converged));
    let vip = format!("{}:80", web.vips[0]);
    assert_eq!(answers(&lab, "127.0.0.1:8080", 3).len(), 3, "all three answer on the host's loopback");
    assert_eq!(
        answers(&lab, &format!("{HOST_ADDRESS}:8080"), 3).len(),
        3,
        "all three answer on the host's address"
    );
    assert_eq!(answers(&lab, &vip, 3).len(), 3, "all three answer on the VIP from the host");
    lab.get_from(&lab.outside(), &format!("{HOST_ADDRESS}:8080"), "/")
        .expect("the port answers to the outside");

    // redis declares no port; its VIP stands for all of them.
    // It declares no port, so nobody waits for it to listen.
    let first = until("redis answers by its name", SOON, || lab.get("127.0.0.1:8080", "/visits"));
    let second = lab.get("127.0.0.1:8080", "/visits").expect("redis answers by its name");
    assert!(
        first.starts_with("visit ") && second.starts_with("visit ") && first != second,
        "{first} {second}"
    );

    for (name, expected) in [
        ("redis", "VIP"),
        ("web", "VIP"),
        ("1.web", "slot"),
        ("tasks.web", "endpoints"),
        ("web.hello", "VIP"),
    ] {
        let ran = lab.carrack(&["exec", "hello/web", "nslookup", name, "169.254.1.53"]);
        assert_eq!(ran.code, 0, "{name} ({expected}): {}{}", ran.out, ran.err);
    }

    lab.ok(&["scale", "hello/web=5"]);
    until("five are passing", SOON, || match service(&lab, "hello", "web").passing {
        5 => Ok(()),
        other => Err(format!("{other} passing")),
    });
    assert_eq!(answers(&lab, "127.0.0.1:8080", 5).len(), 5);
    lab.ok(&["scale", "hello/web=2"]);
    until("two are left", SOON, || {
        match lab.tasks("hello").iter().filter(|t| t.service.service.as_str() == "web").count() {
            2 => Ok(()),
            other => Err(format!("{other} tasks")),
        }
    });

    // Deploying again returns to the file's replicas and says so; redis is not touched.
    let redis_before: Vec<_> =
        lab.tasks("hello").into_iter().filter(|t| t.service.service.as_str() == "redis").collect();
    let file = lab.write("hello.yaml", HELLO);
    let ran = lab.carrack(&["deploy", "-p", "hello", "-f", &file]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(
        format!("{}{}", ran.out, ran.err).contains("replicas"),
        "the return to the file's replicas is said: {}{}",
        ran.out,
        ran.err
    );
    assert_eq!(service(&lab, "hello", "web").replicas, 3);
    let redis_after: Vec<_> =
        lab.tasks("hello").into_iter().filter(|t| t.service.service.as_str() == "redis").collect();
    assert_eq!(redis_before[0].pid, redis_after[0].pid, "redis is untouched");

    // The volume outlives the stack.
    lab.ok(&["rm", "hello"]);
    assert!(lab.ok(&["volume", "ls"]).contains("hello_"), "the volume is kept");
    lab.finish();
}

#[test]
fn stacks_do_not_reach_each_other_and_share_no_port() {
    let lab = Lab::started();
    lab.load_images(&["nginx", "busybox"]);
    lab.deploy("one", "services:\n  web:\n    image: nginx:1\n    ports: ['8081:80']\n");
    lab.deploy(
        "two",
        "services:\n  web:\n    image: nginx:1\n  shell:\n    image: busybox:1\n    command: sleep 1000\n",
    );
    let vip = service(&lab, "one", "web").vips[0];
    // It declares no port, so nobody waits for it to listen.
    until("its own web is reached", SOON, || {
        let reached = lab.carrack(&["exec", "two/shell", "wget", "-q", "-O", "-", "http://web/who"]);
        if reached.code == 0 { Ok(()) } else { Err(reached.err) }
    });
    let refused = lab.carrack(&[
        "exec",
        "two/shell",
        "timeout",
        "5",
        "wget",
        "-q",
        "-O",
        "-",
        &format!("http://{vip}/who"),
    ]);
    assert_ne!(refused.code, 0, "another stack's VIP is not reached: {}", refused.out);

    let file = lab.write("three.yaml", "services:\n  web:\n    image: nginx:1\n    ports: ['8081:80']\n");
    let taken = lab.carrack(&["deploy", "-p", "three", "-f", &file]);
    assert_eq!(taken.code, 1);
    assert!(
        taken.err.contains("8081") && taken.err.contains("one"),
        "the port's owner is named: {}",
        taken.err
    );
    lab.finish();
}

#[test]
fn a_new_revision_replaces_one_at_a_time_and_a_bad_one_leaves_the_old_ones() {
    let lab = Lab::started();
    lab.load_images(&["nginx"]);
    let yaml = |version: &str, image: &str| {
        format!(
            "services:\n  web:\n    image: {image}\n    environment: {{VERSION: '{version}'}}\n    ports: ['8080:80']\n    deploy: {{replicas: 3}}\n"
        )
    };
    lab.deploy("app", &yaml("1", "nginx:1"));
    let before = lab.pids("app");
    lab.deploy("app", &yaml("1", "nginx:1"));
    assert_eq!(lab.pids("app"), before, "the same file changes nothing");
    lab.deploy("app", &yaml("2", "nginx:1"));
    let after = lab.pids("app");
    assert!(after.len() == 3 && after.is_disjoint(&before), "all three are new: {before:?} {after:?}");

    let missing =
        lab.carrack(&["deploy", "-p", "app", "-f", &lab.write("bad.yaml", &yaml("3", "127.0.0.1:1/nope:1"))]);
    assert_eq!(missing.code, 1, "{}{}", missing.out, missing.err);
    assert!(missing.err.contains("nope"), "the image is named: {}", missing.err);
    assert_eq!(lab.pids("app"), after, "the old tasks serve");

    let broken = yaml("4", "nginx:1").replace("    ports", "    entrypoint: ['/no/such/program']\n    ports");
    let failed =
        lab.carrack(&["deploy", "-p", "app", "--timeout", "60s", "-f", &lab.write("broken.yaml", &broken)]);
    assert_eq!(failed.code, 1, "{}{}", failed.out, failed.err);
    assert!(failed.err.contains("/no/such/program"), "the entrypoint is named: {}", failed.err);
    let serving: BTreeSet<u32> = lab
        .tasks("app")
        .iter()
        .filter(|t| t.state == TaskState::Running && t.health == Health::Passing)
        .filter_map(|t| t.pid)
        .collect();
    assert_eq!(serving, after, "the old tasks serve");
    lab.get("127.0.0.1:8080", "/who").expect("the service answers");
    lab.finish();
}

#[test]
fn an_image_comes_from_a_real_registry() {
    let mut lab = Lab::started();
    let registry = lab.registry(&["busybox"]);
    lab.deploy(
        "pulled",
        &format!("services:\n  app:\n    image: {registry}/busybox:1\n    command: sleep 1000\n"),
    );
    assert!(lab.ok(&["image", "ls"]).contains("busybox"));
    let none = lab.write("none.yaml", &format!("services:\n  app:\n    image: {registry}/none:1\n"));
    let refused = lab.carrack(&["deploy", "-p", "none", "-f", &none]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("none:1"), "{}", refused.err);
    lab.finish();
}

#[test]
fn exec_passes_input_output_and_exit_codes() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    lab.deploy("x", "services:\n  app:\n    image: busybox:1\n    command: sleep 1000\n");
    let ran = lab.carrack(&["exec", "x/app", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(lab.carrack(&["exec", "x/app", "no-such-program"]).code, 127);
    let mut child = lab
        .cli()
        .args(["exec", "-i", "x/app", "cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start exec");
    std::io::Write::write_all(&mut child.stdin.take().expect("its stdin"), b"through\n").expect("write");
    let output = child.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n");
    // A terminal of its own, with a size, through the `script` program as a user's terminal.
    let tty = std::process::Command::new("script")
        .args([
            "-qec",
            &format!(
                "{} exec -it x/app sh -c 'test -t 0 && stty size && exit 5'",
                Lab::carrack_binary().display()
            ),
        ])
        .arg("/dev/null")
        .env("CARRACK_HOST", lab.socket())
        .output()
        .expect("run script");
    assert_eq!(tty.status.code(), Some(5), "{}", String::from_utf8_lossy(&tty.stdout));
    let sixteen: Vec<_> = (0..16)
        .map(|n| {
            lab.cli().args(["exec", "x/app", "sh", "-c", &format!("exit {n}")]).spawn().expect("start exec")
        })
        .collect();
    for (n, mut child) in sixteen.into_iter().enumerate() {
        assert_eq!(child.wait().expect("its end").code(), Some(n as i32));
    }
    lab.finish();
}

#[test]
fn logs_are_kept_of_the_living_and_the_dead() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    lab.deploy(
        "talk",
        "services:\n  app:\n    image: busybox:1\n    init: true\n    command: [sh, -c, 'echo first; while true; do echo tick; sleep 1; done']\n",
    );
    until("its output is in the log", SOON, || {
        let text = lab.ok(&["logs", "talk/app"]);
        if text.contains("first") && text.contains("tick") { Ok(()) } else { Err(text) }
    });
    assert_eq!(lab.ok(&["logs", "--tail", "1", "talk/app"]).lines().count(), 1);
    lab.ok(&["scale", "talk/app=0"]);
    until("its task is gone", SOON, || match lab.tasks("talk").len() {
        0 => Ok(()),
        other => Err(format!("{other} tasks")),
    });
    assert!(lab.ok(&["logs", "talk/app"]).contains("first"), "the log of the dead task is kept");
    lab.finish();
}

#[test]
fn a_container_that_is_killed_is_back_soon_with_its_address() {
    let lab = Lab::started();
    lab.load_images(&["nginx"]);
    lab.deploy("app", "services:\n  web:\n    image: nginx:1\n    ports: ['8080:80']\n");
    let before = lab.tasks("app").remove(0);
    let pid = nix::unistd::Pid::from_raw(before.pid.expect("it runs") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill the container");
    let after = until("it runs again", SOON, || {
        let task = lab.tasks("app").remove(0);
        if task.run > before.run && task.health == Health::Passing {
            Ok(task)
        } else {
            Err(format!("{task:?}"))
        }
    });
    assert_eq!(
        (after.id, &after.addresses),
        (before.id, &before.addresses),
        "it is the same task at the same address"
    );
    let exit = after.exit.expect("the end of the run before is known");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    until("it answers", SOON, || lab.get("127.0.0.1:8080", "/who"));
    lab.finish();
}
