//! A registry that asks for a password: login, a deploy of a private image, a pull by the node after that without the user, logout;
//! and the password is in no file and in no answer of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use carrack_api::{HeldImage, TaskState};
use carrack_integration::lab::{Lab, Ran, SOON};
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
