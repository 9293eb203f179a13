//! A real registry (Debian's docker-registry) on a port of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; a machine that is slow by nature says by what factor.
pub(crate) static DEADLINE: LazyLock<Duration> = LazyLock::new(|| {
    let slow = std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    Duration::from_secs(60) * slow
});
/// Ports tried: another process may take a free one before the registry does.
const PORTS_TRIED: u32 = 20;

pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    _dir: Arc<tempfile::TempDir>,
}

impl Registry {
    pub(crate) fn plain() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        Self::start(dir, &data, "", "")
    }

    /// Serves the images in `data`; `http` and `auth` are YAML of those sections.
    pub(crate) fn over(data: &Path, http: &str, auth: &str) -> Self {
        Self::start(tempfile::tempdir().unwrap(), data, http, auth)
    }

    fn start(dir: tempfile::TempDir, data: &Path, http: &str, auth: &str) -> Self {
        let dir = Arc::new(dir);
        for _ in 0..PORTS_TRIED {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: '127.0.0.1:{port}'{http}}}\n{auth}",
                data.display()
            );
            let path = dir.path().join("config.yml");
            fs::write(&path, text).unwrap();
            let child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut registry = Self { child, port, _dir: Arc::clone(&dir) };
            if registry.listens() {
                return registry;
            }
        }
        panic!("the registry does not start");
    }

    /// Waits until the registry itself listens; false when it ended, since its port was taken.
    fn listens(&mut self) -> bool {
        let started = Instant::now();
        let inode = |pid: u32| -> Vec<String> {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
            entries
                .flatten()
                .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
                .collect()
        };
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let held = inode(self.child.id());
            let listening = fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.len() > 9
                    && words[1] == format!("0100007F:{:04X}", self.port)
                    && words[3] == "0A"
                    && held.contains(&format!("socket:[{}]", words[9]))
            });
            if listening {
                return true;
            }
            assert!(started.elapsed() < *DEADLINE, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CA, and a certificate of it for 127.0.0.1, in a directory of their own.
pub(crate) struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = "set -e; cd \"$1\"\n\
            ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n\
            openssl req -x509 $ec -days 2 -subj /CN=ca -keyout ca.key -out ca.pem\n\
            openssl req $ec -subj /CN=registry -keyout key.pem -out req.pem\n\
            printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext\n\
            openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem\n\
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token.key -out token.pem\n\
            openssl x509 -in token.pem -outform der -out token.der\n";
        let output = Command::new("sh").args(["-c", script, "sh"]).arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The part of a registry's `http` section that turns TLS on.
    pub(crate) fn section(&self) -> String {
        format!(
            ", tls: {{certificate: {}, key: {}}}",
            self.path("cert.pem").display(),
            self.path("key.pem").display()
        )
    }
}
