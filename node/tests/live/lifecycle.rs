//! Tasks behind a VIP: started, crashed, adopted, rebooted, stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carrack_api::*;
use carrack_node::Shutdown;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{PUBLISHED, Rig, eventually, get, shell, try_get, web, web_vip, webs};

crate::trials!(
    three_tasks_stand_behind_a_vip_and_a_published_port,
    a_killed_container_is_back_fast,
    the_death_of_the_daemon_is_noticed_by_nobody,
    what_ended_without_a_daemon_is_known_and_started_again,
    after_a_reboot_everything_is_back,
    a_stop_under_load_loses_no_request,
    what_cannot_run_is_rejected_with_the_reason,
    a_taken_port_is_reported_with_its_holder,
    a_healthcheck_decides,
);

fn sigkill(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Clients that ask without a pause until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<Answers>>,
}

/// What clients got.
#[derive(Default)]
struct Answers {
    sent: u64,
    failures: Vec<String>,
}

impl Load {
    const CLIENTS: usize = 4;

    fn start(address: SocketAddr) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = || {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut answers = Answers::default();
                while !stop.load(Ordering::SeqCst) {
                    answers.sent += 1;
                    answers.failures.extend(try_get(address).err());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                answers
            })
        };
        Self { clients: (0..Self::CLIENTS).map(|_| client()).collect(), stop, sent }
    }

    /// Goes on until so many were sent: fast machines are done with what is tested before that.
    async fn until_sent(&self, least: u64) {
        eventually("enough requests are sent", || (self.sent.load(Ordering::SeqCst) >= least).then_some(()))
            .await;
    }

    /// How many were sent; fails the test when one was lost.
    fn stop_without_loss(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Answers::default();
        for client in self.clients {
            let answers = client.join().unwrap();
            all.sent += answers.sent;
            all.failures.extend(answers.failures);
        }
        println!("sent {} failed {}", all.sent, all.failures.len());
        assert!(all.failures.is_empty(), "of {} requests failed: {:#?}", all.sent, all.failures);
        all.sent
    }
}

async fn three_tasks_stand_behind_a_vip_and_a_published_port(mut rig: Rig) -> Rig {
    rig.start_with(webs(3)).await;
    let distinct = |address: SocketAddr| (0..60).filter_map(|_| get(address)).collect::<BTreeSet<_>>();
    let expected: BTreeSet<String> = ["web-1", "web-2", "web-3"].map(str::to_owned).into();
    assert_eq!(distinct(web_vip()), expected);
    assert_eq!(distinct((Ipv4Addr::LOCALHOST, PUBLISHED).into()), expected);
    let usage = rig
        .until("samples arrive", |report| {
            report.tasks.iter().map(|task| task.usage.clone()).collect::<Option<Vec<_>>>()
        })
        .await;
    assert!(
        usage.iter().all(|usage| usage.pids > 0 && usage.memory.is_some_and(|memory| memory.0 > 0)),
        "{usage:?}"
    );
    // Taken out of the assignment, they go with all they left.
    rig.assign(BTreeMap::new());
    rig.until("no task is left", |report| report.tasks.is_empty().then_some(())).await;
    assert_eq!(get(web_vip()), None);
    rig
}

async fn a_killed_container_is_back_fast(mut rig: Rig) -> Rig {
    rig.start_with(webs(3)).await;
    let before = rig.task(1).unwrap();
    let start = Instant::now();
    sigkill(before.pid.unwrap());
    let after = rig.until("run 2 runs", |report| {
        report
            .tasks
            .iter()
            .find(|t| t.task == TaskId(1) && t.run == 2 && t.state == TaskState::Running)
            .cloned()
    });
    let after = after.await;
    println!("run 2 after {} ms", start.elapsed().as_millis());
    rig.all_passing().await;
    println!("all answer after {} ms", start.elapsed().as_millis());
    assert_ne!(after.pid, before.pid);
    let exit = after.exit.unwrap();
    assert_eq!((exit.signal, exit.code), (Some(9), 137));
    assert_eq!(after.crashes, 1);
    rig
}

async fn the_death_of_the_daemon_is_noticed_by_nobody(mut rig: Rig) -> Rig {
    rig.start_with(webs(3)).await;
    let pids = rig.pids();
    let load = Load::start(web_vip());
    let published = Load::start((Ipv4Addr::LOCALHOST, PUBLISHED).into());
    for _ in 0..3 {
        rig.drop_daemon().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.start().await;
        rig.all_passing().await;
    }
    for (what, load) in [("vip", load), ("port", published)] {
        load.until_sent(100).await;
        println!("{what}: {} requests", load.stop_without_loss());
    }
    assert_eq!(rig.pids(), pids);
    rig.stop(Shutdown::KeepContainers).await;
    assert!(get(web_vip()).is_some(), "it goes on without a daemon");
    rig
}

async fn what_ended_without_a_daemon_is_known_and_started_again(mut rig: Rig) -> Rig {
    rig.start_with(webs(2)).await;
    let pids = rig.pids();
    rig.drop_daemon().await;
    sigkill(pids[&TaskId(1)].unwrap());
    rig.start().await;
    rig.until("task 1 is back", |report| {
        report
            .tasks
            .iter()
            .find(|t| t.task == TaskId(1) && t.run == 2 && t.health == Health::Passing)
            .cloned()
    })
    .await;
    rig.all_passing().await;
    assert_eq!(rig.task(1).unwrap().exit.unwrap().signal, Some(9));
    assert_eq!(rig.pids()[&TaskId(2)], pids[&TaskId(2)]);
    rig
}

async fn after_a_reboot_everything_is_back(mut rig: Rig) -> Rig {
    let mut tasks = webs(3);
    for (id, task) in &mut tasks {
        task.spec.container.mounts.push(Mount {
            target: "/data".into(),
            source: MountSource::Volume {
                name: VolumeName::new(format!("live_{id}")).unwrap(),
                nocopy: false,
                subpath: None,
            },
            read_only: false,
        });
        // What it writes is a secret, which the node has kept for itself.
        task.spec.container.files.push(crate::support::word());
        let script =
            "cat /run/secrets/word >> /data/log; hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
        task.spec.container.command = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    }
    rig.start_with(tasks).await;
    let pids = rig.pids();
    rig.drop_daemon().await;
    // What a reboot does: all processes, the runtime directory and the kernel's state are gone, and the boot id is another.
    eventually("everything is dead", || {
        let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        let containers = pids.values().flatten().copied().filter(alive);
        let left: Vec<u32> = rig.processes().into_iter().chain(containers).collect();
        for pid in &left {
            // Some have died with the one before.
            let _ = kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL);
        }
        left.is_empty().then_some(())
    })
    .await;
    // What the daemon remembered last may still be on its way to the disk; until it is there, its writer holds the lock.
    eventually("the ledger is written", || {
        let lock = std::fs::File::open(rig.state_dir().join("node/lock")).unwrap();
        lock.try_lock().is_ok().then_some(())
    })
    .await;
    std::fs::remove_dir_all(rig.runtime_dir()).unwrap();
    let kept = std::fs::read(rig.state_dir().join("node/contents/hmac-sha256-word")).unwrap();
    assert!(!kept.windows(7).any(|part| part == b"started"), "it is sealed");
    let ledger = rig.state_dir().join("node/tasks.json");
    let text = std::fs::read_to_string(&ledger).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()));
    std::fs::write(&ledger, text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
    // The scheduler is away: only the ledger says what is wanted.
    rig.assignments.send_replace(None);
    rig.start().await;
    rig.until("three tasks pass", |report| {
        (report.tasks.iter().filter(|t| t.health == Health::Passing).count() == 3).then_some(())
    })
    .await;
    eventually("all answer at their addresses", || {
        let names: BTreeSet<_> =
            (0..60).filter_map(|_| get((Ipv4Addr::LOCALHOST, PUBLISHED).into())).collect();
        (names.len() == 3).then_some(())
    })
    .await;
    let report = rig.task(2).unwrap();
    assert_eq!((report.run, report.crashes), (2, 0), "{report:?}");
    let log = std::fs::read_to_string(rig.state_dir().join("volumes/live_t2/log")).unwrap();
    assert_eq!(log.lines().count(), 2, "the volume was kept");
    rig
}

async fn a_stop_under_load_loses_no_request(mut rig: Rig) -> Rig {
    rig.start_with(webs(3)).await;
    let load = Load::start(web_vip());
    for stopped in [3, 2] {
        let mut tasks = webs(3);
        for (id, task) in &mut tasks {
            task.desired = if id.0 >= stopped { Desired::Stop } else { Desired::Run };
        }
        rig.assign(tasks);
        let id = TaskId(stopped);
        rig.until("it is stopped", |report| {
            report.tasks.iter().find(|t| t.task == id && t.state == TaskState::Stopped).map(|_| ())
        })
        .await;
    }
    load.until_sent(50).await;
    load.stop_without_loss();
    rig
}

async fn what_cannot_run_is_rejected_with_the_reason(mut rig: Rig) -> Rig {
    rig.start().await;
    rig.load_image().await;
    let mut tasks: BTreeMap<TaskId, AssignedTask> = webs(4);
    let mut change = |id: u64, change: fn(&mut ContainerSpec)| {
        change(&mut tasks.get_mut(&TaskId(id)).unwrap().spec.container);
    };
    change(1, |spec| spec.user = Some("nobody-here".into()));
    change(2, |spec| spec.command = Some(vec!["/no/such/program".into()]));
    change(3, |spec| spec.command = Some(vec!["/etc/data".into()]));
    change(4, |spec| {
        spec.image = "carrack.test/absent:1".into();
        spec.pull = PullPolicy::Never;
    });
    rig.assign(tasks);
    for (id, word) in [(1, "nobody-here"), (2, "/no/such/program"), (3, "/etc/data"), (4, "absent")] {
        let report = rig.until("it is rejected", |report| {
            report.tasks.iter().find(|t| t.task == TaskId(id) && t.state == TaskState::Rejected).cloned()
        });
        let reason = report.await.reason.unwrap();
        println!("{reason}");
        assert!(reason.contains(word), "{reason}");
    }
    rig
}

async fn a_taken_port_is_reported_with_its_holder(mut rig: Rig) -> Rig {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PUBLISHED)).unwrap();
    rig.start_with(webs(1)).await;
    let conflict = rig.until("a conflict is reported", |report| report.port_conflicts.first().cloned()).await;
    assert_eq!(conflict.port, PUBLISHED);
    assert!(conflict.holder.contains(&format!("pid {}", std::process::id())), "{conflict:?}");
    drop(listener);
    rig.until("the conflict is over", |report| report.port_conflicts.is_empty().then_some(())).await;
    eventually("the port leads to the task", || get((Ipv4Addr::LOCALHOST, PUBLISHED).into())).await;
    rig
}

async fn a_healthcheck_decides(mut rig: Rig) -> Rig {
    rig.start().await;
    rig.load_image().await;
    let mut checked = web(1);
    checked.spec.container.healthcheck = Some(Healthcheck {
        test: HealthTest::Shell("echo looking; test -e /tmp/ready".into()),
        interval: Some(Duration::from_millis(200)),
        timeout: Some(Duration::from_secs(30)),
        retries: Some(2),
        start_period: None,
        start_interval: None,
    });
    let mut slow = shell(2, "sleep 1000");
    slow.spec.restart.condition = RestartCondition::Never;
    slow.spec.container.healthcheck = Some(Healthcheck {
        test: HealthTest::Exec(vec!["/bin/sleep".into(), "100".into()]),
        interval: Some(Duration::from_millis(200)),
        timeout: Some(Duration::from_millis(300)),
        retries: Some(1),
        start_period: Some(Duration::ZERO),
        start_interval: None,
    });
    rig.assign([(TaskId(1), checked), (TaskId(2), slow)].into_iter().collect());
    let late = rig.until("a probe takes too long", |report| {
        let task = report.tasks.iter().find(|t| t.task == TaskId(2) && t.health == Health::Failing)?;
        task.probe.clone()
    });
    assert!(late.await.output.contains("no answer within 300 ms"));
    let first = rig.until("a probe was answered", |report| report.tasks.first()?.probe.clone()).await;
    assert_eq!((first.passed, first.output.trim()), (false, "looking"));
    let touch = |path: &str| NodeRequest::Exec {
        task: TaskId(1),
        exec: ExecRequest {
            command: ["/bin/sh", "-c", path].map(str::to_owned).to_vec(),
            ..ExecRequest::default()
        },
    };
    rig.ask(touch("echo > /tmp/ready"), vec![]).await;
    rig.until("it passes", |report| {
        report.tasks.iter().find(|t| t.task == TaskId(1) && t.health == Health::Passing).map(|_| ())
    })
    .await;
    eventually("it answers", || get(web_vip())).await;
    rig.ask(touch("/bin/busybox rm /tmp/ready"), vec![]).await;
    rig.until("it is started anew", |report| {
        report.tasks.iter().find(|t| t.task == TaskId(1) && t.run == 2).map(|_| ())
    })
    .await;
    rig
}
