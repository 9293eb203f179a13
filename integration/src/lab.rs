//! One host for a test: a network namespace with the real daemon in it, real images, real clients.
//!
//! ```text
//!   outside (netns LAB-out)  ---- veth ----  host (netns LAB): carrack daemon, containers, a registry on loopback
//!   192.0.2.2                                192.0.2.1
//! ```
//! Dropping a [`Lab`] ends everything in it. [`Lab::finish`] does it as a user would and fails when anything is left.
//! Labs of one machine run one at a time, so that the inventory before and after means something.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::inventory::{Inventory, cgroup_roots};
use crate::load::{Load, Target, request};
use crate::wait::until;

/// The host's address towards the outside.
pub const HOST_ADDRESS: &str = "192.0.2.1";
/// The outside's address.
pub const OUTSIDE_ADDRESS: &str = "192.0.2.2";
/// Time a daemon may take until it answers.
const DAEMON_READY: Duration = Duration::from_secs(60);
/// Time for a stack to become what it is to be, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(60);

static ONE_LAB_AT_A_TIME: Mutex<()> = Mutex::new(());
static LABS: AtomicU32 = AtomicU32::new(0);

/// One host.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: tempfile::TempDir,
    runtime_directory: PathBuf,
    daemon: Option<Child>,
    registry: Option<Child>,
    before: Inventory,
    boot_id: u32,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Lab {
    /// A host without a daemon yet.
    pub fn new() -> Self {
        let turn = ONE_LAB_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            nix::unistd::geteuid().is_root(),
            "live tests need root: they make namespaces, cgroups and nftables tables"
        );
        let name = format!("lab{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let before = Inventory::take();
        let lab = Self {
            runtime_directory: PathBuf::from(format!("/run/carrack-{name}")),
            directory: tempfile::Builder::new()
                .prefix("carrack-lab-")
                .tempdir()
                .expect("a temporary directory"),
            name,
            daemon: None,
            registry: None,
            before,
            boot_id: 1,
            environment: Vec::new(),
            arguments: Vec::new(),
            _turn: turn,
        };
        lab.wire();
        lab
    }

    /// A host with a daemon that answers.
    pub fn started() -> Self {
        let mut lab = Self::new();
        lab.start();
        lab
    }

    fn wire(&self) {
        let (host, out) = (&self.name, format!("{}-out", self.name));
        run("ip", &["netns", "add", host]);
        run("ip", &["netns", "add", &out]);
        run("ip", &["-n", host, "link", "set", "lo", "up"]);
        run("ip", &["-n", &out, "link", "set", "lo", "up"]);
        run(
            "ip",
            &["-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &out],
        );
        for (netns, address) in [(host, HOST_ADDRESS), (&out, OUTSIDE_ADDRESS)] {
            run("ip", &["-n", netns, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
            run("ip", &["-n", netns, "link", "set", "eth0", "up"]);
        }
        run("ip", &["-n", host, "route", "add", "default", "via", OUTSIDE_ADDRESS]);
    }

    /// The binary under test.
    pub fn carrack_binary() -> PathBuf {
        let path = std::env::var_os("CARRACK")
            .expect("CARRACK names the carrack binary; run the tests with `make test`");
        PathBuf::from(path)
    }

    /// The directory of image archives.
    pub fn images() -> PathBuf {
        PathBuf::from(
            std::env::var_os("IMAGES")
                .expect("IMAGES names the directory of images; run the tests with `make test`"),
        )
    }

    /// A directory of this lab's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The daemon's state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The daemon's runtime directory.
    pub fn runtime(&self) -> &Path {
        &self.runtime_directory
    }

    /// The host's network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.name))
    }

    /// The network namespace of a client outside.
    pub fn outside(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}-out", self.name))
    }

    /// The socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.runtime_directory.join("carrack.sock")
    }

    /// The command line that starts a daemon, in the host's namespaces, in the foreground.
    pub fn daemon_command(&self) -> Command {
        let boot_id = self.path("boot_id");
        let content = format!("00000000-0000-4000-8000-{:012}\n", self.boot_id);
        // A daemon that runs may read the same file right now: it never sees a half of it.
        if fs::read_to_string(&boot_id).ok().as_ref() != Some(&content) {
            fs::write(&boot_id, &content).expect("write the boot id");
        }
        let script = format!(
            "mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
            boot_id.to_str().expect("a path in UTF-8")
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns().display()));
        command.args(["unshare", "-m", "--propagation", "private", "sh", "-c", &script]);
        command.arg(Self::carrack_binary()).arg("daemon");
        command.arg("--state-dir").arg(self.state()).arg("--runtime-dir").arg(&self.runtime_directory);
        command.arg("--socket").arg(self.socket()).args(["--hostname", "lab"]);
        command.args(&self.arguments);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            // What the one who runs the tests has set is nothing that a lab could reach.
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Variables that daemons started from now on have.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Arguments that daemons started from now on have beside those of every lab.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Starts the daemon and waits until it answers and has heard of its node what runs: before that, it knows of no process.
    pub fn start(&mut self) {
        self.spawn();
        until("the daemon answers", DAEMON_READY, || {
            if let Some(status) = self.daemon_end() {
                panic!("the daemon ended with {status}:\n{}", self.daemon_log());
            }
            let ran = self.carrack(&["version", "-o", "json"]);
            let info: Option<carrack_api::Info> = serde_json::from_str(&ran.out).ok();
            // Zero until the node was heard of since this start.
            match info.is_some_and(|info| info.nodes.iter().any(|node| node.seen_at.0 > 0)) {
                true => Ok(()),
                false => Err(format!("{}{}\n{}", ran.out, ran.err, self.daemon_log())),
            }
        });
    }

    /// How the daemon ended by itself, if it did; then there is none any more.
    pub fn daemon_end(&mut self) -> Option<ExitStatus> {
        let status = self.daemon.as_mut()?.try_wait().ok().flatten()?;
        self.daemon = None;
        Some(status)
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "the lab's daemon runs already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .expect("open the daemon's log");
        let child = self
            .daemon_command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("start the daemon");
        self.daemon = Some(child);
    }

    /// The daemon's own log.
    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The daemon's PID, where there is one.
    pub fn running_daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// The daemon's PID.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon runs").id() as i32
    }

    /// SIGKILL for the daemon, and nothing else.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().expect("kill the daemon");
        child.wait().expect("the daemon's end");
    }

    /// SIGTERM for the daemon; waits for its end.
    pub fn stop_daemon(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("signal the daemon");
        until("the daemon ends after SIGTERM", SOON, || {
            match child.try_wait().expect("the daemon's status") {
                Some(status) if status.success() => Ok(()),
                Some(status) => panic!("the daemon ended with {status}:\n{}", self.daemon_log()),
                None => Err("it runs"),
            }
        });
    }

    /// `daemon --stop --stop-containers`; waits for its end.
    pub fn stop_daemon_and_containers(&mut self) {
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let directories = [text(&self.state()), text(&self.runtime_directory)];
        let stop = ["daemon", "--stop", "--stop-containers", "--state-dir", &directories[0], "--runtime-dir"];
        self.ok(&[&stop[..], &[directories[1].as_str()]].concat());
        let mut child = self.daemon.take().expect("the daemon runs");
        until("the daemon ends", SOON, || match child.try_wait().expect("the daemon's status") {
            Some(_) => Ok(()),
            None => Err("it runs"),
        });
    }

    /// What a power cut leaves: every process of the host is gone, the runtime directory is empty, the boot id is another, the
    /// network namespace is fresh. The disk stays.
    pub fn power_cut(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("kill the daemon");
            daemon.wait().expect("the daemon's end");
        }
        self.kill_everything();
        remove_cgroups(self.cgroup_name());
        run("ip", &["netns", "del", &self.name]);
        run("ip", &["netns", "del", &format!("{}-out", self.name)]);
        fs::remove_dir_all(&self.runtime_directory).expect("empty the runtime directory");
        self.boot_id += 1;
        self.wire();
    }

    /// Runs the CLI.
    pub fn carrack(&self, arguments: &[&str]) -> Ran {
        ran(self.cli().args(arguments).stdin(Stdio::null()).output())
    }

    /// The CLI, to be given arguments, in this lab's directory and with its socket.
    pub fn cli(&self) -> Command {
        let mut command = Command::new(Self::carrack_binary());
        command.env("CARRACK_HOST", self.socket()).env("NO_COLOR", "1").current_dir(self.directory.path());
        // Not the logins of whoever runs the tests.
        command.env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    /// Runs the CLI, which must succeed; gives its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.carrack(arguments);
        assert_eq!(
            ran.code,
            0,
            "carrack {}\n{}{}\ndaemon:\n{}",
            arguments.join(" "),
            ran.out,
            ran.err,
            tail(&self.daemon_log())
        );
        ran.out
    }

    /// Runs the CLI with `-o json`.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let text = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("carrack {}: {e}\n{text}", arguments.join(" ")))
    }

    /// Loads images made by `images/build.sh`.
    pub fn load_images(&self, names: &[&str]) {
        for name in names {
            let archive = Self::images().join(format!("{name}.tar"));
            self.ok(&["image", "load", "-i", archive.to_str().expect("a path in UTF-8")]);
        }
    }

    /// Writes a file into the lab's directory.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("write a file of the lab");
        path.to_str().expect("a path in UTF-8").into()
    }

    /// Deploys this Compose text and waits until it is healthy.
    #[track_caller]
    pub fn deploy(&self, stack: &str, yaml: &str) -> String {
        let file = self.write(&format!("{stack}.yaml"), yaml);
        self.ok(&["deploy", "-p", stack, "-f", &file])
    }

    /// Tasks of a stack that are wanted and run.
    pub fn tasks(&self, stack: &str) -> Vec<carrack_api::TaskStatus> {
        self.json::<Vec<carrack_api::TaskStatus>>(&["ps", stack])
    }

    /// PIDs of the first processes of a stack's containers.
    pub fn pids(&self, stack: &str) -> BTreeSet<u32> {
        self.tasks(stack).iter().filter_map(|task| task.pid).collect()
    }

    /// One request from a network namespace of this lab.
    pub fn get_from(&self, netns: &Path, address: &str, path: &str) -> io::Result<String> {
        let load = Load {
            target: Target::Address(address.parse::<SocketAddr>().map_err(io::Error::other)?),
            path: path.into(),
            clients: 1,
            pause: Duration::ZERO,
            netns: Some(netns.into()),
        };
        // A thread of its own: a thread's network namespace is changed for good.
        std::thread::spawn(move || {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let netns = fs::File::open(load.netns.as_ref().ok_or(io::ErrorKind::NotFound)?)?;
                        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                        stop.store(true, Ordering::Relaxed);
                        request(&load)
                    })
                    .join()
                    .map_err(|_| io::Error::other("the request panicked"))?
            })
        })
        .join()
        .map_err(|_| io::Error::other("the request panicked"))?
    }

    /// One request from the host itself.
    pub fn get(&self, address: &str, path: &str) -> io::Result<String> {
        self.get_from(&self.netns(), address, path)
    }

    /// A command within the host's network namespace.
    pub fn host_command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns().display())).arg(program).args(arguments);
        command
    }

    /// Debian's docker-registry on the host's loopback with these images pushed; gives its `HOST:PORT`.
    pub fn registry(&mut self, images: &[&str]) -> String {
        self.serve_registry(images, "", None)
    }

    /// [`Lab::registry`], which answers only those who know the password; `htpasswd` is `USER:HASH` with bcrypt.
    pub fn private_registry(
        &mut self,
        images: &[&str],
        htpasswd: &str,
        user: &str,
        password: &str,
    ) -> String {
        let file = self.write("htpasswd", &format!("{htpasswd}\n"));
        let auth = format!("auth:\n  htpasswd:\n    realm: private\n    path: {file}\n");
        self.serve_registry(images, &auth, Some(&format!("{user}:{password}")))
    }

    fn serve_registry(&mut self, images: &[&str], auth: &str, login: Option<&str>) -> String {
        const PORT: u16 = 5000;
        let config = self.write(
            "registry.yaml",
            &format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{PORT}\n{auth}",
                self.path("registry").display()
            ),
        );
        let mut command = self.host_command("docker-registry", &["serve", &config]);
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start docker-registry");
        self.registry = Some(child);
        until("the registry answers", DAEMON_READY, || {
            match self.get(&format!("127.0.0.1:{PORT}"), "/v2/") {
                // To ask for a password is an answer.
                Err(error) if login.is_some() && error.to_string().contains(" 401 ") => Ok(()),
                other => other.map(drop),
            }
        });
        for name in images {
            let from = format!("oci:{}:{name}", Self::images().join("oci").display());
            let to = format!("docker://127.0.0.1:{PORT}/{name}:1");
            let mut arguments = vec!["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
            arguments.extend(login.into_iter().flat_map(|login| ["--dest-creds", login]));
            let copied = self
                .host_command("skopeo", &[&arguments[..], &[&from, &to]].concat())
                .status()
                .expect("run skopeo");
            assert!(copied.success(), "skopeo copy {from} {to}");
        }
        format!("127.0.0.1:{PORT}")
    }

    /// Ends as a user would (`carrack uninstall`-like: stacks removed, daemon stopped with its containers) and checks that the
    /// kernel is as before.
    #[track_caller]
    pub fn finish(mut self) {
        if self.daemon.is_some() {
            for stack in self.json::<Vec<carrack_api::StackStatus>>(&["ls"]) {
                self.ok(&["rm", stack.name.as_str()]);
            }
            self.stop_daemon_and_containers();
        }
        until("nothing is left in the host's network", SOON, || {
            let look = ["-c", "nft list tables && ip -o link && ip -o addr show dev lo"];
            let inside = ran(self.host_command("sh", &look).output());
            // Of ours: a table, a link, an address.
            let left = ["carrack", ": ck", "169.254."].iter().any(|ours| inside.out.contains(ours));
            if left || inside.code != 0 { Err(format!("{}{}", inside.out, inside.err)) } else { Ok(()) }
        });
        self.end_registry();
        self.unwire();
        until("nothing is left in the kernel", SOON, || {
            let left = Inventory::take().added_since(&self.before);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    fn end_registry(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            let _ = registry.kill();
            let _ = registry.wait();
        }
    }

    fn unwire(&self) {
        for netns in [self.netns(), self.outside()].iter().filter(|path| path.exists()) {
            let name = netns.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.runtime_directory);
    }

    /// Name of the cgroup that all runs of this lab's daemon share, once it has made its identity.
    pub fn cgroup_name(&self) -> Option<String> {
        let text = fs::read(self.state().join("node/identity.json")).ok()?;
        let identity: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(format!("carrack-{}", identity.get("node")?.as_str()?))
    }

    /// SIGKILL for every process that lives in the host's network namespace or in a cgroup of its daemon.
    fn kill_everything(&self) {
        let inode = fs::metadata(self.netns()).map(|m| m.ino()).ok();
        let parent = self.cgroup_name().map(|name| format!("/{name}/"));
        until("every process of the lab is gone", SOON, || {
            let mut found = Vec::new();
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                    continue;
                };
                let inside = inode.is_some()
                    && fs::metadata(entry.path().join("ns/net")).map(|m| m.ino()).ok() == inode;
                let contained = parent.as_ref().is_some_and(|parent| {
                    fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(parent))
                });
                let zombie = fs::read_to_string(entry.path().join("stat")).is_ok_and(|s| s.contains(") Z "));
                if (inside || contained) && !zombie {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    found.push(pid);
                }
            }
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.end_registry();
        if self.netns().exists() || !cgroups_of(self.cgroup_name()).is_empty() {
            self.kill_everything();
            remove_cgroups(self.cgroup_name());
        }
        self.unwire();
    }
}

/// Where there are cgroups of this name.
fn cgroups_of(parent: Option<String>) -> Vec<PathBuf> {
    let all = parent.iter().flat_map(|parent| cgroup_roots().into_iter().map(move |root| root.join(parent)));
    all.filter(|dir| dir.exists()).collect()
}

/// Removes these cgroups, of which every process was killed, deepest first. One that was killed may be on its way out yet.
fn remove_cgroups(parent: Option<String>) {
    fn remove(dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
            remove(&entry.path());
        }
        let _ = fs::remove_dir(dir);
    }
    let deadline = Instant::now() + SOON;
    loop {
        let left = cgroups_of(parent.clone());
        left.iter().for_each(|dir| remove(dir));
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let ran = ran(Command::new(program).args(arguments).output());
    assert_eq!(ran.code, 0, "{program} {}: {}", arguments.join(" "), ran.err);
}

fn ran(output: io::Result<Output>) -> Ran {
    let output = output.expect("run a program");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
