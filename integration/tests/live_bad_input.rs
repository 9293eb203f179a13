//! Bad input gets a clear error that names the object and the next step, and loses nothing.

use std::os::unix::process::CommandExt;

use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::until;

/// A stack that must be untouched by everything that goes wrong beside it.
const GOOD: &str = "services:\n  web:\n    image: nginx:1\n    ports: ['8080:80']\n";

struct Case {
    what: &'static str,
    yaml: &'static str,
    /// All of these stand in what the user reads.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { what: "malformed YAML", yaml: "services:\n  web: [\n", says: &["bad.yaml:"] },
    Case {
        what: "duplicate key",
        yaml: "services:\n  web:\n    image: a\n    image: b\n",
        says: &["bad.yaml:4:", "image"],
    },
    Case {
        what: "unknown key",
        yaml: "services:\n  web:\n    image: nginx:1\n    prots: ['80']\n",
        says: &["bad.yaml:4:5", "prots", "ports"],
    },
    Case {
        what: "no image",
        yaml: "services:\n  web:\n    command: x\n",
        says: &["bad.yaml:", "web", "image"],
    },
    Case {
        what: "image not found",
        yaml: "services:\n  web:\n    image: localhost:1/missing:3\n",
        says: &["localhost:1/missing:3", "carrack image load"],
    },
    Case {
        what: "port taken by a stack",
        yaml: "services:\n  web:\n    image: nginx:1\n    ports: ['8080:80']\n",
        says: &["8080", "good"],
    },
    Case {
        what: "impossible reservation",
        yaml: "services:\n  web:\n    image: nginx:1\n    deploy: {resources: {reservations: {memory: 900G}}}\n",
        says: &["900 GiB", "memory"],
    },
    Case {
        what: "impossible constraint",
        yaml: "services:\n  web:\n    image: nginx:1\n    deploy: {placement: {constraints: ['node.labels.disk == ssd']}}\n",
        says: &["node.labels.disk == ssd"],
    },
    Case {
        what: "no such user",
        yaml: "services:\n  web:\n    image: nginx:1\n    user: nosuch\n",
        says: &["nosuch", "user"],
    },
    Case {
        what: "entrypoint missing",
        yaml: "services:\n  web:\n    image: nginx:1\n    entrypoint: /bin/nothing-here\n",
        says: &["/bin/nothing-here", "carrack inspect"],
    },
    Case {
        what: "entrypoint not executable",
        yaml: "services:\n  web:\n    image: nginx:1\n    entrypoint: /etc/passwd\n",
        says: &["/etc/passwd"],
    },
    Case {
        what: "crash loop",
        yaml: "services:\n  web:\n    image: busybox:1\n    command: [sh, -c, 'echo the reason is here; exit 3']\n",
        says: &["exit code 3", "the reason is here"],
    },
    Case {
        what: "out of memory",
        yaml: "services:\n  web:\n    image: busybox:1\n    init: false\n    command: [sh, -c, 'exec tail /dev/zero']\n    deploy: {resources: {limits: {memory: 20M}}}\n",
        says: &["out of memory"],
    },
    Case {
        what: "unhealthy",
        yaml: "services:\n  web:\n    image: busybox:1\n    command: sleep 1000\n    healthcheck: {test: 'echo probe says no; exit 1', start_period: 2s, interval: 1s, retries: 2}\n",
        says: &["probe says no"],
    },
];

#[test]
fn every_bad_deploy_names_its_object_and_leaves_the_good_stack_alone() {
    let lab = Lab::started();
    lab.load_images(&["nginx", "busybox"]);
    lab.deploy("good", GOOD);
    let before = lab.pids("good");
    let mut wrong = Vec::new();
    for case in CASES {
        let file = lab.write("bad.yaml", case.yaml);
        let ran = lab.carrack(&["deploy", "-p", "bad", "--timeout", "40s", "-f", &file]);
        if ran.code == 0 || ran.code == 5 {
            wrong.push(format!("{}: exit code {}\n{}{}", case.what, ran.code, ran.out, ran.err));
        }
        for text in case.says.iter().filter(|text| !ran.err.contains(**text)) {
            wrong.push(format!("{}: does not say {text:?}:\n{}{}", case.what, ran.out, ran.err));
        }
        if lab.ok(&["ls"]).contains("bad") {
            lab.ok(&["rm", "bad"]);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
    assert_eq!(lab.pids("good"), before, "the good stack was not touched");
    lab.get("127.0.0.1:8080", "/who").expect("the good stack answers");
    lab.finish();
}

#[test]
fn a_port_held_by_a_host_process_is_refused_by_name_and_pid() {
    let lab = Lab::started();
    lab.load_images(&["nginx"]);
    let mut holder = lab
        .host_command("busybox", &["httpd", "-f", "-p", "8085"])
        .spawn()
        .expect("start a holder of the port");
    until("it listens", SOON, || {
        lab.get("127.0.0.1:8085", "/").or_else(|e| match e.to_string().contains("404") {
            true => Ok(String::new()),
            false => Err(e),
        })
    });
    let file = lab.write("taken.yaml", "services:\n  web:\n    image: nginx:1\n    ports: ['8085:80']\n");
    let ran = lab.carrack(&["deploy", "-p", "taken", "--timeout", "40s", "-f", &file]);
    let pid = holder.id();
    holder.kill().expect("end the holder");
    holder.wait().expect("the holder's end");
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    for text in ["8085", "busybox", &format!("{pid}")] {
        assert!(ran.err.contains(text), "does not say {text}: {}", ran.err);
    }
    lab.finish();
}

#[test]
fn without_permission_the_group_is_named() {
    let lab = Lab::started();
    let output =
        lab.cli().args(["ls"]).env("HOME", "/").uid(65534).gid(65534).output().expect("run as nobody");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("permission") && text.contains("carrack"), "{text}");
    lab.finish();
}

#[test]
fn an_unknown_verb_of_docker_is_answered_with_ours() {
    let lab = Lab::new();
    for (words, ours) in
        [(vec!["stack", "deploy"], "carrack deploy"), (vec!["service", "scale", "x=1"], "carrack scale")]
    {
        let ran = lab.carrack(&words);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(ours), "{words:?}: {}", ran.err);
    }
    lab.finish();
}
