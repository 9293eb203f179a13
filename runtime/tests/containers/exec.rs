//! Commands in running containers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use carrack_runtime::{ExecError, ExecRequest, RunId, StartRequest};

use crate::support::{DEADLINE, Host, eventually};

crate::trials!(
    output_errors_and_codes_come_back,
    stdin_reaches_the_command,
    a_terminal_has_its_size_and_can_be_resized,
    sixteen_at_once,
    a_command_is_confined_as_its_container,
    users_directories_and_variables,
    what_cannot_run_says_why,
    a_dropped_session_ends_the_command,
);

fn start(host: &Host, task: &str) -> StartRequest {
    let request = host.request(task, &["sleep", "1000"]);
    host.runtime().start(&request).unwrap();
    request
}

fn request(script: &str) -> ExecRequest {
    ExecRequest { argv: vec!["sh".into(), "-c".into(), script.into()], ..Default::default() }
}

fn read(fd: Option<OwnedFd>) -> String {
    let mut text = String::new();
    File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
    text
}

fn run(host: &Host, id: &RunId, request: &ExecRequest) -> (i32, String) {
    let mut session = host.runtime().exec(id, request).unwrap_or_else(|error| panic!("{error}"));
    let (stdout, stderr) = (read(session.stdout.take()), read(session.stderr.take()));
    (session.wait_timeout(*DEADLINE).unwrap().unwrap(), format!("{stdout}{stderr}"))
}

fn output_errors_and_codes_come_back() {
    let host = Host::new();
    let id = start(&host, "web").id;
    assert_eq!(run(&host, &id, &request("echo out; echo err >&2; exit 5")), (5, "out\nerr\n".into()));
    assert_eq!(run(&host, &id, &request("kill -9 $$")).0, 137);
    let (code, text) = run(&host, &id, &request("ps | wc -l; hostname; cat"));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("box"), "{text}");
}

fn stdin_reaches_the_command() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let mut session =
        host.runtime().exec(&id, &ExecRequest { stdin: true, ..request("cat; echo end") }).unwrap();
    File::from(session.stdin.take().unwrap()).write_all(b"hello\n").unwrap();
    assert_eq!(read(session.stdout.take()), "hello\nend\n");
    assert_eq!(session.wait_timeout(*DEADLINE).unwrap(), Some(0));
}

fn a_terminal_has_its_size_and_can_be_resized() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let order = ExecRequest {
        tty: Some((91, 33)),
        ..request("read a; stty size; read b; stty size; echo $TERM; exit 4")
    };
    let mut session = host.runtime().exec(&id, &order).unwrap();
    let mut terminal = File::from(session.pty.as_ref().unwrap().try_clone().unwrap());
    terminal.write_all(b"x\n").unwrap();
    let mut text = String::new();
    let mut until = |want: &str| {
        eventually(want, || {
            let mut buffer = [0; 256];
            let length = terminal.read(&mut buffer).unwrap_or(0);
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            text.contains(want).then_some(())
        });
    };
    until("33 91");
    session.resize(120, 40).unwrap();
    File::from(session.pty.as_ref().unwrap().try_clone().unwrap()).write_all(b"y\n").unwrap();
    until("40 120");
    until("xterm");
    assert_eq!(session.wait_timeout(*DEADLINE).unwrap(), Some(4));
}

fn sixteen_at_once() {
    let host = Host::new();
    let id = start(&host, "web").id;
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (host, id) = (&host, &id);
            scope.spawn(move || {
                let (code, text) = run(host, id, &request(&format!("echo {number}; exit {number}")));
                assert_eq!((code, text), (number, format!("{number}\n")));
            });
        }
    });
}

fn a_command_is_confined_as_its_container() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let (_, text) =
        run(&host, &id, &request("cat /proc/self/status; ls -l /proc/self/fd; cat /proc/self/cgroup"));
    for want in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000000405fb", "CapBnd:\t00000000000405fb"] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    for line in text.lines().filter(|line| line.contains(" -> ")) {
        let target = line.rsplit(" -> ").next().unwrap();
        assert!(target.starts_with("pipe:") || target.starts_with("/proc/"), "{line}");
    }
    // In the container's own cgroup, seen from its own cgroup namespace.
    assert!(text.lines().any(|line| line.ends_with(":memory:/") || line == "0::/"), "{text}");
    let (_, text) =
        run(&host, &id, &ExecRequest { privileged: true, ..request("mount -t tmpfs t /tmp && echo yes") });
    assert_eq!(text, "yes\n");
}

fn users_directories_and_variables() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let order = ExecRequest {
        user: Some("app".into()),
        working_dir: Some("/data".into()),
        env: BTreeMap::from([("X".into(), "y".into())]),
        ..request("id -u; pwd; echo $X $HOME")
    };
    assert_eq!(run(&host, &id, &order), (0, "1000\n/data\ny /home/app\n".into()));
}

fn what_cannot_run_says_why() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let fails = |order: ExecRequest| host.runtime().exec(&id, &order).unwrap_err();
    let program = |name: &str| ExecRequest { argv: vec![name.into()], ..Default::default() };
    let error = fails(program("nosuch"));
    assert!(matches!(&error, ExecError::ProgramMissing { program, .. } if program == "nosuch"), "{error}");
    assert_eq!(error.exit_code(), 127);
    let error = fails(program("/etc/not-executable"));
    assert!(matches!(error, ExecError::ProgramNotExecutable { .. }), "{error}");
    assert_eq!(error.exit_code(), 126);
    let error = fails(ExecRequest { user: Some("ghost".into()), ..request("true") });
    assert!(matches!(error, ExecError::User { .. }), "{error}");
    let error = fails(ExecRequest { working_dir: Some("/nowhere".into()), ..request("true") });
    assert!(matches!(error, ExecError::WorkingDir { .. }), "{error}");
    host.runtime().kill(&id).unwrap();
    assert!(matches!(fails(request("true")), ExecError::NotRunning(_)));
}

fn a_dropped_session_ends_the_command() {
    let host = Host::new();
    let id = start(&host, "web").id;
    let session = host.runtime().exec(&id, &request("sleep 7777")).unwrap();
    let pid = session.pid();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    drop(session);
    eventually("the command ends", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}
