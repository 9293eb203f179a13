//! `carrack-bench [NAME]`: figures that we claim, measured on this machine, beside a floor in the same alternating run.
//!
//! Prints a table and writes `bench/results.json` into the directory that `BENCH_OUT` names: a list of
//! `{name, unit, ours, peer, peer_name, ratio, n, target}`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use carrack_api::{Health, StackStatus, TaskStatus};
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::load::{Load, Target, beside, request};
use carrack_integration::wait::until;
use serde::Serialize;

const HELLO: &str = include_str!("../../../examples/hello/compose.yaml");
/// Load around the kills of the daemon.
const KILL_LOAD: Duration = Duration::from_secs(60);
/// Time between two kills.
const KILL_EVERY: Duration = Duration::from_secs(5);

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// Median, smallest and largest of ours.
    ours: [f64; 3],
    /// The same of the peer, when there is one.
    peer: Option<[f64; 3]>,
    peer_name: Option<&'static str>,
    ratio: Option<f64>,
    n: usize,
    target: &'static str,
}

type Bench = (&'static str, fn() -> Vec<Figure>);
const BENCHES: [Bench; 4] = [("kill", kill), ("restart", restart), ("scale", scale), ("vip", vip)];

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line program")]
fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let mut figures = Vec::new();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|w| w == *name)) {
        eprintln!("bench {name} ...");
        figures.extend(bench());
    }
    if figures.is_empty() {
        eprintln!(
            "carrack-bench: no benchmark of that name; there are: {}",
            BENCHES.map(|(name, _)| name).join(" ")
        );
        return ExitCode::from(2);
    }
    println!(
        "{:<28} {:>5} {:>10} {:>21} {:>10} {:>7}  {:<16} target",
        "name", "n", "median", "min-max", "peer", "ratio", "peer name"
    );
    for f in &figures {
        println!(
            "{:<28} {:>5} {:>7.2} {:<2} {:>10.2}-{:<10.2} {:>10} {:>7}  {:<16} {}",
            f.name,
            f.n,
            f.ours[0],
            f.unit,
            f.ours[1],
            f.ours[2],
            f.peer.map_or("-".into(), |p| format!("{:.2}", p[0])),
            f.ratio.map_or("-".into(), |r| format!("{r:.2}")),
            f.peer_name.unwrap_or("-"),
            f.target
        );
    }
    let out = PathBuf::from(std::env::var_os("BENCH_OUT").unwrap_or_else(|| "target/bench".into()));
    let written = std::fs::create_dir_all(&out)
        .and_then(|()| serde_json::to_vec_pretty(&figures).map_err(std::io::Error::other))
        .and_then(|json| std::fs::write(out.join("results.json"), json));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("carrack-bench: cannot write {}: {error}", out.display());
            ExitCode::FAILURE
        }
    }
}

fn figure(name: &'static str, unit: &'static str, target: &'static str, mut ours: Vec<f64>) -> Figure {
    let n = ours.len();
    Figure { name, unit, ours: spread(&mut ours), peer: None, peer_name: None, ratio: None, n, target }
}

/// Median, smallest, largest.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn hello() -> Lab {
    let lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    lab
}

fn web_tasks(lab: &Lab) -> Vec<TaskStatus> {
    lab.tasks("hello").into_iter().filter(|t| t.service.service.as_str() == "web").collect()
}

/// `kill -9` of the daemon every five seconds in a minute of load by clients that resolve the name for every connection.
fn kill() -> Vec<Figure> {
    let mut lab = hello();
    let client =
        lab.tasks("hello").iter().find(|t| t.service.service.as_str() == "redis").and_then(|t| t.pid);
    let load = Load {
        target: Target::Name {
            name: "web".into(),
            server: "169.254.1.53:53".parse().expect("an address"),
            port: 80,
        },
        path: "/".into(),
        clients: 4,
        pause: Duration::from_millis(2),
        netns: client.map(|pid| format!("/proc/{pid}/ns/net").into()),
    };
    let before = lab.pids("hello");
    let (end, mut kills) = (Instant::now() + KILL_LOAD, Vec::new());
    let (report, ()) = beside(&load, || {
        while Instant::now() < end {
            std::thread::sleep(KILL_EVERY);
            lab.kill_daemon();
            let begin = Instant::now();
            lab.start();
            kills.push(milliseconds(begin));
        }
    })
    .expect("the clients run");
    assert_eq!(lab.pids("hello"), before, "no container was touched");
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    lab.finish();
    vec![
        figure("kill.requests-sent", "", "-", vec![report.sent as f64]),
        figure("kill.requests-failed", "", "0", vec![report.failed as f64]),
        figure("kill.slowest-request", "ms", "-", vec![report.slowest_ms as f64]),
        figure("kill.daemon-answers-again", "ms", "-", kills),
    ]
}

/// SIGKILL of a container's first process until the same task answers again. The tasks are killed in turn, so all but the
/// first kill of each also wait for its growing back-off: the smallest time is that of a first crash.
fn restart() -> Vec<Figure> {
    let lab = hello();
    let mut times = Vec::new();
    for round in 0..20 {
        let tasks = web_tasks(&lab);
        let task = &tasks[round % tasks.len()];
        let address = SocketAddr::new(task.addresses[0], 80).to_string();
        let pid = nix::unistd::Pid::from_raw(task.pid.expect("it runs") as i32);
        let begin = Instant::now();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill the container");
        // The old server must be gone before an answer counts.
        until("the old process is gone", SOON, || {
            if std::path::Path::new(&format!("/proc/{pid}/root")).exists() { Err("there") } else { Ok(()) }
        });
        until("it answers again", SOON, || lab.get(&address, "/"));
        times.push(milliseconds(begin));
        until("all pass", SOON, || {
            if web_tasks(&lab).iter().all(|t| t.health == Health::Passing) { Ok(()) } else { Err("not all") }
        });
    }
    lab.finish();
    vec![figure("restart.killed-container", "ms", "min <= 150", times)]
}

/// `scale` from 3 to 23 replicas until all are passing, per replica.
fn scale() -> Vec<Figure> {
    let lab = hello();
    let mut times = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        lab.ok(&["scale", "hello/web=23"]);
        until("23 pass", SOON, || {
            match web_tasks(&lab).iter().filter(|t| t.health == Health::Passing).count() {
                23 => Ok(()),
                other => Err(other.to_string()),
            }
        });
        times.push(milliseconds(begin) / 20.0);
        lab.ok(&["scale", "hello/web=3"]);
        until("3 are left", SOON, || match web_tasks(&lab).len() {
            3 => Ok(()),
            other => Err(other.to_string()),
        });
    }
    lab.finish();
    vec![figure("scale.per-replica", "ms", "-", times)]
}

/// Connection, request and close through the VIP, beside the same straight to the endpoint, alternating.
fn vip() -> Vec<Figure> {
    let lab = hello();
    lab.ok(&["scale", "hello/web=1"]);
    let task = until("one is left", SOON, || {
        let mut tasks = web_tasks(&lab);
        if tasks.len() == 1 { Ok(tasks.remove(0)) } else { Err(tasks.len().to_string()) }
    });
    let stacks: Vec<StackStatus> = lab.json(&["ls"]);
    let vip =
        stacks[0].services.iter().find(|s| s.service.service.as_str() == "web").expect("web is listed").vips
            [0];
    let client = lab
        .tasks("hello")
        .iter()
        .find(|t| t.service.service.as_str() == "redis")
        .and_then(|t| t.pid)
        .expect("redis runs");
    let load = |address| Load {
        target: Target::Address(SocketAddr::new(address, 80)),
        path: "/".into(),
        clients: 1,
        pause: Duration::ZERO,
        netns: None,
    };
    let (through, straight) = (load(vip), load(task.addresses[0]));
    let (mut ours, mut direct) = std::thread::spawn(move || {
        let netns = std::fs::File::open(format!("/proc/{client}/ns/net")).expect("the client's namespace");
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter it");
        let (mut ours, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..3000 {
            for (load, times) in [(&through, &mut ours), (&straight, &mut direct)] {
                let begin = Instant::now();
                request(load).expect("an answer");
                times.push(begin.elapsed().as_secs_f64() * 1e6);
            }
        }
        (ours, direct)
    })
    .join()
    .expect("the client ends");
    lab.finish();
    let (mine, theirs) = (spread(&mut ours), spread(&mut direct));
    vec![Figure {
        name: "vip.http-request",
        unit: "us",
        ours: mine,
        peer: Some(theirs),
        peer_name: Some("direct"),
        ratio: Some(mine[0] / theirs[0]),
        n: ours.len(),
        target: "ratio <= 1.05",
    }]
}
