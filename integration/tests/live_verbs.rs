//! The verbs that change what runs: stop, start, restart, kill, set, wait, port, and one-off tasks.

use std::process::Stdio;
use std::time::Duration;

use carrack_api::{Health, RunStatus, ServiceStatus, StackStatus, TaskState, TaskStatus};
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::load::{Load, Target, beside};
use carrack_integration::wait::until;

const SHOP: &str = "\
services:
  web:
    image: nginx:1
    ports: ['8080:80']
  shell:
    image: busybox:1
    command: sleep 1000
    init: true
    environment: {COLOUR: blue}
    volumes: ['data:/data']
volumes: {data: {}}
";

fn stack(lab: &Lab) -> StackStatus {
    lab.json::<Vec<StackStatus>>(&["ls", "shop"]).remove(0)
}

fn service(lab: &Lab, name: &str) -> ServiceStatus {
    let found = stack(lab).services.into_iter().find(|s| s.service.service.as_str() == name);
    found.expect("the service is listed")
}

fn shop() -> Lab {
    let lab = Lab::started();
    lab.load_images(&["nginx", "busybox"]);
    lab.deploy("shop", SHOP);
    lab
}

#[track_caller]
fn is_at_rest(lab: &Lab) {
    let services = stack(lab).services;
    assert!(services.iter().all(|s| s.stopped && s.replicas == 0 && s.running == 0), "{services:#?}");
    assert!(lab.tasks("shop").is_empty());
    assert!(lab.get("127.0.0.1:8080", "/").is_err(), "nothing answers");
}

#[test]
fn a_stop_holds_over_a_killed_daemon_and_a_power_cut_until_a_start_or_a_deploy() {
    let mut lab = shop();
    lab.ok(&["scale", "shop/web=2"]);
    assert!(lab.ok(&["stop", "shop"]).starts_with("shop is stopped"));
    is_at_rest(&lab);
    assert!(lab.ok(&["ls", "shop"]).contains("stopped"));
    lab.kill_daemon();
    lab.start();
    is_at_rest(&lab);
    lab.power_cut();
    lab.start();
    is_at_rest(&lab);
    // The scale that was in force before comes back.
    assert!(lab.ok(&["start", "shop"]).starts_with("shop is started: 3 tasks passing"));
    assert_eq!((service(&lab, "web").passing, service(&lab, "web").scaled), (2, true));
    until("it answers", SOON, || lab.get("127.0.0.1:8080", "/"));
    // One service alone; a deploy of the same file says that it starts it, and does.
    lab.ok(&["stop", "shop/web"]);
    assert_eq!((service(&lab, "web").stopped, service(&lab, "shell").stopped), (true, false));
    let file = lab.write("shop.yaml", SHOP);
    let ran = lab.carrack(&["up", "-d", "-p", "shop", "-f", &file]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("it was stopped and is started again"), "{}", ran.err);
    assert_eq!((service(&lab, "web").passing, service(&lab, "web").stopped), (1, false));
    lab.finish();
}

#[test]
fn a_restart_replaces_every_task_and_loses_no_request() {
    let lab = shop();
    lab.ok(&["scale", "shop/web=2"]);
    let before: Vec<TaskStatus> = lab.tasks("shop");
    let load = Load {
        target: Target::Address("127.0.0.1:8080".parse().expect("an address")),
        path: "/".into(),
        clients: 2,
        pause: Duration::from_millis(5),
        netns: Some(lab.netns()),
    };
    let (report, ()) = beside(&load, || drop(lab.ok(&["restart", "shop/web"]))).expect("the clients run");
    assert!(report.sent > 0 && report.failed == 0, "{report:?}");
    let after = lab.tasks("shop");
    for task in &after {
        let known = before.iter().any(|old| old.id == task.id);
        assert_eq!(known, task.service.service.as_str() == "shell", "only web has new tasks: {task:?}");
    }
    assert_eq!(service(&lab, "web").passing, 2);

    // A killed task is restarted by its policy, as the same task.
    let task = after.into_iter().find(|t| t.service.service.as_str() == "web").expect("web has tasks");
    let id = task.id.to_string();
    lab.ok(&["kill", &id]);
    until("it runs again", SOON, || {
        let now: TaskStatus = lab.tasks("shop").into_iter().find(|t| t.id == task.id).ok_or("it is gone")?;
        match now.run > task.run && now.health == Health::Passing {
            true => Ok(()),
            false => Err(format!("{now:?}")),
        }
    });

    // Values by command, and the way back.
    lab.ok(&["set", "shop/shell", "env.COLOUR=green", "env.SIZE=l", "memory=64m"]);
    let shown = lab.ok(&["exec", "shop/shell", "sh", "-c", "echo $COLOUR $SIZE"]);
    assert_eq!(shown, "green l\n");
    let file = lab.write("shop.yaml", SHOP);
    let ran = lab.carrack(&["deploy", "-p", "shop", "-f", &file]);
    assert!(ran.code == 0 && ran.err.contains("what `carrack set` changed returns to the file"), "{ran:?}");
    assert_eq!(lab.ok(&["exec", "shop/shell", "sh", "-c", "echo $COLOUR $SIZE"]), "blue\n");

    assert_eq!(lab.ok(&["port", "shop/web", "80"]), "0.0.0.0:8080\n");
    assert_eq!(lab.carrack(&["wait", "--for", "stopped", "--timeout", "200ms", "shop/shell"]).code, 4);
    lab.ok(&["wait", "--for", "healthy", "shop"]);
    lab.finish();
}

#[test]
fn a_one_off_task_has_the_surroundings_of_its_service_and_leaves_nothing() {
    let lab = shop();
    let runs = || stack(&lab).runs;
    let script = "echo $COLOUR > /data/seen; cat /data/seen; wget -q -O - http://web/ > /dev/null; exit 7";
    let ran = lab.carrack(&["run", "--rm", "shop/shell", "sh", "-c", script]);
    assert_eq!((ran.code, ran.out.as_str()), (7, "blue\n"), "{ran:?}");
    until("--rm has taken it away", SOON, || {
        if runs().is_empty() { Ok(()) } else { Err(format!("{:?}", runs())) }
    });
    assert_eq!(
        lab.ok(&["exec", "shop/shell", "cat", "/data/seen"]),
        "blue\n",
        "the volume is that of the service"
    );

    let mut child = lab
        .cli()
        .args(["run", "--rm", "-i", "-e", "A=b", "shop/shell", "sh", "-c", "cat; echo $A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start run");
    std::io::Write::write_all(&mut child.stdin.take().expect("its stdin"), b"through\n").expect("write");
    let output = child.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\nb\n");

    let tty = std::process::Command::new("script")
        .args([
            "-qec",
            &format!(
                "{} run --rm -it shop/shell sh -c 'test -t 0 && exit 5'",
                Lab::carrack_binary().display()
            ),
        ])
        .arg("/dev/null")
        .env("CARRACK_HOST", lab.socket())
        .output()
        .expect("run script");
    assert_eq!(tty.status.code(), Some(5), "{}", String::from_utf8_lossy(&tty.stdout));

    // What cannot start says why, and leaves nothing.
    let ran = lab.carrack(&["run", "shop/shell", "no-such-program"]);
    assert!(ran.code != 0 && ran.err.contains("no-such-program"), "{ran:?}");
    until("nothing of them is left", SOON, || {
        if runs().is_empty() { Ok(()) } else { Err(format!("{:?}", runs())) }
    });

    // A killed command leaves its task to the server, which takes it away after its end.
    let mut child = lab
        .cli()
        .args(["run", "--rm", "--name", "orphan", "shop/shell", "sleep", "6"])
        .spawn()
        .expect("start run");
    until("it runs", SOON, || match runs().first() {
        Some(run) if run.state >= TaskState::Running => Ok(()),
        other => Err(format!("{other:?}")),
    });
    child.kill().expect("kill the command");
    child.wait().expect("its end");
    until("the server has taken it away", SOON, || {
        if runs().is_empty() { Ok(()) } else { Err(format!("{:?}", runs())) }
    });

    // In the background, with a port of its own; no deploy touches it; the stack takes it with it.
    let run: RunStatus = lab.json(&["run", "-d", "--name", "beside", "-p", "9090:80", "shop/web"]);
    assert_eq!(run.run.to_string(), "shop/web.run-beside");
    until("it answers", SOON, || lab.get("127.0.0.1:9090", "/"));
    let task = runs()[0].task;
    lab.deploy("shop", &SHOP.replace("COLOUR: blue", "COLOUR: red"));
    assert_eq!((runs().len(), runs()[0].task, runs()[0].state), (1, task, TaskState::Running));
    assert_eq!(service(&lab, "web").passing, 1, "it is not one of the service's replicas");
    lab.ok(&["rm", "shop/web.run-beside"]);
    assert!(runs().is_empty());
    lab.ok(&["run", "-d", "shop/shell"]);
    lab.finish();
}
