//! Our daemon as benchmarks use it: in a lab, its CPU counted, `busybox sleep` as the container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use carrack_api::{ServiceStatus, TaskState, TaskStatus};

use super::{http, meter};
use crate::lab::Lab;

/// Between two looks at how many run; the same for peers.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The control group of the daemon and its data plane.
const DAEMON: &str = "ours";

/// The network of a service that is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    /// A network of its own, with an address for each replica.
    Own,
    /// The host's.
    Host,
}

/// A host with our daemon.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) lab: Lab,
    /// Where all containers, their supervisors included, are counted.
    containers: String,
}

impl Ours {
    /// A fresh daemon that holds the image.
    pub(super) fn start() -> Self {
        let lab = Lab::started();
        lab.load_images(&["busybox"]);
        meter::move_into(&meter::group(DAEMON), &pids(|_| true));
        let identity = std::fs::read(lab.state().join("node/identity.json")).expect("the node's identity");
        let identity: serde_json::Value = serde_json::from_slice(&identity).expect("the identity is JSON");
        let containers = format!("carrack-{}", identity["node"].as_str().expect("the node's id"));
        Self { lab, containers }
    }

    /// CPU time of the daemon, the data plane, the supervisors, and the containers up to their program, milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        meter::cpu_ms(DAEMON) + meter::cpu_ms(&self.containers)
    }

    /// The cgroup of all supervisors.
    pub(super) fn supervisors(&self) -> String {
        format!("{}/supervisors", self.containers)
    }

    /// Deploys `NAME/s` and does not wait.
    pub(super) fn deploy(&self, stack: &str, replicas: u32, net: Net) {
        let network = if net == Net::Host { "    network_mode: host\n" } else { "" };
        let text = format!(
            "services:\n  s:\n    image: busybox:1\n    command: [sleep, '100000']\n    stop_signal: SIGKILL\n{network}    \
             deploy:\n      replicas: {replicas}\n"
        );
        let file = self.lab.write(&format!("{stack}.yaml"), &text);
        self.lab.ok(&["deploy", "-d", "-p", stack, "-f", &file]);
    }

    /// Waits until so many replicas run.
    pub(super) fn wait_running(&self, stack: &str, replicas: u32) {
        super::wait("our replicas run", LOOK_EVERY, || {
            let status: ServiceStatus = self.get(&format!("/v1/services/{stack}/s"));
            (status.running == replicas).then_some(()).ok_or(status.running)
        });
    }

    /// Removes a stack and waits until it is gone.
    pub(super) fn remove(&self, stack: &str) {
        self.lab.ok(&["rm", stack]);
    }

    /// The tasks of a stack that are wanted and run.
    pub(super) fn running(&self, stack: &str) -> Vec<TaskStatus> {
        let tasks: Vec<TaskStatus> = self.get(&format!("/v1/tasks?stack={stack}"));
        tasks.into_iter().filter(|task| task.state == TaskState::Running).collect()
    }

    /// Asks the API.
    pub(super) fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        http::get(&self.socket(), path).unwrap_or_else(|error| panic!("ask our daemon for {path}: {error}"))
    }

    fn socket(&self) -> PathBuf {
        self.lab.socket()
    }
}

/// What a supervisor calls itself.
const SUPERVISOR: &str = "carrack-supervisor";

/// Processes of our binary whose arguments are as wanted. They are told by their first argument: supervisors run from a detached
/// read-only view of the binary, which has no path.
pub(super) fn pids(wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let binary = Lab::carrack_binary();
    let is_ours = |words: &[String]| {
        let name = words.first().and_then(|program| Path::new(program).file_name());
        name.is_some_and(|name| Some(name) == binary.file_name() || name == SUPERVISOR)
    };
    let found = meter::processes(|_| true);
    found.into_iter().filter(|(_, words)| is_ours(words) && wanted(words)).map(|(pid, _)| pid).collect()
}

/// The keepers of containers.
pub(super) fn keepers() -> Vec<u32> {
    pids(|words| words.get(1).is_some_and(|mode| mode == "__keep"))
}
