//! Restarts of the daemon, lost supervisors, logs over it all, leftovers.

use std::os::unix::process::CommandExt;
use std::process::Command;

use carrack_runtime::{LogQuery, RunId, RunState, Runtime, StartError};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Host, eventually};

crate::trials!(
    a_new_daemon_adopts_what_runs_and_hears_what_ended,
    a_daemon_that_is_killed_takes_nothing_along,
    a_lost_supervisor_ends_its_container,
    the_next_run_waits_for_the_last_to_be_gone,
    logs_are_followed_and_outlive_everything,
    output_of_a_fast_container_is_complete,
    init_reaps_what_is_left_behind,
    many_mounts_of_the_host_do_not_reach_a_container,
    removal_is_idempotent,
    another_boot_is_noticed,
    a_damaged_record_costs_its_run_only,
    without_its_runtime_directory_nothing_runs_on,
    a_full_disk_drops_output_and_says_so,
);

fn a_new_daemon_adopts_what_runs_and_hears_what_ended() {
    let mut host = Host::new();
    let short = host.shell("short", "echo bye; while [ ! -e /stop ]; do usleep 20000; done; exit 9");
    let long = host.request("long", &["sleep", "1000"]);
    host.runtime().start(&short).unwrap();
    let pid = host.runtime().start(&long).unwrap().init_pid;
    host.reopen();
    let mut session = host
        .runtime()
        .exec(
            &short.id,
            &carrack_runtime::ExecRequest {
                argv: vec!["touch".into(), "/stop".into()],
                ..Default::default()
            },
        )
        .unwrap();
    session.wait().unwrap();
    assert_eq!(host.wait(&short.id).code, 9);
    host.reopen();
    let records = host.runtime().list().unwrap();
    assert_eq!(records.len(), 2);
    assert!(matches!(records[0].state, RunState::Running { init_pid, .. } if init_pid == pid), "{records:?}");
    assert!(matches!(&records[1].state, RunState::Exited(exit) if exit.code == 9), "{records:?}");
    assert_eq!(host.lines("short"), ["bye"]);
}

/// The helper of the next test: a daemon that starts a container and waits to be killed.
pub(crate) fn daemon_that_waits(arguments: &[String]) -> ! {
    let config: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = Runtime::open(carrack_runtime::RuntimeConfig {
        state_dir: config[0].into(),
        runtime_dir: config[1].into(),
        instance: config[2].into(),
        exe: None,
        unit: None,
    })
    .unwrap();
    let request = serde_json::from_str(config[3]).unwrap();
    runtime.start(&request).unwrap();
    println!("started");
    loop {
        std::thread::park();
    }
}

fn a_daemon_that_is_killed_takes_nothing_along() {
    use std::io::BufRead;
    let mut host = Host::new();
    let script = "echo before; while [ ! -e /stop ]; do usleep 20000; done; echo after; exit 6";
    let request = host.shell("web", script);
    let config = host.config();
    let mut daemon = Command::new("/proc/self/exe")
        .arg0("daemon")
        .arg("daemon-that-waits")
        .args([&config.state_dir, &config.runtime_dir])
        .args([&config.instance, &serde_json::to_string(&request).unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    host.reopen();
    assert!(matches!(host.runtime().list().unwrap()[0].state, RunState::Running { .. }));
    let order =
        carrack_runtime::ExecRequest { argv: vec!["touch".into(), "/stop".into()], ..Default::default() };
    host.runtime().exec(&request.id, &order).unwrap().wait().unwrap();
    assert_eq!(host.wait(&request.id).code, 6);
    assert_eq!(host.lines("web"), ["before", "after"]);
}

fn a_lost_supervisor_ends_its_container() {
    let host = Host::new();
    let request = host.request("web", &["sleep", "1000"]);
    let started = host.runtime().start(&request).unwrap();
    let waiting = host.runtime().wait_fd(&request.id).unwrap();
    let supervisor = Pid::from_raw(i32::try_from(started.supervisor_pid).unwrap()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    let mut fds = [rustix::event::PollFd::new(&waiting, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, None).unwrap(), 1);
    let exit = eventually("the loss is noticed", || host.runtime().exit(&request.id).unwrap());
    assert_eq!(exit.error.as_deref(), Some("its supervisor was lost, so it was killed"));
    eventually("the container is gone", || {
        (!std::path::Path::new(&format!("/proc/{}", started.init_pid)).exists()).then_some(())
    });
}

fn the_next_run_waits_for_the_last_to_be_gone() {
    let host = Host::new();
    let mut request = host.request("web", &["sleep", "1000"]);
    host.runtime().start(&request).unwrap();
    request.id = RunId::new("web", 2);
    assert_eq!(host.runtime().start(&request).unwrap_err(), StartError::PreviousRun("web.1".into()));
    host.runtime().remove_run(&RunId::new("web", 1)).unwrap();
    host.runtime().start(&request).unwrap();
    request.id = RunId::new("web", 2);
    assert!(host.runtime().start(&request).is_err(), "a run starts once");
    assert!(matches!(host.runtime().inspect(&request.id).unwrap().unwrap().state, RunState::Running { .. }));
}

fn logs_are_followed_and_outlive_everything() {
    let mut host = Host::new();
    let mut request = host.shell("web", "for i in $(seq 2000); do echo line $i; done; printf partial");
    request.log =
        carrack_runtime::LogLimit { total: carrack_api::Bytes(1 << 20), file: carrack_api::Bytes(10_000) };
    std::fs::create_dir_all(host.dir.path().join("state/tasks/web/log")).unwrap();
    let mut follower = host.runtime().logs("web", LogQuery { follow: true, ..Default::default() }).unwrap();
    host.runtime().start(&request).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2001 {
        assert!(follower.wait(*crate::support::DEADLINE).unwrap());
        seen.extend(follower.next_lines(300).unwrap());
    }
    assert_eq!((&*seen[1999].text, &*seen[2000].text), (&b"line 2000"[..], &b"partial"[..]));
    host.wait(&request.id);
    host.runtime().remove_run(&request.id).unwrap();
    host.reopen();
    assert_eq!(host.lines("web").len(), 2001);
    let mut tail = host.runtime().logs("web", LogQuery { tail: Some(2), ..Default::default() }).unwrap();
    let lines = tail.next_lines(10).unwrap();
    assert_eq!((lines.len(), &*lines[0].text), (2, &b"line 2000"[..]));
    assert_eq!(lines[0].run, 1);
}

fn output_of_a_fast_container_is_complete() {
    let host = Host::new();
    for round in 0..5 {
        let (exit, lines) = host.run(&host.shell(&format!("r{round}"), "seq 5000"));
        assert_eq!((exit.code, lines.len()), (0, 5000));
    }
}

fn init_reaps_what_is_left_behind() {
    let host = Host::new();
    // What nobody reaps stays, and then the script never ends.
    let script = "(sleep 0.1 &) ; (true &) ; echo begun; \
        while ps -o stat,comm | grep -q -e '^Z' -e ' sleep$' -e ' true$'; do usleep 20000; done; echo reaped";
    assert_eq!(host.output(&host.shell("web", script)), ["begun", "reaped"]);
}

fn many_mounts_of_the_host_do_not_reach_a_container() {
    let host = Host::new();
    let place = host.dir.path().join("many");
    std::fs::create_dir(&place).unwrap();
    // In a mount namespace of this thread's own: the host never sees them.
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            own_mount_namespace();
            for number in 0..2000 {
                let dir = place.join(number.to_string());
                std::fs::create_dir(&dir).unwrap();
                rustix::mount::mount("tmpfs", &dir, "tmpfs", rustix::mount::MountFlags::empty(), None)
                    .unwrap();
            }
            let config = carrack_runtime::RuntimeConfig {
                state_dir: host.dir.path().join("state2"),
                runtime_dir: host.dir.path().join("run2"),
                ..host.config()
            };
            let runtime = Runtime::open(config).unwrap();
            let request = host.request("web", &["sleep", "1000"]);
            let started = runtime.start(&request).unwrap();
            let mounts =
                |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap().lines().count();
            let (inside, supervisor) = (mounts(started.init_pid), mounts(started.supervisor_pid));
            runtime.remove_task("web", true).unwrap();
            (inside, supervisor)
        });
        let (inside, supervisor) = joined.join().unwrap();
        assert!(inside < 60 && supervisor < 60, "{inside} and {supervisor} mounts");
    });
}

#[expect(unsafe_code, reason = "unshare has no safe interface")]
fn own_mount_namespace() {
    use rustix::thread::UnshareFlags;
    // SAFETY: CLONE_FILES is not among the flags; CLONE_FS concerns this thread's directories only.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    let change = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", change).unwrap();
}

fn removal_is_idempotent() {
    let host = Host::new();
    let id = RunId::new("ghost", 1);
    host.runtime().remove_run(&id).unwrap();
    host.runtime().remove_task("ghost", true).unwrap();
    let request = host.request("web", &["sleep", "1000"]);
    host.runtime().start(&request).unwrap();
    for _ in 0..2 {
        host.runtime().remove_run(&request.id).unwrap();
    }
    assert_eq!(host.runtime().inspect(&request.id).unwrap(), None);
}

fn another_boot_is_noticed() {
    let host = Host::new();
    let request = host.request("web", &["sleep", "1000"]);
    let started = host.runtime().start(&request).unwrap();
    let path = host.dir.path().join("run/tasks/web/1/supervisor.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&path, record.replace(boot.trim(), "another-boot")).unwrap();
    let records = host.runtime().list().unwrap();
    let RunState::Exited(exit) = &records[0].state else { panic!("{records:?}") };
    assert_eq!(exit.error.as_deref(), Some("the host was restarted"));
    eventually("its processes are gone", || {
        (!std::path::Path::new(&format!("/proc/{}", started.supervisor_pid)).exists()).then_some(())
    });
}

fn a_damaged_record_costs_its_run_only() {
    let host = Host::new();
    let (damaged, sound) = (host.request("web", &["sleep", "1000"]), host.request("db", &["sleep", "1000"]));
    let started = host.runtime().start(&damaged).unwrap();
    host.runtime().start(&sound).unwrap();
    let path = host.dir.path().join("run/tasks/web/1/supervisor.json");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(20).unwrap();
    let records = host.runtime().list().unwrap();
    let of = |task: &str| records.iter().find(|record| record.id.task == task).unwrap().state.clone();
    assert!(matches!(of("db"), RunState::Running { .. }), "{records:?}");
    let RunState::Exited(exit) = of("web") else { panic!("{records:?}") };
    assert_eq!(exit.code, 137);
    eventually("its processes are gone", || {
        (!std::path::Path::new(&format!("/proc/{}", started.supervisor_pid)).exists()).then_some(())
    });
}

fn without_its_runtime_directory_nothing_runs_on() {
    let mut host = Host::new();
    let request = host.request("web", &["sleep", "1000"]);
    let started = host.runtime().start(&request).unwrap();
    std::fs::remove_dir_all(host.dir.path().join("run/tasks")).unwrap();
    host.reopen();
    assert_eq!(host.runtime().list().unwrap(), []);
    assert!(!host.dir.path().join("state/tasks/web/1").exists());
    assert!(host.cgroup_dirs().iter().all(|dir| !dir.join("web.1").exists()));
    for pid in [started.init_pid, started.supervisor_pid] {
        eventually("its processes are gone", || {
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }
    host.runtime().start(&request).unwrap();
}

fn a_full_disk_drops_output_and_says_so() {
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
    let mut host = Host::new();
    let log = host.dir.path().join("state/tasks/web/log");
    std::fs::create_dir_all(&log).unwrap();
    rustix::mount::mount("tmpfs", &log, "tmpfs", rustix::mount::MountFlags::empty(), c"size=100k").unwrap();
    let mounted = Mounted(log.clone());
    host.reopen();
    let script = "seq 100000; touch /done; while [ ! -e /go ]; do usleep 20000; done; echo last; exit 4";
    let request = host.shell("web", script);
    host.runtime().start(&request).unwrap();
    // All of it is written, which is more than the disk and the pipe hold: the application was not held back.
    let done = host.dir.path().join(format!("state/tasks/web/{}/upper/done", request.id.run));
    eventually("the application has written more than the disk holds", || done.exists().then_some(()));
    // Room again: another file of the log's disk goes.
    let order = |script: &str| carrack_runtime::ExecRequest {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        ..Default::default()
    };
    rustix::mount::mount_remount(&log, rustix::mount::MountFlags::empty(), c"size=10m").unwrap();
    host.runtime().exec(&request.id, &order("touch /go")).unwrap().wait().unwrap();
    let exit = host.wait(&request.id);
    assert_eq!(exit.code, 4, "the application never noticed");
    let lines = host.lines("web");
    assert_eq!(lines.last().unwrap(), "last");
    assert!(
        lines.iter().any(|line| line.contains("frames of output lost")),
        "{:?}",
        &lines[lines.len() - 3..]
    );
    drop(mounted);
}
