//! A node with places of its own, a busybox image, and clients; when it is dropped everything of it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use carrack_api::client::frames::{FrameReader, write_frame};
use carrack_api::stream::Frame;
use carrack_api::*;
use carrack_node::{Node, NodeConfig, Shutdown};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How long anything may take on a loaded machine.
pub(crate) static PATIENCE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(60) * slow());
/// How long a client waits for one answer.
static ANSWER: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(5) * slow());
/// The image of all tests.
pub(crate) const IMAGE: &str = "carrack.test/busybox:1";
/// Port that web tasks listen on.
pub(crate) const PORT: u16 = 80;
/// Port of the host that leads to them.
pub(crate) const PUBLISHED: u16 = 18_080;

/// By what factor this machine is slower than others: an emulated one says so.
fn slow() -> u32 {
    std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Moves this process into a network namespace of its own. To be called while it has one thread.
pub(crate) fn own_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

/// Runs a test with a fresh rig, and checks that nothing of it is left.
pub(crate) fn run<F: Future<Output = Rig>>(test: impl FnOnce(Rig) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let before = inventory();
        let rig = test(Rig::new()).await;
        rig.finish().await;
        let deadline = Instant::now() + *PATIENCE;
        loop {
            let now = inventory();
            if now == before {
                break;
            }
            assert!(Instant::now() < deadline, "something is left:\n{now}\nbefore:\n{before}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Links of ours and tables, as text.
fn inventory() -> String {
    let shell = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    format!("{}{}{}", shell("ip -br link | grep -o '^[^ @]*'"), shell("ip route"), shell("nft list tables"))
}

pub(crate) struct Rig {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) assignments: watch::Sender<Option<Arc<Assignment>>>,
    reports: Arc<Mutex<Option<NodeReport>>>,
    daemon: Option<Daemon>,
    generation: u64,
}

struct Daemon {
    node: Node,
    running: JoinHandle<()>,
    stop: oneshot::Sender<Shutdown>,
}

impl Rig {
    fn new() -> Self {
        Self {
            directory: tempfile::Builder::new().prefix("carrack-node-").tempdir().unwrap(),
            assignments: watch::channel(None).0,
            reports: Arc::default(),
            daemon: None,
            generation: 0,
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Starts the daemon; the ledger's writer of an aborted one may hold the directory a moment longer.
    pub(crate) async fn start(&mut self) {
        *self.reports.lock().unwrap() = None;
        let config = NodeConfig {
            state_dir: self.state_dir(),
            runtime_dir: self.runtime_dir(),
            exe: std::env::current_exe().unwrap(),
            hostname: Some("live".to_owned()),
            labels: BTreeMap::new(),
            cluster: Some(ClusterId::new("cccccccccccc").unwrap()),
            upstreams: Vec::new(),
            registries: Default::default(),
        };
        let deadline = Instant::now() + *PATIENCE;
        let node = loop {
            let config = config.clone();
            match tokio::task::spawn_blocking(|| Node::open(config)).await.unwrap() {
                Ok(node) => break node,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (stop, stopped) = oneshot::channel();
        let (runner, assignments, reports) =
            (node.clone(), self.assignments.subscribe(), self.reports.clone());
        let running = tokio::spawn(async move {
            let keep = move |report| *reports.lock().unwrap() = Some(report);
            let shutdown = async { stopped.await.unwrap_or(Shutdown::KeepContainers) };
            runner.run(assignments, keep, shutdown).await.unwrap();
        });
        self.daemon = Some(Daemon { node, running, stop });
    }

    /// Starts the daemon with the image held and these tasks passing.
    pub(crate) async fn start_with(&mut self, tasks: BTreeMap<TaskId, AssignedTask>) {
        self.start().await;
        self.load_image().await;
        self.assign(tasks);
        self.all_passing().await;
    }

    /// Processes that were started with a path of this rig: supervisors and the data plane.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let place = self.directory.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if pid != std::process::id() && String::from_utf8_lossy(&command).contains(&place) {
                found.push(pid);
            }
        }
        found
    }

    pub(crate) fn node(&self) -> &Node {
        &self.daemon.as_ref().unwrap().node
    }

    /// Drops the daemon where it is, as kill -9 would.
    pub(crate) async fn drop_daemon(&mut self) {
        let Daemon { node, running, stop } = self.daemon.take().unwrap();
        running.abort();
        assert!(running.await.is_err());
        drop((node, stop));
    }

    pub(crate) async fn stop(&mut self, how: Shutdown) {
        let daemon = self.daemon.take().unwrap();
        daemon.stop.send(how).unwrap();
        daemon.running.await.unwrap();
    }

    async fn finish(mut self) {
        if self.daemon.is_none() {
            self.start().await;
        }
        self.stop(Shutdown::StopContainers).await;
    }

    pub(crate) fn assign(&mut self, tasks: BTreeMap<TaskId, AssignedTask>) {
        self.assign_with(tasks, |_| {});
    }

    pub(crate) fn assign_with(
        &mut self,
        tasks: BTreeMap<TaskId, AssignedTask>,
        change: impl FnOnce(&mut Assignment),
    ) {
        self.generation += 1;
        let mut new = assignment(self.node().info().id, self.generation, tasks);
        change(&mut new);
        self.assignments.send_replace(Some(Arc::new(new)));
    }

    pub(crate) fn last(&self) -> Option<NodeReport> {
        self.reports.lock().unwrap().clone()
    }

    pub(crate) fn task(&self, id: u64) -> Option<TaskReport> {
        self.last()?.tasks.into_iter().find(|task| task.task == TaskId(id))
    }

    pub(crate) async fn until<T>(&self, what: &str, found: impl Fn(&NodeReport) -> Option<T>) -> T {
        let deadline = Instant::now() + *PATIENCE;
        loop {
            let last = self.last();
            if let Some(value) = last.as_ref().and_then(&found) {
                return value;
            }
            assert!(Instant::now() < deadline, "{what}: {last:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn all_passing(&self) {
        let wanted = self.assignments.borrow().as_ref().map_or(0, |a| a.tasks.len());
        self.until("all tasks pass", |report| {
            let passing = report.tasks.iter().filter(|task| task.health == Health::Passing).count();
            (passing == wanted).then_some(())
        })
        .await;
        // A report tells of facts; the kernel follows within milliseconds.
        eventually("all tasks answer", || {
            let names: BTreeSet<String> = (0..60).filter_map(|_| get(web_vip())).collect();
            (names.len() == wanted || wanted == 0).then_some(())
        })
        .await;
    }

    pub(crate) fn pids(&self) -> BTreeMap<TaskId, Option<u32>> {
        self.last().unwrap().tasks.iter().map(|task| (task.task, task.pid)).collect()
    }

    /// Asks the node and returns all frames of the answer.
    pub(crate) async fn ask(&self, request: NodeRequest, input: Vec<Frame>) -> Vec<Frame> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let node = self.node().clone();
        let serving = tokio::spawn(async move { node.serve(request, theirs).await });
        let (reader, mut writer) = tokio::io::split(ours);
        let writing = tokio::spawn(async move {
            for frame in input {
                write_frame(&mut writer, &frame).await.unwrap();
            }
            writer
        });
        let mut reader = FrameReader::new(reader);
        let mut frames = Vec::new();
        while let Some(frame) = tokio::time::timeout(*PATIENCE, reader.next()).await.unwrap().unwrap() {
            frames.push(frame);
        }
        drop(writing.await.unwrap());
        serving.await.unwrap();
        frames
    }

    pub(crate) async fn load_image(&self) {
        let archive = image_archive();
        let mut input: Vec<Frame> =
            archive.chunks(64 << 10).map(|piece| Frame::Data(piece.to_vec())).collect();
        input.push(Frame::Data(Vec::new()));
        let frames = self.ask(NodeRequest::ImageLoad, input).await;
        let Some(Frame::Done(done)) = frames.last() else { panic!("{frames:?}") };
        let loaded: LoadedImages = serde_json::from_slice(done).unwrap();
        assert_eq!(loaded.images.len(), 1, "{loaded:?}");
        assert_eq!(loaded.images[0].name, IMAGE);
    }
}

impl Drop for Rig {
    /// After a failed test nothing may go on either: its processes are killed, its cgroups removed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.running.abort();
        }
        let identity =
            std::fs::read_to_string(self.state_dir().join("node/identity.json")).unwrap_or_default();
        let Some(node) = identity.split("\"node\":\"").nth(1).and_then(|rest| rest.get(..12)) else { return };
        let ours = format!("carrack-{node}");
        let deadline = Instant::now() + *ANSWER;
        loop {
            let pids: Vec<u32> = self.processes().into_iter().chain(in_cgroups(&ours)).collect();
            if pids.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in pids {
                // Some die with the one before.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let remove = format!("find /sys/fs/cgroup -depth -type d -path '*{ours}*' -exec rmdir {{}} +");
        drop(Command::new("sh").args(["-c", &remove]).stderr(std::process::Stdio::null()).status());
    }
}

/// Processes in cgroups below one of this name.
fn in_cgroups(name: &str) -> Vec<u32> {
    let list = format!("find /sys/fs/cgroup -path '*{name}*' -name cgroup.procs -exec cat {{}} +");
    let output = Command::new("sh").args(["-c", &list]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits for a value.
pub(crate) async fn eventually<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + *PATIENCE;
    loop {
        if let Some(value) = tokio::task::block_in_place(&found) {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a web server says, over a connection of its own.
pub(crate) fn get(address: SocketAddr) -> Option<String> {
    try_get(address).ok()
}

/// What a web server says, or the step that failed and after how long.
pub(crate) fn try_get(address: SocketAddr) -> Result<String, String> {
    let began = Instant::now();
    let step = |what: &str, error: std::io::Error| format!("{what} after {:?}: {error}", began.elapsed());
    let mut stream = TcpStream::connect_timeout(&address, *ANSWER).map_err(|error| step("connect", error))?;
    stream.set_read_timeout(Some(*ANSWER)).map_err(|error| step("set a timeout", error))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|error| step("send", error))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| step("receive", error))?;
    match text.split_once("\r\n\r\n") {
        Some((_, body)) if !body.is_empty() => Ok(body.trim().to_owned()),
        _ => Err(format!("after {:?} the answer was only {text:?}", began.elapsed())),
    }
}

pub(crate) fn web_vip() -> SocketAddr {
    (Ipv4Addr::new(10, 252, 0, 1), PORT).into()
}

pub(crate) fn key(service: &str) -> ServiceKey {
    ServiceKey::new(StackName::new("live").unwrap(), ServiceName::new(service).unwrap())
}

/// A task of the service `web` that serves its host name.
pub(crate) fn web(slot: u32) -> AssignedTask {
    let script =
        "trap 'exit 0' TERM; hostname > /tmp/index.html; echo serving; httpd -f -p 80 -h /tmp & wait";
    shell(slot, script)
}

/// A task of the service `web` that runs a shell script.
pub(crate) fn shell(slot: u32, script: &str) -> AssignedTask {
    let container = ContainerSpec {
        image: IMAGE.to_owned(),
        command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        stop_grace: Some(Duration::from_secs(2)),
        ..ContainerSpec::default()
    };
    AssignedTask {
        service: key("web"),
        slot,
        revision: 1,
        spec: TaskSpec { container, ..TaskSpec::default() },
        networks: BTreeSet::from([network()]),
        addresses: vec![address(slot)],
        desired: Desired::Run,
        crashes: 0,
    }
}

pub(crate) fn webs(count: u32) -> BTreeMap<TaskId, AssignedTask> {
    (1..=count).map(|slot| (TaskId(slot.into()), web(slot))).collect()
}

fn network() -> NetworkName {
    NetworkName::new("live_default").unwrap()
}

pub(crate) fn address(slot: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 192, 0, 10)) + slot).into()
}

fn assignment(node: NodeId, generation: u64, tasks: BTreeMap<TaskId, AssignedTask>) -> Assignment {
    let table = ServiceTable {
        vips: vec![web_vip().ip()],
        networks: BTreeMap::from([(network(), BTreeSet::from(["www".to_owned()]))]),
        ports: vec![PublishedPort {
            target: PORT,
            published: Some(PUBLISHED),
            range: None,
            host_ip: None,
            protocol: Protocol::Tcp,
            mode: PortMode::Ingress,
        }],
        targets: vec![ExposedPort { port: PORT, protocol: Protocol::Tcp }],
        endpoints: Vec::new(),
    };
    Assignment {
        version: SESSION_VERSION,
        cluster: ClusterId::new("cccccccccccc").unwrap(),
        epoch: 1,
        generation,
        node,
        addresses: AddressPlan {
            cluster: "10.192.0.0/10".to_owned(),
            vips: "10.252.0.0/14".to_owned(),
            blocks: vec!["10.192.0.0/24".to_owned()],
        },
        tasks,
        retained: BTreeSet::new(),
        services: BTreeMap::from([(key("web"), table)]),
        networks: BTreeMap::from([(network(), NetworkTable { internal: false })]),
        credentials: BTreeMap::new(),
        contents: BTreeMap::from([(WORD.to_owned(), Content::new(b"started\n".to_vec()))]),
        images_needed: BTreeSet::new(),
    }
}

/// A `docker save` archive of one image: busybox with the links that scripts need.
fn image_archive() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["bin/", "etc/", "tmp/"] {
        append(&mut layer, directory, tar::EntryType::Directory, 0o777, b"");
    }
    append(&mut layer, "etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0:root:/:/bin/sh\n");
    append(&mut layer, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\n");
    append(&mut layer, "etc/data", tar::EntryType::Regular, 0o644, b"not executable\n");
    let busybox = std::fs::read(Path::new("/usr/bin/busybox")).expect("these tests need busybox (static)");
    append(&mut layer, "bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    for name in
        ["sh", "sleep", "cat", "hostname", "httpd", "nslookup", "wget", "true", "false", "stty", "id", "ls"]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let diff_id = sha256(&layer);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "config.json", tar::EntryType::Regular, 0o644, config.as_bytes());
    append(&mut archive, "layer.tar", tar::EntryType::Regular, 0o644, &layer);
    append(&mut archive, "manifest.json", tar::EntryType::Regular, 0o644, manifest.as_bytes());
    archive.into_inner().unwrap()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, path, content).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    use std::process::Stdio;
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The digest of a secret that every assignment has.
const WORD: &str = "hmac-sha256:word";

/// That secret as a file.
pub(crate) fn word() -> ContentFile {
    ContentFile {
        kind: ContentKind::Secret,
        name: "word".parse().unwrap(),
        target: "/run/secrets/word".into(),
        uid: 0,
        gid: 0,
        mode: 0o400,
        digest: Some(WORD.to_owned()),
    }
}
