//! `deploy.N`: from the command to N running replicas of `busybox sleep`, each with a network address of its own.
//!
//! The peer is Swarm with an overlay network and `--endpoint-mode dnsrr`, its working mode with an address per replica; with the
//! host's network beside ours on the host's network it is `deploy.N.host`. Both hold the image, both count a replica as running
//! when its program was executed. CPU is of daemons, helpers and containers up to their program; the clients are left out.

use std::time::Instant;

use super::figure::{Figure, Target};
use super::ours::{Net, Ours};
use super::swarm::Swarm;
use super::{Setting, alternate, swarm};

/// What one round found.
struct Round {
    wall_s: f64,
    cpu_ms: f64,
}

pub(super) fn one(setting: &Setting) -> Vec<Figure> {
    run(setting, 1, 5, &[Net::Own])
}

pub(super) fn ten(setting: &Setting) -> Vec<Figure> {
    run(setting, 10, 3, &[Net::Own, Net::Host])
}

pub(super) fn hundred(setting: &Setting) -> Vec<Figure> {
    run(setting, 100, 2, &[Net::Own])
}

fn run(setting: &Setting, replicas: u32, rounds: usize, nets: &[Net]) -> Vec<Figure> {
    let ours = Ours::start();
    let swarm = Swarm::start(setting);
    let mut figures = Vec::new();
    for net in nets.iter().copied() {
        let (mine, theirs) = alternate(
            rounds,
            || deploy_ours(&ours, replicas, net),
            swarm.as_ref().map(|swarm| move || deploy_theirs(swarm, replicas, net)),
        );
        figures.extend(figures_of(replicas, net, &mine, &theirs));
    }
    drop(swarm);
    ours.lab.finish();
    figures
}

fn deploy_ours(ours: &Ours, replicas: u32, net: Net) -> Round {
    let (begin, cpu) = (Instant::now(), ours.cpu_ms());
    ours.deploy("bench", replicas, net);
    ours.wait_running("bench", replicas);
    let round = Round { wall_s: begin.elapsed().as_secs_f64(), cpu_ms: ours.cpu_ms() - cpu };
    ours.remove("bench");
    round
}

fn deploy_theirs(swarm: &Swarm, replicas: u32, net: Net) -> Round {
    let (begin, cpu) = (Instant::now(), swarm.cpu_ms());
    swarm.create("bench", replicas, net, &[]);
    swarm.wait_running("bench", replicas);
    let round = Round { wall_s: begin.elapsed().as_secs_f64(), cpu_ms: swarm.cpu_ms() - cpu };
    swarm.remove("bench");
    round
}

fn figures_of(replicas: u32, net: Net, mine: &[Round], theirs: &[Round]) -> [Figure; 2] {
    let wall = |rounds: &[Round]| rounds.iter().map(|round| round.wall_s).collect::<Vec<_>>();
    let cpu =
        |rounds: &[Round]| rounds.iter().map(|round| round.cpu_ms / f64::from(replicas)).collect::<Vec<_>>();
    let (host, how) = if net == Net::Host { (".host", "host net") } else { ("", "overlay, dnsrr") };
    let peer = format!("{}, {how}", swarm::NAME);
    let wall_target = if replicas == 100 { Target::AtMost(6.0) } else { Target::None };
    let cpu_target = if net == Net::Own && replicas >= 10 { Target::AtMost(30.0) } else { Target::None };
    [
        Figure::new(format!("deploy.{replicas}{host}.wall"), "s", &wall(mine))
            .beside(&peer, &wall(theirs))
            .target(wall_target),
        Figure::new(format!("deploy.{replicas}{host}.cpu-per-replica"), "ms", &cpu(mine))
            .beside(&peer, &cpu(theirs))
            .target(cpu_target),
    ]
}
