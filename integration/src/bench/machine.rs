//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the versions that were compared.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    cgroups: &'static str,
    load_average: String,
    carrack: String,
    peers: BTreeMap<&'static str, String>,
}

impl Machine {
    pub(super) fn look() -> Self {
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line =
                text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split(':').nth(1));
            line.unwrap_or("?").trim().to_owned()
        };
        let memory = first("/proc/meminfo", "MemTotal");
        let kib: f64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false);
        Self {
            cpu: first("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib / 1_048_576.0 * 10.0).round() / 10.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cgroups: if v2 { "v2" } else { "v1" },
            load_average: load_average(),
            carrack: version("carrack"),
            peers: super::tools::PEERS
                .iter()
                .filter(|peer| super::tools::is_there(peer))
                .map(|peer| (*peer, version(peer)))
                .collect(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_gib, kernel, cgroups, load_average, carrack, peers } = self;
        writeln!(f, "machine: {cores} cores of {cpu}, {memory_gib} GiB, kernel {kernel}, cgroup {cgroups}")?;
        writeln!(f, "load average at the start: {load_average}")?;
        let peers: Vec<String> = peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
        write!(f, "carrack {carrack}; peers: {}", peers.join(", "))
    }
}

/// Of one, five and fifteen minutes.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first word with digits and dots that a program says of its version.
fn version(program: &str) -> String {
    let mut command = match program {
        "carrack" => Command::new(crate::lab::Lab::carrack_binary()),
        other => Command::new(super::tools::program(other)),
    };
    let output = command.arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.split([' ', ',', '\n', '~'])
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .unwrap_or("?")
        .to_owned()
}
