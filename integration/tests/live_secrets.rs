//! Secrets and configs: seen by whom they are for, changed by deploys, restored, kept over everything, and nowhere else.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use carrack_api::{ContentStatus, Health, TaskStatus};
use carrack_integration::canary::{self, Canary, Looked};
use carrack_integration::http::ask;
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::observed::{Notes, SECRETS};
use carrack_integration::wait::{slow, until};

fn task(lab: &Lab, service: &str) -> TaskStatus {
    let found = lab.tasks("shop").into_iter().find(|task| task.service.service.as_str() == service);
    found.unwrap_or_else(|| panic!("{service} has no task"))
}

fn seen(lab: &Lab, service: &str, script: &str) -> String {
    lab.ok(&["exec", &format!("shop/{service}"), "sh", "-c", script])
}

/// The CLI with a secret in its environment, as a shell of the user would have it.
fn deploy(lab: &Lab, file: &str, token: &str) -> (i32, String) {
    let mut command = lab.cli();
    command.args(["deploy", "-p", "shop", "-f", file]).env("TOKEN", token).stdin(Stdio::null());
    let output = command.output().expect("run the CLI");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn contents(lab: &Lab, kind: &str) -> Vec<ContentStatus> {
    lab.json(&[kind, "ls"])
}

fn shop(word: &str) -> String {
    format!(
        "\
services:
  plain:
    image: busybox:1
    command: sh -c 'grep -q mars /etc/motd && exit 1; touch /tmp/up; exec sleep 1000'
    healthcheck: {{test: test -e /tmp/up}}
    deploy: {{update_config: {{order: stop-first, monitor: 0s}}}}
    secrets: [key]
    configs: [{{source: motd, target: /etc/motd}}]
  user:
    image: busybox:1
    command: sleep 1000
    user: '1000:1001'
    deploy: {{update_config: {{monitor: 0s}}}}
    read_only: true
    secrets:
      - {{source: token, target: mine, uid: '1000', gid: '1001', mode: 0400}}
      - {{source: key, target: /key, mode: 0440}}
      - shared
    configs: [{{source: script, target: /run.sh, mode: 0555}}]
  other:
    image: busybox:1
    command: sleep 1000
secrets:
  key: {{file: ./source/key}}
  token: {{environment: TOKEN}}
  shared: {{external: true, name: shared_key}}
configs:
  motd: {{content: 'hello {word}'}}
  script: {{file: ./source/run.sh}}
"
    )
}

#[test]
fn secrets_and_configs_are_files_of_their_users_and_change_with_their_content() {
    let (canary, since) = (Canary::new(), SystemTime::now());
    let secret = canary.text();
    let mut lab = Lab::new();
    lab.set_arguments(&["--log-level", "trace"]);
    lab.start();
    lab.load_images(&["busybox"]);
    fs::create_dir(lab.path("source")).expect("a directory for sources");
    lab.write("source/key", &format!("{secret}-key\n"));
    lab.write("source/run.sh", "#!/bin/sh\necho ran\n");
    let file = lab.write("shop.yaml", &shop("world"));
    let token = format!("{secret}-token");

    // A missing external one stops the deploy, with its place and the command that makes it.
    let (code, text) = deploy(&lab, &file, &token);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("external secret shared_key does not exist"), "{text}");
    assert!(text.contains("shop.yaml:18") && text.contains("carrack secret create shared_key"), "{text}");
    let source = lab.write("source/shared", &format!("{secret}-shared"));
    assert_eq!(lab.ok(&["secret", "create", "shared_key", &source]), "shared_key\n");
    let (code, text) = deploy(&lab, &file, &token);
    assert_eq!(code, 0, "{text}");

    has_its_files(&lab, secret);
    let refused = lab.carrack(&["secret", "rm", "shared_key"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("secret shared_key is used by shop/user"), "{}", refused.err);
    let again = lab.carrack(&["secret", "create", "shared_key", &file]);
    assert!(again.code == 1 && again.err.contains("exists already"), "{}", again.err);
    refusals_repeat_nothing(&lab, &canary);
    is_nowhere_else(&lab, &canary, since);

    // The same content changes nothing, other content rolls its users and nobody else; the old content comes back.
    let before = ["plain", "user", "other"].map(|service| task(&lab, service).id);
    assert_eq!(deploy(&lab, &file, &token).0, 0);
    assert_eq!(["plain", "user", "other"].map(|service| task(&lab, service).id), before);
    lab.write("shop.yaml", &shop("moon"));
    assert_eq!(deploy(&lab, &file, &token).0, 0);
    let changed = ["plain", "user", "other"].map(|service| task(&lab, service).id);
    assert!(changed[0] != before[0] && changed[1..] == before[1..], "{before:?} {changed:?}");
    assert_eq!(seen(&lab, "plain", "cat /etc/motd"), "hello moon");
    // A revision that fails gives way to the one before, and a task of that has what it had.
    lab.write("shop.yaml", &shop("mars"));
    let (code, text) = deploy(&lab, &file, &token);
    assert!(code == 1 && text.contains("crashed"), "{code}: {text}");
    until("the revision before is back", SOON, || {
        let now = lab.tasks("shop");
        let mut plain = now.iter().filter(|task| task.service.service.as_str() == "plain");
        let back = plain.any(|task| task.id != changed[0] && task.health == Health::Passing);
        if back { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(seen(&lab, "plain", "cat /etc/motd"), "hello moon");
    lab.write("shop.yaml", &shop("moon"));
    assert_eq!(deploy(&lab, &file, &token).0, 0);
    let changed = ["plain", "user", "other"].map(|service| task(&lab, service).id);
    lab.write("source/key", &format!("{secret}-new\n"));
    let (code, text) = deploy(&lab, &file, &token);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("files[0].digest") && !text.contains(secret), "{text}");
    let rolled = ["plain", "user", "other"].map(|service| task(&lab, service).id);
    assert!(rolled[0] != changed[0] && rolled[1] != changed[1] && rolled[2] == changed[2], "{rolled:?}");
    assert_eq!(seen(&lab, "plain", "cat /run/secrets/key"), format!("{secret}-new\n"));
    lab.write("source/key", &format!("{secret}-key\n"));
    lab.write("shop.yaml", &shop("world"));
    assert_eq!(deploy(&lab, &file, &token).0, 0);
    has_its_files(&lab, secret);

    // A crash of the container, a kill of the daemon and a power cut keep them.
    let user = task(&lab, "user");
    lab.kill_daemon();
    lab.start();
    assert_eq!(task(&lab, "user").pid, user.pid);
    lab.ok(&["kill", "shop/user"]);
    until("it runs again", SOON, || {
        let now = task(&lab, "user");
        if now.run > user.run && now.health == Health::Passing { Ok(()) } else { Err(format!("{now:?}")) }
    });
    has_its_files(&lab, secret);
    lab.power_cut();
    lab.start();
    until("everything is passing", SOON, || {
        let tasks = lab.tasks("shop");
        let passing = tasks.len() == 3 && tasks.iter().all(|t| t.health == Health::Passing);
        if passing { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    has_its_files(&lab, secret);
    is_nowhere_else(&lab, &canary, since);

    // With the stack goes what it brought; what was made by command stays until it is removed.
    lab.ok(&["rm", "shop"]);
    until("what the stack brought is gone", SOON, || {
        let names: Vec<String> = ["secret", "config"]
            .iter()
            .flat_map(|kind| contents(&lab, kind))
            .map(|status| status.name.to_string())
            .collect();
        let sealed = names_in(&lab.state().join("node/contents"));
        match names == ["shared_key"] && sealed.is_empty() {
            true => Ok(()),
            false => Err(format!("{names:?} {sealed:?}")),
        }
    });
    lab.ok(&["secret", "rm", "shared_key"]);
    assert!(contents(&lab, "secret").is_empty());
    let mut notes = Notes::of(SECRETS);
    notes.saw(&["secrets.environment", "secrets.external", "secrets.name"]);
    notes.finish();
    lab.finish();
}

#[track_caller]
fn has_its_files(lab: &Lab, secret: &str) {
    let read = "cat /run/secrets/key /etc/motd; stat -c ' %a:%u:%g' /run/secrets/key; stat -f -c %T /run/secrets/key";
    assert_eq!(seen(lab, "plain", read), format!("{secret}-key\nhello world 444:0:0\ntmpfs\n"));
    let read = "cat /run/secrets/mine /run/secrets/shared; stat -c ' %a:%u:%g' /run/secrets/mine; /run.sh; \
                cat /key 2>/dev/null || echo not readable; (echo x > /run/secrets/mine) 2>/dev/null || echo not writable";
    let wanted = format!("{secret}-token{secret}-shared 400:1000:1001\nran\nnot readable\nnot writable\n");
    assert_eq!(seen(lab, "user", read), wanted);
    assert_eq!(seen(lab, "other", "ls /run/secrets 2>/dev/null | wc -l"), "0\n");
}

/// The canary is in no file of the daemon nor in any that was written meanwhile, in no answer of its API, in no command line,
/// environment or name of an open file, and not in the memory of those who keep containers.
#[track_caller]
fn is_nowhere_else(lab: &Lab, canary: &Canary, since: SystemTime) {
    let mut looked = Looked::default();
    // What the user wrote, and what the tmpfs of the containers hold is theirs: it is in no mount namespace but their own.
    let sources = lab.path("source");
    looked.at_files(canary, &lab.state(), &|_, _| true);
    looked.at_files(canary, lab.runtime(), &|_, _| true);
    let own = looked.files;
    let new = |path: &Path, found: &fs::Metadata| {
        path != sources && (found.is_dir() || found.modified().is_ok_and(|at| at >= since))
    };
    looked.at_files(canary, &lab.path(""), &new);
    for place in
        ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/log", "/var/lib/systemd/coredump", "/var/crash"]
    {
        // Deeper down are trees of others; our own were looked at.
        let depth = Path::new(place).components().count() + DEPTH;
        let near = |path: &Path, found: &fs::Metadata| path.components().count() < depth && new(path, found);
        looked.at_files(canary, Path::new(place), &near);
    }
    looked.at_processes(canary);
    let daemon = Path::new("/proc").join(lab.daemon_pid().to_string());
    let mut keepers = 0;
    // The daemon gives contents to tasks that start, and has them in memory for that.
    for process in canary::processes().into_iter().filter(|process| *process != daemon) {
        let Some(mode) = mode_of_ours(&process) else { continue };
        keepers += usize::from(KEEPERS.contains(&mode.as_str()));
        looked.at_memory(canary, &process);
    }
    let routes = every_answer(lab, canary, &mut looked);
    assert!(
        own > 20 && keepers >= 3 && routes > 20,
        "{own} files of ours, {keepers} keepers, {routes} routes"
    );
    for arguments in VERBS {
        let ran = lab.carrack(arguments);
        assert!([0, 1].contains(&ran.code), "{arguments:?}: {}", ran.err);
        let text = ran.out + &ran.err;
        looked.at_answer(canary, &format!("carrack {}", arguments.join(" ")), text.as_bytes());
    }
    assert!(looked.hits.is_empty(), "of {looked} the canary is in {:#?}", looked.hits);
}

/// The first argument of a process of ours. Those of containers run from a view of the binary that has no path: the name tells.
fn mode_of_ours(process: &Path) -> Option<String> {
    let line = String::from_utf8(fs::read(process.join("cmdline")).ok()?).ok()?;
    let mut words = line.split('\0');
    let name = Path::new(words.next()?).file_name()?.to_owned();
    let ours = Some(name.as_os_str()) == Lab::carrack_binary().file_name() || name == SUPERVISOR;
    ours.then(|| words.next().unwrap_or_default().to_owned())
}

/// What a process that keeps a container calls itself.
const SUPERVISOR: &str = "carrack-supervisor";
/// Its first argument; the second is that of a build that is not static, which goes on as it was.
const KEEPERS: [&str; 2] = ["__keep", "__supervise"];
/// Levels of directories that are looked at in places of all.
const DEPTH: usize = 3;
/// What shows objects of this test.
const VERBS: [&[&str]; 16] = [
    &["ls"],
    &["ls", "-o", "json"],
    &["ps", "shop"],
    &["ps", "shop", "-o", "json"],
    &["inspect", "shop"],
    &["inspect", "shop/plain"],
    &["inspect", "shop/user"],
    &["events"],
    &["logs", "shop"],
    &["secret", "ls"],
    &["secret", "inspect", "shared_key", "shop_key", "shop_token"],
    &["config", "ls"],
    &["config", "inspect", "shop_motd", "shop_script"],
    &["config", "-f", "shop.yaml"],
    &["check", "-f", "shop.yaml"],
    &["deploy", "--dry-run", "-p", "shop", "-f", "shop.yaml"],
];

/// Asks every route that can be read, as the document lists them, about the objects of this test.
fn every_answer(lab: &Lab, canary: &Canary, looked: &mut Looked) -> usize {
    let document = ask(&lab.socket(), "GET", "/v1/openapi.json", None).expect("the document").body;
    let paths = document["paths"].as_object().expect("paths");
    let tasks = lab.tasks("shop");
    let mut asked = BTreeSet::new();
    for path in paths.iter().filter(|(_, item)| item.get("get").is_some()).map(|(path, _)| path) {
        let names: &[&str] = match path.as_str() {
            "/v1/secrets/{name}" => &["shop_key", "shop_token", "shared_key"],
            "/v1/configs/{name}" => &["shop_motd", "shop_script"],
            _ => &["shop"],
        };
        for (name, task) in names.iter().flat_map(|name| tasks.iter().map(move |task| (name, task))) {
            let filled = path
                .replace("{name}", name)
                .replace("{stack}", "shop")
                .replace("{service}", task.service.service.as_str())
                .replace("{id}", &task.id.to_string());
            // What it holds is what the asker names: the file itself, as `cat` in the container shows it.
            if filled.contains('{') || filled.contains("/archive") || asked.contains(&filled) {
                continue;
            }
            let query = match filled.as_str() {
                "/v1/watch" => "?stack=shop",
                "/v1/logs" => "?stack=shop",
                "/v1/dns" => "?name=user.shop",
                "/v1/images/inspect" => "?reference=busybox:1",
                _ => "",
            };
            let answer = first_part(&lab.socket(), &format!("{filled}{query}"));
            looked.at_answer(canary, &filled, &answer);
            asked.insert(filled);
        }
    }
    asked.len()
}

/// An answer to its end, or to the end of its first event: a watch goes on until the asker leaves.
fn first_part(socket: &Path, path: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(SOON * slow())).expect("a time limit");
    let request = format!("GET {path} HTTP/1.1\r\nHost: carrack\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("ask");
    let (mut answer, mut part) = (Vec::new(), [0; 64 << 10]);
    loop {
        let read = stream.read(&mut part).unwrap_or_else(|error| panic!("{path}: {error}"));
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        let event =
            text.contains("text/event-stream") && text.contains("data:") && text.ends_with("\n\n\r\n");
        if read == 0 || event {
            assert!(text.starts_with("HTTP/1.1 ") && !text.starts_with("HTTP/1.1 5"), "{path}: {text}");
            return answer;
        }
    }
}

/// Secrets that are refused are told of without a word of them, to the asker and to the daemon's log.
fn refusals_repeat_nothing(lab: &Lab, canary: &Canary) {
    let mut looked = Looked::default();
    let text = canary.text();
    let large = lab.write("source/large", &text.repeat(carrack_api::CONTENT_MAX_BYTES / text.len() + 1));
    for arguments in
        [&["secret", "create", "big", large.as_str()][..], &["secret", "create", "big", "source"]]
    {
        let ran = lab.carrack(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.out);
        looked.at_answer(canary, "the CLI", (ran.out + &ran.err).as_bytes());
    }
    let encoded = carrack_api::base64::encode(text.as_bytes());
    for body in [
        text.to_owned(),
        format!("\"{text}\""),
        format!("{{\"content\": \"{text}\"}}"),
        format!("{{\"content\": \"{encoded}!\"}}"),
        format!("{{\"content\": [\"{text}\"]}}"),
        format!("{{\"content\": \"{encoded}\", \"labels\": \"{text}\"}}"),
        format!("{{\"content\": \"{encoded}\", \"{text}\": 1}}"),
        format!("{{\"content\": \"{encoded}\", \"replace\": \"{text}\"}}"),
    ] {
        let answer = put(&lab.socket(), "/v1/secrets/bad", &body);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        looked.at_answer(canary, "the API", answer.as_bytes());
    }
    // A variable that is no text.
    let mut command = lab.cli();
    command.args(["deploy", "-p", "shop", "-f", "shop.yaml"]).stdin(Stdio::null());
    let output = command.env("TOKEN", OsStr::from_bytes(&[text.as_bytes(), b"\xff"].concat())).output();
    let output = output.expect("run the CLI");
    assert_eq!(output.status.code(), Some(1));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        String::from_utf8_lossy(&said).contains("TOKEN is not set"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    looked.at_answer(canary, "the CLI", &said);
    looked.at_answer(canary, "the log", lab.daemon_log().as_bytes());
    assert!(looked.hits.is_empty(), "the canary is in {:#?}", looked.hits);
}

fn put(socket: &Path, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(SOON * slow())).expect("a time limit");
    let head = "Host: carrack\r\nContent-Type: application/json\r\nConnection: close";
    let request = format!("PUT {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Names of the files in a directory.
fn names_in(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn configs_by_command_are_shown_replaced_and_never_mixed_up_with_the_model() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    let mut create = lab.cli();
    create.args(["config", "create", "app_conf", "-", "--label", "team=a"]);
    let mut child = create.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start the CLI");
    Write::write_all(child.stdin.as_mut().expect("its input"), b"colour=blue\n").expect("write");
    assert!(child.wait().expect("its end").success());
    let shown: Vec<ContentStatus> = lab.json(&["config", "inspect", "app_conf"]);
    assert_eq!((shown[0].text.as_deref(), shown[0].labels["team"].as_str()), (Some("colour=blue\n"), "a"));
    let yaml = "\
services:
  app:
    image: busybox:1
    command: sleep 1000
    deploy: {update_config: {monitor: 0s}}
    configs: [{source: conf, target: /etc/app.conf}]
configs: {conf: {external: true, name: app_conf}}
";
    lab.deploy("app", yaml);
    let cat = ["exec", "app/app", "cat", "/etc/app.conf"];
    assert_eq!(lab.ok(&cat), "colour=blue\n");
    // A new content of the name comes with the next deploy, and not before.
    let file = lab.write("new.conf", "colour=green\n");
    lab.ok(&["config", "create", "--replace", "app_conf", &file]);
    assert_eq!(lab.ok(&cat), "colour=blue\n");
    lab.deploy("app", yaml);
    assert_eq!(lab.ok(&cat), "colour=green\n");
    assert!(lab.ok(&["config", "ls"]).contains("app/app"));
    // Without a verb behind it, it is the model of a file.
    let compose = lab.path("app.yaml");
    let model = lab.ok(&["config", "-f", compose.to_str().expect("a path in UTF-8"), "-o", "json"]);
    assert!(model.contains("\"app_conf\"") && !model.contains("colour"), "{model}");
    lab.ok(&["rm", "app"]);
    lab.ok(&["config", "rm", "app_conf"]);
    assert_eq!(lab.carrack(&["config", "inspect", "app_conf"]).code, 1);
    lab.finish();
}
