//! The API over a real unix socket, with a node that runs in this process and does as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod contents;
mod registries;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carrack_api::client::{Client, ClientError, FrameReader, empty, full, write_frame};
use carrack_api::stream::Frame;
use carrack_api::*;
use carrack_scheduler::{LocalSession, NodeGateway, Scheduler, SchedulerConfig};
use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;

/// Longest wait for anything in these tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the fake node is to say of tasks whose image contains a word.
#[derive(Default)]
struct Behaviour {
    /// Image -> reason of the rejection.
    rejects: BTreeMap<String, String>,
    /// Policies that images were resolved by, in order.
    resolved: Vec<PullPolicy>,
    /// Credentials that the node was told last.
    credentials: BTreeMap<StackName, BTreeMap<String, RegistryCredentials>>,
}

struct Gateway(Arc<Mutex<Behaviour>>);

impl NodeGateway for Gateway {
    fn open(&self, _: &NodeId, request: NodeRequest) -> BoxFuture<'static, Result<DuplexStream, Problem>> {
        if let NodeRequest::ImageResolve { policy, .. } = &request {
            self.0.lock().unwrap().resolved.push(*policy);
        }
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(answer(ours, request));
            Ok(theirs)
        })
    }
}

async fn answer(stream: DuplexStream, request: NodeRequest) {
    let (read, mut write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read);
    let last = match request {
        NodeRequest::ImageResolve { reference, .. } if reference.contains("missing") => {
            Frame::Problem(Problem::not_found(
                "image-not-found",
                format!("no node holds {reference} and no registry has it"),
            ))
        }
        NodeRequest::ImageResolve { reference, credentials, .. }
            if reference.starts_with("private.test") && credentials.is_none() =>
        {
            Frame::Problem(Problem::new(403, "registry-refused", format!("{reference} is private")))
        }
        NodeRequest::ImageResolve { reference, .. } => {
            Frame::done(&ResolvedImage { digest: format!("sha256:{reference}"), name: reference }).unwrap()
        }
        NodeRequest::Logs { tasks, query } => {
            for task in tasks {
                let record = LogRecord {
                    task,
                    run: 1,
                    at_ns: 1,
                    stream: LogStream::Stdout,
                    text: format!("hello from {task}\n"),
                };
                write_frame(&mut write, &Frame::message(&record).unwrap()).await.unwrap();
            }
            if query.follow {
                // Stays open until the reader goes.
                let _ = frames.next().await;
            }
            Frame::Done(b"null".to_vec())
        }
        NodeRequest::Exec { exec, .. } => {
            write_frame(&mut write, &Frame::Data(exec.command.join(" ").into_bytes())).await.unwrap();
            while let Ok(Some(Frame::Data(data))) = frames.next().await {
                if data.is_empty() {
                    break;
                }
                write_frame(&mut write, &Frame::Data(data)).await.unwrap();
            }
            Frame::done(&ExecResult { code: 3 }).unwrap()
        }
        NodeRequest::ImageLoad => {
            let mut bytes = 0_u64;
            while let Ok(Some(Frame::Data(data))) = frames.next().await {
                if data.is_empty() {
                    break;
                }
                bytes += data.len() as u64;
            }
            let image = HeldImage {
                name: "docker.io/library/x:1".into(),
                digest: "sha256:x".into(),
                size: Bytes(bytes),
                created_at: Timestamp(1),
            };
            Frame::done(&LoadedImages { images: vec![image] }).unwrap()
        }
        NodeRequest::ImagePull { reference, .. } => {
            write_frame(&mut write, &Frame::message(&PullProgress::default()).unwrap()).await.unwrap();
            Frame::Problem(Problem::not_found("image-not-found", format!("no {reference}")))
        }
        NodeRequest::ImageList => Frame::done(&held_images()).unwrap(),
        NodeRequest::VolumeList => Frame::done(&serde_json::json!([])).unwrap(),
        NodeRequest::TaskInspect { task } => Frame::done(&serde_json::json!({ "bundle": task })).unwrap(),
        NodeRequest::Signal { .. } | NodeRequest::ImageRemove { .. } | NodeRequest::VolumeRemove { .. } => {
            Frame::Done(b"null".to_vec())
        }
        NodeRequest::Attach { .. }
        | NodeRequest::CopyOut { .. }
        | NodeRequest::CopyIn { .. }
        | NodeRequest::DnsLookup { .. }
        | NodeRequest::ImageInspect { .. }
        | NodeRequest::ImageTag { .. }
        | NodeRequest::ImageSave { .. }
        | NodeRequest::ImagePrune { .. } => Frame::Problem(Problem::new(501, "unsupported", "not here")),
        NodeRequest::RegistryCheck { registry, credentials } => match credentials.password.as_str() {
            "wrong" => Frame::Problem(Problem::new(403, "registry-refused", format!("{registry} says no"))),
            _ => Frame::Done(b"null".to_vec()),
        },
    };
    // The asker may be gone.
    let _ = write_frame(&mut write, &last).await;
}

fn held_images() -> Vec<HeldImage> {
    vec![HeldImage {
        name: "docker.io/library/web:1".into(),
        digest: "sha256:web:1".into(),
        size: Bytes(1),
        created_at: Timestamp(1),
    }]
}

fn node_info() -> NodeInfo {
    serde_json::from_value(serde_json::json!({
        "id": "00000000000a", "hostname": "host-a", "os": "linux", "arch": "amd64", "cpus": 4000,
        "memory": 8_u64 << 30, "labels": {}, "addresses": ["192.0.2.1"], "version": "0.1.0",
        "lacks": { "cpu_sets": "its cgroup controller cpuset is not there" }
    }))
    .unwrap()
}

/// A node that does as it is told at once, and reports.
async fn node(mut session: LocalSession, behaviour: Arc<Mutex<Behaviour>>) {
    let mut sequence = 0;
    let mut reports: BTreeMap<TaskId, TaskReport> = BTreeMap::new();
    loop {
        sequence += 1;
        let told = session.assignments.borrow_and_update().clone();
        if let Some(told) = &told {
            behaviour.lock().unwrap().credentials.clone_from(&told.credentials);
            reports.retain(|id, _| told.tasks.contains_key(id) || told.retained.contains(id));
            for (id, task) in &told.tasks {
                let report = reports.entry(*id).or_insert_with(|| started(*id));
                let image = &task.spec.container.image;
                let reject = behaviour.lock().unwrap().rejects.get(image).cloned();
                (report.state, report.health) = match (task.desired, reject) {
                    (Desired::Stop, _) => (TaskState::Stopped, Health::Unknown),
                    (Desired::Run, Some(reason)) => {
                        report.reason = Some(reason);
                        (TaskState::Rejected, Health::Unknown)
                    }
                    (Desired::Run, None) => (TaskState::Running, Health::Passing),
                };
            }
        }
        session.reports.report(NodeReport {
            cluster: session.cluster.clone(),
            epoch: told.as_ref().map_or(0, |t| t.epoch),
            sequence,
            generation: told.as_ref().map_or(0, |t| t.generation),
            node: node_info(),
            tasks: reports.values().cloned().collect(),
            images: held_images(),
            port_conflicts: Vec::new(),
            collection: None,
        });
        tokio::select! {
            changed = session.assignments.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

fn started(task: TaskId) -> TaskReport {
    TaskReport {
        task,
        run: 1,
        state: TaskState::Running,
        health: Health::Unknown,
        reason: None,
        exit: None,
        started_at: Some(Timestamp(1)),
        health_since: Some(Timestamp(1)),
        crashes: 0,
        progress: None,
        probe: None,
        pid: Some(1),
        usage: Some(Usage { cpu_us: 1, memory: Some(Bytes(1)), pids: 1, at: Timestamp(1), detail: None }),
    }
}

/// A scheduler with its socket and one node.
struct Fixture {
    scheduler: Scheduler,
    client: Client,
    behaviour: Arc<Mutex<Behaviour>>,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    node: tokio::task::JoinHandle<()>,
}

impl Fixture {
    fn start(directory: &Path) -> Self {
        let config = SchedulerConfig {
            state_dir: directory.to_path_buf(),
            cluster_cidr: "10.192.0.0/10".into(),
            version: "0.1.0".into(),
        };
        let scheduler = Scheduler::open(config).unwrap();
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let node = tokio::spawn(node(scheduler.attach_node(node_info()), behaviour.clone()));
        scheduler.set_gateway(Arc::new(Gateway(behaviour.clone())));
        let socket = directory.join("carrack.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = scheduler.clone();
        let served = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serving.serve(listener, shutdown).await
        });
        Self { scheduler, client: Client::unix(socket), behaviour, stop, served, node }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.served).await.unwrap().unwrap().unwrap();
        self.node.abort();
        tokio::time::timeout(DEADLINE, self.scheduler.close()).await.unwrap();
    }

    async fn put(&self, spec: &StackSpec) -> Result<StackChange, ClientError> {
        self.put_with(spec, "", &[]).await
    }

    async fn put_with(
        &self,
        spec: &StackSpec,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<StackChange, ClientError> {
        let body =
            PutStack { spec: spec.clone(), credentials: BTreeMap::new(), contents: Default::default() };
        let path = format!("/v1/stacks/{}{query}", spec.name);
        self.client.json(::http::Method::PUT, &path, Some(&body), headers).await
    }

    /// Follows the watch until the view is as wanted.
    async fn until(&self, stack: &str, wanted: impl Fn(&StackView) -> bool) -> StackView {
        let mut last = None;
        let follow = async {
            let mut events = self.client.events(&format!("/v1/watch?stack={stack}"), None).await.unwrap();
            while let Some(event) = events.next().await.unwrap() {
                let view: StackView = serde_json::from_str(&event.data).unwrap();
                if wanted(&view) {
                    return view;
                }
                last = Some(view);
            }
            panic!("the watch ended");
        };
        match tokio::time::timeout(DEADLINE, follow).await {
            Ok(view) => view,
            Err(_) => panic!("never as wanted; last view: {last:#?}"),
        }
    }

    async fn converged(&self, stack: &str, revision: u64) -> StackView {
        self.until(stack, |view| {
            let good = |s: &StackStatus| {
                s.revision == revision && s.services.iter().all(|s| s.rollout == Rollout::Converged)
            };
            view.stack.as_ref().is_some_and(good)
        })
        .await
    }

    fn problem<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Problem {
        match result {
            Err(ClientError::Problem(problem)) => problem,
            other => panic!("no problem: {other:?}"),
        }
    }
}

fn service(image: &str, replicas: u32) -> ServiceSpec {
    let mut spec: ServiceSpec = serde_json::from_value(serde_json::json!({ "task": {} })).unwrap();
    spec.task.container.image = image.into();
    spec.task.network =
        TaskNetwork::Networks(BTreeMap::from([("default".parse().unwrap(), Attachment::default())]));
    spec.mode = ServiceMode::Replicated { replicas };
    spec
}

fn stack(name: &str, services: &[(&str, ServiceSpec)]) -> StackSpec {
    let network = NetworkSpec {
        name: format!("{name}_default").parse().unwrap(),
        internal: false,
        external: false,
        labels: Default::default(),
    };
    StackSpec {
        name: name.parse().unwrap(),
        services: services.iter().map(|(n, s)| (n.parse().unwrap(), s.clone())).collect(),
        networks: BTreeMap::from([("default".parse().unwrap(), network)]),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
    }
}

fn published(number: u16) -> PublishedPort {
    PublishedPort {
        target: 80,
        published: Some(number),
        range: None,
        host_ip: None,
        protocol: Protocol::Tcp,
        mode: PortMode::Ingress,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_converges_is_idempotent_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let spec = stack("hello", &[("web", service("web:1", 3)), ("redis", service("redis:7", 1))]);
    let preview = fixture.put_with(&spec, "?dry_run=true", &[]).await.unwrap();
    assert!(preview.revision == 0 && preview.services.iter().all(|s| s.kind == ChangeKind::Create));
    assert_eq!(fixture.client.get::<Vec<StackStatus>>("/v1/stacks").await.unwrap(), vec![]);
    assert_eq!(fixture.put_with(&spec, "", &[("if-match", "\"0\"")]).await.unwrap().revision, 1);
    let view = fixture.converged("hello", 1).await;
    assert_eq!(view.tasks.len(), 4);
    let web = &view.tasks[1];
    assert_eq!(
        (web.image_digest.as_deref(), web.hostname.as_deref()),
        (Some("sha256:web:1"), Some("host-a"))
    );
    let again = fixture.put(&spec).await.unwrap();
    assert!(
        again.revision == 1 && again.services.iter().all(|s| s.kind == ChangeKind::Unchanged),
        "{again:?}"
    );
    let info: Info = fixture.client.get("/v1/info").await.unwrap();
    assert_eq!((info.epoch, info.nodes.len(), info.nodes[0].tasks), (1, 1, 4));
    let before: Vec<TaskId> = view.tasks.iter().map(|t| t.id).collect();
    fixture.stop().await;

    let fixture = Fixture::start(dir.path());
    let view = fixture.converged("hello", 1).await;
    assert_eq!(view.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), before, "tasks are kept over a restart");
    let after: Info = fixture.client.get("/v1/info").await.unwrap();
    assert_eq!((after.epoch, after.cluster), (2, info.cluster));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_replaces_one_service_and_a_bad_one_leaves_the_old_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let version =
        |image: &str| stack("hello", &[("web", service(image, 2)), ("redis", service("redis:7", 1))]);
    fixture.put(&version("web:1")).await.unwrap();
    let first = fixture.converged("hello", 1).await;
    let change = fixture.put_with(&version("web:2"), "", &[("if-match", "\"1\"")]).await.unwrap();
    let kinds: Vec<ChangeKind> = change.services.iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [ChangeKind::Unchanged, ChangeKind::Replace]);
    let second = fixture.converged("hello", 2).await;
    let redis = |view: &StackView| view.tasks.iter().find(|t| t.image == "redis:7").unwrap().id;
    assert_eq!(redis(&first), redis(&second), "the unchanged service keeps its task");

    let stale = Fixture::problem(fixture.put_with(&version("web:3"), "", &[("if-match", "\"1\"")]).await);
    assert_eq!((stale.status, stale.kind.as_str()), (412, "revision-mismatch"));

    fixture.behaviour.lock().unwrap().rejects.insert("web:bad".into(), "user \"x\" does not exist".into());
    fixture.put(&version("web:bad")).await.unwrap();
    let failed = fixture
        .until("hello", |view| {
            let services = view.stack.iter().flat_map(|s| &s.services);
            services
                .filter(
                    |s| matches!(&s.rollout, Rollout::Failed { reason } if reason.contains("does not exist")),
                )
                .count()
                == 1
        })
        .await;
    let web =
        failed.stack.unwrap().services.into_iter().find(|s| s.service.service.as_str() == "web").unwrap();
    assert_eq!(web.passing, 2, "the old tasks serve");

    let missing = Fixture::problem(fixture.put(&version("missing:1")).await);
    assert_eq!((missing.status, missing.kind.as_str()), (422, "image-not-found"));
    assert!(
        missing.detail.contains("service web: image \"missing:1\"")
            && missing.hint.unwrap().contains("carrack image load")
    );
    let status: StackStatus = fixture.client.get("/v1/stacks/hello").await.unwrap();
    assert_eq!(status.revision, 3, "nothing changed");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_holds_until_the_next_deploy_and_removal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let spec = stack("hello", &[("web", service("web:1", 2))]);
    fixture.put(&spec).await.unwrap();
    let path = "/v1/services/hello/web/scale";
    let scaled: ServiceStatus =
        fixture.client.json(::http::Method::PUT, path, Some(&Scale { replicas: 5 }), &[]).await.unwrap();
    assert!(scaled.replicas == 5 && scaled.scaled);
    fixture.until("hello", |v| v.stack.as_ref().is_some_and(|s| s.services[0].passing == 5)).await;
    let change = fixture.put(&spec).await.unwrap();
    assert_eq!(change.notes, ["web: replicas return from 5 (set by scale) to 2 (the file)"]);
    assert_eq!((change.revision, change.services[0].kind), (1, ChangeKind::Adjust));
    fixture.until("hello", |v| v.stack.as_ref().is_some_and(|s| s.services[0].passing == 2)).await;
    // A report says that a task has stopped before its end is in the store.
    fixture.until_live("hello", 2).await;
    let past: Vec<TaskStatus> = fixture.client.get("/v1/tasks?stack=hello&all=true").await.unwrap();
    assert_eq!(past.len(), 5);
    fixture.client.delete("/v1/stacks/hello").await.unwrap();
    fixture.until("hello", |v| v.stack.is_none() && v.tasks.is_empty()).await;
    let gone = Fixture::problem(fixture.client.get::<StackStatus>("/v1/stacks/hello").await);
    assert_eq!((gone.status, gone.kind.as_str()), (404, "no-stack"));
    // The number of the last revision is remembered: a stale If-Match can never fit by accident.
    assert_eq!(fixture.put_with(&spec, "", &[("if-match", "\"0\"")]).await.unwrap().revision, 2);
    fixture.converged("hello", 2).await;
    let kinds = fixture.until_told("rollout.done").await;
    for kind in [
        "stack.deployed",
        "service.scaled",
        "task.placed",
        "task.running",
        "task.passing",
        "rollout.done",
        "stack.removed",
    ] {
        assert!(kinds.iter().any(|k| k == kind), "{kind} is not in {kinds:?}");
    }
    fixture.stop().await;
}

async fn event_kinds(fixture: &Fixture) -> Vec<String> {
    let mut stream = fixture.client.events("/v1/events", None).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        let event: Event = serde_json::from_str(&event.data).unwrap();
        kinds.push(event.kind);
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_problems_with_hints_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let mut web = service("web:1", 1);
    web.ports = vec![published(8080)];
    fixture.put(&stack("one", &[("web", web.clone())])).await.unwrap();

    let taken = Fixture::problem(fixture.put(&stack("two", &[("web", web.clone())])).await);
    assert_eq!((taken.status, taken.kind.as_str()), (409, "port-taken"));
    assert!(taken.problems[0].message.contains("port 8080/tcp is published by one/web"), "{taken:?}");

    let mut big = service("web:1", 1);
    big.task.reservations.memory = Bytes(512 << 30);
    let impossible = Fixture::problem(fixture.put(&stack("big", &[("web", big)])).await);
    assert_eq!(impossible.status, 422);
    assert!(impossible.detail.contains("1 node: lacks 512 GiB memory (has 8 GiB)"), "{}", impossible.detail);

    let mut bound = service("web:1", 1);
    bound.task.container.limits.cpuset = Some("0".into());
    let lacking = Fixture::problem(fixture.put(&stack("bound", &[("web", bound)])).await);
    assert_eq!((lacking.status, lacking.kind.as_str()), (422, "no-node-fits"));
    assert_eq!(lacking.problems[0].path, "services.web.cpuset");
    assert!(lacking.detail.contains("controller cpuset is not there"), "{}", lacking.detail);

    let invalid =
        Fixture::problem(fixture.put(&stack("bad", &[("a", service("", 1)), ("b", service("", 1))])).await);
    assert_eq!((invalid.status, invalid.problems.len()), (422, 2));

    let body = serde_json::json!({ "spec": { "name": "x", "services": {}, "colour": "red" } });
    let unknown =
        fixture.client.json::<_, StackChange>(::http::Method::PUT, "/v1/stacks/x", Some(&body), &[]).await;
    let unknown = Fixture::problem(unknown);
    assert!(unknown.status == 400 && unknown.detail.contains("colour"), "{unknown:?}");

    for (path, status, kind) in [
        ("/v1/nope", 404, "no-route"),
        ("/v1/stacks/none", 404, "no-stack"),
        ("/v1/stacks/UPPER", 404, "no-stack"),
        ("/v1/services/one/none", 404, "no-service"),
        ("/v1/tasks/t999", 404, "no-task"),
        ("/v1/tasks/nine", 404, "no-task"),
        ("/v1/logs", 400, "invalid-query"),
        ("/v1/logs?stack=one&colour=red", 400, "invalid-query"),
        ("/v1/logs?stack=one&service=none", 404, "no-service"),
        ("/v1/watch", 400, "invalid-query"),
        ("/v1/stacks/one/none", 404, "no-route"),
    ] {
        let problem = Fixture::problem(fixture.client.get::<serde_json::Value>(path).await);
        assert_eq!((problem.status, problem.kind.as_str()), (status, kind), "{path}: {problem:?}");
    }
    let method = fixture.client.json::<(), ()>(::http::Method::POST, "/v1/stacks", None, &[]).await;
    assert_eq!(Fixture::problem(method).status, 405);
    let large = full(vec![b' '; 5 << 20]);
    let large = fixture
        .client
        .frames(::http::Method::PUT, "/v1/stacks/x", large, &[("content-type", "application/json")])
        .await;
    assert!(
        matches!(&large, Err(ClientError::Problem(p)) if p.status == 413)
            || matches!(large, Err(ClientError::Transport { .. }))
    );
    assert_eq!(fixture.client.get::<Vec<StackStatus>>("/v1/stacks").await.unwrap().len(), 1);
    let document: serde_json::Value = fixture.client.get("/v1/openapi.json").await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_exec_and_images_reach_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let spec = stack("hello", &[("web", service("web:1", 2))]);
    fixture.put(&spec).await.unwrap();
    let view = fixture.converged("hello", 1).await;
    let first = view.tasks[0].id;

    let read = |path: String| {
        let client = fixture.client.clone();
        async move {
            let mut frames = client.frames(::http::Method::GET, &path, empty(), &[]).await.unwrap();
            let mut seen = Vec::new();
            while let Some(frame) = frames.next().await.unwrap() {
                match frame {
                    Frame::Message(json) => {
                        seen.push(serde_json::from_slice::<LogRecord>(&json).unwrap().task)
                    }
                    other => assert_eq!(other, Frame::Done(b"null".to_vec())),
                }
            }
            seen
        }
    };
    assert_eq!(read("/v1/logs?stack=hello".into()).await.len(), 2);
    assert_eq!(read(format!("/v1/logs?task={first}&tail=5")).await, [first]);
    follows_new_tasks(&fixture).await;

    let exec = serde_json::to_string(&ExecRequest {
        command: vec!["cat".into()],
        stdin: true,
        ..Default::default()
    })
    .unwrap();
    let stream =
        fixture.client.upgrade(&format!("/v1/tasks/{first}/exec"), &[("carrack-exec", &exec)]).await.unwrap();
    let (read, mut write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read);
    assert_eq!(frames.next().await.unwrap(), Some(Frame::Data(b"cat".to_vec())));
    write_frame(&mut write, &Frame::Data(b"through".to_vec())).await.unwrap();
    assert_eq!(frames.next().await.unwrap(), Some(Frame::Data(b"through".to_vec())));
    write_frame(&mut write, &Frame::Data(Vec::new())).await.unwrap();
    assert_eq!(frames.next().await.unwrap(), Some(Frame::Done(br#"{"code":3}"#.to_vec())));
    assert_eq!(frames.next().await.unwrap(), None, "the stream ends after the result");

    let archive = vec![7_u8; 3 << 20];
    let mut frames =
        fixture.client.frames(::http::Method::POST, "/v1/images/load", full(archive), &[]).await.unwrap();
    let Some(Frame::Done(json)) = frames.next().await.unwrap() else { panic!("no result") };
    assert_eq!(serde_json::from_slice::<LoadedImages>(&json).unwrap().images[0].size, Bytes(3 << 20));

    let in_use = Fixture::problem(fixture.client.delete("/v1/images/web:1").await);
    assert!(in_use.status == 409 && in_use.detail.contains("hello/web"), "{in_use:?}");
    fixture.client.delete("/v1/images/docker.io%2Flibrary%2Fother:1").await.unwrap();
    let images: Vec<HeldImage> = fixture.client.get("/v1/images").await.unwrap();
    assert_eq!(images.len(), 1);
    let inspect: serde_json::Value = fixture.client.get(&format!("/v1/tasks/{first}/inspect")).await.unwrap();
    assert_eq!(inspect["node"]["bundle"], serde_json::json!(first));
    assert_eq!(inspect["usage"].as_array().unwrap().len(), 1);
    fixture.stop().await;
}

/// A reader that follows a service hears of tasks that are made later.
async fn follows_new_tasks(fixture: &Fixture) {
    let mut frames = fixture
        .client
        .frames(::http::Method::GET, "/v1/logs?stack=hello&service=web&follow=true", empty(), &[])
        .await
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let scale = Scale { replicas: 3 };
    let _: ServiceStatus = fixture
        .client
        .json(::http::Method::PUT, "/v1/services/hello/web/scale", Some(&scale), &[])
        .await
        .unwrap();
    let all = async {
        while seen.len() < 3 {
            if let Some(Frame::Message(json)) = frames.next().await.unwrap() {
                seen.insert(serde_json::from_slice::<LogRecord>(&json).unwrap().task);
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_of_a_stack_that_comes_and_resumes_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let mut events = fixture.client.events("/v1/watch?stack=later", None).await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert_eq!((first.event.as_str(), first.data.as_str()), ("stack", r#"{"stack":null,"tasks":[]}"#));
    fixture.put(&stack("later", &[("web", service("web:1", 1))])).await.unwrap();
    let next = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(next.data.contains("\"later\"") && next.id != first.id);
    fixture.converged("later", 1).await;
    // What is told follows what is seen: this comes last.
    let all = fixture.until_told("rollout.done").await.len();
    // Someone who has seen the gone stack hears of it again only when it has changed.
    let mut resumed = fixture.client.events("/v1/watch?stack=never", first.id.as_deref()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), resumed.next()).await.is_err());
    let mut later = fixture.client.events(&format!("/v1/events?after={}", all - 1), None).await.unwrap();
    assert_eq!(later.next().await.unwrap().unwrap().id.as_deref(), Some(all.to_string().as_str()));
    assert_eq!(later.next().await.unwrap(), None);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_scheduler_on_the_same_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let config = SchedulerConfig {
        state_dir: dir.path().into(),
        cluster_cidr: "10.192.0.0/10".into(),
        version: "0".into(),
    };
    let error = Scheduler::open(config.clone()).unwrap_err().to_string();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    let bad = SchedulerConfig { cluster_cidr: "10.0.0.0/30".into(), ..config };
    assert!(Scheduler::open(bad).unwrap_err().to_string().contains("prefix length 30"));
    fixture.stop().await;
}

impl Fixture {
    async fn post<B: serde::Serialize>(&self, path: &str, body: &B) -> Result<StackStatus, ClientError> {
        self.client.json(::http::Method::POST, path, Some(body), &[]).await
    }

    /// All tasks of a stack that have not ended.
    async fn live(&self, stack: &str) -> Vec<TaskStatus> {
        self.client.get(&format!("/v1/tasks?stack={stack}")).await.unwrap()
    }

    /// Waits until so many tasks of a stack have not ended.
    async fn until_live(&self, stack: &str, count: usize) {
        let wanted = async {
            while self.live(stack).await.len() != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wanted).await.unwrap();
    }

    /// Waits until something of this kind was told; the kinds of all that was.
    async fn until_told(&self, kind: &str) -> Vec<String> {
        let wanted = async {
            loop {
                let kinds = event_kinds(self).await;
                if kinds.iter().any(|told| told == kind) {
                    return kinds;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wanted).await.unwrap()
    }
}

fn only(services: &[&str]) -> Selection {
    Selection { services: services.iter().map(|s| s.parse().unwrap()).collect() }
}

/// Rollouts of it need no watching time.
fn quick(image: &str, replicas: u32) -> ServiceSpec {
    let mut spec = service(image, replicas);
    spec.update.monitor = Some(Duration::ZERO);
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_outlives_a_restart_and_ends_with_a_start_or_a_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let spec = stack("hello", &[("web", quick("web:1", 2)), ("redis", quick("redis:7", 1))]);
    fixture.put(&spec).await.unwrap();
    fixture.converged("hello", 1).await;
    let scale = Scale { replicas: 3 };
    let path = "/v1/services/hello/web/scale";
    let _: ServiceStatus = fixture.client.json(::http::Method::PUT, path, Some(&scale), &[]).await.unwrap();

    let missing = Fixture::problem(fixture.post("/v1/stacks/hello/stop", &only(&["wbe"])).await);
    assert_eq!((missing.status, missing.kind.as_str()), (404, "no-service"));
    assert_eq!(Fixture::problem(fixture.post("/v1/stacks/no/stop", &only(&[])).await).kind, "no-stack");
    let status = fixture.post("/v1/stacks/hello/stop", &only(&[])).await.unwrap();
    assert!(status.services.iter().all(|s| s.stopped && s.replicas == 0));
    fixture.until("hello", |v| v.tasks.iter().all(|t| t.state.is_final())).await;
    fixture.stop().await;

    let fixture = Fixture::start(dir.path());
    let view = fixture.converged("hello", 1).await;
    assert!(view.stack.unwrap().services.iter().all(|s| s.stopped));
    assert!(fixture.live("hello").await.is_empty());
    let status = fixture.post("/v1/stacks/hello/start", &only(&["web"])).await.unwrap();
    let replicas: Vec<(u32, bool)> = status.services.iter().map(|s| (s.replicas, s.stopped)).collect();
    assert_eq!(replicas, [(0, true), (3, false)], "redis stays stopped, web has its scale again");
    fixture.until("hello", |v| v.stack.as_ref().is_some_and(|s| s.services[1].passing == 3)).await;

    let change = fixture.put(&spec).await.unwrap();
    assert!(change.notes.iter().any(|n| n == "redis: it was stopped and is started again"), "{change:?}");
    assert!(change.notes.iter().any(|n| n.starts_with("web: replicas return from 3")), "{change:?}");
    fixture.until("hello", |v| v.stack.as_ref().is_some_and(|s| s.services[0].passing == 1)).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_makes_new_tasks_and_a_set_a_new_revision() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let mut web = quick("web:1", 2);
    web.task.container.env.insert("DB_PASSWORD".into(), Some("hunter2".into()));
    let spec = stack("hello", &[("web", web), ("redis", quick("redis:7", 1))]);
    fixture.put(&spec).await.unwrap();
    fixture.converged("hello", 1).await;
    let before = fixture.live("hello").await;
    let status = fixture.post("/v1/stacks/hello/restart", &only(&["web"])).await.unwrap();
    assert_eq!(status.revision, 2);
    let after = fixture
        .until("hello", |v| {
            let live = || v.tasks.iter().filter(|t| !t.state.is_final());
            let new = live().filter(|t| !before.iter().any(|old| old.id == t.id)).count();
            new == 2
                && live().count() == 3
                && v.stack
                    .as_ref()
                    .is_some_and(|s| s.services.iter().all(|s| s.rollout == Rollout::Converged))
        })
        .await;
    assert!(after.tasks.iter().any(|t| t.service.service.as_str() == "redis" && t.id == before[0].id));
    assert_eq!(fixture.put(&spec).await.unwrap().revision, 2, "the file is the same");

    let set = |body: SetService, basis: &'static str| {
        let client = fixture.client.clone();
        async move {
            let headers = [("if-match", basis)];
            let path = "/v1/services/hello/web";
            client.json::<_, StackChange>(::http::Method::PATCH, path, Some(&body), &headers).await
        }
    };
    let body = SetService {
        image: Some("web:2".into()),
        env: [("A".into(), Some("b".into()))].into(),
        replicas: Some(1),
        ..Default::default()
    };
    assert_eq!(Fixture::problem(set(body.clone(), "\"1\"").await).kind, "revision-mismatch");
    let change = set(body.clone(), "\"2\"").await.unwrap();
    assert_eq!((change.revision, change.services[1].kind), (3, ChangeKind::Replace));
    assert!(change.notes[0].contains("the next deploy of the file"), "{change:?}");
    assert_eq!(set(body, "\"3\"").await.unwrap().revision, 3, "as it is already");
    let missing = SetService { image: Some("missing:1".into()), ..Default::default() };
    assert_eq!(Fixture::problem(set(missing, "\"3\"").await).kind, "image-not-found");
    let tiny = SetService { memory: Some(Bytes(1)), ..Default::default() };
    assert_eq!(Fixture::problem(set(tiny, "\"3\"").await).kind, "invalid-spec");
    fixture.converged("hello", 3).await;
    let shown: StackSpec = fixture.client.get("/v1/stacks/hello/spec").await.unwrap();
    let container = &shown.services["web"].task.container;
    assert_eq!(container.image_digest.as_deref(), Some("sha256:web:2"));
    assert!(container.env.contains_key("DB_PASSWORD"), "what is never shown is not lost");
    let change = fixture.put(&spec).await.unwrap();
    assert!(change.notes.iter().any(|n| n.contains("what `carrack set` changed")), "{change:?}");

    let task = fixture.live("hello").await[0].id;
    let signal = |text: &str| SendSignal { signal: text.into() };
    let path = format!("/v1/tasks/{task}/signal");
    let sent = fixture.client.json::<_, ()>(::http::Method::POST, &path, Some(&signal("HUP")), &[]).await;
    assert!(sent.is_ok(), "{sent:?}");
    let sent = fixture.client.json::<_, ()>(::http::Method::POST, &path, Some(&signal("NO")), &[]).await;
    assert_eq!(Fixture::problem(sent).kind, "invalid-signal");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_off_task_stands_beside_its_service_until_it_or_its_stack_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let mut web = quick("web:1", 1);
    web.ports = vec![published(8080)];
    fixture.put(&stack("hello", &[("web", web), ("redis", quick("redis:7", 1))])).await.unwrap();
    fixture.converged("hello", 1).await;
    let run = |body: serde_json::Value| {
        let client = fixture.client.clone();
        async move { client.json::<_, RunStatus>(::http::Method::POST, "/v1/runs", Some(&body), &[]).await }
    };
    let web = "hello/web";
    let first = run(serde_json::json!({ "service": web, "command": ["true"] })).await.unwrap();
    assert_eq!((first.run.to_string().as_str(), first.remove), ("hello/web.run-1", false));
    let named = run(serde_json::json!({ "service": web, "name": "x" })).await.unwrap();
    assert_eq!(named.run.to_string(), "hello/web.run-x");
    let again = run(serde_json::json!({ "service": web, "name": "x" })).await;
    assert_eq!(Fixture::problem(again).kind, "name-taken");
    let taken =
        run(serde_json::json!({ "service": web, "ports": [{ "target": 80, "published": 8080 }] })).await;
    assert_eq!(Fixture::problem(taken).kind, "port-taken");
    let bad = run(serde_json::json!({ "service": web, "working_dir": "x" })).await;
    assert_eq!(Fixture::problem(bad).kind, "invalid-spec");
    assert_eq!(Fixture::problem(run(serde_json::json!({ "service": "hello/no" })).await).kind, "no-service");

    let running = |view: &StackView, count: usize| {
        let runs = view.stack.as_ref().map(|s| s.runs.clone()).unwrap_or_default();
        runs.len() == count && runs.iter().all(|r| r.state == TaskState::Running)
    };
    let view = fixture.until("hello", |view| running(view, 2)).await;
    assert_eq!(view.stack.unwrap().services[1].running, 1, "they are nobody's replicas");
    assert!(view.tasks.iter().filter(|t| t.service.service.as_str().contains(".run-")).all(|t| t.slot == 0));
    fixture.client.delete("/v1/runs/hello/web.run-1").await.unwrap();
    fixture.until("hello", |view| running(view, 1)).await;
    let gone = fixture.client.delete("/v1/runs/hello/web.run-1").await;
    assert_eq!(Fixture::problem(gone).kind, "no-run");
    // It outlives the scheduler, and goes with its stack.
    fixture.stop().await;
    let fixture = Fixture::start(dir.path());
    fixture.until("hello", |view| running(view, 1)).await;
    fixture.client.delete("/v1/stacks/hello").await.unwrap();
    fixture.until("hello", |view| view.stack.is_none()).await;
    assert!(fixture.client.get::<Vec<RunStatus>>("/v1/runs").await.unwrap().is_empty());
    fixture.stop().await;
}

/// On a network that is called `edge` in the cluster.
fn on_edge(name: &str, external: bool) -> StackSpec {
    let mut spec = stack(name, &[("web", service("web:1", 1))]);
    let network = spec.networks.get_mut("default").unwrap();
    (network.name, network.external) = ("edge".parse().unwrap(), external);
    spec
}

async fn make_network(fixture: &Fixture, body: &serde_json::Value) -> Result<NetworkStatus, ClientError> {
    fixture.client.json(::http::Method::POST, "/v1/networks", Some(body), &[]).await
}

async fn prune_networks(fixture: &Fixture, dry_run: bool) -> String {
    let body = PruneNetworks { dry_run };
    let gone: Vec<NetworkStatus> =
        fixture.client.json(::http::Method::POST, "/v1/networks/prune", Some(&body), &[]).await.unwrap();
    gone.iter().map(|network| network.name.as_str()).collect::<Vec<_>>().join(" ")
}

async fn network_names(fixture: &Fixture) -> String {
    let all: Vec<NetworkStatus> = fixture.client.get("/v1/networks").await.unwrap();
    all.iter().map(|network| network.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_made_by_command_outlives_stacks_and_restarts_and_goes_when_nobody_is_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let missing = Fixture::problem(fixture.put(&on_edge("one", true)).await);
    assert_eq!((missing.status, missing.problems[0].path.as_str()), (422, "networks.default"));
    assert!(missing.problems[0].message.contains("external network edge does not exist"), "{missing:?}");
    let body = serde_json::json!({ "name": "edge", "internal": true, "labels": { "tier": "front" } });
    let made = make_network(&fixture, &body).await.unwrap();
    assert!(made.internal && made.stack.is_none() && made.created_at.is_some(), "{made:?}");
    let again = Fixture::problem(make_network(&fixture, &body).await);
    assert_eq!((again.status, again.kind.as_str()), (409, "network-exists"));
    // A stack cannot make it its own; two may use it.
    let own = Fixture::problem(fixture.put(&on_edge("one", false)).await);
    assert!(own.problems[0].message.contains("was made by command"), "{own:?}");
    fixture.put(&on_edge("one", true)).await.unwrap();
    fixture.put(&on_edge("two", true)).await.unwrap();
    fixture.converged("two", 1).await;
    fixture.stop().await;
    let fixture = Fixture::start(dir.path());
    let edge: NetworkStatus = fixture.client.get("/v1/networks/edge").await.unwrap();
    let users: Vec<String> = edge.services.iter().map(ToString::to_string).collect();
    assert_eq!((users.join(" "), edge.labels["tier"].as_str()), ("one/web two/web".to_owned(), "front"));
    let used = Fixture::problem(fixture.client.delete("/v1/networks/edge").await);
    assert_eq!((used.status, used.kind.as_str()), (409, "in-use"));
    assert!(used.detail.contains("used by one/web, two/web") && used.hint.is_some(), "{used:?}");
    assert_eq!(prune_networks(&fixture, false).await, "");
    // Its users go, it stays, until it is asked for.
    for stack in ["one", "two"] {
        fixture.client.delete(&format!("/v1/stacks/{stack}")).await.unwrap();
        fixture.until(stack, |v| v.stack.is_none() && v.tasks.is_empty()).await;
    }
    assert_eq!(prune_networks(&fixture, true).await, "edge");
    assert_eq!(network_names(&fixture).await, "edge");
    fixture.client.delete("/v1/networks/edge").await.unwrap();
    assert_eq!(network_names(&fixture).await, "");
    make_network(&fixture, &serde_json::json!({ "name": "edge" })).await.unwrap();
    assert_eq!(prune_networks(&fixture, false).await, "edge");
    assert_eq!(network_names(&fixture).await, "");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_network_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    fixture.put(&stack("one", &[("web", service("web:1", 1))])).await.unwrap();
    let taken = Fixture::problem(make_network(&fixture, &serde_json::json!({ "name": "one_default" })).await);
    assert!(taken.status == 409 && taken.detail.contains("belongs to stack one"), "{taken:?}");
    let of_stack = Fixture::problem(fixture.client.delete("/v1/networks/one_default").await);
    assert_eq!((of_stack.status, of_stack.kind.as_str()), (409, "of-a-stack"));
    assert!(of_stack.hint.unwrap().contains("carrack rm one"));
    for (body, status, says) in [
        (serde_json::json!({ "name": "not a name" }), 400, "not a name"),
        (serde_json::json!({ "name": "" }), 400, "name"),
        (serde_json::json!({}), 400, "name"),
        (serde_json::json!({ "name": "x", "subnet": "10.0.0.0/8" }), 400, "subnet"),
        (serde_json::json!({ "name": "x", "labels": { "": "y" } }), 422, "labels"),
    ] {
        let problem = Fixture::problem(make_network(&fixture, &body).await);
        assert!(problem.status == status && problem.detail.contains(says), "{body}: {problem:?}");
    }
    for path in ["/v1/networks/none", "/v1/networks/not%20a%20name"] {
        let found = Fixture::problem(fixture.client.get::<NetworkStatus>(path).await);
        assert_eq!((found.status, found.kind.as_str()), (404, "no-network"), "{found:?}");
        let removed = Fixture::problem(fixture.client.delete(path).await);
        assert_eq!((removed.status, removed.kind.as_str()), (404, "no-network"), "{removed:?}");
    }
    let none = ::http::Method::PUT;
    let method = fixture.client.json::<(), ()>(none, "/v1/networks/x", None, &[]).await;
    assert_eq!(Fixture::problem(method).status, 405);
    assert_eq!(network_names(&fixture).await, "one_default");
    fixture.stop().await;
}
