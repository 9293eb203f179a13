//! A full disk below the state directory: writes are refused with a reason, nothing acknowledged is lost, containers run on,
//! and the daemon goes on by itself once there is space.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use carrack_integration::http::{Answer, ask};
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// Size of the disk: more than the images and the longest log of a task (50 MiB), which would fill it again once there is space.
const DISK: &str = "size=128m,mode=700";
/// Bytes of one value that grows the store.
const BALLAST_BYTES: usize = 150 << 10;
/// What a daemon without work may keep in memory more than before, KiB.
const GROWTH_MAX_KIB: u64 = 64 << 10;

/// One that talks all the time, so that its log fills any space, and one that serves.
const STACK: &str = "services:
  talk:
    image: busybox:1
    command: [sh, -c, 'while true; do dd if=/dev/zero bs=1024 count=64 2>/dev/null | tr \"\\000\" x; echo; sleep 0.1; done']
  web:
    image: nginx:1
    ports: ['8080:80']
";

/// A small disk as the state directory of a lab.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn below(lab: &Lab) -> Self {
        let at = lab.state();
        fs::create_dir_all(&at).expect("a state directory");
        mount(Some("carrack-lab"), &at, Some("tmpfs"), MsFlags::empty(), Some(DISK)).expect("mount a tmpfs");
        Self { at }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Takes all space there is.
    fn fill(&self) {
        let mut file =
            fs::File::options().append(true).create(true).open(self.filler()).expect("open a file");
        for size in [1 << 20, 4096, 1] {
            let block = vec![b'x'; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("remove the file");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The lab's own processes are ended after this.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

fn put(lab: &Lab, number: u32) -> Answer {
    let value = format!("{number}-{}", "x".repeat(BALLAST_BYTES));
    let container = json!({"image": "busybox:1", "env": {"BALLAST": value}});
    let service = json!({"task": {"container": container}, "mode": {"replicated": {"replicas": 0}}});
    let body = json!({"spec": {"name": "ballast", "services": {"one": service}}});
    ask(&lab.socket(), "PUT", "/v1/stacks/ballast", Some(&body)).expect("the daemon answers")
}

fn revision(lab: &Lab) -> u64 {
    let answer = ask(&lab.socket(), "GET", "/v1/stacks/ballast", None).expect("the daemon answers");
    answer.body["revision"].as_u64().unwrap_or(0)
}

/// Resident memory of the daemon, KiB.
fn memory(lab: &Lab) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", lab.daemon_pid())).expect("the daemon's status");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_full_disk_refuses_writes_with_a_reason_loses_nothing_and_is_got_over() {
    let mut lab = Lab::new();
    let disk = Disk::below(&lab);
    lab.start();
    lab.load_images(&["nginx", "busybox"]);
    lab.deploy("app", STACK);
    let before = lab.pids("app");
    assert_eq!(put(&lab, 0).status, 200);
    let used = memory(&lab);

    disk.fill();
    let mut acknowledged = revision(&lab);
    let refused = until("a write is refused", SOON, || {
        disk.fill();
        let answer = put(&lab, u32::try_from(acknowledged).expect("a small number") + 1);
        match answer.status {
            200 => {
                acknowledged = answer.body["revision"].as_u64().expect("a revision");
                Err(format!("revision {acknowledged} was still written"))
            }
            _ => Ok(answer),
        }
    });
    assert!(matches!(refused.status, 503 | 507), "{refused:?}");
    let said = refused.body.to_string();
    assert!(said.contains("No space left on device") && said.contains("free space"), "{said}");
    for number in 0..50 {
        disk.fill();
        let answer = put(&lab, 1000 + number);
        match answer.status {
            200 => acknowledged = answer.body["revision"].as_u64().expect("a revision"),
            status => assert!(matches!(status, 503 | 507), "{answer:?}"),
        }
    }
    assert!(revision(&lab) >= acknowledged, "what was acknowledged is there");
    lab.get("127.0.0.1:8080", "/who").expect("the service answers");

    // A container that ends meanwhile is started again although the ledger cannot be written.
    let web =
        || lab.tasks("app").into_iter().find(|t| t.service.service.as_str() == "web").expect("web is there");
    let old = web();
    let pid = nix::unistd::Pid::from_raw(old.pid.expect("it runs") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill a container");
    until("it ended", SOON, || {
        let now = web();
        if now.pid != old.pid { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let grown = memory(&lab).saturating_sub(used);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more");

    disk.free();
    until("writes are taken again", SOON, || match put(&lab, 5000) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    until("everything is passing", SOON, || {
        let tasks = lab.tasks("app");
        if tasks.len() == 2 && tasks.iter().all(|t| t.health == carrack_api::Health::Passing) {
            Ok(())
        } else {
            Err(format!(
                "{tasks:?}\n{}",
                lab.daemon_log().lines().rev().take(10).collect::<Vec<_>>().join("\n")
            ))
        }
    });
    until("the service answers", SOON, || lab.get("127.0.0.1:8080", "/who"));
    let talk = |pids: &std::collections::BTreeSet<u32>| pids.intersection(&before).count();
    assert_eq!(talk(&lab.pids("app")), 1, "the container that was not killed runs on");
    until("lost output is told in the log", SOON, || {
        let log = lab.state().join("tasks");
        if said_lost(&log) { Ok(()) } else { Err("no note of lost frames") }
    });
    let newest = revision(&lab);
    lab.kill_daemon();
    lab.start();
    assert_eq!(revision(&lab), newest, "it is there after a restart");
    finish(lab, disk);
}

/// Whether a log below holds the note that frames were lost.
fn said_lost(tasks: &std::path::Path) -> bool {
    let below = |dir: &std::path::Path| {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>()
    };
    below(tasks).iter().flat_map(|task| below(&task.join("log"))).any(|file| {
        fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("frames of output lost"))
    })
}

fn finish(mut lab: Lab, disk: Disk) {
    for stack in ["app", "ballast"] {
        lab.ok(&["rm", stack]);
    }
    lab.stop_daemon_and_containers();
    drop(disk);
    lab.finish();
}

#[test]
fn a_disk_that_is_full_at_the_start_is_said_and_the_next_start_works() {
    let mut lab = Lab::new();
    let disk = Disk::below(&lab);
    disk.fill();
    lab.spawn();
    let status = until("the daemon gives up", SOON, || lab.daemon_end().ok_or("it runs"));
    assert_eq!(status.code(), Some(1));
    assert!(lab.daemon_log().contains("No space left on device"), "{}", lab.daemon_log());
    disk.free();
    lab.start();
    lab.stop_daemon_and_containers();
    drop(disk);
    lab.finish();
}
