//! What is asked of a node over a stream: exec, logs, images, volumes, inspect.

use carrack_api::client::frames::FrameReader;
use carrack_api::stream::Frame;
use carrack_api::*;

use crate::support::{IMAGE, Rig, eventually, shell, webs};

crate::trials!(
    a_command_runs_with_input_output_and_exit_code,
    a_terminal_has_the_size_that_was_asked_for,
    a_command_ends_when_its_asker_goes_away,
    logs_are_merged_and_followed,
    images_are_resolved_and_removed_only_when_nobody_needs_them,
    volumes_are_listed_and_removed_only_when_nobody_needs_them,
    a_task_is_inspected_without_its_secrets,
);

fn exec(task: u64, command: &[&str]) -> NodeRequest {
    let command = command.iter().map(ToString::to_string).collect();
    NodeRequest::Exec { task: TaskId(task), exec: ExecRequest { command, ..ExecRequest::default() } }
}

/// Output, error output and the last frame.
fn sorted(frames: Vec<Frame>) -> (String, String, Frame) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut last = None;
    for frame in frames {
        match frame {
            Frame::Data(bytes) => out.extend(bytes),
            Frame::Error(bytes) => err.extend(bytes),
            other => last = Some(other),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), last.unwrap())
}

fn code(frame: &Frame) -> i32 {
    let Frame::Done(done) = frame else { panic!("{frame:?}") };
    serde_json::from_slice::<ExecResult>(done).unwrap().code
}

fn problem(frames: Vec<Frame>) -> Problem {
    match frames.into_iter().last() {
        Some(Frame::Problem(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

async fn a_command_runs_with_input_output_and_exit_code(mut rig: Rig) -> Rig {
    rig.start_with(webs(1)).await;
    let answer = rig.ask(exec(1, &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]), vec![]).await;
    let (out, err, last) = sorted(answer);
    assert_eq!((out.as_str(), err.as_str(), code(&last)), ("out\n", "err\n", 3));

    let mut request = exec(1, &["/bin/cat"]);
    if let NodeRequest::Exec { exec, .. } = &mut request {
        exec.stdin = true;
    }
    let big = "line of input\n".repeat(20_000);
    let mut input: Vec<Frame> = big.as_bytes().chunks(10_000).map(|c| Frame::Data(c.to_vec())).collect();
    input.push(Frame::Data(Vec::new()));
    let (out, _, last) = sorted(rig.ask(request, input).await);
    assert_eq!((out.len(), code(&last)), (big.len(), 0));

    let (_, err, last) = sorted(rig.ask(exec(1, &["nosuch"]), vec![]).await);
    assert!(code(&last) == 127 && err.contains("nosuch"), "{err}");
    let signalled = rig.ask(exec(1, &["/bin/sleep", "100"]), vec![Frame::Signal(15)]).await;
    assert_eq!(code(&sorted(signalled).2), 143);
    let missing = problem(rig.ask(exec(9, &["true"]), vec![]).await);
    assert_eq!((missing.status, missing.kind.as_str()), (404, "no-task"));
    rig
}

async fn a_terminal_has_the_size_that_was_asked_for(mut rig: Rig) -> Rig {
    rig.start_with(webs(1)).await;
    let mut request = exec(1, &["/bin/sh", "-c", "stty size; read line; stty size; echo got $line; exit 5"]);
    if let NodeRequest::Exec { exec, .. } = &mut request {
        exec.stdin = true;
        exec.tty = Some(WindowSize { rows: 30, columns: 100 });
    }
    let input = vec![Frame::Resize(WindowSize { rows: 40, columns: 120 }), Frame::Data(b"hello\n".to_vec())];
    let (out, _, last) = sorted(rig.ask(request, input).await);
    assert!(out.contains("40 120") && out.contains("got hello"), "{out:?}");
    assert_eq!(code(&last), 5);
    rig
}

async fn a_command_ends_when_its_asker_goes_away(mut rig: Rig) -> Rig {
    rig.start_with(webs(1)).await;
    let (ours, theirs) = tokio::io::duplex(1024);
    let node = rig.node().clone();
    let request = exec(1, &["/bin/sh", "-c", "echo begun; exec sleep 4242"]);
    let serving = tokio::spawn(async move { node.serve(request, theirs).await });
    let mut reader = FrameReader::new(ours);
    assert_eq!(reader.next().await.unwrap(), Some(Frame::Data(b"begun\n".to_vec())));
    eventually("the command runs", sleeper).await;
    drop(reader);
    serving.await.unwrap();
    eventually("the command is gone", || sleeper().is_none().then_some(())).await;
    rig
}

fn sleeper() -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        (command == b"sleep\x004242\0").then_some(pid)
    })
}

async fn logs_are_merged_and_followed(mut rig: Rig) -> Rig {
    rig.start().await;
    rig.load_image().await;
    let script = "for i in 1 2 3; do echo $(hostname) $i; sleep 0.1; done; echo end >&2; exit 0";
    let tasks = [(TaskId(1), shell(1, script)), (TaskId(2), shell(2, script))];
    rig.assign(tasks.into_iter().collect());
    let query = |follow, tail| NodeRequest::Logs {
        tasks: vec![TaskId(1), TaskId(2)],
        query: LogQuery { follow, tail, ..LogQuery::default() },
    };
    // Follows from before the start of the containers until both have ended.
    let followed = records(rig.ask(query(true, None), vec![]).await);
    assert_eq!(followed.len(), 8, "{followed:#?}");
    rig.until("both are completed", |report| {
        report.tasks.iter().all(|task| task.state == TaskState::Completed).then_some(())
    })
    .await;
    let all = records(rig.ask(query(false, None), vec![]).await);
    assert!(all.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns), "{all:#?}");
    assert_eq!(all.iter().filter(|record| record.stream == LogStream::Stderr).count(), 2);
    assert!(all.iter().any(|record| record.task == TaskId(2) && record.text == "web-2 3\n"));
    assert_eq!(records(rig.ask(query(false, Some(1)), vec![]).await).len(), 2);
    rig
}

fn records(frames: Vec<Frame>) -> Vec<LogRecord> {
    assert_eq!(frames.last(), Some(&Frame::Done(b"null".to_vec())), "{frames:?}");
    frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Message(json) => Some(serde_json::from_slice(json).unwrap()),
            _ => None,
        })
        .collect()
}

async fn images_are_resolved_and_removed_only_when_nobody_needs_them(mut rig: Rig) -> Rig {
    rig.start_with(webs(1)).await;
    let resolve = |policy| NodeRequest::ImageResolve { reference: IMAGE.into(), policy, credentials: None };
    let frames = rig.ask(resolve(PullPolicy::Never), vec![]).await;
    let Some(Frame::Done(done)) = frames.last() else { panic!("{frames:?}") };
    let resolved: ResolvedImage = serde_json::from_slice(done).unwrap();
    assert_eq!(resolved.name, IMAGE);
    let held = rig.last().unwrap().images;
    assert!(held.iter().any(|image| image.name == IMAGE && image.digest == resolved.digest), "{held:?}");
    let absent = NodeRequest::ImageResolve {
        reference: "carrack.test/absent:1".into(),
        policy: PullPolicy::Never,
        credentials: None,
    };
    assert_eq!(problem(rig.ask(absent, vec![]).await).status, 404);

    let remove = || NodeRequest::ImageRemove { reference: IMAGE.into() };
    let refused = problem(rig.ask(remove(), vec![]).await);
    assert!(refused.kind == "image-in-use" && refused.detail.contains("live/web.1"), "{refused:?}");
    rig.assign(Default::default());
    rig.until("no task is left", |report| report.tasks.is_empty().then_some(())).await;
    assert_eq!(rig.ask(remove(), vec![]).await, [Frame::Done(b"null".to_vec())]);
    rig.until("it is not held any more", |report| report.images.is_empty().then_some(())).await;
    let broken = vec![Frame::Data(b"this is no archive".to_vec()), Frame::Data(Vec::new())];
    assert_eq!(problem(rig.ask(NodeRequest::ImageLoad, broken).await).status, 422);
    rig
}

async fn volumes_are_listed_and_removed_only_when_nobody_needs_them(mut rig: Rig) -> Rig {
    let name = VolumeName::new("live_data").unwrap();
    let mut tasks = webs(1);
    tasks.values_mut().for_each(|task| {
        task.spec.container.mounts.push(Mount {
            target: "/data".into(),
            source: MountSource::Volume { name: name.clone(), nocopy: false, subpath: None },
            read_only: false,
        });
    });
    rig.start_with(tasks).await;
    rig.ask(exec(1, &["/bin/sh", "-c", "echo 12345 > /data/file"]), vec![]).await;
    let frames = rig.ask(NodeRequest::VolumeList, vec![]).await;
    let Some(Frame::Done(done)) = frames.last() else { panic!("{frames:?}") };
    let volumes: Vec<VolumeStatus> = serde_json::from_slice(done).unwrap();
    assert_eq!((volumes.len(), volumes[0].size.0), (1, 6), "{volumes:?}");
    assert_eq!(volumes[0].used_by, [TaskId(1)]);
    let remove = || NodeRequest::VolumeRemove { name: name.clone() };
    assert_eq!(problem(rig.ask(remove(), vec![]).await).kind, "volume-in-use");
    rig.assign(Default::default());
    rig.until("no task is left", |report| report.tasks.is_empty().then_some(())).await;
    assert_eq!(rig.ask(remove(), vec![]).await, [Frame::Done(b"null".to_vec())]);
    assert_eq!(problem(rig.ask(remove(), vec![]).await).status, 404);
    rig
}

async fn a_task_is_inspected_without_its_secrets(mut rig: Rig) -> Rig {
    let mut tasks = webs(1);
    tasks.values_mut().for_each(|task| {
        task.spec.container.env.insert("TOKEN".into(), Some("swordfish".into()));
    });
    rig.start_with(tasks).await;
    let frames = rig.ask(NodeRequest::TaskInspect { task: TaskId(1) }, vec![]).await;
    let Some(Frame::Done(done)) = frames.last() else { panic!("{frames:?}") };
    let text = String::from_utf8(done.clone()).unwrap();
    assert!(text.contains("live/web.1") && text.contains("TOKEN") && !text.contains("swordfish"), "{text}");
    let names = rig.ask(exec(1, &["/bin/nslookup", "tasks.web"]), vec![]).await;
    let (out, err, last) = sorted(names);
    assert!(code(&last) == 0 && out.contains("10.192.0.11"), "{out} {err}");
    rig
}
