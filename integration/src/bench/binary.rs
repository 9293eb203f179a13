//! `binary`: what is installed. Ours is one file; the peer is what Debian installs for a Docker that runs containers.

use std::process::Command;

use super::Setting;
use super::figure::{Figure, Target};
use crate::lab::Lab;

/// Without what a base system has.
const PACKAGES: [&str; 4] = ["docker.io", "containerd", "runc", "tini"];

pub(super) fn run(_: &Setting) -> Vec<Figure> {
    let bytes = std::fs::metadata(Lab::carrack_binary()).expect("the binary").len();
    let theirs = installed_mb().into_iter().collect::<Vec<_>>();
    vec![
        Figure::new("binary", "MB", &[bytes as f64 / 1e6])
            .beside("docker.io, installed", &theirs)
            .target(Target::None),
    ]
}

/// Installed size of all packages; `None` when one is not installed.
fn installed_mb() -> Option<f64> {
    let mut sum = 0.0;
    for package in PACKAGES {
        let output =
            Command::new("dpkg-query").args(["-W", "-f", "${Installed-Size}", package]).output().ok()?;
        // In KiB.
        sum += String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok()? * 1024.0 / 1e6;
    }
    Some(sum)
}
