//! `carrack build` with a builder that is a script: what it is told, what is refused, and that Ctrl-C ends it.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure in them is a failure of the test")]

#[expect(unreachable_pub, dead_code, reason = "a helper of tests; a failure in it is a failure of the test")]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use carrack_api::stream::Frame;
use carrack_api::{Bytes, HeldImage, Info, LoadedImages, Timestamp};
use support::{Server, frames, json};

/// Time for what must come soon, on any machine.
const SOON: Duration = Duration::from_secs(60);

const FILE: &str = "\
name: shop
services:
  web:
    build: {context: app, args: {A: b}, secrets: [key]}
  db: {image: 'db:1'}
secrets: {key: {environment: CANARY}}
";

/// Answers like podman; writes down how it was called.
const BUILDER: &str = "\
#!/bin/sh
here=$(dirname \"$0\")
echo \"$*\" >>\"$here/calls\"
case \"$*\" in
info*) echo 4.3.1 ;;
*--help) echo '--tag --file --build-arg --secret' ;;
build*) echo \"secret=$CANARY\" >\"$here/env\"; echo building; [ ! -e \"$here/hang\" ] || { touch \"$here/hangs\"; exec sleep 1000; } ;;
save*) echo ARCHIVE ;;
esac
";

fn builder(server: &Server) -> PathBuf {
    std::fs::create_dir_all(server.directory().join("tools")).unwrap();
    let path = server.write("tools/podman", BUILDER);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn server(file: &str) -> Server {
    let server = Server::start();
    server.write("compose.yaml", file);
    std::fs::create_dir_all(server.directory().join("app")).unwrap();
    server.write("app/Dockerfile", "FROM scratch\n");
    let info = Info {
        version: "0.1.0".into(),
        cluster: "0123456789ab".parse().unwrap(),
        epoch: 1,
        pid: 1,
        started_at: Timestamp(0),
        state_dir: "/x".into(),
        cluster_cidr: "10.192.0.0/10".into(),
        nodes: Vec::new(),
    };
    server.on("GET /v1/info", json(&info));
    let image = HeldImage {
        name: "docker.io/library/shop-web:latest".into(),
        digest: format!("sha256:{}", "ab".repeat(32)),
        size: Bytes(5),
        created_at: Timestamp(0),
    };
    let loaded = LoadedImages { images: vec![image] };
    server.on("POST /v1/images/load", frames(&[Frame::done(&loaded).unwrap()]));
    server
}

fn carrack(server: &Server, builder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carrack"));
    command.args(arguments).current_dir(server.directory()).env("CARRACK_HOST", server.directory().join("s"));
    command.env("CARRACK_BUILDER", builder).env("CANARY", "canary-5b").env("HOME", server.directory());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(server: &Server, builder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = carrack(server, builder, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn the_builder_is_told_what_the_file_says_and_its_image_is_sent() {
    let server = server(FILE);
    let builder = builder(&server);
    let (code, out, err) = run(&server, &builder, &["build"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(out, "web is built: docker.io/library/shop-web:latest abababababab (5 B)\n");
    assert!(err.contains("building web with podman 4.3.1\nbuilding\n"), "{err}");
    let calls = std::fs::read_to_string(server.directory().join("tools/calls")).unwrap();
    let app = server.directory().join("app");
    let build = format!(
        "build --tag docker.io/library/shop-web:latest --build-arg A=b --pull=false --secret id=key,src=CANARY,type=env {}",
        app.display()
    );
    assert!(calls.lines().any(|call| call == build), "{calls}");
    assert!(
        calls.ends_with("save --quiet --format docker-archive docker.io/library/shop-web:latest\n"),
        "{calls}"
    );
    assert!(!calls.contains("canary"), "no secret in an argument: {calls}");
    assert_eq!(std::fs::read_to_string(server.directory().join("tools/env")).unwrap(), "secret=canary-5b\n");
    assert!(server.requests().iter().any(|r| r.starts_with("POST /v1/images/load") && r.contains("ARCHIVE")));
}

#[test]
fn what_the_builder_lacks_and_what_is_not_built_are_told_with_their_place() {
    let server = server(
        "name: shop\nservices:\n  web:\n    build:\n      context: app\n      cache_to: [reg/x]\n      ssh: [default]\n  db: {image: x}\n",
    );
    let builder = builder(&server);
    let (code, _, err) = run(&server, &builder, &["build"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("podman 4.3.1 cannot build what the file asks for"), "{err}");
    for (place, key, option) in [("6:7", "cache_to", "--cache-to"), ("7:7", "ssh", "--ssh")] {
        let line = format!("compose.yaml:{place}: services.web.build.{key}: podman 4.3.1 has no {option}");
        assert!(err.contains(&line), "{line}\n{err}");
    }
    let calls = std::fs::read_to_string(server.directory().join("tools/calls")).unwrap();
    assert!(!calls.contains("build --tag"), "nothing is built: {calls}");
    let (code, _, err) = run(&server, &builder, &["build", "db"]);
    assert!(code == 2 && err.contains("service db has no `build:`"), "{err}");
    let none = carrack(&server, Path::new(""), &["build"]).env("PATH", server.directory()).output().unwrap();
    let err = String::from_utf8(none.stderr).unwrap();
    assert_eq!(none.status.code(), Some(1), "{err}");
    for part in ["no program that builds images", "buildah: it is not installed", "apt-get install buildah"] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

#[test]
fn an_interrupt_ends_the_builder() {
    let server = server(FILE);
    let builder = builder(&server);
    server.write("tools/hang", "");
    let mut child = carrack(&server, &builder, &["build"]).spawn().unwrap();
    let until = Instant::now() + SOON;
    while !server.directory().join("tools/hangs").exists() {
        assert!(Instant::now() < until, "the builder was not started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Its output ends once nobody holds it any more: neither the command nor the builder.
    let mut err = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{err}");
    assert!(err.contains("web is not built"), "{err}");
    assert!(server.requests().iter().all(|r| !r.starts_with("POST")));
}
