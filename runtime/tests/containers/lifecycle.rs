//! Starting, ending, signals, records.

use carrack_runtime::{RunId, RunState, StartError};

use crate::support::{Host, eventually};

crate::trials!(
    an_exit_code_and_output_are_kept,
    signals_end_a_container,
    a_start_error_names_its_object_and_leaves_nothing
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
    eventually("no cgroup of the run", || {
        host.cgroup_dirs().iter().all(|dir| !dir.join("bad.1").exists()).then_some(())
    });
}
