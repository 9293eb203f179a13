//! The peers: Debian packages, found by path, skipped loudly when they are not there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::Lab;

/// Programs of peers.
pub(super) const PEERS: [&str; 7] = ["docker", "dockerd", "containerd", "podman", "crun", "runc", "conmon"];
/// Where Debian puts them. Not `PATH`: what else is called `docker` there is not the peer.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The package of a program.
fn package(program: &str) -> &str {
    match program {
        "docker" | "dockerd" => "docker.io",
        other => other,
    }
}

/// Whether a peer is installed, and wanted.
pub(super) fn is_there(program: &str) -> bool {
    !is_alone() && find(program).is_some()
}

/// `PEERS=none`: only ours is measured.
fn is_alone() -> bool {
    std::env::var_os("PEERS").is_some_and(|peers| peers == "none")
}

/// The program of a peer.
pub(super) fn program(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| program.into())
}

fn find(program: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

/// Says which peers are not compared with, and how they would be.
#[expect(clippy::print_stderr, reason = "a command line program")]
pub(super) fn tell_absent() {
    if is_alone() {
        return eprintln!("SKIPPED: all peers, as PEERS=none says");
    }
    for peer in PEERS.iter().filter(|peer| !is_there(peer)) {
        eprintln!(
            "SKIPPED: {peer} is not installed, nothing is compared with it; `make bench PEERS=install` or `apt-get install {}` \
             adds it",
            package(peer)
        );
    }
}

/// How podman runs a container here: no network, and no limits that this process may not raise.
pub(super) const PODMAN_RUN: [&str; 8] = [
    "--network",
    "none",
    "--ulimit",
    "nofile=1024:4096",
    "--ulimit",
    "nproc=4096:4096",
    "--cgroup-parent",
    "/podman",
];

/// podman with crun, in directories of its own, holding the image.
#[derive(Debug)]
pub(super) struct Podman {
    root: PathBuf,
}

impl Podman {
    pub(super) fn new(work: &Path) -> Self {
        let podman = Self { root: work.join("podman") };
        let image = Lab::images().join("busybox.tar");
        podman.ok(&["load", "-q", "-i", image.to_str().expect("a path in UTF-8")]);
        podman
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(program("podman"));
        command.arg("--root").arg(&self.root).args([
            "--runroot",
            "/run/podman-root",
            "--tmpdir",
            "/run/podman-tmp",
        ]);
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ]);
        command.arg("--runtime").arg(program("crun"));
        command
    }

    /// Runs it; it must succeed.
    pub(super) fn ok(&self, arguments: &[&str]) {
        let output = self.command().args(arguments).stdin(Stdio::null()).output().expect("run podman");
        assert!(
            output.status.success(),
            "podman {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
