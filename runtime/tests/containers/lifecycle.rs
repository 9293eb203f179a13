//! Starting, ending, signals, records.

use carrack_api::Bytes;
use carrack_runtime::{ExecRequest, LogLimit, RunId, RunState, StartError};

use crate::support::{Host, eventually};

crate::trials!(
    an_exit_code_and_output_are_kept,
    signals_end_a_container,
    a_start_error_names_its_object_and_leaves_nothing,
    a_terminal_can_be_written_and_resized,
    open_stdin_reaches_the_program,
    a_closed_stdin_leads_nowhere_else,
    the_stdin_of_a_run_that_is_ending_is_closed_and_no_fault,
    many_start_at_once,
);

fn an_exit_code_and_output_are_kept() {
    let host = Host::new();
    let (exit, lines) = host.run(&host.shell("web", "echo out; echo err >&2; exit 7"));
    assert_eq!((exit.code, exit.signal, exit.oom, exit.error), (7, None, false, None));
    assert!(exit.peak_memory.is_some());
    assert!(lines.contains(&"out".to_owned()) && lines.contains(&"err".to_owned()), "{lines:?}");
}

fn signals_end_a_container() {
    let host = Host::new();
    for (task, init) in [("with", true), ("without", false)] {
        let mut request =
            host.shell(task, "trap 'echo got it; exit 3' TERM; echo ready; while true; do sleep 0.1; done");
        request.spec.init = Some(init);
        host.runtime().start(&request).unwrap();
        host.wait_line(task, "ready");
        let record = host.runtime().inspect(&request.id).unwrap().unwrap();
        assert!(matches!(record.state, RunState::Running { .. }), "{record:?}");
        host.runtime().signal(&request.id, 15).unwrap();
        assert_eq!(host.wait(&request.id).code, 3, "{task}");
        assert_eq!(host.lines(task), ["ready", "got it"]);
    }
    let request = host.request("killed", &["sleep", "1000"]);
    host.runtime().start(&request).unwrap();
    host.runtime().kill(&request.id).unwrap();
    let exit = host.runtime().exit(&request.id).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    host.runtime().kill(&request.id).unwrap();
}

fn a_start_error_names_its_object_and_leaves_nothing() {
    let host = Host::new();
    let cases: [(&str, &str); 4] = [
        ("/no/such/program", "is not in the image"),
        ("nosuch", "is not in the image"),
        ("/etc/not-executable", "permission denied"),
        ("/etc", "it is a directory"),
    ];
    for init in [true, false] {
        for (program, want) in cases {
            let mut request = host.request("bad", &[program]);
            request.spec.init = Some(init);
            let error = host.runtime().start(&request).unwrap_err().to_string();
            assert!(error.contains(program) && error.contains(want), "{error}");
        }
    }
    let mut request = host.request("bad", &["true"]);
    request.spec.user = Some("nobody-here".into());
    let error = host.runtime().start(&request).unwrap_err();
    assert!(matches!(&error, StartError::User { user, .. } if user == "nobody-here"), "{error}");
    let mut request = host.request("bad", &["true"]);
    request.spec.working_dir = Some("/etc/passwd".into());
    let error = host.runtime().start(&request).unwrap_err();
    assert!(matches!(error, StartError::WorkingDir { .. }), "{error}");
    assert_eq!(host.runtime().list().unwrap(), []);
    assert_eq!(host.runtime().inspect(&RunId::new("bad", 1)).unwrap(), None);
    assert!(!host.dir.path().join("state/tasks/bad").exists(), "not even an empty directory is left");
    eventually("no cgroup of the run", || {
        host.cgroup_dirs().iter().all(|dir| !dir.join("bad.1").exists()).then_some(())
    });
}

fn a_terminal_can_be_written_and_resized() {
    let host = Host::new();
    for (task, init) in [("reaped", true), ("bare", false)] {
        let mut request = host.shell(task, "echo ready; read a; echo got $a; stty size; echo $TERM; exit 5");
        (request.spec.tty, request.spec.init) = (true, Some(init));
        host.runtime().start(&request).unwrap();
        host.wait_line(task, "ready");
        host.runtime().resize(&request.id, 77, 22).unwrap();
        let mut terminal = std::fs::File::from(host.runtime().attach_stdin(&request.id).unwrap());
        std::io::Write::write_all(&mut terminal, b"word\n").unwrap();
        assert_eq!(host.wait(&request.id).code, 5, "{task}");
        let lines = host.lines(task);
        assert_eq!(lines[lines.len() - 3..], ["got word\r", "22 77\r", "xterm\r"], "{task}");
    }
}

fn open_stdin_reaches_the_program() {
    let host = Host::new();
    let mut request = host.shell("cat", "cat");
    request.spec.stdin_open = true;
    host.runtime().start(&request).unwrap();
    let mut stdin = std::fs::File::from(host.runtime().attach_stdin(&request.id).unwrap());
    std::io::Write::write_all(&mut stdin, b"over\n").unwrap();
    host.wait_line("cat", "over");
    let error = host.runtime().resize(&request.id, 1, 1).unwrap_err().to_string();
    assert!(error.contains("no terminal"), "{error}");
    host.runtime().kill(&request.id).unwrap();
    assert_eq!(host.runtime().wait_fd(&request.id).unwrap_err().to_string(), "run cat.1 is not running");
}

/// The keeper's descriptors are known by their numbers: that of a closed stdin must not come to be that of a log file.
fn a_closed_stdin_leads_nowhere_else() {
    let host = Host::new();
    let script =
        "cat; echo closed; while [ ! -e /more ]; do usleep 20000; done; seq 100000; echo end; sleep 1000";
    let mut request = host.shell("cat", script);
    request.spec.stdin_open = true;
    request.log = LogLimit { total: Bytes(400 << 10), file: Bytes(100 << 10) };
    host.runtime().start(&request).unwrap();
    host.runtime().close_stdin(&request.id).unwrap();
    host.wait_line("cat", "closed");
    // Log files are opened anew meanwhile, under whatever numbers are free.
    let order = ExecRequest { argv: vec!["touch".into(), "/more".into()], ..Default::default() };
    host.runtime().exec(&request.id, &order).unwrap().wait().unwrap();
    host.wait_line("cat", "end");
    let mut late = std::fs::File::from(host.runtime().attach_stdin(&request.id).unwrap());
    let error = std::io::Write::write_all(&mut late, b"too late\n").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    // A second time is harmless.
    host.runtime().close_stdin(&request.id).unwrap();
    let lines = host.lines("cat");
    assert_eq!(lines.last().unwrap(), "end");
    assert!(lines.iter().all(|line| !line.contains("too late")), "it is in the log");
    host.runtime().kill(&request.id).unwrap();
}

/// A supervisor that is ending still has a pidfd, and no descriptors any more.
fn the_stdin_of_a_run_that_is_ending_is_closed_and_no_fault() {
    use carrack_runtime::RuntimeError;
    let host = Host::new();
    for number in 0..20 {
        let mut request = host.shell(&format!("s{number}"), "read line");
        request.spec.tty = true;
        request.spec.stdin_open = true;
        host.runtime().start(&request).unwrap();
        let terminal = host.runtime().attach_stdin(&request.id).unwrap();
        std::io::Write::write_all(&mut std::fs::File::from(terminal), b"\n").unwrap();
        loop {
            match host.runtime().attach_stdin(&request.id) {
                Ok(_) | Err(RuntimeError::NoStdin(_)) => {}
                Err(RuntimeError::NotRunning(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn many_start_at_once() {
    let host = Host::new();
    host.busybox();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let host = &host;
            scope.spawn(move || {
                let mut request = host.shell(&format!("m{number}"), &format!("exit {number}"));
                // Half of them with a terminal and files where others have directories.
                request.spec.tty = number % 2 == 0;
                let path = if number % 2 == 0 { "/etc/services" } else { "/etc" }.to_owned();
                let source = carrack_api::MountSource::Bind {
                    path,
                    create: false,
                    propagation: String::new(),
                    alone: false,
                };
                request.spec.mounts =
                    vec![carrack_api::Mount { target: "/x".into(), source, read_only: true }];
                let (exit, _) = host.run(&request);
                assert_eq!(exit.code, number);
            });
        }
    });
    assert_eq!(host.runtime().list().unwrap().len(), 20);
}
