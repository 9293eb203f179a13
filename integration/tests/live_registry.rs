//! A registry that asks for a password: login, a deploy of a private image, a pull by the node after that without the user, logout;
//! and the password is in no file and in no answer of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use carrack_api::{HeldImage, TaskState};
use carrack_integration::lab::{Lab, Ran, SOON};
use carrack_integration::observed::{Notes, PULLS};
use carrack_integration::wait::until;

const USER: &str = "ada";
const PASSWORD: &str = "canary-7f3a";
/// Of that password, by bcrypt.
const HTPASSWD: &str = "ada:$2b$04$DIVXg3JmGiYpkaMAHNXnveuruF1oln5RBXX40rXu8v5A23PEIXTR6";

/// The CLI of a user whose home is in the lab.
fn user(lab: &Lab, arguments: &[&str], input: &str) -> Ran {
    let mut child = lab
        .cli()
        .args(arguments)
        .env("HOME", lab.path("home"))
        .env_remove("DOCKER_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run carrack");
    // A command that refuses its arguments reads nothing.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the end of carrack");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn login(lab: &Lab, registry: &str, password: &str) -> Ran {
    user(lab, &["login", registry, "-u", USER, "--password-stdin"], password)
}

/// Files below a directory that hold the text.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_with(&path, text)),
            Ok(kind) if kind.is_file() => {
                let holds = |bytes: Vec<u8>| bytes.windows(text.len()).any(|w| w == text.as_bytes());
                if fs::read(&path).is_ok_and(holds) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}

#[track_caller]
fn is_no_where(lab: &Lab, text: &str) {
    for directory in [lab.state(), lab.runtime().to_path_buf()] {
        assert_eq!(files_with(&directory, text), Vec::<PathBuf>::new(), "{text} in {}", directory.display());
    }
    assert!(!lab.daemon_log().contains(text), "{text} is in the daemon's log");
}

fn runs(lab: &Lab) {
    until("the task runs", SOON, || {
        let tasks = lab.tasks("shop");
        let running = tasks.iter().filter(|task| task.state == TaskState::Running).count();
        let told: Vec<_> = tasks.iter().map(|task| (task.state, task.reason.clone())).collect();
        if running == 1 { Ok(()) } else { Err(format!("{told:?}\n{}", lab.daemon_log())) }
    });
}

#[test]
fn a_private_image_is_deployed_and_pulled_again_without_its_user() {
    let mut lab = Lab::new();
    let registry = lab.private_registry(&["redis"], HTPASSWD, USER, PASSWORD);
    lab.start();
    let file = lab.write("shop.yaml", &format!("services:\n  db:\n    image: {registry}/redis:1\n"));
    let deploy = ["deploy", "-p", "shop", "-f", &file];

    let refused = user(&lab, &deploy, "");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains(&registry) && refused.err.contains("private"), "{}", refused.err);
    let wrong = login(&lab, &registry, "wrong-1c9e");
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.err.contains(&registry) && !wrong.err.contains("wrong-1c9e"), "{}", wrong.err);
    assert!(!lab.path("home").exists(), "nothing is kept of credentials that were refused");

    let accepted = login(&lab, &registry, PASSWORD);
    assert_eq!((accepted.code, accepted.out), (0, format!("logged in to {registry} as {USER}\n")));
    let deployed = user(&lab, &deploy, "");
    assert_eq!(deployed.code, 0, "{deployed:?}\n{}", lab.daemon_log());
    let out = user(&lab, &["logout", &registry], "");
    assert_eq!((out.code, out.out), (0, format!("logged out of {registry}\n")));
    assert_eq!(files_with(&lab.path("home"), "auth\":"), Vec::<PathBuf>::new());

    // Another disk under the same daemon: the images are gone, the user is, too, and the task comes back.
    let digest = lab.tasks("shop")[0].image_digest.clone();
    lab.stop_daemon_and_containers();
    fs::remove_dir_all(lab.state().join("images")).expect("take the images away");
    lab.start();
    runs(&lab);
    assert_eq!(lab.tasks("shop")[0].image_digest, digest);
    let held: BTreeSet<String> =
        lab.json::<Vec<HeldImage>>(&["image", "ls"]).into_iter().map(|i| i.name).collect();
    assert_eq!(held, BTreeSet::from([format!("{registry}/redis:1")]));

    for shown in [&["inspect", "shop"][..], &["inspect", "shop/db.1"], &["events", "--since", "1h"]] {
        assert!(!lab.ok(shown).contains(PASSWORD), "{shown:?}");
    }
    is_no_where(&lab, PASSWORD);
    is_no_where(&lab, "wrong-1c9e");
    lab.finish();
}

/// Pushes busybox under this name. In another form it is another image with the same content: the tag has moved then.
fn push(lab: &Lab, registry: &str, name: &str, form: &str) {
    let (from, to) = (Lab::images().join("oci"), format!("docker://{registry}/{name}:1"));
    let from = format!("oci:{}:busybox", from.display());
    let copy = ["--insecure-policy", "copy", "-q", "--format", form, "--dest-tls-verify=false", &from, &to];
    assert!(lab.host_command("skopeo", &copy).status().expect("run skopeo").success());
}

/// Service, its image, and how it says when the registry is asked. An image that one of them has pulled is there for all: those
/// that ask again have images of their own.
const POLICIES: [(&str, &str, &str); 6] = [
    ("always", "asked", "pull_policy: always"),
    ("soon", "aged", "pull_policy: refresh, pull_refresh_after: 1s"),
    ("missing", "kept", "pull_policy: missing"),
    ("late", "kept", "pull_policy: refresh, pull_refresh_after: 1h"),
    ("daily", "kept", "pull_policy: daily"),
    ("never", "kept", "pull_policy: never"),
];

#[test]
fn a_registry_is_asked_when_the_pull_policy_says_so() {
    let mut lab = Lab::new();
    let registry = lab.registry(&[]);
    let images = ["asked", "aged", "kept"];
    images.iter().for_each(|name| push(&lab, &registry, name, "oci"));
    lab.start();
    let all = |names: &[&str]| {
        let chosen = POLICIES.iter().filter(|(name, ..)| names.contains(name));
        let lines = chosen.map(|(name, image, policy)| {
            let image = format!("image: '{registry}/{image}:1'");
            format!("  {name}: {{{image}, command: sleep 1000, stop_signal: SIGKILL, {policy}}}\n")
        });
        format!("services:\n{}", lines.collect::<String>())
    };
    let digest = |name: &str| {
        let tasks = lab.tasks("shop");
        let task = tasks.iter().find(|task| task.service.service.as_str() == name);
        task.and_then(|task| task.image_digest.clone()).expect("a task with an image")
    };

    // Nobody has the image yet, and this one shall not ask for it.
    let file = lab.write("never.yaml", &all(&["never"]));
    let ran = lab.carrack(&["deploy", "-p", "never", "-f", &file]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let names = POLICIES.map(|(name, ..)| name);
    lab.deploy("shop", &all(&names[..5]));
    let first = digest("missing");
    lab.deploy("shop", &all(&names));
    assert!(names.iter().all(|name| digest(name) == first), "one image for all of them");

    images.iter().for_each(|name| push(&lab, &registry, name, "v2s2"));
    until("who is to ask again has the new image", SOON, || {
        lab.deploy("shop", &all(&names));
        match (digest("always") != first, digest("soon") != first) {
            (true, true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for name in ["missing", "late", "daily", "never"] {
        assert_eq!(digest(name), first, "{name}");
    }
    let mut notes = Notes::of(PULLS);
    notes.saw(&["services.pull_policy", "services.pull_refresh_after"]);
    notes.finish();
    lab.finish();
}
