//! `kill`: `kill -9` of the daemon again and again under clients that resolve the name for every connection.

use std::time::{Duration, Instant};

use super::figure::{Figure, Target};
use super::{Setting, milliseconds};
use crate::load::{self, Load, beside};

/// Load around the kills of the daemon.
const LOAD: Duration = Duration::from_secs(30);
/// Time between two kills.
const EVERY: Duration = Duration::from_secs(3);

pub(super) fn run(_: &Setting) -> Vec<Figure> {
    let mut lab = super::hello();
    let client =
        lab.tasks("hello").iter().find(|t| t.service.service.as_str() == "redis").and_then(|t| t.pid);
    let load = Load {
        target: load::Target::Name {
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
    let (end, mut kills) = (Instant::now() + LOAD, Vec::new());
    let (report, ()) = beside(&load, || {
        while Instant::now() < end {
            std::thread::sleep(EVERY);
            lab.kill_daemon();
            let begin = Instant::now();
            lab.start();
            kills.push(milliseconds(begin.elapsed()));
        }
    })
    .expect("the clients run");
    assert_eq!(lab.pids("hello"), before, "no container was touched");
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    lab.finish();
    vec![
        Figure::new("kill.requests-sent", "requests", &[report.sent as f64]),
        Figure::new("kill.requests-failed", "requests", &[report.failed as f64]).target(Target::AtMost(0.0)),
        Figure::new("kill.slowest-request", "ms", &[report.slowest_ms as f64]),
        Figure::new("kill.daemon-answers-again", "ms", &kills),
    ]
}
