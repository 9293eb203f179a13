//! `footprint.idle` and `footprint.100`: memory of everything that runs containers, without the containers, as the kernel shares it
//! out (PSS): daemon, data plane and keepers of ours; dockerd, containerd and shims of Swarm.
//!
//! 100 replicas of ours have networks of their own; Swarm's are on the host's network, its smaller mode.

use std::time::Duration;

use super::figure::{Figure, Target};
use super::ours::{self, Net, Ours};
use super::swarm::Swarm;
use super::{Setting, alternate, meter, swarm};

const ROUNDS: usize = 2;
const REPLICAS: u32 = 100;
/// Time after which a daemon is at rest: longer than what it does once after a start or a deploy.
const REST: Duration = Duration::from_secs(3);
const KIB_PER_MB: f64 = 1000.0 / 1.024;

/// PSS in MB at rest without and with containers.
type Round = [f64; 2];

pub(super) fn run(setting: &Setting) -> Vec<Figure> {
    let there = Swarm::start(setting).is_some();
    let (mine, theirs) = alternate(ROUNDS, ours, there.then_some(|| theirs(setting)));
    let theirs: Vec<Round> = theirs.into_iter().flatten().collect();
    let column = |rounds: &[Round], at: usize| rounds.iter().map(|round| round[at]).collect::<Vec<_>>();
    vec![
        Figure::new("footprint.idle", "MB", &column(&mine, 0))
            .beside(swarm::NAME, &column(&theirs, 0))
            .target(Target::AtMost(25.0)),
        Figure::new("footprint.100", "MB", &column(&mine, 1))
            .beside(&format!("{}, host net", swarm::NAME), &column(&theirs, 1))
            .target(Target::AtMost(100.0)),
    ]
}

fn at_rest(pids: impl Fn() -> Vec<u32>) -> f64 {
    std::thread::sleep(REST);
    meter::pss_kib(pids()) / KIB_PER_MB
}

fn ours() -> Round {
    let ours = Ours::start();
    let everything = || ours::pids(|_| true);
    let idle = at_rest(everything);
    ours.deploy("bench", REPLICAS, Net::Own);
    ours.wait_running("bench", REPLICAS);
    let full = at_rest(everything);
    ours.remove("bench");
    ours.lab.finish();
    [idle, full]
}

fn theirs(setting: &Setting) -> Option<Round> {
    let swarm = Swarm::start(setting)?;
    let everything = || Swarm::pids(&[]);
    let idle = at_rest(everything);
    swarm.create("bench", REPLICAS, Net::Host, &[]);
    swarm.wait_running("bench", REPLICAS);
    Some([idle, at_rest(everything)])
}
