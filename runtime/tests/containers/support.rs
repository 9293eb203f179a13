//! A host of one's own for each test: directories, cgroups, a root filesystem of busybox, and a check that nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use carrack_api::{ContainerSpec, Exit};
use carrack_runtime::{ImageConfig, LogQuery, Network, RunId, Runtime, RuntimeConfig, StartRequest};

/// How long anything may take before a test gives up.
pub(crate) static DEADLINE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(60) * slow());

/// By what factor this machine is slower than others: an emulated one says so.
fn slow() -> u32 {
    std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

static NEXT: AtomicU32 = AtomicU32::new(1);

static OPEN_FILES: OnceLock<u64> = OnceLock::new();

/// To be called before a runtime is opened.
pub(crate) fn remember_open_files() {
    let _ = OPEN_FILES.set(rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap());
}

/// The soft limit that this process was started with.
pub(crate) fn open_files() -> u64 {
    *OPEN_FILES.get().unwrap()
}

/// A runtime with a place of its own; removes everything when dropped and then looks for leftovers.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) instance: String,
    exe: Option<PathBuf>,
    runtime: Option<Runtime>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with_exe(None)
    }

    /// Whose supervisors run another binary than this one.
    pub(crate) fn with_exe(exe: Option<PathBuf>) -> Self {
        let instance = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let mut host = Self { dir, instance, exe, runtime: None };
        host.reopen();
        host
    }

    pub(crate) fn config(&self) -> RuntimeConfig {
        RuntimeConfig {
            state_dir: self.dir.path().join("state"),
            runtime_dir: self.dir.path().join("run"),
            instance: self.instance.clone(),
            exe: self.exe.clone(),
            unit: None,
        }
    }

    /// As a new daemon.
    pub(crate) fn reopen(&mut self) {
        self.runtime = None;
        self.runtime = Some(Runtime::open(self.config()).unwrap());
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// A root filesystem with all of busybox and the usual files.
    pub(crate) fn busybox(&self) -> PathBuf {
        let root = self.dir.path().join("layer");
        if root.exists() {
            return root;
        }
        for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "data/sub", "home/app"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "sleep", "echo", "env", "pwd", "true", "false", "grep", "head", "mount",
            "ps", "kill", "dd", "touch", "mkdir", "stat", "hostname", "seq", "chroot", "wc", "tr", "stty",
            "nc", "readlink", "yes", "tail", "df", "mknod", "unshare", "date", "usleep", "rm", "test", "sed",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:2000:app\naudio:x:29:\n").unwrap();
        fs::write(root.join("data/file"), "from the image\n").unwrap();
        std::os::unix::fs::chown(root.join("data"), Some(1000), Some(1001)).unwrap();
        fs::write(root.join("etc/not-executable"), "text\n").unwrap();
        root
    }

    /// A request that runs a shell script.
    pub(crate) fn shell(&self, task: &str, script: &str) -> StartRequest {
        self.request(task, &["sh", "-c", script])
    }

    pub(crate) fn request(&self, task: &str, command: &[&str]) -> StartRequest {
        StartRequest {
            id: RunId::new(task, 1),
            spec: ContainerSpec {
                command: Some(command.iter().map(|part| (*part).to_owned()).collect()),
                ..Default::default()
            },
            image: ImageConfig::default(),
            lowerdirs: vec![self.busybox()],
            network: Network::None,
            hostname: "box".into(),
            addresses: vec!["10.1.2.3".parse().unwrap()],
            resolv_conf: Some("nameserver 169.254.1.1\n".into()),
            host_gateway: Some("10.1.2.1".parse().unwrap()),
            env: BTreeMap::new(),
            files: Vec::new(),
            log: Default::default(),
        }
    }

    /// Starts, waits for the end, gives the exit and all output lines.
    pub(crate) fn run(&self, request: &StartRequest) -> (Exit, Vec<String>) {
        self.runtime().start(request).unwrap_or_else(|error| panic!("{error}"));
        let exit = self.wait(&request.id);
        (exit, self.lines(&request.id.task))
    }

    /// Output of a script that must end with 0.
    pub(crate) fn output(&self, request: &StartRequest) -> Vec<String> {
        let (exit, lines) = self.run(request);
        assert_eq!(exit.code, 0, "{} {lines:#?}", exit.describe());
        lines
    }

    pub(crate) fn wait(&self, id: &RunId) -> Exit {
        eventually(&format!("{id} has ended"), || self.runtime().exit(id).unwrap())
    }

    pub(crate) fn lines(&self, task: &str) -> Vec<String> {
        let mut reader = self.runtime().logs(task, LogQuery::default()).unwrap();
        let mut all = Vec::new();
        loop {
            let lines = reader.next_lines(1000).unwrap();
            if lines.is_empty() {
                return all;
            }
            all.extend(lines.into_iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()));
        }
    }

    /// Waits for a line that contains a text.
    pub(crate) fn wait_line(&self, task: &str, text: &str) -> String {
        eventually(&format!("{task} prints {text:?}"), || {
            self.lines(task).into_iter().find(|line| line.contains(text))
        })
    }

    /// All directories of our cgroups on this host.
    pub(crate) fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let own = format!("carrack-{}", self.instance);
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup").join(&own)];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(&own)));
        roots.into_iter().filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        for task in runtime.tasks_on_disk().unwrap() {
            runtime.remove_task(&task, true).unwrap();
        }
        for record in runtime.list().unwrap() {
            runtime.remove_run(&record.id).unwrap();
        }
        drop(runtime);
        let place = self.dir.path().to_str().unwrap().to_owned();
        for dir in self.cgroup_dirs() {
            remove_cgroups(&dir);
        }
        if std::thread::panicking() {
            return;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&place), "mounts are left:\n{mounts}");
        let left = processes_with(&place);
        assert!(left.is_empty(), "processes are left: {left:#?}");
        for dir in ["run/tasks", "state/tasks"] {
            let rest: Vec<_> = fs::read_dir(self.dir.path().join(dir)).unwrap().collect();
            assert!(rest.is_empty(), "{dir} holds {rest:?}");
        }
    }
}

/// Only `supervisors` may be there, and only until its last process has ended.
fn remove_cgroups(dir: &Path) {
    eventually(&format!("{} is empty", dir.display()), || {
        let _ = fs::remove_dir(dir.join("supervisors"));
        let _ = fs::remove_dir(dir);
        (!dir.exists()).then_some(())
    });
}

/// Command lines that name a place.
pub(crate) fn processes_with(place: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().is_ok() && *name != own)
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .filter(|line| line.contains(place))
        .map(|line| line.replace('\0', " "))
        .collect()
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + *DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
