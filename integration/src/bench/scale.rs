//! `scale`: from 3 to 23 replicas of nginx with health checks, until all are passing, per replica.

use std::time::Instant;

use carrack_api::Health;

use super::figure::Figure;
use super::{Setting, milliseconds, ours::LOOK_EVERY, wait, web_tasks};

pub(super) fn run(_: &Setting) -> Vec<Figure> {
    let lab = super::hello();
    let mut times = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        lab.ok(&["scale", "-d", "hello/web=23"]);
        wait("23 pass", LOOK_EVERY, || {
            match web_tasks(&lab).iter().filter(|t| t.health == Health::Passing).count() {
                23 => Ok(()),
                other => Err(other),
            }
        });
        times.push(milliseconds(begin.elapsed()) / 20.0);
        lab.ok(&["scale", "hello/web=3"]);
        wait("3 are left", LOOK_EVERY, || match web_tasks(&lab).len() {
            3 => Ok(()),
            other => Err(other),
        });
    }
    lab.finish();
    vec![Figure::new("scale.per-replica", "ms", &times)]
}
