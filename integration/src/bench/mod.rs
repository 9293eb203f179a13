//! The harness of all benchmarks: what is claimed, measured on this machine in alternating rounds beside a peer or a floor.
//!
//! ```text
//! carrack-bench            work directory, control group, signals (`world`)
//!   '- world.sh            namespaces of its own: pid, mount, network, cgroup
//!        '- carrack-bench --inside    one file per benchmark -> figures -> table, results.json
//! ```
//! A benchmark is a function from [`Setting`] to figures. It starts what it needs (`ours`, `swarm`, `tools`) and ends it; what it
//! leaves, also by a panic, ends with the world. Owns no test: a missed target is shown, and fails nothing.

mod binary;
mod compose;
mod deploy;
mod figure;
mod footprint;
mod http;
mod kill;
mod machine;
mod meter;
mod ours;
mod restart;
mod scale;
mod start_cli;
mod supervisor;
mod swarm;
mod tools;
mod vip;
pub mod world;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::lab::Lab;

pub use figure::{Figure, Spread, Target};

const HELLO: &str = include_str!("../../../examples/hello/compose.yaml");
/// Longest wait for anything of ours or of a peer.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// One benchmark.
struct Bench {
    /// What its figures' names begin with; `make bench NAME=...` runs it when one of these is asked for.
    names: &'static [&'static str],
    run: fn(&Setting) -> Vec<Figure>,
}

const BENCHES: [Bench; 12] = [
    Bench { names: &["deploy.1"], run: deploy::one },
    Bench { names: &["deploy.10"], run: deploy::ten },
    Bench { names: &["deploy.100"], run: deploy::hundred },
    Bench { names: &["restart"], run: restart::run },
    Bench { names: &["footprint.idle", "footprint.100"], run: footprint::run },
    Bench { names: &["footprint.supervisor"], run: supervisor::run },
    Bench { names: &["binary"], run: binary::run },
    Bench { names: &["compose"], run: compose::run },
    Bench { names: &["start.cli"], run: start_cli::run },
    Bench { names: &["kill"], run: kill::run },
    Bench { names: &["scale"], run: scale::run },
    Bench { names: &["vip"], run: vip::run },
];

/// What every benchmark is told.
#[derive(Debug)]
pub struct Setting {
    /// A directory on a disk, emptied by whoever made the world.
    pub work: PathBuf,
}

/// Runs the benchmarks whose name starts with `wanted` in the world this process is in; prints and writes their figures.
#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line program")]
pub fn inside(wanted: &str, setting: &Setting, out: &Path) -> ExitCode {
    let chosen: Vec<&Bench> =
        BENCHES.iter().filter(|bench| bench.names.iter().any(|name| is_wanted(name, wanted))).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().flat_map(|bench| bench.names).copied().collect();
        eprintln!("carrack-bench: no benchmark is called {wanted:?}; there are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    let before = machine::Machine::look();
    println!("{before}\n");
    tools::tell_absent();
    let (mut figures, mut broken) = (Vec::new(), Vec::new());
    for bench in chosen {
        let (name, begin) = (bench.names.join(" "), Instant::now());
        eprintln!("bench {name} ...");
        match catch_unwind(AssertUnwindSafe(|| (bench.run)(setting))) {
            Ok(found) => {
                for figure in found.into_iter().filter(|figure| is_wanted(&figure.name, wanted)) {
                    eprintln!("  {figure}");
                    figures.push(figure);
                }
            }
            // The panic itself has been printed.
            Err(_) => broken.push(name.clone()),
        }
        eprintln!("bench {name} took {:.0} s", begin.elapsed().as_secs_f64());
    }
    println!("\n{}", figure::table(&figures));
    println!("load average at the end: {}", machine::load_average());
    let written = std::fs::create_dir_all(out)
        .and_then(|()| write_json(&out.join("results.json"), &figures))
        .and_then(|()| write_json(&out.join("machine.json"), &before));
    if let Err(error) = written {
        eprintln!("carrack-bench: cannot write to {}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        eprintln!("carrack-bench: these broke off, and their figures are missing: {}", broken.join(" "));
        ExitCode::FAILURE
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> std::io::Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(value).map_err(std::io::Error::other)?)
}

/// Whether a benchmark or a figure is asked for: a whole word of dots, so that `deploy.1` is not `deploy.100`.
fn is_wanted(name: &str, wanted: &str) -> bool {
    let begins = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    wanted.is_empty() || begins(name, wanted) || begins(wanted, name)
}

/// Runs both in turn, ours first, so that what disturbs the machine disturbs both alike.
fn alternate<A, B>(
    rounds: usize,
    mut ours: impl FnMut() -> A,
    mut peer: Option<impl FnMut() -> B>,
) -> (Vec<A>, Vec<B>) {
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        mine.push(ours());
        theirs.extend(peer.as_mut().map(|peer| peer()));
    }
    (mine, theirs)
}

/// Looks every `every` until `look` gives a value; panics with its last complaint when that takes too long.
#[track_caller]
fn wait<T, E: Display>(what: &str, every: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => {
                panic!("{what}: not within {WAIT_MAX:?}; last: {last}")
            }
            Err(_) => std::thread::sleep(every),
        }
    }
}

/// A host with the stack of `examples/hello`.
fn hello() -> Lab {
    let lab = Lab::started();
    lab.load_images(&["hello-web", "hello-redis"]);
    lab.deploy("hello", HELLO);
    lab
}

fn web_tasks(lab: &Lab) -> Vec<carrack_api::TaskStatus> {
    lab.tasks("hello").into_iter().filter(|task| task.service.service.as_str() == "web").collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_itself_and_what_is_below() {
        assert!(is_wanted("deploy.1", "deploy"));
        assert!(is_wanted("deploy.1", ""));
        assert!(is_wanted("deploy.1", "deploy.1"));
        assert!(!is_wanted("deploy.100", "deploy.1"));
        // A benchmark makes figures with longer names.
        assert!(is_wanted("deploy.100", "deploy.100.cpu"));
        assert!(!is_wanted("restart", "deploy"));
    }

    #[test]
    fn no_two_benchmarks_have_one_name() {
        let names: Vec<&str> = BENCHES.iter().flat_map(|bench| bench.names).copied().collect();
        let different: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), names.len());
    }
}
