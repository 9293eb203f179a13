//! A container that swaps directories and symlinks of what it shares, while others start on top of it: nothing outside is touched.
//!
//! `CARRACK_RACE_SECONDS` is how long, 5 by default, 60 in `make test-all`. What is asserted does not depend on who wins a race.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carrack_api::{MilliCpus, Mount, MountSource, VolumeName};
use carrack_runtime::{ExecRequest, RunId, StartError, StartRequest};

use crate::probe;
use crate::support::{DEADLINE, Host};

crate::trials!(
    a_racing_container_cannot_lead_a_subpath_out,
    a_racing_container_cannot_lead_a_bind_out,
    a_racing_container_cannot_lead_a_working_directory_out,
    a_racing_container_cannot_lead_a_mount_target_out,
    a_racing_container_cannot_lead_a_command_out,
    an_image_with_tricks_in_its_dev_and_proc_redirects_nothing,
);

/// What stands in every file that nobody may reach.
const SECRET: &str = "canary";

/// Starts after which a case that must start once is given up.
const RUNS_MAX: u32 = 500;

/// How long one of several cases of a test races.
fn duration(cases: usize) -> Duration {
    let seconds = std::env::var("CARRACK_RACE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5)) / u32::try_from(cases).unwrap()
}

/// A directory of the host that must stay as it is.
struct Canary {
    dir: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn new(host: &Host) -> Self {
        let dir = host.dir.path().join("outside");
        for part in ["inner/below", "content"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        for file in ["file", "inner/file", "content/file"] {
            fs::write(dir.join(file), format!("{SECRET}\n")).unwrap();
        }
        let before = snapshot(&dir);
        Self { dir, before }
    }

    fn path(&self) -> String {
        self.dir.display().to_string()
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(snapshot(&self.dir), self.before, "what is outside was touched");
        }
    }
}

/// Names, kinds, owners, times and contents.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        let facts =
            (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec(), found.nlink());
        all.insert(path.clone(), format!("{facts:?} {content}"));
        if found.is_dir() {
            all.extend(snapshot(&path));
        }
    }
    all
}

fn volume(target: &str, subpath: Option<&str>) -> Mount {
    let source = MountSource::Volume {
        name: VolumeName::new("shared").unwrap(),
        nocopy: false,
        subpath: subpath.map(str::to_owned),
    };
    Mount { target: target.into(), source, read_only: false }
}

fn bind(path: String, target: &str) -> Mount {
    let source = MountSource::Bind { path, create: true, propagation: String::new(), alone: false };
    Mount { target: target.into(), source, read_only: false }
}

/// Starts the container that swaps; `pairs` as in `probe`.
fn racer(host: &Host, mount: Mount, pairs: &[String]) {
    let mut request = host.request("racer", &[]);
    request.spec.command = Some(
        [probe::PATH, probe::MODE, "swap"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain(pairs.to_vec())
            .collect(),
    );
    request.spec.mounts = probe::mounts();
    request.spec.mounts.push(mount);
    // The others are to run as well.
    request.spec.limits.cpus = Some(MilliCpus(700));
    host.runtime().start(&request).unwrap();
    host.wait_line("racer", "swapping");
}

/// Starts, reads and removes runs until the time is over and `least` have started: how many started, and why others did not.
fn race(
    host: &Host,
    cases: usize,
    least: u32,
    make: impl Fn(&Host) -> StartRequest,
) -> (u32, Vec<StartError>) {
    let end = Instant::now() + duration(cases);
    let mut request = make(host);
    let (mut started, mut refused) = (0, Vec::new());
    // At least a few, however slow the machine is, and as many as luck needs.
    while Instant::now() < end || request.id.run < 5 || (started < least && request.id.run < RUNS_MAX) {
        match host.runtime().start(&request) {
            Ok(_) => {
                started += 1;
                host.wait(&request.id);
            }
            Err(error) => refused.push(error),
        }
        host.runtime().remove_run(&request.id).unwrap();
        request.id = RunId::new(request.id.task.clone(), request.id.run + 1);
    }
    let seen: Vec<String> =
        host.lines(&request.id.task).into_iter().filter(|line| line.contains(SECRET)).collect();
    assert!(seen.is_empty(), "a container read what is outside: {} times", seen.len());
    (started, refused)
}

/// Reads and writes all that it is given.
const TOUCH: &str = "cat /m/* /m/*/* 2>/dev/null; echo touched 2>/dev/null > /m/owned; echo touched 2>/dev/null > /m/file; true";

fn a_racing_container_cannot_lead_a_subpath_out() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let out = canary.path();
    let up = format!("../../../../../../../../../..{out}");
    racer(&host, volume("/v", None), &[format!("/v/sub>{out}"), format!("/v/up>{up}"), "/v/root>/".into()]);
    for subpath in ["sub", "up/inner", "root"] {
        let (started, _) = race(&host, 3, 1, |host| {
            let mut request = host.shell(&format!("victim-{}", subpath.replace('/', "-")), TOUCH);
            request.spec.mounts = vec![volume("/m", Some(subpath))];
            request
        });
        // The directory is there half of the time.
        assert!(started > 0, "{subpath}");
    }
}

fn a_racing_container_cannot_lead_a_bind_out() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let shared = host.dir.path().join("given-away");
    let out = canary.path();
    racer(
        &host,
        bind(shared.display().to_string(), "/v"),
        &[format!("/v/sub>{out}"), format!("/v/ours>{}", host.dir.path().join("state").display())],
    );
    for source in ["sub/inner", "sub/new/dir", "ours/volumes"] {
        let (_, refused) = race(&host, 3, 0, |host| {
            let mut request = host.shell(&format!("victim-{}", source.replace('/', "-")), TOUCH);
            request.spec.mounts = vec![bind(shared.join(source).display().to_string(), "/m")];
            request
        });
        for error in refused {
            assert!(matches!(error, StartError::Mount { .. }), "final, and names the mount: {error}");
        }
    }
    assert!(!host.dir.path().join("state/volumes/owned").exists());
}

fn a_racing_container_cannot_lead_a_working_directory_out() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let out = canary.path();
    // Descriptors that a process of ours may have open when the directory is entered.
    let mut pairs: Vec<String> = (3..10).map(|fd| format!("/v/fd{fd}>/proc/self/fd/{fd}")).collect();
    pairs.push(format!("/v/sub>{out}"));
    racer(&host, volume("/v", None), &pairs);
    let script = "cat ./* 2>/dev/null; echo touched 2>/dev/null > ./owned; mkdir -p ./made; ls -d ../../../..; \
                  cat ../../../../*/file 2>/dev/null; true";
    for dir in ["/v/sub/new/dir", "/v/fd3", "/v/fd5", "/v/fd7/..", "/v/fd8/new"] {
        let (_, refused) = race(&host, 5, 0, |host| {
            let mut request = host.shell(&format!("victim{}", dir.replace(['/', '.'], "-")), script);
            request.spec.mounts = vec![volume("/v", None)];
            request.spec.working_dir = Some(dir.trim_end_matches("/..").into());
            request
        });
        // What was a directory when it was made and none when it was entered may be one the next time.
        for error in refused {
            let again = matches!(&error, StartError::System { step, .. } if step == "create the container");
            assert!(again || matches!(error, StartError::WorkingDir { .. }), "{error}");
        }
    }
    // And without a race: a symlink that stays.
    let volume_dir = host.dir.path().join("state/volumes/shared");
    for fd in 3..24 {
        symlink(format!("/proc/self/fd/{fd}"), volume_dir.join(format!("stays{fd}"))).unwrap();
        let mut request = host.shell(&format!("stays-{fd}"), "exec 2>/dev/null; pwd; ls; cat file; true");
        request.spec.mounts = vec![volume("/v", None)];
        request.spec.working_dir = Some(format!("/v/stays{fd}"));
        match host.runtime().start(&request) {
            Err(error) => assert!(matches!(error, StartError::WorkingDir { .. }), "{fd}: {error}"),
            Ok(_) => {
                host.wait(&request.id);
                let lines = host.lines(&request.id.task);
                assert!(
                    lines[0].starts_with('/') && !lines.iter().any(|line| line.contains(SECRET)),
                    "{fd}: {lines:?}"
                );
            }
        }
    }
}

fn a_racing_container_cannot_lead_a_mount_target_out() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let out = canary.path();
    racer(&host, volume("/v", None), &[format!("/v/sub>{out}"), "/v/proc>/proc/sys/kernel".into()]);
    for target in ["/v/sub/inner/m", "/v/proc/inner"] {
        race(&host, 2, 0, |host| {
            let script = format!("echo touched > {target}/owned; cat /v/*/* 2>/dev/null; true");
            let mut request = host.shell(&format!("victim{}", target.replace('/', "-")), &script);
            // The inner volume takes what the image has there: also a copy.
            request.image.volumes = vec![target.into()];
            request.spec.mounts = vec![volume("/v", None)];
            request
        });
    }
}

/// The working directory, the user and the program of a command are looked up in a root that changes.
fn a_racing_container_cannot_lead_a_command_out() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let mut pairs: Vec<String> = (3..10).map(|fd| format!("/v/fd{fd}>/proc/self/fd/{fd}")).collect();
    pairs.push(format!("/v/sub>{}", canary.path()));
    racer(&host, volume("/v", None), &pairs);
    let mut request = host.request("victim", &["sleep", "1000"]);
    request.spec.mounts = vec![volume("/v", None)];
    host.runtime().start(&request).unwrap();
    let script = "pwd; cat ./* ../../../../*/file 2>/dev/null; echo touched 2>/dev/null > ./owned; true";
    let end = Instant::now() + duration(1);
    let mut round = 0;
    while Instant::now() < end || round < 8 {
        let dir =
            ["/v/sub", "/v/fd3", "/v/fd4", "/v/fd5", "/v/fd6", "/v/fd7", "/v/fd8", "/v/sub/inner"][round % 8];
        round += 1;
        let order = ExecRequest {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            working_dir: Some(dir.into()),
            ..Default::default()
        };
        // A refusal is as good.
        let Ok(mut session) = host.runtime().exec(&request.id, &order) else { continue };
        let mut text = String::new();
        fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut text).unwrap();
        session.wait_timeout(*DEADLINE).unwrap().unwrap();
        assert!(text.starts_with('/') && !text.contains(SECRET), "{dir}: {text}");
    }
}

/// The runc and youki advisories of November 2025 (CVE-2025-31133, -52565, -52881, -62161, -62596) as far as an image can try them: what
/// libcontainer mounts over or writes to is led elsewhere. With a racing volume there they cannot be tried: nothing of a user is
/// mounted over `/dev` or `/proc`.
fn an_image_with_tricks_in_its_dev_and_proc_redirects_nothing() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let watched =
        ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/core/somaxconn"];
    let before: Vec<String> = watched.iter().map(|path| read(path)).collect();
    let layer = host.busybox();
    fs::create_dir_all(layer.join("dev/pts")).unwrap();
    fs::create_dir_all(layer.join("proc/self/attr")).unwrap();
    fs::create_dir_all(layer.join("proc/sys/net/core")).unwrap();
    let out = canary.dir.join("file");
    for trick in [
        "dev/null",
        "dev/console",
        "dev/pts/0",
        "dev/ptmx",
        "dev/tty",
        "proc/kcore",
        "proc/keys",
        "proc/self/attr/exec",
        "proc/self/oom_score_adj",
        "proc/sys/net/core/somaxconn",
        "proc/sysrq-trigger",
    ] {
        symlink(&out, layer.join(trick)).unwrap();
    }
    symlink("/proc/sys/kernel/core_pattern", layer.join("dev/zero")).unwrap();
    for (task, tty) in [("plain", false), ("terminal", true)] {
        let mut request = host.shell(
            task,
            "head -c9 /proc/kcore 2>/dev/null; cat /proc/sys/net/core/somaxconn; echo x > /dev/null; \
             (echo '|/x' > /proc/sys/kernel/core_pattern) 2>/dev/null || echo refused; stat -c %F /dev/null",
        );
        request.spec.tty = tty;
        request.spec.oom_score_adj = Some(100);
        request.spec.sysctls = BTreeMap::from([("net.core.somaxconn".to_owned(), "77".to_owned())]);
        let lines: Vec<String> =
            host.output(&request).iter().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines, ["77", "refused", "character special file"], "{task}");
    }
    let after: Vec<String> = watched.iter().map(|path| read(path)).collect();
    assert_eq!(after, before);
}
