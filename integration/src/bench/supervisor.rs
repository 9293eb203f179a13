//! `footprint.supervisor`: memory per running container of the process that outlives the daemon and keeps its log and exit code.
//!
//! PSS beside conmon and containerd's shim; all-in, kernel memory included, as the cgroup of our supervisors is charged, with no
//! foreign mount on the host and with 2,000: what a supervisor costs must not depend on them.

use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::figure::Figure;
use super::ours::{self, Net, Ours};
use super::swarm::Swarm;
use super::{Setting, meter, tools};

const REPLICAS: u32 = 50;
/// Containers of a peer.
const OF_PEERS: u32 = 10;
const FOREIGN_MOUNTS: u32 = 2000;
/// Time after which memory of finished work has been given back.
const REST: Duration = Duration::from_secs(2);

pub(super) fn run(setting: &Setting) -> Vec<Figure> {
    let [pss, all_in] = ours();
    let place = setting.work.join("foreign");
    let mounts = ForeignMounts::make(&place);
    let [pss_many, all_in_many] = ours();
    drop(mounts);
    let figure =
        |name: &str, value: f64| Figure::new(format!("footprint.supervisor.{name}"), "KiB", &[value]);
    vec![
        figure("pss", pss).beside("conmon", &conmon(setting).into_iter().collect::<Vec<_>>()),
        figure("pss", pss).beside("containerd-shim", &shim(setting).into_iter().collect::<Vec<_>>()),
        figure("pss-2000-mounts", pss_many),
        figure("all-in", all_in),
        figure("all-in-2000-mounts", all_in_many),
    ]
}

/// PSS and all that is charged, KiB per container.
fn ours() -> [f64; 2] {
    let ours = Ours::start();
    ours.deploy("bench", REPLICAS, Net::Own);
    ours.wait_running("bench", REPLICAS);
    std::thread::sleep(REST);
    let keepers = ours::keepers();
    assert_eq!(keepers.len(), REPLICAS as usize, "one keeper a container");
    let count = f64::from(REPLICAS);
    let found = [meter::pss_kib(keepers) / count, meter::charged_bytes(&ours.supervisors()) / 1024.0 / count];
    ours.remove("bench");
    ours.lab.finish();
    found
}

/// PSS of containerd's shim, KiB.
fn shim(setting: &Setting) -> Option<f64> {
    let swarm = Swarm::start(setting)?;
    for _ in 0..OF_PEERS {
        swarm.docker(&["run", "-d", "--network", "host", "busybox:1", "sleep", "100000"]);
    }
    std::thread::sleep(REST);
    let shims = Swarm::pids(&["containerd-shim-runc-v2"]);
    let found = meter::pss_kib(shims.iter().copied()) / shims.len() as f64;
    let all = swarm.docker(&["ps", "-q"]);
    let ids: Vec<&str> = all.lines().collect();
    swarm.docker(&[&["rm", "-f"], &ids[..]].concat());
    Some(found)
}

/// PSS of conmon below podman, KiB.
fn conmon(setting: &Setting) -> Option<f64> {
    if !["podman", "conmon", "crun"].into_iter().all(tools::is_there) {
        return None;
    }
    let podman = tools::Podman::new(&setting.work);
    for _ in 0..OF_PEERS {
        podman.ok(&[&["run", "-d"], &tools::PODMAN_RUN[..], &["busybox:1", "sleep", "100000"]].concat());
    }
    std::thread::sleep(REST);
    let conmons = meter::processes(|exe| exe == "conmon");
    let found = meter::pss_kib(conmons.iter().map(|(pid, _)| *pid)) / conmons.len() as f64;
    podman.ok(&["rm", "-f", "-t", "0", "--all"]);
    Some(found)
}

/// Mounts of others, as on a host with many containers of another engine.
struct ForeignMounts<'a>(&'a Path);

impl<'a> ForeignMounts<'a> {
    fn make(dir: &'a Path) -> Self {
        for number in 0..FOREIGN_MOUNTS {
            let at = dir.join(number.to_string());
            std::fs::create_dir_all(&at).expect("make a directory to mount on");
            mount(Some(dir), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .expect("make a foreign mount");
        }
        Self(dir)
    }
}

impl Drop for ForeignMounts<'_> {
    fn drop(&mut self) {
        for number in 0..FOREIGN_MOUNTS {
            let _ = umount2(&self.0.join(number.to_string()), MntFlags::MNT_DETACH);
        }
    }
}
