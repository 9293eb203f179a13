//! `start.cli`: one `/bin/true` from the command line, run and taken away, beside the tools people know.
//!
//! Ours is a one-off task of a service (`carrack run --rm`), durable and accounted for by the scheduler like any other task. All
//! without a network to reach, with pid, mount, ipc and uts namespaces. crun and runc run a bundle that is unpacked already
//! and compile no seccomp filter; the others, ours too, unpack nothing but make a root filesystem and a filter. CPU is of the
//! client, its daemon and all they start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::figure::Figure;
use super::ours::Ours;
use super::swarm::{self, Swarm};
use super::{Setting, meter, milliseconds, tools};
use crate::lab::Lab;

const ROUNDS: usize = 10;
/// Whose one-off tasks ours are.
const SERVICE: &str = "services:\n  one:\n    image: busybox:1\n    command: [sleep, '100000']\n    stop_signal: SIGKILL\n    \
                       network_mode: none\n";

/// One way to run it.
struct Way<'a> {
    name: &'static str,
    command: Box<dyn Fn(usize) -> Command + 'a>,
    /// CPU time so far of all that is not the client, milliseconds.
    others: Box<dyn Fn() -> f64 + 'a>,
    /// Wall and CPU of each round, milliseconds.
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

pub(super) fn run(setting: &Setting) -> Vec<Figure> {
    let ours = Ours::start();
    ours.lab.deploy("cli", SERVICE);
    let swarm = Swarm::start(setting);
    let podman =
        ["podman", "crun"].into_iter().all(tools::is_there).then(|| tools::Podman::new(&setting.work));
    let bundle = bundle(&setting.work);
    let mut ways = ways(&ours, swarm.as_ref(), podman.as_ref(), &bundle);
    for round in 0..=ROUNDS {
        for way in &mut ways {
            measure(way, round);
        }
    }
    let figures = figures(&ways);
    drop(ways);
    drop(swarm);
    ours.lab.finish();
    figures
}

fn way<'a>(
    name: &'static str,
    command: impl Fn(usize) -> Command + 'a,
    others: impl Fn() -> f64 + 'a,
) -> Way<'a> {
    Way { name, command: Box::new(command), others: Box::new(others), wall: Vec::new(), cpu: Vec::new() }
}

fn ways<'a>(
    ours: &'a Ours,
    swarm: Option<&'a Swarm>,
    podman: Option<&'a tools::Podman>,
    bundle: &'a Path,
) -> Vec<Way<'a>> {
    const IMAGE: [&str; 2] = ["busybox:1", "/bin/true"];
    let mut ways = vec![way(
        "carrack",
        |_| {
            let mut command = ours.lab.cli();
            command.args(["run", "--rm", "-T", "cli/one", "/bin/true"]);
            command
        },
        || ours.cpu_ms(),
    )];
    for name in ["crun", "runc"] {
        if tools::is_there(name) {
            ways.push(way(name, move |round| oci(name, bundle, round), || meter::cpu_ms("start-oci")));
        }
    }
    ways.extend(podman.map(|podman| {
        way(
            "podman",
            |_| {
                let mut command = podman.command();
                command.args(["run", "--rm"]).args(tools::PODMAN_RUN).args(IMAGE);
                command
            },
            || meter::cpu_ms("podman"),
        )
    }));
    ways.extend(swarm.map(|swarm| {
        way(
            "docker",
            |_| {
                let mut command = swarm::docker();
                command.args(["run", "--rm", "--network", "none"]).args(IMAGE);
                command
            },
            || swarm.cpu_ms(),
        )
    }));
    ways
}

/// A container of an OCI runtime from the prepared bundle.
fn oci(name: &str, bundle: &Path, round: usize) -> Command {
    let mut command = Command::new(tools::program(name));
    command.arg("--root").arg(format!("/run/{name}-root")).args(["run", "--bundle"]).arg(bundle);
    command.arg(format!("{name}-{round}"));
    command
}

/// The image unpacked, with `/bin/true` as its program.
fn bundle(work: &Path) -> PathBuf {
    let bundle = work.join("bundle");
    let image = format!("{}:busybox", Lab::images().join("oci").display());
    let unpacked = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).status();
    assert!(unpacked.expect("run umoci").success(), "umoci unpack {image}");
    let path = bundle.join("config.json");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("read the bundle")).expect("the bundle is JSON");
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["terminal"] = json!(false);
    if let Some(process) = config["process"].as_object_mut() {
        process.remove("rlimits");
    }
    config["linux"]["cgroupsPath"] = json!("/start-oci/container");
    std::fs::write(&path, config.to_string()).expect("write the bundle");
    bundle
}

/// One run; the one of round 0 only warms up.
fn measure(way: &mut Way<'_>, round: usize) {
    const CLIENT: &str = "start-client";
    let inner = (way.command)(round);
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(meter::group(CLIENT));
    command.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    let cpu = || meter::cpu_ms(CLIENT) + (way.others)();
    let (before, begin) = (cpu(), Instant::now());
    let output = command.stdin(Stdio::null()).output().expect("run a program");
    let (wall, used) = (milliseconds(begin.elapsed()), cpu() - before);
    assert!(output.status.success(), "{}: {}", way.name, String::from_utf8_lossy(&output.stderr));
    if round > 0 {
        way.wall.push(wall);
        way.cpu.push(used);
    }
}

fn figures(ways: &[Way<'_>]) -> Vec<Figure> {
    let Some((ours, peers)) = ways.split_first() else { return Vec::new() };
    let mut figures = Vec::new();
    let mut add = |name, times: for<'a, 'b> fn(&'a Way<'b>) -> &'a [f64]| {
        if peers.is_empty() {
            figures.push(Figure::new(name, "ms", times(ours)));
        }
        let beside = |peer: &Way<'_>| Figure::new(name, "ms", times(ours)).beside(peer.name, times(peer));
        figures.extend(peers.iter().map(beside));
    };
    add("start.cli.wall", |way| &way.wall);
    add("start.cli.cpu", |way| &way.cpu);
    figures
}
