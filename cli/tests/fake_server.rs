//! The verbs against a server with canned answers: what is asked, what is printed, and the exit code.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure in them is a failure of the test")]

mod content;
mod login;
#[expect(unreachable_pub, reason = "a helper of tests; a failure in it is a failure of the test")]
mod support;

use std::process::Command;

use carrack_api::stream::Frame;
use carrack_api::{
    Bytes, ChangeKind, Desired, ExecResult, Exit, FieldProblem, Health, HeldImage, LoadedImages, LogRecord,
    LogStream, Problem, PublishedPort, PullProgress, Rollout, RunStatus, ServiceChange, ServiceStatus,
    StackChange, StackStatus, StackView, TaskId, TaskState, TaskStatus, Timestamp,
};
use support::{Server, events, frames, json, problem, upgrade};

const FILE: &str = "name: hello\nservices:\n  web:\n    image: web:1\n";

fn service(name: &str, rollout: Rollout) -> ServiceStatus {
    ServiceStatus {
        service: name.parse().unwrap(),
        image: "web:1".into(),
        replicas: 1,
        scaled: false,
        running: 1,
        passing: 1,
        current: 1,
        vips: vec!["10.252.0.1".parse().unwrap()],
        ports: vec![PublishedPort {
            target: 80,
            published: Some(8080),
            range: None,
            host_ip: None,
            protocol: Default::default(),
            mode: Default::default(),
        }],
        rollout,
        stopped: false,
        completed: 0,
    }
}

fn stack(name: &str, revision: u64, rollout: Rollout) -> StackStatus {
    StackStatus {
        name: name.parse().unwrap(),
        revision,
        deployed_at: Timestamp(0),
        removing: false,
        services: vec![service(&format!("{name}/web"), rollout)],
        runs: vec![],
    }
}

fn task(id: u64, name: &str, state: TaskState, health: Health) -> TaskStatus {
    TaskStatus {
        id: TaskId(id),
        service: name.parse().unwrap(),
        slot: 1,
        node: None,
        hostname: Some("host".into()),
        revision: 1,
        current: true,
        desired: Desired::Run,
        run: 1,
        state,
        health,
        reason: None,
        placement: None,
        exit: None,
        image: "web:1".into(),
        image_digest: None,
        addresses: vec![],
        created_at: Timestamp(0),
        started_at: None,
        progress: None,
        probe: None,
        pid: Some(7),
        usage: None,
    }
}

fn record(task: u64, at_ns: u64, text: &str) -> Frame {
    let record =
        LogRecord { task: TaskId(task), run: 1, at_ns, stream: LogStream::Stdout, text: text.into() };
    Frame::message(&record).unwrap()
}

fn accepted(kind: ChangeKind) -> StackChange {
    let change = ServiceChange { service: "hello/web".parse().unwrap(), kind, fields: vec![] };
    StackChange { revision: 1, services: vec![change], notes: vec!["a note".into()] }
}

fn deploying(server: &Server, views: &[StackView]) {
    server
        .on("GET /v1/stacks/hello", problem(&Problem::not_found("no-stack", "no stack \"hello\"")))
        .on("PUT /v1/stacks/hello", json(&accepted(ChangeKind::Create)))
        .on("GET /v1/watch?stack=hello", events(views));
}

#[test]
fn a_deploy_ends_with_0_once_the_stack_is_healthy() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let pull = PullProgress { done: Bytes(1 << 20), total: Bytes(4 << 20), layers: (0, 2), waiting: 0 };
    let preparing =
        TaskStatus { progress: Some(pull), ..task(1, "hello/web", TaskState::Preparing, Health::Unknown) };
    let busy = Rollout::Progressing { reason: "bringing its image".into() };
    deploying(
        &server,
        &[
            StackView { stack: Some(stack("hello", 1, busy)), tasks: vec![preparing] },
            StackView {
                stack: Some(stack("hello", 1, Rollout::Converged)),
                tasks: vec![task(1, "hello/web", TaskState::Running, Health::Passing)],
            },
        ],
    );
    let ran = server.run(&["deploy"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("hello is healthy: 1 service, 1 task, revision 1, after "), "{ran:?}");
    assert!(ran.out.contains("hello/web http://localhost:8080"), "{ran:?}");
    for said in ["+ hello/web new", "note: a note", "image 1 MiB of 4 MiB", "hello/web.1  t1     passing"] {
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    let put = server.requests().into_iter().find(|r| r.starts_with("PUT")).unwrap();
    assert!(put.contains("if-match: \"0\"") && put.contains("\"image\":\"web:1\""), "{put}");
}

#[test]
fn a_deploy_that_fails_tells_why_for_each_task_and_what_to_do_next() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let exit = Exit { code: 3, signal: None, oom: false, peak_memory: None, at: Timestamp(1), error: None };
    let dead = TaskStatus {
        reason: Some("3 runs failed".into()),
        exit: Some(exit),
        ..task(1, "hello/web", TaskState::Failed, Health::Unknown)
    };
    let failed = Rollout::Failed { reason: "its tasks crash".into() };
    deploying(&server, &[StackView { stack: Some(stack("hello", 1, failed)), tasks: vec![dead] }]);
    server.on(
        "GET /v1/logs?task=t1&tail=20",
        frames(&[record(1, 5, "cannot open the database\n"), Frame::Done(b"null".to_vec())]),
    );
    let ran = server.run(&["deploy"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for said in [
        "hello/web.1 (t1) is failed: 3 runs failed",
        "exit code 3",
        "cannot open the database",
        "next: carrack logs t1",
        "error: hello/web did not become healthy: its tasks crash",
        "hint: ",
    ] {
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

#[test]
fn a_deploy_that_takes_too_long_says_what_it_waits_for() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let busy = Rollout::Progressing { reason: "0 of 1 passing".into() };
    let waiting = task(1, "hello/web", TaskState::Starting, Health::Unknown);
    deploying(&server, &[StackView { stack: Some(stack("hello", 1, busy)), tasks: vec![waiting] }]);
    server.on("GET /v1/logs?task=t1&tail=20", frames(&[Frame::Done(b"null".to_vec())]));
    // On a slow machine a short time is over before anything was heard.
    let heard = ["700ms", "7s", "60s"].into_iter().any(|timeout| {
        let ran = server.run(&["deploy", "--timeout", timeout]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.err.contains("carrack ps hello"), "{ran:?}");
        ran.err.contains("hello/web: 0 of 1 passing")
    });
    assert!(heard, "it does not say what it waits for");
}

#[test]
fn a_dry_run_changes_nothing_and_its_exit_code_says_whether_something_would() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    server
        .on("GET /v1/stacks/hello", json(&stack("hello", 4, Rollout::Converged)))
        .on("PUT /v1/stacks/hello?dry_run=true", json(&accepted(ChangeKind::Replace)))
        .on("PUT /v1/stacks/hello?dry_run=true", json(&accepted(ChangeKind::Unchanged)));
    let ran = server.run(&["deploy", "--dry-run"]);
    assert_eq!((ran.code, ran.err.as_str()), (2, ""), "{ran:?}");
    assert!(ran.out.contains("~ hello/web its tasks are replaced"), "{ran:?}");
    let ran = server.run(&["deploy", "--dry-run", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(serde_json::from_str::<StackChange>(&ran.out).unwrap(), accepted(ChangeKind::Unchanged));
    assert!(server.requests().iter().all(|r| !r.starts_with("PUT /v1/stacks/hello HTTP")));
    assert!(server.requests().iter().any(|r| r.contains("if-match: \"4\"")));
}

#[test]
fn a_file_that_cannot_be_used_is_refused_before_anything_is_asked() {
    let server = Server::start();
    server.write("bad.yaml", "services:\n  web:\n    image: web:1\n    prots: ['80']\n");
    let ran = server.run(&["deploy", "-f", "bad.yaml"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("bad.yaml:4:5") && ran.err.contains("ports"), "{ran:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_problem_of_the_server_is_shown_with_its_hint() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let refused =
        Problem::new(409, "port-taken", "port 8080 is published by stack one").hint("choose another port");
    server.on("PUT /v1/stacks/hello", problem(&refused));
    let ran = server.run(&["deploy"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.err, "error: port 8080 is published by stack one\nhint: choose another port\n");
}

#[test]
fn a_problem_of_the_server_with_a_field_is_shown_at_its_place_in_the_file() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let field = FieldProblem {
        path: "services.web.image".into(),
        message: "no such image".into(),
        hint: Some("load it".into()),
    };
    let one = Problem { problems: vec![field.clone()], ..Problem::new(422, "image", "web: no such image") };
    let other = FieldProblem { path: "services.web".into(), message: "too large".into(), hint: None };
    let two =
        Problem { problems: vec![field, other], ..Problem::new(422, "invalid", "it cannot be deployed") };
    server.on("PUT /v1/stacks/hello", problem(&one)).on("PUT /v1/stacks/hello", problem(&two));
    assert_eq!(
        server.run(&["deploy"]).err,
        "error: web: no such image\n  at compose.yaml:4:5, services.web.image\nhint: load it\n"
    );
    assert_eq!(
        server.run(&["deploy"]).err,
        "error: it cannot be deployed\n  compose.yaml:4:5: services.web.image: no such image\n    hint: load it\n  \
         compose.yaml:3:3: services.web: too large\n"
    );
}

#[test]
fn an_image_that_nobody_built_is_told_once_at_the_key_that_is_in_the_file() {
    let server = Server::start();
    server.write("compose.yaml", "name: hello\nservices:\n  web:\n    build: .\n");
    let never = "hello-web: image hello-web is not on this node, and its pull policy is never";
    let field = FieldProblem { path: "services.web.image".into(), message: never.into(), hint: None };
    let refused =
        Problem::new(422, "image-not-found", format!("service web: {never}")).hint("check the name");
    server.on("PUT /v1/stacks/hello", problem(&Problem { problems: vec![field], ..refused }));
    assert_eq!(
        server.run(&["deploy", "--no-build"]).err,
        "error: nobody has built hello-web yet\n  at compose.yaml:4:5, services.web.build\nhint: `carrack deploy --build` \
         builds it here; what was built elsewhere is brought by `carrack image load`\n"
    );
}

#[test]
fn without_a_daemon_the_exit_code_is_5_and_the_hint_says_how_to_start_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_carrack"))
        .args(["ls", "--socket", "/nonexistent/carrack.sock"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("/nonexistent/carrack.sock") && text.contains("carrack daemon -d"), "{text}");
}

#[test]
fn a_verb_of_another_tool_is_answered_with_ours() {
    let server = Server::start();
    let ran = server.run(&["stack", "deploy", "-c", "x"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("with Docker Swarm's `stack deploy` you mean `carrack deploy`"), "{ran:?}");
    let ran = server.run(&["service", "scale", "x=1"]);
    assert!(ran.err.contains("`carrack scale SERVICE=N`"), "{ran:?}");
}

#[test]
fn ps_takes_a_service_by_its_short_name_and_lists_candidates_when_it_cannot() {
    let server = Server::start();
    let stacks = [stack("hello", 1, Rollout::Converged), stack("shop", 1, Rollout::Converged)];
    let hello = task(1, "hello/web", TaskState::Running, Health::Passing);
    server.on("GET /v1/stacks", json(&stacks)).on("GET /v1/tasks?stack=hello", json(&[hello]));
    let ran = server.run(&["ps", "hello/web"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.lines().nth(1).unwrap().starts_with("hello/web.1  t1  passing"), "{}", ran.out);
    let ran = server.run(&["ps", "web"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("hello/web or shop/web"), "{ran:?}");
    server.write("compose.yaml", FILE);
    let ran = server.run(&["ps", "web", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Vec<TaskStatus>>(&ran.out).unwrap().len(), 1, "the file here decides");
}

#[test]
fn logs_of_several_targets_are_merged_by_time() {
    let server = Server::start();
    let tasks = [
        task(1, "hello/web", TaskState::Running, Health::Passing),
        task(2, "shop/web", TaskState::Failed, Health::Unknown),
    ];
    server
        .on(
            "GET /v1/stacks",
            json(&[stack("hello", 1, Rollout::Converged), stack("shop", 1, Rollout::Converged)]),
        )
        .on("GET /v1/tasks?all=true", json(&tasks))
        .on(
            "GET /v1/logs?stack=hello&service=web&tail=9",
            frames(&[record(1, 10, "one\n"), record(1, 30, "three\n"), Frame::Done(b"null".to_vec())]),
        )
        .on("GET /v1/logs?task=t2&tail=9", frames(&[record(2, 20, "two\n"), Frame::Done(b"null".to_vec())]));
    let ran = server.run(&["logs", "--tail", "9", "hello/web", "t2"]);
    assert_eq!(ran.out, "hello/web.1 | one\nshop/web.1  | two\nhello/web.1 | three\n", "{ran:?}");
    assert_eq!(ran.code, 0);
}

#[test]
fn exec_passes_the_output_and_the_exit_code_on() {
    let server = Server::start();
    let running = task(7, "hello/web", TaskState::Running, Health::Passing);
    server
        .on("GET /v1/stacks", json(&[stack("hello", 1, Rollout::Converged)]))
        .on("GET /v1/tasks?stack=hello&all=true", json(&[running]))
        .on(
            "POST /v1/tasks/t7/exec",
            upgrade(&[
                Frame::Data(b"out\n".to_vec()),
                Frame::Error(b"err\n".to_vec()),
                Frame::done(&ExecResult { code: 42 }).unwrap(),
            ]),
        );
    let ran = server.run(&["exec", "web", "sh", "-c", "grüß"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (42, "out\n", "err\n"));
    let asked = server.requests().into_iter().find(|r| r.starts_with("POST")).unwrap();
    assert!(asked.contains("gr\\u00fc\\u00df"), "{asked}");
}

#[test]
fn an_archive_is_sent_from_a_file_and_from_standard_input() {
    let server = Server::start();
    let image = HeldImage {
        name: "docker.io/library/web:1".into(),
        digest: format!("sha256:{}", "ab".repeat(32)),
        size: Bytes(5),
        created_at: Timestamp(0),
    };
    let loaded = LoadedImages { images: vec![image] };
    server.on("POST /v1/images/load", frames(&[Frame::done(&loaded).unwrap()]));
    server.write("web.tar", "ARCHIVE");
    for ran in [
        server.run(&["image", "load", "-i", "web.tar"]),
        server.run_with_input(&["image", "load"], b"ARCHIVE"),
    ] {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.out, "loaded docker.io/library/web:1 abababababab (5 B)\n");
    }
    assert!(server.requests().iter().all(|r| r.contains("ARCHIVE")));
}

#[test]
fn rm_refuses_a_service_and_says_what_to_do() {
    let server = Server::start();
    server.on("GET /v1/stacks", json(&[stack("hello", 1, Rollout::Converged)]));
    let ran = server.run(&["rm", "web"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("hello/web is a service") && ran.err.contains("carrack stop hello/web"));
    assert!(server.requests().iter().all(|r| !r.starts_with("DELETE")));
}

#[test]
fn down_waits_until_the_stack_is_gone_and_takes_volumes_only_when_asked() {
    let server = Server::start();
    server.write("compose.yaml", FILE);
    let spec = serde_json::json!({
        "name": "hello",
        "services": {},
        "volumes": {"hello_data": {"external": false}, "shared": {"external": true}}
    });
    server
        .on("GET /v1/stacks/hello/spec", json(&spec))
        .on("DELETE /v1/stacks/hello", json(&()))
        .on("DELETE /v1/volumes/hello_data", json(&()))
        .on("GET /v1/watch?stack=hello", events(&[StackView { stack: None, tasks: vec![] }]));
    let ran = server.run(&["down"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello is removed\n"), "{ran:?}");
    let ran = server.run(&["down", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "{\"name\":\"hello\",\"removed\":true}\n"), "{ran:?}");
    assert!(server.requests().iter().all(|r| !r.contains("/v1/volumes")));
    let ran = server.run(&["down", "-v"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let doomed: Vec<String> = server.requests().into_iter().filter(|r| r.contains("/v1/volumes")).collect();
    assert!(doomed.len() == 1 && doomed[0].starts_with("DELETE /v1/volumes/hello_data"), "{doomed:?}");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let server = Server::start();
    let stacks: Vec<StackStatus> =
        (0..2000).map(|n| stack(&format!("s{n}"), 1, Rollout::Converged)).collect();
    server.on("GET /v1/stacks", json(&stacks));
    let output = Command::new("sh")
        .args(["-c", "\"$0\" ls | head -1; exit ${PIPESTATUS:-0}", env!("CARGO_BIN_EXE_carrack")])
        .env("CARRACK_HOST", server.directory().join("s"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}

fn stopped(name: &str, is: bool, replicas: u32) -> StackStatus {
    let mut status = stack(name, 2, Rollout::Converged);
    for service in &mut status.services {
        (service.stopped, service.replicas, service.passing) = (is, replicas, replicas);
    }
    status
}

#[test]
fn a_stop_waits_until_it_is_so_and_ls_says_it() {
    let server = Server::start();
    let all = vec![stopped("hello", true, 0)];
    let going =
        TaskStatus { desired: Desired::Stop, ..task(1, "hello/web", TaskState::Running, Health::Passing) };
    let view = |tasks| StackView { stack: Some(stopped("hello", true, 0)), tasks };
    server
        .on("GET /v1/stacks", json(&all))
        .on("POST /v1/stacks/hello/stop", json(&all[0]))
        .on("GET /v1/watch?stack=hello", events(&[view(vec![going]), view(vec![])]));
    let ran = server.run(&["stop"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("hello is stopped, after "), "{ran:?}");
    assert!(server.requests().iter().any(|r| r.starts_with("POST") && r.ends_with("{\"services\":[]}")));
    let ran = server.run(&["ls"]);
    assert!(ran.out.contains("0/0       stopped"), "{ran:?}");
    let ran = server.run(&["stop", "hello/web", "-d", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Vec<StackStatus>>(&ran.out).unwrap(), all, "{ran:?}");
    let ran = server.run(&["stop", "web.1"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("carrack scale hello/web=N"), "{ran:?}");
}

#[test]
fn a_restart_that_fails_says_why_and_where_to_look() {
    let server = Server::start();
    let all = vec![stopped("hello", false, 1)];
    let failed = Rollout::Failed { reason: "web.1 crashed 3 times".into() };
    let view = StackView { stack: Some(stack("hello", 2, failed)), tasks: vec![] };
    server
        .on("GET /v1/stacks", json(&all))
        .on("POST /v1/stacks/hello/restart", json(&all[0]))
        .on("GET /v1/watch?stack=hello", events(&[view]));
    let ran = server.run(&["restart", "web"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the restart of hello/web failed: web.1 crashed 3 times"), "{ran:?}");
    assert!(ran.err.contains("carrack logs hello"), "{ran:?}");
}

#[test]
fn a_signal_goes_to_the_running_tasks() {
    let server = Server::start();
    let running = task(4, "hello/web", TaskState::Running, Health::Passing);
    server
        .on("GET /v1/stacks", json(&vec![stopped("hello", false, 1)]))
        .on("GET /v1/tasks?stack=hello", json(&vec![running]))
        .on("POST /v1/tasks/t4/signal", json(&()));
    let ran = server.run(&["kill", "-s", "HUP", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello/web.1 (t4) was sent SIGHUP\n"), "{ran:?}");
    let ran = server.run(&["kill", "web", "-o", "json"]);
    assert!(ran.out.contains("\"signal\": 9"), "{ran:?}");
    let ran = server.run(&["kill", "-s", "NOPE", "web"]);
    assert!(ran.code == 2 && ran.err.contains("is no signal"), "{ran:?}");
}

#[test]
fn values_are_set_on_the_revision_that_is_in_force() {
    let server = Server::start();
    let all = vec![stopped("hello", false, 1)];
    let view = StackView { stack: Some(all[0].clone()), tasks: vec![] };
    server
        .on("GET /v1/stacks", json(&all))
        .on("GET /v1/stacks/hello", json(&all[0]))
        .on("PATCH /v1/services/hello/web", json(&accepted(ChangeKind::Replace)))
        .on("GET /v1/watch?stack=hello", events(&[view]));
    let ran = server.run(&["set", "web", "env.A=b", "replicas=1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("hello/web is set: 1 of 1 replicas passing"), "{ran:?}");
    let asked = server.requests().into_iter().find(|r| r.starts_with("PATCH")).unwrap();
    assert!(asked.contains("if-match: \"2\"") && asked.contains("\"A\":\"b\""), "{asked}");
    let ran = server.run(&["set", "web", "ports=80"]);
    assert!(ran.code == 2 && ran.err.contains("what can be set"), "{ran:?}");
}

#[test]
fn a_wait_prints_exit_codes_and_tells_time_from_failure() {
    let server = Server::start();
    let exit = Exit { code: 3, signal: None, oom: false, peak_memory: None, at: Timestamp(1), error: None };
    let ended = TaskStatus { exit: Some(exit), ..task(1, "hello/web", TaskState::Failed, Health::Unknown) };
    let busy = task(1, "hello/web", TaskState::Running, Health::Passing);
    let view = |task: &TaskStatus| StackView {
        stack: Some(stack("hello", 2, Rollout::Progressing { reason: "x".into() })),
        tasks: vec![task.clone()],
    };
    server
        .on("GET /v1/stacks", json(&vec![stopped("hello", false, 1)]))
        .on("GET /v1/watch?stack=hello", events(&[view(&busy), view(&ended)]));
    let ran = server.run(&["wait", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "3\n"), "{ran:?}");
    let ran = server.run(&["wait", "web", "-o", "json"]);
    assert!(ran.out.contains("\"exit_code\": 3"), "{ran:?}");
    let ran = server.run(&["wait", "--for", "completed", "web"]);
    assert!(ran.code == 1 && ran.err.contains("hello/web.1 is failed"), "{ran:?}");
    let ran = server.run(&["wait", "--for", "healthy", "--timeout", "300ms", "web"]);
    assert!(ran.code == 4 && ran.err.contains("--timeout waits longer"), "{ran:?}");
}

#[test]
fn a_port_is_shown_as_docker_shows_it() {
    let server = Server::start();
    server.on("GET /v1/stacks", json(&vec![stopped("hello", false, 1)]));
    assert_eq!(server.run(&["port", "web", "80"]).out, "0.0.0.0:8080\n");
    assert_eq!(server.run(&["port", "hello/web"]).out, "80/tcp -> 0.0.0.0:8080\n");
    let ran = server.run(&["port", "web", "81"]);
    assert!(ran.code == 1 && ran.err.contains("it publishes 80/tcp"), "{ran:?}");
    let ran = server.run(&["port", "web", "80/sctp"]);
    assert!(ran.code == 2 && ran.err.contains("53/udp"), "{ran:?}");
}

#[test]
fn a_one_off_task_ends_with_the_exit_code_of_its_command() {
    let server = Server::start();
    let one_off = |state| RunStatus {
        run: "hello/web.run-1".parse().unwrap(),
        service: "web".parse().unwrap(),
        image: "web:1".into(),
        ports: vec![],
        remove: true,
        task: Some(TaskId(9)),
        state,
        reason: None,
        created_at: Timestamp(0),
    };
    let mut status = stopped("hello", false, 1);
    status.runs = vec![one_off(TaskState::Running)];
    let running = TaskStatus { slot: 0, ..task(9, "hello/web.run-1", TaskState::Running, Health::Unknown) };
    let attached = carrack_api::AttachEvent::Attached { run: 1, tty: false, stdin: false };
    server
        .on("GET /v1/stacks", json(&vec![status.clone()]))
        .on("POST /v1/runs", json(&one_off(TaskState::Pending)))
        .on("GET /v1/watch?stack=hello", events(&[StackView { stack: Some(status), tasks: vec![running] }]))
        .on(
            "POST /v1/tasks/t9/attach",
            upgrade(&[
                Frame::message(&attached).unwrap(),
                Frame::Data(b"out\n".to_vec()),
                Frame::done(&ExecResult { code: 7 }).unwrap(),
            ]),
        )
        .on("DELETE /v1/runs/hello/web.run-1", json(&()));
    let ran = server.run(&["run", "--rm", "-e", "A=b", "web", "sh", "-c", "exit 7"]);
    assert_eq!((ran.code, ran.out.as_str()), (7, "out\n"), "{ran:?}");
    let asked = server.requests().into_iter().find(|r| r.starts_with("POST /v1/runs")).unwrap();
    assert!(
        asked.contains("\"command\":[\"sh\",\"-c\",\"exit 7\"]") && asked.contains("\"remove\":true"),
        "{asked}"
    );
    assert!(server.requests().iter().any(|r| r.starts_with("DELETE /v1/runs/hello/web.run-1")));
    let ran = server.run(&["run", "-d", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello/web.run-1\n"), "{ran:?}");
    let ran = server.run(&["run", "-v", "x:y", "web"]);
    assert!(ran.code == 2 && ran.err.contains("not absolute"), "{ran:?}");
}
