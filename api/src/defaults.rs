//! Every default in one place, as `carrack defaults` prints them (DESIGN section 8). Values in a Compose file win.

use std::time::Duration;

use crate::units::Bytes;

/// First delay before a crashed container is started again; it doubles with every further crash.
pub const RESTART_BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a crashed container is started again.
pub const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A run that stayed up and was not failing for this long resets the back-off.
pub const RESTART_BACKOFF_RESET: Duration = Duration::from_secs(60);
/// Runs of a new revision that may fail before its rollout is given up.
pub const ROLLOUT_FAILED_RUNS: u32 = 3;
/// Time between the stop signal and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for open connections to end before the stop signal.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Time between two probes once a task has passed its first.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Time a probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Failed probes in a row that make a passing task fail.
pub const PROBE_RETRIES: u32 = 3;
/// Time between two probes before a task has passed its first.
pub const PROBE_START_INTERVAL: Duration = Duration::from_millis(250);
/// Time in which a task must pass its first probe.
pub const PROBE_START_PERIOD: Duration = Duration::from_secs(60);
/// Without a healthcheck and without a target port, a task that lived this long is passing.
pub const READY_WITHOUT_PROBE: Duration = Duration::from_secs(1);
/// Tasks of a service that a rollout replaces at a time.
pub const UPDATE_PARALLELISM: u32 = 1;
/// Time a new task is watched before its rollout step counts as done.
pub const UPDATE_MONITOR: Duration = Duration::from_secs(5);
/// Revisions of a stack that are kept.
pub const REVISIONS_KEPT: usize = 20;
/// Time between two reports of a node.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// A node that was not heard for this long is suspect: not ready.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// A one-off task with `--rm` is kept this long after its end, so that whoever waits for it learns how it ended.
pub const RUN_KEPT: Duration = Duration::from_secs(10);
/// Ended one-off tasks of a stack that are kept.
pub const RUNS_KEPT: usize = 100;
/// DNS time to live in seconds.
pub const DNS_TTL_SECONDS: u32 = 5;
/// Log bytes kept for a task.
pub const TASK_LOG_MAX: Bytes = Bytes(50 << 20);
/// Processes and threads a task may have.
pub const PIDS_MAX: u64 = 4096;
/// Size of `/dev/shm`, as in Docker.
pub const SHM_SIZE: Bytes = Bytes(64 << 20);
/// Time that `carrack deploy` waits for a stack to be healthy.
pub const DEPLOY_TIMEOUT: Duration = Duration::from_secs(300);
/// Events and decisions are kept this long.
pub const EVENTS_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Images that nothing needs are removed once this much of their disk is full, in per cent.
pub const IMAGE_GC_HIGH_PERCENT: u8 = 80;
/// Their removal, the least recently used first, ends when no more than this is full, in per cent.
pub const IMAGE_GC_LOW_PERCENT: u8 = 70;
/// Cluster address ranges, the first that overlaps no route of the host.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.192.0.0/10", "100.64.0.0/10"];
/// Where the daemon's configuration is.
pub const CONFIG_FILE: &str = "/etc/carrack/config.toml";
/// Where a node keeps its state.
pub const STATE_DIR: &str = "/var/lib/carrack";
/// Where a node keeps what a reboot may take.
pub const RUNTIME_DIR: &str = "/run/carrack";
/// The API socket's name within the runtime directory.
pub const SOCKET_NAME: &str = "carrack.sock";
/// The group that may use the API socket.
pub const SOCKET_GROUP: &str = "carrack";

/// All defaults as (name, value, meaning), in the order users meet them.
pub fn table() -> Vec<(&'static str, String, &'static str)> {
    let s = |d: Duration| {
        if d.subsec_millis() == 0 { format!("{}s", d.as_secs()) } else { format!("{}ms", d.as_millis()) }
    };
    vec![
        (
            "restart.backoff",
            format!("{} doubling to {}", s(RESTART_BACKOFF_FIRST), s(RESTART_BACKOFF_MAX)),
            "delay before a crashed container starts again",
        ),
        ("restart.reset", s(RESTART_BACKOFF_RESET), "healthy time that resets the back-off"),
        ("stop.grace", s(STOP_GRACE), "from the stop signal to SIGKILL"),
        ("stop.drain", s(DRAIN_MAX), "longest wait for open connections before the stop signal"),
        ("probe.interval", s(PROBE_INTERVAL), "between probes"),
        ("probe.timeout", s(PROBE_TIMEOUT), "for one probe"),
        ("probe.retries", PROBE_RETRIES.to_string(), "failed probes in a row that make a task failing"),
        ("probe.start_interval", s(PROBE_START_INTERVAL), "between probes until the first success"),
        ("probe.start_period", s(PROBE_START_PERIOD), "until the first success must have come"),
        ("update.parallelism", UPDATE_PARALLELISM.to_string(), "tasks replaced at a time"),
        ("update.monitor", s(UPDATE_MONITOR), "a new task is watched before the next step"),
        ("revisions", REVISIONS_KEPT.to_string(), "kept per stack"),
        ("heartbeat", s(HEARTBEAT), "between reports of a node"),
        ("suspect", s(SUSPECT_AFTER), "without a report until a node is not ready"),
        ("runs", RUNS_KEPT.to_string(), "ended one-off tasks kept per stack"),
        ("dns.ttl", format!("{DNS_TTL_SECONDS}s"), "of names in the cluster"),
        ("logs.max", TASK_LOG_MAX.to_string(), "kept per task"),
        ("pids.max", PIDS_MAX.to_string(), "processes and threads per task"),
        ("shm.size", SHM_SIZE.to_string(), "of /dev/shm"),
        ("image.gc.high", format!("{IMAGE_GC_HIGH_PERCENT}%"), "of the disk full: unused images go"),
        ("image.gc.low", format!("{IMAGE_GC_LOW_PERCENT}%"), "of the disk full: no more of them go"),
        ("deploy.timeout", s(DEPLOY_TIMEOUT), "that deploy waits for a healthy stack"),
        ("config.file", CONFIG_FILE.into(), "the daemon's configuration"),
        ("state.dir", STATE_DIR.into(), "volumes, images, ledger, store"),
        ("runtime.dir", RUNTIME_DIR.into(), "socket, supervisors, secrets"),
    ]
}
