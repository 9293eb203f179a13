//! `carrack uninstall`: with a running daemon, after a dead one, of what is half removed, and a second time.

use std::fs;
use std::process::{Command, Output, Stdio};

use carrack_integration::inventory::Inventory;
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::until;

const HELLO: &str = include_str!("../../examples/hello/compose.yaml");
const WITH_VOLUME: &str =
    "services:\n  redis:\n    image: hello-redis:1\n    volumes: [data:/data]\nvolumes: {data: {}}\n";

/// The command, on the lab's host and in its boot, without a terminal.
fn uninstall(lab: &Lab, options: &[&str]) -> Output {
    let daemon = lab.daemon_command();
    let mut command = Command::new(daemon.get_program());
    command.args(daemon.get_args().take_while(|argument| *argument != "daemon"));
    command.arg("uninstall").args(options);
    command.arg("--state-dir").arg(lab.state()).arg("--runtime-dir").arg(lab.runtime());
    command.stdin(Stdio::null()).output().expect("run carrack")
}

#[track_caller]
fn done(lab: &Lab, options: &[&str]) -> String {
    let output = uninstall(lab, options);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}\ndaemon:\n{}", lab.daemon_log());
    assert!(
        !out.contains("not known to be ours"),
        "uninstall does not know all that the daemon makes:\n{out}"
    );
    out.into_owned()
}

/// Nothing of ours is in the kernel or in the lab's directories.
#[track_caller]
fn assert_clean(lab: &Lab, before: &Inventory) {
    until("the kernel is as before", SOON, || {
        let left = Inventory::take().added_since(before);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    assert!(!lab.runtime().exists(), "the runtime directory is left");
}

#[test]
fn a_running_daemon_stops_its_containers_and_nothing_but_volumes_is_left() {
    let mut lab = Lab::new();
    let before = Inventory::take();
    lab.start();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    lab.deploy("kept", WITH_VOLUME);
    let refused = uninstall(&lab, &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("carrack uninstall -y"), "{said}");
    assert_eq!(lab.tasks("kept").len(), 1, "a refusal changes nothing");
    let said = done(&lab, &["-y"]);
    let volume = lab.state().join("volumes/kept_data");
    assert!(said.contains(&format!("kept     volume {}", volume.display())), "{said}");
    until("the daemon ends", SOON, || lab.daemon_end().map(drop).ok_or("it runs"));
    assert_clean(&lab, &before);
    let left: Vec<_> = fs::read_dir(lab.state()).expect("the state directory").flatten().collect();
    assert_eq!(left.len(), 1, "only the volumes are left: {left:?}");
    let again = done(&lab, &["-y", "--volumes"]);
    assert!(again.contains("with its data") && !lab.state().exists(), "{again}");
    let third = done(&lab, &["-y", "--volumes"]);
    assert!(!third.contains("removed"), "nothing is left to remove: {third}");
    lab.finish();
}

#[test]
fn what_a_dead_daemon_left_is_stopped_and_removed_whatever_is_missing() {
    let mut lab = Lab::new();
    let before = Inventory::take();
    lab.start();
    lab.load_images(&["hello-redis"]);
    lab.deploy("kept", WITH_VOLUME);
    lab.kill_daemon();
    let said = done(&lab, &["-y", "--volumes"]);
    assert!(said.contains("stopped in order"), "{said}");
    assert_clean(&lab, &before);
    assert!(!lab.state().exists(), "the state directory is left");

    // Half removed: neither the node's memory nor its identity is there, and the containers run.
    lab.start();
    lab.load_images(&["hello-redis"]);
    lab.deploy("kept", WITH_VOLUME);
    lab.kill_daemon();
    for lost in ["node", "scheduler"] {
        fs::remove_dir_all(lab.state().join(lost)).expect("lose a directory");
    }
    fs::remove_dir_all(lab.runtime().join("dataplane")).expect("lose a directory");
    let said = done(&lab, &["-y", "--volumes"]);
    assert!(said.contains("cgroup /carrack-"), "{said}");
    assert_clean(&lab, &before);
    assert!(!lab.state().exists(), "the state directory is left");
    lab.finish();
}

#[test]
fn state_that_is_kept_is_started_again_and_what_runs_is_left_when_it_is_to_be() {
    let mut lab = Lab::new();
    let before = Inventory::take();
    lab.start();
    lab.load_images(&["hello-redis"]);
    lab.deploy("kept", WITH_VOLUME);
    let idle = ["-y", "--keep-state", "--unless-running"];
    let pid = lab.tasks("kept")[0].pid;
    let refused = uninstall(&lab, &idle);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("containers run: nothing was removed"), "{said}");
    // The same without a daemon.
    lab.kill_daemon();
    assert_eq!(uninstall(&lab, &idle).status.code(), Some(1));
    lab.start();
    assert!(pid.is_some() && lab.tasks("kept")[0].pid == pid, "the container was disturbed");
    let said = done(&lab, &["-y", "--keep-state"]);
    assert!(said.contains(&format!("kept     {}: ", lab.state().display())), "{said}");
    until("the daemon ends", SOON, || lab.daemon_end().map(drop).ok_or("it runs"));
    assert_clean(&lab, &before);
    done(&lab, &idle);
    // The stack and its image are known, and it comes back.
    lab.start();
    until("the stack is back", SOON, || match lab.tasks("kept").iter().any(|task| task.pid.is_some()) {
        true => Ok(()),
        false => Err("no task runs"),
    });
    done(&lab, &["-y", "--volumes"]);
    until("the daemon ends", SOON, || lab.daemon_end().map(drop).ok_or("it runs"));
    lab.finish();
}
