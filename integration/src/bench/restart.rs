//! `restart.sigkill`: SIGKILL of a container's first process until the next run of the task runs, the task's first failure each
//! time, so that our back-off is at its first step (0.1 s with jitter). Beside Swarm, which makes a new task: with its default
//! delay of 5 s, which is policy, and with `--restart-delay 0s`.
//!
//! `restart.answers`: the same of nginx until it answers HTTP again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrack_api::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::figure::{Figure, Target};
use super::ours::{Net, Ours};
use super::swarm::Swarm;
use super::{Setting, alternate, milliseconds, swarm, wait};

/// Rounds, and so tasks of ours: each fails once.
const ROUNDS: u32 = 10;
/// Rounds with Swarm's default delay, which take 6 s each.
const DEFAULT_ROUNDS: usize = 2;
/// Between two looks, for what takes a tenth of a second.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub(super) fn run(setting: &Setting) -> Vec<Figure> {
    let ours = Ours::start();
    let swarm = Swarm::start(setting);
    ours.deploy("bench", ROUNDS, Net::Own);
    ours.wait_running("bench", ROUNDS);
    if let Some(swarm) = &swarm {
        swarm.create("none", 1, Net::Own, &["--restart-delay", "0s"]);
        swarm.wait_running("none", 1);
    }
    let mut slot = 0;
    let (mine, theirs) = alternate(
        ROUNDS as usize,
        || {
            slot += 1;
            kill_ours(&ours, slot)
        },
        swarm.as_ref().map(|swarm| || kill_theirs(swarm, "none")),
    );
    let by_default: Vec<f64> = swarm.iter().flat_map(default_delay).collect();
    let figure = || Figure::new("restart.sigkill", "ms", &mine).target(Target::AtMost(150.0));
    let mut figures = vec![figure().beside(&format!("{}, delay 0s", swarm::NAME), &theirs)];
    if !by_default.is_empty() {
        figures.push(figure().beside(&format!("{}, default", swarm::NAME), &by_default));
    }
    drop(swarm);
    figures.push(answers(&ours));
    ours.lab.finish();
    figures
}

fn default_delay(swarm: &Swarm) -> Vec<f64> {
    swarm.remove("none");
    swarm.create("default", 1, Net::Own, &[]);
    swarm.wait_running("default", 1);
    (0..DEFAULT_ROUNDS).map(|_| kill_theirs(swarm, "default")).collect()
}

fn kill_process(pid: i32) -> Instant {
    let begin = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill a container's first process");
    begin
}

fn kill_ours(ours: &Ours, slot: u32) -> f64 {
    let of_slot = |slot| ours.running("bench").into_iter().find(|task| task.slot == slot);
    let task = wait("the task runs and is passing", LOOK_EVERY, || {
        of_slot(slot).filter(|task| task.health == Health::Passing).ok_or("not yet")
    });
    assert_eq!(task.run, 1, "it has not failed before");
    let path = format!("/v1/tasks/{}", task.id);
    let begin = kill_process(task.pid.expect("it runs") as i32);
    wait("the next run runs", LOOK_EVERY, || {
        let now: carrack_api::TaskStatus = ours.get(&path);
        let runs = now.state == carrack_api::TaskState::Running && now.run > task.run;
        runs.then_some(()).ok_or(format!("{now:?}"))
    });
    milliseconds(begin.elapsed())
}

fn kill_theirs(swarm: &Swarm, name: &str) -> f64 {
    let (container, pid) = wait("Swarm's task runs", LOOK_EVERY, || swarm.running_task(name).ok_or("none"));
    let begin = kill_process(pid);
    wait("Swarm's next task runs", LOOK_EVERY, || match swarm.running_task(name) {
        Some((other, _)) if other != container => Ok(()),
        other => Err(format!("{other:?}")),
    });
    milliseconds(begin.elapsed())
}

/// Each replica of an nginx fails once.
fn answers(ours: &Ours) -> Figure {
    let lab = &ours.lab;
    lab.load_images(&["nginx"]);
    lab.deploy(
        "web",
        "services:\n  s:\n    image: nginx:1\n    expose: ['80']\n    restart: always\n    deploy:\n      replicas: 5\n",
    );
    let mut times = Vec::new();
    for task in ours.running("web") {
        let address = SocketAddr::new(task.addresses[0], 80).to_string();
        let pid = task.pid.expect("it runs");
        let begin = kill_process(pid as i32);
        // The old server must be gone before an answer counts.
        wait("the old process is gone", LOOK_EVERY, || {
            (!std::path::Path::new(&format!("/proc/{pid}/root")).exists()).then_some(()).ok_or("there")
        });
        wait("it answers again", LOOK_EVERY, || lab.get(&address, "/").map(drop));
        times.push(milliseconds(begin.elapsed()));
    }
    Figure::new("restart.answers", "ms", &times)
}
