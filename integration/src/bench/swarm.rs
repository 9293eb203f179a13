//! Docker Swarm of one node as the peer: containerd and dockerd of Debian in a host of their own, from `peers.md`'s recipe.
//!
//! What works on kernels without IPVS is compared: overlay networks with `--endpoint-mode dnsrr`, and the host's network. The
//! default, a virtual address per service, accepts the service there and drops its traffic.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::ours::{LOOK_EVERY, Net};
use super::{Setting, http, meter, tools};
use crate::lab::Lab;

/// As shown.
pub(super) const NAME: &str = "Swarm 20.10";
const HOST: &str = "swarm";
const ADDRESS: &str = "192.0.2.1";
const ROUTER: &str = "192.0.2.2";
/// Both daemons, with every shim, runc and iptables they start.
const DAEMONS: &str = "swarm-daemons";
/// What `--cgroup-parent` is.
const CONTAINERS: &str = "swarm-containers";
const OVERLAY: &str = "bench";
/// Time that dockerd gets to end in order.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Its processes by program.
const PROGRAMS: [&str; 6] =
    ["dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "runc", "containerd-shim"];

/// A manager that is a worker too.
#[derive(Debug)]
pub(super) struct Swarm {
    daemons: Vec<Child>,
    work: PathBuf,
}

impl Swarm {
    /// A fresh one that holds the image; `None` when Docker is not installed, which was said before.
    pub(super) fn start(setting: &Setting) -> Option<Self> {
        if !["docker", "dockerd", "containerd"].into_iter().all(tools::is_there) {
            return None;
        }
        wire();
        let work =
            tempfile::Builder::new().prefix("swarm-").tempdir_in(&setting.work).expect("a directory").keep();
        let mut swarm = Self { daemons: Vec::new(), work };
        swarm.start_daemons();
        let image = Lab::images().join("busybox.tar");
        swarm.docker(&["load", "-q", "-i", image.to_str().expect("a path in UTF-8")]);
        swarm.docker(&["swarm", "init", "--advertise-addr", ADDRESS]);
        swarm.docker(&["network", "create", "-d", "overlay", OVERLAY]);
        Some(swarm)
    }

    fn start_daemons(&mut self) {
        let path = |name: &str| self.work.join(name).to_str().expect("a path in UTF-8").to_owned();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"/run/swarm-containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"/run/swarm-containerd.sock\"\n",
            path("containerd")
        );
        std::fs::write(path("containerd.toml"), config).expect("write containerd's configuration");
        let containerd = self.daemon("containerd", &["-c", &path("containerd.toml")]);
        self.daemons.push(containerd);
        super::wait("containerd listens", LOOK_EVERY, || {
            Path::new("/run/swarm-containerd.sock").exists().then_some(()).ok_or("no socket")
        });
        let url = format!("unix://{}", socket().display());
        let dockerd = self.daemon(
            "dockerd",
            &[
                "--containerd=/run/swarm-containerd.sock",
                "-H",
                &url,
                "--data-root",
                &path("docker"),
                "--exec-root=/run/swarm-exec",
                "--pidfile=/run/swarm.pid",
                "--storage-driver=overlay2",
                "--exec-opt=native.cgroupdriver=cgroupfs",
                &format!("--cgroup-parent=/{CONTAINERS}"),
            ],
        );
        self.daemons.push(dockerd);
        super::wait("dockerd answers", LOOK_EVERY, || http::get::<Value>(&socket(), "/info").map(drop));
    }

    fn daemon(&self, program: &str, arguments: &[&str]) -> Child {
        let log = File::create(self.work.join(format!("{program}.log"))).expect("make a log");
        let script = "echo $$ >\"$0\" && exec nsenter --net=/run/netns/swarm \"$@\"";
        Command::new("sh")
            .args(["-c", script])
            .arg(meter::group(DAEMONS))
            .arg(tools::program(program))
            .args(arguments)
            // The image is here; a look at a registry that is not there costs seconds.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("start a daemon of the peer")
    }

    /// Runs `docker`, which must succeed; gives its standard output.
    pub(super) fn docker(&self, arguments: &[&str]) -> String {
        let output = docker().args(arguments).stdin(Stdio::null()).output().expect("run docker");
        assert!(
            output.status.success(),
            "docker {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// CPU time of both daemons, all they start, and the containers up to their program, milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        meter::cpu_ms(DAEMONS) + meter::cpu_ms(CONTAINERS)
    }

    /// Creates the service `name` and does not wait.
    pub(super) fn create(&self, name: &str, replicas: u32, net: Net, more: &[&str]) {
        let replicas = replicas.to_string();
        let network = if net == Net::Host { "host" } else { OVERLAY };
        let begin =
            ["service", "create", "-d", "--no-resolve-image", "--name", name, "--replicas", &replicas];
        let how = ["--network", network, "--endpoint-mode", "dnsrr", "--stop-signal", "SIGKILL"];
        self.docker(&[&begin[..], &how[..], more, &["busybox:1", "sleep", "100000"]].concat());
    }

    /// Waits until so many replicas run.
    pub(super) fn wait_running(&self, name: &str, replicas: u32) {
        let path = format!("/services?status=true&filters={{%22name%22:[%22{name}%22]}}");
        super::wait("Swarm's replicas run", LOOK_EVERY, || {
            let services: Value = http::get(&socket(), &path).unwrap_or_default();
            let running = services[0]["ServiceStatus"]["RunningTasks"].as_u64().unwrap_or(0);
            (running == u64::from(replicas)).then_some(()).ok_or(running)
        });
    }

    /// The running task of a service of one replica: its container and the PID of that.
    pub(super) fn running_task(&self, name: &str) -> Option<(String, i32)> {
        let path = format!("/tasks?filters={{%22service%22:[%22{name}%22]}}");
        let tasks: Vec<Value> = http::get(&socket(), &path).unwrap_or_default();
        let status = tasks.iter().map(|task| &task["Status"]).find(|status| status["State"] == "running")?;
        let container = status["ContainerStatus"]["ContainerID"].as_str()?.to_owned();
        let pid = status["ContainerStatus"]["PID"].as_i64()?;
        Some((container, i32::try_from(pid).ok()?))
    }

    /// Removes a service and waits until its containers are gone.
    pub(super) fn remove(&self, name: &str) {
        self.docker(&["service", "rm", name]);
        super::wait("Swarm's containers are gone", LOOK_EVERY, || {
            let containers: Vec<Value> =
                http::get(&socket(), "/containers/json?all=true").unwrap_or_default();
            if containers.is_empty() { Ok(()) } else { Err(containers.len()) }
        });
    }

    /// Its processes of these programs; of all when none is named.
    pub(super) fn pids(programs: &[&str]) -> Vec<u32> {
        let programs = if programs.is_empty() { &PROGRAMS[..] } else { programs };
        meter::processes(|exe| programs.contains(&exe)).into_iter().map(|(pid, _)| pid).collect()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // Containers first, in no order: nobody waits for their end.
        for daemon in self.daemons.iter().rev() {
            let _ = kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM);
        }
        let end = std::time::Instant::now() + STOP_MAX;
        for mut daemon in self.daemons.drain(..).rev() {
            while daemon.try_wait().ok().flatten().is_none() && std::time::Instant::now() < end {
                std::thread::sleep(LOOK_EVERY);
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // This is a pid namespace of the bench's own: whatever is called so is of this daemon.
        for pid in Self::pids(&[]) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        meter::end_group(CONTAINERS);
        for host in [HOST.to_owned(), format!("{HOST}-out")] {
            let _ = Command::new("ip").args(["netns", "del", &host]).status();
        }
        // Its mounts, the innermost first, then its files.
        let script = "awk -v w=\"$0\" 'index($5, w) == 1 || $5 ~ \"^/run/(swarm|docker)\" { print $5 }' /proc/self/mountinfo \
                      | sort -r | xargs -r umount -l; rm -rf \"$0\"/* /run/swarm* /run/docker";
        let _ = Command::new("sh").args(["-c", script]).arg(&self.work).stderr(Stdio::null()).status();
    }
}

/// The socket of its API.
fn socket() -> PathBuf {
    "/run/swarm-docker.sock".into()
}

/// The CLI, pointed at our dockerd.
pub(super) fn docker() -> Command {
    let mut command = Command::new(tools::program("docker"));
    command.env("DOCKER_HOST", format!("unix://{}", socket().display()));
    command
}

/// A network namespace with an address and a default route, as a host has.
fn wire() {
    let out = format!("{HOST}-out");
    for line in [
        format!("netns add {HOST}"),
        format!("netns add {out}"),
        format!("-n {HOST} link set lo up"),
        format!("-n {HOST} link add eth0 type veth peer name eth0 netns {out}"),
        format!("-n {HOST} addr add {ADDRESS}/24 dev eth0"),
        format!("-n {out} addr add {ROUTER}/24 dev eth0"),
        format!("-n {HOST} link set eth0 up"),
        format!("-n {out} link set eth0 up"),
        format!("-n {HOST} route add default via {ROUTER}"),
    ] {
        let status = Command::new("ip").args(line.split(' ')).status().expect("run ip");
        assert!(status.success(), "ip {line}");
    }
}
