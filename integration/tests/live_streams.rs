//! What moves between a user and running tasks: attached streams and copied files.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::until;
use nix::pty::{Winsize, openpty};

const STREAMS: &str = r#"
services:
  cat:
    image: busybox:1
    stdin_open: true
    restart: "no"
    command: [sh, -c, 'echo first; while read l; do echo "got $$l"; [ "$$l" = end ] && exit 7; done; sleep 1000']
  quiet:
    image: busybox:1
    command: [sh, -c, 'while echo tick; do sleep 0.2; done']
  shell:
    image: busybox:1
    tty: true
    stdin_open: true
    command: sh
"#;

/// A CLI that runs, and what it has written so far.
struct Running {
    child: Child,
    out: Arc<Mutex<String>>,
}

impl Running {
    /// Collects what comes from `outputs`, each by a thread that ends with it.
    fn collect(child: Child, outputs: Vec<Box<dyn Read + Send>>) -> Self {
        let out = Arc::new(Mutex::new(String::new()));
        for mut output in outputs {
            let out = out.clone();
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(read @ 1..) = output.read(&mut chunk) {
                    out.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
                }
            });
        }
        Self { child, out }
    }

    fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = lab.cli();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the CLI");
        let outputs: Vec<Box<dyn Read + Send>> =
            vec![Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        Self::collect(child, outputs)
    }

    fn said(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    #[track_caller]
    fn until_said(&self, text: &str) {
        until(&format!("{text:?} is shown"), SOON, || match self.said() {
            said if said.contains(text) => Ok(()),
            said => Err(said),
        });
    }

    #[track_caller]
    fn code(&mut self) -> i32 {
        until("the command ends", SOON, || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status.code().unwrap_or(-1)),
            None => Err(self.out.lock().unwrap().clone()),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn streams_of_running_tasks_are_joined_and_left() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    lab.deploy("s", STREAMS);
    let before = lab.pids("s");

    // What runs may still be about to write.
    until("it has spoken", SOON, || match lab.ok(&["logs", "s/cat"]) {
        log if log.contains("first") => Ok(()),
        log => Err(log),
    });
    let mut first = Running::start(&lab, &["attach", "cat"]);
    let mut second = Running::start(&lab, &["attach", "s/cat.1"]);
    let mut input = first.child.stdin.take().unwrap();
    // Nothing tells when the second is attached but that it hears of what the first one writes.
    until("both hear the container", SOON, || {
        input.write_all(b"ping\n").unwrap();
        match (first.said().contains("got ping"), second.said().contains("got ping")) {
            (true, true) => Ok(()),
            heard => Err(format!("{heard:?}")),
        }
    });
    assert!(!first.said().contains("first"), "what was written before is not shown: {}", first.said());
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    let look = Running::start(&lab, &["attach", "--no-stdin", "quiet"]);
    look.until_said("tick");
    let no_input = Running::start(&lab, &["attach", "quiet"]);
    no_input.until_said("takes no input");
    drop((look, no_input));

    terminal(&lab);
    assert_eq!(lab.pids("s"), before, "whoever goes away leaves the containers running");

    input.write_all(b"end\n").unwrap();
    first.until_said("got end");
    assert_eq!(first.code(), 7, "the exit code is the container's");
    // The end is told here some moments before everybody knows of it.
    until("the end is known", SOON, || {
        let ended = lab.carrack(&["attach", "cat"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        if ended.err.contains("no task of s/cat is running") { Ok(()) } else { Err(ended.err) }
    });
    let stack = lab.carrack(&["attach", "s/"]);
    assert!(stack.code == 2 && stack.err.contains("carrack ps s"), "{stack:?}");
    lab.finish();
}

/// A terminal of ours becomes that of the container, until the keys are typed that detach it.
fn terminal(lab: &Lab) {
    let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).expect("a terminal");
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = lab.cli();
    command.args(["attach", "shell"]).stdin(slave()).stdout(slave()).stderr(slave());
    let child = command.spawn().expect("start the CLI");
    drop((command, pty.slave));
    let mut master = File::from(pty.master);
    let mut attached = Running::collect(child, vec![Box::new(master.try_clone().unwrap())]);
    // Typed again until it is heard: before the terminal is raw it is only echoed.
    until("the shell knows the size", SOON, || {
        master.write_all(b"stty size\n").unwrap();
        thread::sleep(std::time::Duration::from_millis(100));
        if attached.said().contains("31 97") { Ok(()) } else { Err(attached.said()) }
    });
    master.write_all(&[0x10, 0x11]).unwrap();
    assert_eq!(attached.code(), 0, "{}", attached.said());
    attached.until_said("runs on");
}

const FILES: &str = "
services:
  web:
    image: busybox:1
    command: sleep 1000
    volumes: ['data:/data', 'data:/frozen:ro']
volumes:
  data: {}
";

#[test]
fn files_go_in_and_out_of_running_tasks_and_nothing_escapes() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    lab.deploy("f", FILES);
    let inside = |script: &str| lab.ok(&["exec", "-T", "web", "sh", "-c", script]);
    let refused = |arguments: &[&str], says: &str| {
        let ran = lab.carrack(arguments);
        assert!(ran.code != 0 && ran.err.contains(says), "{arguments:?} does not say {says:?}: {ran:?}");
    };

    // A tree in, and the same tree back.
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), vec![b'x'; 300_000]).unwrap();
    fs::write(tree.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/file", tree.join("link")).unwrap();
    lab.ok(&["cp", "tree", "web:/app"]);
    assert_eq!(inside("/app/run.sh; wc -c < /app/link; stat -c '%u %a' /app/run.sh"), "ran\n300000\n0 755\n");
    lab.ok(&["cp", "tree", "web:/app"]);
    assert_eq!(inside("ls /app/tree"), "link\nrun.sh\nsub\n", "into a directory that is there");
    lab.ok(&["cp", "tree/.", "web:/data"]);
    assert_eq!(inside("ls /frozen"), "link\nrun.sh\nsub\n", "volumes are those of the task");
    lab.ok(&["cp", "web:/data", "back"]);
    assert_eq!(fs::read(lab.path("back/sub/file")).unwrap(), vec![b'x'; 300_000]);
    assert_eq!(fs::read_link(lab.path("back/link")).unwrap(), Path::new("sub/file"));
    let copied: carrack_api::Copied = lab.json(&["cp", "web:/data/run.sh", "copy.sh"]);
    assert_eq!((copied.entries, copied.bytes), (1, 19));

    // Bad input names its object.
    refused(&["cp", "tree/run.sh", "web:/frozen/run.sh"], "read-only");
    refused(&["cp", "tree", "web:/app/run.sh"], "/app/run.sh");
    refused(&["cp", "tree/run.sh", "web:/no/where"], "/no");
    refused(&["cp", "tree/run.sh", "web:/no/"], "/no/");
    refused(&["cp", "web:/missing", "."], "/missing: no such file");
    refused(&["cp", "web:/dev/null", "."], "a device");
    refused(&["cp", "missing", "web:/"], "missing: no such file");
    refused(&["cp", "tree", "back"], "neither side");
    refused(&["cp", "web:/a", "web:/b"], "between tasks");

    // A cut archive is an error, and no half file is left.
    let out = lab.cli().args(["cp", "web:/app", "-"]).output().unwrap();
    assert!(out.status.success() && out.stdout.len() > 300_000);
    for length in [out.stdout.len() - 1024, 100_000] {
        let mut cli = lab
            .cli()
            .args(["cp", "-", "web:/data"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        cli.stdin.take().unwrap().write_all(&out.stdout[..length]).unwrap();
        let ended = cli.wait_with_output().unwrap();
        assert!(!ended.status.success(), "an archive of {length} bytes is whole");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("cut off"), "{ended:?}");
    }
    assert_eq!(
        inside("find / -xdev -name '.carrack-cp*' | wc -l; ls -A /data | grep -c carrack-cp || true"),
        "0\n0\n"
    );

    escapes(&lab, &inside);
    lab.finish();
}

/// A container's symlinks lead nowhere but within it, also when they change all the time.
fn escapes(lab: &Lab, inside: &dyn Fn(&str) -> String) {
    let secret = lab.write("secret", "of the host");
    let guarded = lab.path("guarded");
    fs::create_dir(&guarded).unwrap();
    let host = guarded.to_str().unwrap();
    inside(&format!("ln -s {secret} /leak; ln -s {host} /way; ln -s / /self"));
    let leak = lab.carrack(&["cp", "-L", "web:/leak", "leaked"]);
    assert!(leak.code != 0 && !lab.path("leaked").exists(), "{leak:?}");
    lab.ok(&["cp", "web:/leak", "link"]);
    assert!(fs::symlink_metadata(lab.path("link")).unwrap().is_symlink(), "the link itself is copied");
    let way = lab.carrack(&["cp", "tree/run.sh", "web:/way/run.sh"]);
    assert!(way.code != 0, "{way:?}");
    lab.ok(&["cp", "tree/run.sh", "web:/self/tmp.sh"]);
    assert_eq!(inside("cat /tmp.sh | wc -c"), "19\n");

    // A set-user-id program of the container does not become one of whoever copies it.
    inside("cp /bin/busybox /suid; chown 1000 /suid; chmod 4755 /suid");
    lab.ok(&["cp", "web:/suid", "."]);
    let found = fs::metadata(lab.path("suid")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755));
    lab.ok(&["cp", "-a", "web:/suid", "kept"]);
    let found = fs::metadata(lab.path("kept")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (1000, 0o4755));

    inside(&format!(
        "(while :; do mkdir -p /race; touch /race/f; rm -rf /race; ln -s {host} /race; rm -f /race; done) >/dev/null 2>&1 &"
    ));
    for round in 0..20 {
        // Whether it succeeds depends on the moment. Each gets a place of its own: a link that was copied out is one to here.
        lab.carrack(&["cp", "tree", "web:/race/in"]);
        lab.carrack(&["cp", "-q", "web:/race", &format!("raced-{round}")]);
    }
    assert_eq!(fs::read_dir(&guarded).unwrap().count(), 0, "nothing came out of the container");
    assert_eq!(fs::read_to_string(lab.path("secret")).unwrap(), "of the host");
}

const UPKEEP: &str = "
services:
  web:
    image: busybox:1
    command: sleep 1000
    volumes: ['data:/data']
    networks: {default: {aliases: [www]}}
    deploy: {replicas: 2, resources: {limits: {memory: 64M}}}
volumes:
  data: {}
";

#[test]
fn names_images_and_volumes_are_looked_after() {
    let lab = Lab::started();
    lab.load_images(&["busybox", "nginx"]);
    lab.deploy("u", UPKEEP);

    // Names, with where they come from.
    let seen = |arguments: &[&str]| lab.json::<Vec<carrack_api::DnsAnswer>>(&[&["dns"], arguments].concat());
    let vip = &lab.json::<Vec<carrack_api::StackStatus>>(&["ls"])[0].services[0].vips;
    let web = seen(&["web", "--from", "web.1"]);
    assert_eq!(&web[0].addresses, vip, "{web:?}");
    assert!(
        matches!(web[0].source, carrack_api::DnsSource::Service { virtual_address: true, .. }),
        "{web:?}"
    );
    until("both tasks pass", SOON, || {
        match seen(&["tasks.web", "--from", "web.2"]).remove(0).addresses.len() {
            2 => Ok(()),
            other => Err(other),
        }
    });
    assert!(matches!(seen(&["www", "--from", "web"])[0].source, carrack_api::DnsSource::Alias { .. }));
    assert_eq!(&seen(&["web.u"])[0].addresses, vip, "the host asks with the stack");
    let unknown = lab.carrack(&["dns", "nothing"]);
    assert!(unknown.code == 1 && unknown.out.contains("NXDOMAIN"), "{unknown:?}");

    // Samples.
    until("there are samples of both tasks", SOON, || {
        match lab.ok(&["stats", "u", "--no-stream", "-o", "json"]).lines().count() {
            2 => Ok(()),
            other => Err(other),
        }
    });
    assert!(lab.ok(&["stats", "web", "--no-stream"]).contains("64 MiB"));

    // Images: saved, read by another tool, removed, loaded again with the same digest.
    let held = |name: &str| {
        let images = lab.json::<Vec<carrack_api::HeldImage>>(&["image", "ls"]);
        images.into_iter().find(|image| image.name == name).map(|image| image.digest)
    };
    let nginx = held("docker.io/library/nginx:1").expect("nginx is held");
    lab.ok(&["image", "tag", "nginx:1", "mine/nginx:2"]);
    assert_eq!(held("docker.io/mine/nginx:2").as_ref(), Some(&nginx));
    lab.ok(&["image", "save", "-o", "saved.tar", "nginx:1", "mine/nginx:2", "busybox:1"]);
    let listed = std::process::Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q"])
        .arg(format!("docker-archive:{}:docker.io/library/nginx:1", lab.path("saved.tar").display()))
        .arg(format!("dir:{}", lab.path("copied").display()))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let details: serde_json::Value =
        serde_json::from_str(&lab.ok(&["image", "inspect", "busybox:1"])).unwrap();
    assert_eq!(details[0]["used_by"], serde_json::json!(["u/web"]));
    let asked = lab.carrack(&["image", "prune", "-a"]);
    assert!(asked.code == 2 && asked.err.contains("give -f"), "{asked:?}");
    lab.ok(&["image", "prune", "-a", "-f"]);
    assert_eq!(held("docker.io/library/nginx:1"), None);
    assert!(held("docker.io/library/busybox:1").is_some(), "what a stack needs stays");
    lab.ok(&["image", "load", "-i", "saved.tar"]);
    assert_eq!(held("docker.io/library/nginx:1"), Some(nginx.clone()));
    assert_eq!(held("docker.io/mine/nginx:2"), Some(nginx));

    // Volumes: only those whose stack is gone.
    let volume: serde_json::Value = serde_json::from_str(&lab.ok(&["volume", "inspect", "u_data"])).unwrap();
    assert_eq!((&volume[0]["keep"], &volume[0]["services"]), (&"used".into(), &serde_json::json!(["u/web"])));
    lab.ok(&["volume", "prune", "-a", "-f"]);
    assert!(lab.ok(&["volume", "ls"]).contains("u_data"), "a volume in use stays");
    lab.ok(&["rm", "u"]);
    until("the volume of a stack that is gone can go", SOON, || {
        lab.ok(&["volume", "prune", "-f"]);
        let left = lab.ok(&["volume", "ls"]);
        if left.contains("u_data") { Err(left) } else { Ok(()) }
    });
    lab.finish();
}
