//! `vip`: connection, request and close through a service's address, beside the same straight to the endpoint, alternating.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrack_api::StackStatus;

use super::figure::{Figure, Target};
use super::{Setting, ours::LOOK_EVERY, wait, web_tasks};
use crate::load::{self, Load, request};

const REQUESTS: usize = 3000;

pub(super) fn run(_: &Setting) -> Vec<Figure> {
    let lab = super::hello();
    lab.ok(&["scale", "hello/web=1"]);
    let task = wait("one is left", LOOK_EVERY, || {
        let mut tasks = web_tasks(&lab);
        if tasks.len() == 1 { Ok(tasks.remove(0)) } else { Err(tasks.len()) }
    });
    let stacks: Vec<StackStatus> = lab.json(&["ls"]);
    let web = stacks[0].services.iter().find(|s| s.service.service.as_str() == "web").expect("web is listed");
    let redis = lab.tasks("hello").into_iter().find(|t| t.service.service.as_str() == "redis");
    let client = redis.and_then(|task| task.pid).expect("redis runs");
    let load = |address| Load {
        target: load::Target::Address(SocketAddr::new(address, 80)),
        path: "/".into(),
        clients: 1,
        pause: Duration::ZERO,
        netns: None,
    };
    let (through, straight) = (load(web.vips[0]), load(task.addresses[0]));
    let (ours, direct) = std::thread::spawn(move || {
        let netns = std::fs::File::open(format!("/proc/{client}/ns/net")).expect("the client's namespace");
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter it");
        let (mut ours, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..REQUESTS {
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
    vec![
        Figure::new("vip.http-request", "us", &ours)
            .beside("direct", &direct)
            .target(Target::RatioAtMost(1.05)),
    ]
}
