//! SIGKILL and failure at every numbered step: afterwards the host is as if nothing had happened.
//!
//! Each step of [`STEPS`] is armed in a lab's daemon, an operation that passes it is driven until it fires, and then the host is
//! to become what it is without a fault: the same links, addresses, routes, rules, namespaces, mounts, cgroups, processes and
//! directories. A step that the operation did not reach makes the test fail.
//!
//! `LONG=1` (`make test-all`) walks all steps with all effects; without it a part of them is walked, one step of each kind.

#![expect(clippy::print_stdout, reason = "how long each repair took is what a reader wants to see")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use carrack_api::fail::{ONCE_VARIABLE, Process, STEPS, Step, VARIABLE};
use carrack_integration::host::HostState;
use carrack_integration::http::ask;
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::{slow, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Two replicas that do not stop when asked to, with a published port, an anonymous volume and output.
const STACK: &str = "services:
  web:
    image: IMAGE
    stop_grace_period: 200ms
    command: [sh, -c, 'trap \"\" TERM; echo begins; mkdir -p /srv; httpd -p 80 -h /srv; while true; do sleep 1000; done']
    environment: {VERSION: '0'}
    ports: ['8080:80']
    volumes: [/data]
    deploy: {replicas: 2}
";
/// The stack's image when it is loaded, and when it is pulled from the lab's registry.
const LOADED: &str = "busybox:1";
/// How often an armed step is looked for.
const LOOK: Duration = Duration::from_millis(10);
/// Length of a value that makes the store's log grow fast, bytes.
const BALLAST_BYTES: usize = 200 << 10;

/// What passes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// The first start of all.
    FirstStart,
    /// A start with a stack that runs.
    Start,
    /// A deploy on an empty host, scaled and replaced when that is not enough.
    Deploy,
    /// A container's program dies.
    Crash,
    /// The stack is removed.
    Remove,
    /// A command in a container.
    Exec,
    /// The data plane dies.
    DataPlane,
    /// The store's log grows until it is folded.
    Fold,
    /// An image is loaded.
    Load,
    /// An image is pulled, by a deploy.
    Pull,
}

impl Operation {
    fn of(step: &str) -> Self {
        let (kind, number) = step.split_once('.').expect("a step has a kind");
        let number: u32 = number.split('-').next().and_then(|n| n.parse().ok()).expect("a step has a number");
        match (kind, number) {
            ("identity", _) | ("store", 1) => Self::FirstStart,
            ("template", _) | ("network", 1..=3) => Self::Start,
            ("store", 5..) => Self::Fold,
            ("store" | "events" | "ledger" | "network" | "create" | "start" | "log", _) => Self::Deploy,
            ("end", _) | ("remove", 1..=5) => Self::Crash,
            ("stop" | "remove", _) => Self::Remove,
            ("exec", _) => Self::Exec,
            ("dataplane", _) => Self::DataPlane,
            ("unpack", _) => Self::Load,
            ("pull", _) => Self::Pull,
            _ => panic!("which operation passes {step}?"),
        }
    }

    /// Whether the stack runs before it.
    fn begins_with_stack(self) -> bool {
        matches!(self, Self::Start | Self::Crash | Self::Remove | Self::Exec | Self::DataPlane)
    }
}

/// A step with what happens at one of its passes.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: &'static Step,
    pass: u32,
    effect: &'static str,
}

/// Everything there is to walk: each step is a kill, and an error where the operation is to get over one by itself. What a start passes already is met
/// later as well, in the middle of an operation.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for step in STEPS {
        let passes: &[u32] = match step.name.split_once('.').map(|(kind, _)| kind) {
            Some("store") if Operation::of(step.name) == Operation::Deploy => &[1, 4],
            Some("ledger" | "events") => &[1, 3],
            _ => &[1],
        };
        for pass in passes {
            let goes_on = Operation::of(step.name) == Operation::Deploy || step.name.starts_with("stop.");
            let effects = if step.fails && goes_on { &["kill", "error"][..] } else { &["kill"] };
            cases.extend(effects.iter().map(|effect| Case { step, pass: *pass, effect }));
        }
    }
    cases
}

struct Walk {
    lab: Lab,
    marks: PathBuf,
    registry: Option<String>,
    empty: HostState,
    full: HostState,
    slowest: (Duration, String),
}

impl Walk {
    fn begin() -> Self {
        let mut lab = Lab::new();
        // Within the runtime directory: supervisors see nothing else of the host.
        let marks = lab.path("marks");
        lab.start();
        lab.load_images(&["busybox"]);
        let slowest = (Duration::ZERO, String::new());
        let (empty, full) = Default::default();
        let mut walk = Self { lab, marks, registry: None, empty, full, slowest };
        walk.learn();
        walk
    }

    /// What the host is like with and without the stack, when nothing goes wrong.
    fn learn(&mut self) {
        self.deploy();
        self.lab.kill_daemon();
        self.lab.start();
        self.full = self.settled();
        self.remove();
        self.empty = self.settled();
    }

    /// The state that does not change any more.
    fn settled(&self) -> HostState {
        let mut last = HostState::of(&self.lab);
        let mut same = 0;
        until("the host does not change any more", SOON, || {
            std::thread::sleep(Duration::from_millis(100));
            let now = HostState::of(&self.lab);
            let difference = now.difference(&last);
            same = if difference.is_empty() { same + 1 } else { 0 };
            last = now;
            if same >= 10 { Ok(()) } else { Err(difference.join("\n")) }
        });
        last
    }

    fn yaml(&self, image: &str) -> String {
        self.lab.write("walk.yaml", &STACK.replace("IMAGE", image))
    }

    fn deploy(&self) {
        let file = self.yaml(LOADED);
        let deploy = ["deploy", "-p", "walk", "-f", &file];
        // A deploy that was asked for before, and whose client has ended, may be accepted right now.
        let first = self.lab.carrack(&deploy);
        if first.err.contains("the deploy was based on another") {
            self.lab.ok(&deploy);
        } else {
            assert_eq!(first.code, 0, "{}\n{}", first.err, last_lines(&self.lab.daemon_log()));
        }
    }

    fn is_there(&self) -> bool {
        self.lab
            .json::<Vec<carrack_api::StackStatus>>(&["ls"])
            .iter()
            .any(|stack| stack.name.as_str() == "walk")
    }

    fn remove(&self) {
        if self.is_there() {
            // A removal that was acknowledged before may end right now.
            let ran = self.lab.carrack(&["rm", "walk"]);
            assert!(ran.code == 0 || !self.is_there(), "{}\n{}", ran.err, last_lines(&self.lab.daemon_log()));
        }
    }

    /// The host becomes this within the deadline; answers how long it took since `since`.
    fn becomes(&self, wanted: &HostState, what: &str, since: Instant) -> Duration {
        until(what, SOON, || {
            let difference = HostState::of(&self.lab).difference(wanted);
            if difference.is_empty() {
                Ok(())
            } else {
                Err(format!("{}\n{}", difference.join("\n"), last_lines(&self.lab.daemon_log())))
            }
        });
        since.elapsed()
    }

    /// Arms a case, drives its operation until it fires, and waits until the host is well again.
    fn case(&mut self, case: Case) {
        let name = format!("{}@{}:{}", case.step.name, case.pass, case.effect);
        let operation = Operation::of(case.step.name);
        self.prepare(operation);
        let marks = self.marks_of(case.step.process);
        let _ = fs::remove_dir_all(&marks);
        fs::create_dir_all(&marks).expect("a directory for marks");
        let mark = marks.join(case.step.name);
        self.lab.set_environment(&[(VARIABLE, &name), (ONCE_VARIABLE, marks.to_str().expect("UTF-8"))]);
        self.lab.spawn();
        self.drive(operation, &mark, &name);
        self.lab.set_environment(&[]);
        let since = Instant::now();
        let died = self.daemon_is_gone(case, &name);
        if died {
            self.lab.start();
        }
        let wanted = self.recover(operation);
        let took = self.becomes(&wanted, &name, since);
        println!(
            "{name}: {operation:?}, {} ms{}",
            took.as_millis(),
            if died { ", daemon restarted" } else { "" }
        );
        if took > self.slowest.0 && !matches!(operation, Operation::FirstStart) {
            self.slowest = (took, name);
        }
        let _ = fs::remove_dir_all(&marks);
    }

    fn marks_of(&self, process: Process) -> PathBuf {
        match process {
            // They see the state and the runtime directory only, and the latter is as often wiped as the daemon's.
            Process::Supervisor | Process::Exec => self.lab.runtime().join("marks"),
            Process::Daemon | Process::Unpack | Process::Template | Process::DataPlane => self.marks.clone(),
        }
    }

    /// No daemon runs, and the stack does or not, as the operation wants it.
    fn prepare(&mut self, operation: Operation) {
        if operation == Operation::Crash {
            // Crashes of a slot are counted, and each waits longer: a new one counts from zero.
            self.remove();
        }
        if operation.begins_with_stack() {
            if !self.is_there() {
                self.deploy();
            }
        } else {
            self.remove();
            let empty = self.empty.clone();
            self.becomes(&empty, "the stack is gone", Instant::now());
        }
        match operation {
            Operation::Load | Operation::Pull => {
                for image in self.lab.json::<Vec<carrack_api::HeldImage>>(&["image", "ls"]) {
                    self.lab.ok(&["image", "rm", &image.name]);
                }
            }
            _ => {}
        }
        if operation == Operation::FirstStart {
            self.wipe();
        } else {
            self.lab.kill_daemon();
        }
    }

    /// Stops the daemon as a user would and removes its directories.
    fn wipe(&mut self) {
        self.lab.stop_daemon_and_containers();
        fs::remove_dir_all(self.lab.state()).expect("remove the state directory");
        fs::remove_dir_all(self.lab.runtime()).expect("remove the runtime directory");
    }

    /// Runs the operation, again where once is not enough, until the step has fired.
    fn drive(&mut self, operation: Operation, mark: &Path, name: &str) {
        let deadline = Instant::now() + SOON * slow();
        let mut running: Option<Child> = None;
        let mut round = 0;
        let mut answers = false;
        while !mark.exists() {
            assert!(
                Instant::now() < deadline,
                "{name} was not passed in {round} rounds:\n{}",
                last_lines(&self.lab.daemon_log())
            );
            answers =
                answers || ask(&self.lab.socket(), "GET", "/v1/stacks", None).is_ok_and(|a| a.status == 200);
            let busy = running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if answers && !busy {
                running = self.round(operation, round);
                round += 1;
            }
            std::thread::sleep(LOOK);
        }
        if let Some(mut child) = running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// One round of an operation, in the background where it takes time.
    fn round(&self, operation: Operation, round: u32) -> Option<Child> {
        match operation {
            Operation::FirstStart | Operation::Start => None,
            Operation::Deploy => {
                let file = self.yaml(LOADED);
                match round % 3 {
                    0 => self.background(&["deploy", "-p", "walk", "-f", &file]),
                    1 => self.background(&["scale", "walk/web=1"]),
                    _ => self.background(&["scale", "walk/web=2"]),
                }
            }
            Operation::Crash => {
                for pid in self.first_processes() {
                    // It may have ended meanwhile.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(300));
                None
            }
            Operation::Remove => self.background(&["rm", "walk"]),
            Operation::Exec => self.background(&["exec", "walk/web", "true"]),
            Operation::DataPlane => {
                let identity = fs::read(self.lab.runtime().join("dataplane/pid")).unwrap_or_default();
                let identity: serde_json::Value = serde_json::from_slice(&identity).unwrap_or_default();
                if let Some(pid) = identity["pid"].as_i64() {
                    // It may have ended meanwhile.
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(300));
                None
            }
            Operation::Fold => {
                self.grow(round);
                None
            }
            Operation::Load => {
                let archive = Lab::images().join("busybox.tar");
                self.background(&["image", "load", "-i", archive.to_str().expect("UTF-8")])
            }
            Operation::Pull => {
                let image = format!("{}/busybox:1", self.registry.as_deref().expect("a registry runs"));
                let file = self.yaml(&image);
                self.background(&["deploy", "-p", "walk", "-f", &file])
            }
        }
    }

    fn background(&self, arguments: &[&str]) -> Option<Child> {
        let mut command = self.lab.cli();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(command.spawn().expect("run the CLI"))
    }

    /// First processes of the stack's containers; the daemon may die meanwhile.
    fn first_processes(&self) -> Vec<i32> {
        let ran = self.lab.carrack(&["ps", "walk", "-o", "json"]);
        let tasks: Vec<carrack_api::TaskStatus> = serde_json::from_str(&ran.out).unwrap_or_default();
        tasks.iter().filter_map(|task| i32::try_from(task.pid?).ok()).collect()
    }

    /// Writes a large revision of a stack that has no replica.
    fn grow(&self, round: u32) {
        let value = format!("{round}-{}", "x".repeat(BALLAST_BYTES));
        let container = json!({"image": LOADED, "env": {"BALLAST": value}});
        let service = json!({"task": {"container": container}, "mode": {"replicated": {"replicas": 0}}});
        let body = json!({"spec": {"name": "ballast", "services": {"one": service}}});
        // The daemon may die of it.
        if let Ok(answer) = ask(&self.lab.socket(), "PUT", "/v1/stacks/ballast", Some(&body)) {
            assert!(answer.status == 200 || answer.status >= 500, "{answer:?}");
        }
    }

    /// Whether the daemon died of the case; when it had to, by SIGKILL.
    fn daemon_is_gone(&mut self, case: Case, name: &str) -> bool {
        if case.step.process == Process::Daemon && case.effect == "kill" {
            let status = until("the daemon's end", SOON, || self.lab.daemon_end().ok_or("it runs"));
            assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{name}: {status}");
            return true;
        }
        // The first pass of a step may be in the daemon's start, whatever the operation: one that cannot be is given up
        // with an error, and the process ends some time after the step.
        let socket = self.lab.socket();
        until("the daemon answers or gives up", SOON, || {
            if self.lab.daemon_end().is_some() {
                return Ok(true);
            }
            ask(&socket, "GET", "/v1/stacks", None).map(|_| false).map_err(|error| error.to_string())
        })
    }

    /// Says again what is wanted, as a user would; answers what the host is to be like.
    fn recover(&mut self, operation: Operation) -> HostState {
        match operation {
            Operation::FirstStart => {
                self.lab.load_images(&["busybox"]);
                self.deploy();
                self.full.clone()
            }
            Operation::Deploy => {
                self.deploy();
                self.full.clone()
            }
            Operation::Load => {
                self.lab.load_images(&["busybox"]);
                self.empty.clone()
            }
            Operation::Pull => {
                let file =
                    self.yaml(&format!("{}/busybox:1", self.registry.as_deref().expect("a registry runs")));
                self.lab.ok(&["deploy", "-p", "walk", "-f", &file]);
                self.remove();
                self.lab.load_images(&["busybox"]);
                self.empty.clone()
            }
            Operation::Fold => {
                self.lab.carrack(&["rm", "ballast"]);
                self.empty.clone()
            }
            Operation::Remove => {
                self.remove();
                self.empty.clone()
            }
            Operation::Start | Operation::Crash | Operation::Exec | Operation::DataPlane => self.full.clone(),
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Whether the long stage runs.
fn long() -> bool {
    std::env::var_os("LONG").is_some_and(|value| value == "1")
}

/// Walks the cases whose operation is one of these.
fn walk(operations: &[Operation]) {
    let only = std::env::var("FAIL_STEP").unwrap_or_default();
    let mut walk = Walk::begin();
    if operations.contains(&Operation::Pull) {
        walk.registry = Some(walk.lab.registry(&["busybox"]));
    }
    let all = cases();
    let chosen = all.iter().filter(|case| operations.contains(&Operation::of(case.step.name)));
    let chosen: Vec<Case> = chosen
        .filter(|case| case.step.name.contains(&only))
        .filter(|case| long() || !only.is_empty() || (case.effect == "kill" && case.pass == 1))
        .copied()
        .collect();
    let begun = Instant::now();
    let count = chosen.len();
    for case in chosen {
        walk.case(case);
    }
    let (took, which) = &walk.slowest;
    println!(
        "{count} steps in {} s; the host was as it should be after {} ms at most ({which})",
        begun.elapsed().as_secs(),
        took.as_millis()
    );
    walk.remove();
    walk.lab.finish();
}

#[test]
fn a_kill_at_every_step_of_a_deploy_is_repaired() {
    walk(&[Operation::Deploy]);
}

#[test]
fn a_kill_at_every_step_of_a_crash_of_a_stop_and_of_a_removal_is_repaired() {
    walk(&[Operation::Crash, Operation::Remove, Operation::Exec]);
}

#[test]
fn a_kill_at_every_step_of_a_start_is_repaired() {
    walk(&[Operation::Start, Operation::DataPlane, Operation::FirstStart]);
}

#[test]
fn a_kill_at_every_step_of_an_image_and_of_the_stores_folding_is_repaired() {
    walk(&[Operation::Load, Operation::Pull, Operation::Fold]);
}
