//! Secrets and configs over the API: what is taken and refused, who rolls when one changes, when content goes, and that a
//! secret never comes back.

use std::path::Path;

use carrack_api::client::{ClientError, full};
use carrack_api::*;
use serde_json::{Value, json};

use super::{DEADLINE, Fixture, service, stack};

const CANARY: &str = "canary-91c4";

fn body(content: &[u8], replace: bool) -> PutContent {
    PutContent { content: Content::new(content.to_vec()), labels: Default::default(), replace }
}

fn file(kind: ContentKind, name: &str, target: &str) -> ContentFile {
    ContentFile {
        kind,
        name: name.parse().unwrap(),
        target: target.into(),
        uid: 0,
        gid: 0,
        mode: 0o444,
        digest: None,
    }
}

/// `one` has the secret and the config, `two` only the config, `three` nothing.
fn shop() -> StackSpec {
    let (mut one, mut two) = (service("web:1", 1), service("web:1", 1));
    let conf = file(ContentKind::Config, "shop_conf", "/conf");
    one.task.container.files = vec![file(ContentKind::Secret, "shop_key", "/run/secrets/key"), conf.clone()];
    two.task.container.files = vec![conf];
    let mut spec = stack("shop", &[("one", one), ("two", two), ("three", service("web:1", 1))]);
    spec.secrets = [("shop_key".parse().unwrap(), ContentSpec::default())].into();
    spec.configs = [("shop_conf".parse().unwrap(), ContentSpec::default())].into();
    spec
}

impl Fixture {
    async fn make(&self, kind: &str, name: &str, body: &PutContent) -> Result<ContentStatus, ClientError> {
        self.client.json(::http::Method::PUT, &format!("/v1/{kind}/{name}"), Some(body), &[]).await
    }

    async fn bring(&self, spec: &StackSpec, key: &str, conf: &str) -> Result<StackChange, ClientError> {
        let content = |text: &str| Content::new(text.as_bytes().to_vec());
        let contents = Contents {
            secrets: [("shop_key".parse().unwrap(), content(key))].into(),
            configs: [("shop_conf".parse().unwrap(), content(conf))].into(),
        };
        let body = PutStack { spec: spec.clone(), credentials: Default::default(), contents };
        let path = format!("/v1/stacks/{}", spec.name);
        self.client.json(::http::Method::PUT, &path, Some(&body), &[]).await
    }

    /// Deploys, waits, and gives the task of each of the three services.
    async fn rolled(&self, key: &str, conf: &str) -> [TaskId; 3] {
        let change = self.bring(&shop(), key, conf).await.unwrap();
        let view = self.converged("shop", change.revision).await;
        ["one", "two", "three"].map(|name| {
            let mut live = view
                .tasks
                .iter()
                .filter(|task| task.service.service.as_str() == name && task.desired == Desired::Run);
            live.next().unwrap().id
        })
    }

    async fn refusal(&self, method: ::http::Method, path: &str, text: Vec<u8>) -> Problem {
        let json = [("content-type", "application/json")];
        Self::problem(self.client.frames(method, path, full(text), &json).await.map(drop))
    }
}

/// Files below a directory that hold the text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_is_refused_and_says_why_without_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(directory.path());
    for name in ["-x", "a%2Fb", "%C3%A4", "..", "x%00", &"x".repeat(300)] {
        let problem = Fixture::problem(fixture.make("secrets", name, &body(b"x", false)).await);
        assert_eq!((problem.status, problem.kind.as_str()), (400, "invalid-name"), "{name}: {problem:?}");
        let path = format!("/v1/configs/{name}");
        let problem = Fixture::problem(fixture.client.get::<Value>(&path).await);
        assert_eq!((problem.status, problem.kind.as_str()), (404, "no-config"), "{name}: {problem:?}");
    }
    // As large as it may be, and one byte more.
    let full_size = vec![b'x'; CONTENT_MAX_BYTES];
    let made = fixture.make("configs", "full", &body(&full_size, false)).await.unwrap();
    assert_eq!((made.size.0, made.text), (CONTENT_MAX_BYTES as u64, None));
    let problem = Fixture::problem(
        fixture.make("secrets", "big", &body(&[&full_size[..], b"x"].concat(), false)).await,
    );
    assert_eq!((problem.status, problem.kind.as_str()), (413, "too-large"));
    assert!(problem.hint.unwrap().contains("volume"));
    // Bodies that are none; a secret at the wrong place of one is not repeated.
    let fits = json!({ "content": base64::encode(CANARY.as_bytes()), "labels": {}, "replace": false });
    let with = |key: &str, value: Value| {
        let mut body = fits.clone();
        body[key] = value;
        body.to_string()
    };
    for text in [
        CANARY.to_owned(),
        String::new(),
        format!("\"{CANARY}\""),
        format!("[\"{CANARY}\"]"),
        fits.to_string().replace('}', ""),
        with("content", json!(CANARY)),
        with("content", json!([99, 97, 110])),
        with("content", json!({ CANARY: 1 })),
        with("labels", json!(CANARY)),
        with("replace", json!(CANARY)),
        with("value", json!(CANARY)),
    ] {
        let problem = fixture.refusal(::http::Method::PUT, "/v1/secrets/bad", text.clone().into()).await;
        assert_eq!((problem.status, problem.kind.as_str()), (400, "invalid-body"), "{text}: {problem:?}");
        assert!(!problem.detail.contains(CANARY) && !problem.detail.contains("99"), "{text}: {problem:?}");
    }
    let wrong = json!({ "spec": shop(), "contents": { "secrets": { "shop_key": CANARY } } });
    let problem = fixture.refusal(::http::Method::PUT, "/v1/stacks/shop", wrong.to_string().into()).await;
    assert!(problem.detail.contains("not base64") && !problem.detail.contains(CANARY), "{problem:?}");
    let none: Vec<ContentStatus> = fixture.client.get("/v1/secrets").await.unwrap();
    assert!(none.is_empty(), "{none:?}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_of_one_kind_and_of_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(directory.path());
    let first = fixture.make("secrets", "key", &body(CANARY.as_bytes(), false)).await.unwrap();
    assert!(first.digest.starts_with("hmac-sha256:") && first.text.is_none() && first.stack.is_none());
    // The same again changes nothing; other content or labels need `replace`.
    let again = fixture.make("secrets", "key", &body(CANARY.as_bytes(), false)).await.unwrap();
    assert_eq!(again, first);
    let problem = Fixture::problem(fixture.make("secrets", "key", &body(b"other", false)).await);
    assert_eq!((problem.status, problem.kind.as_str()), (409, "exists"));
    assert!(problem.hint.unwrap().contains("carrack secret create --replace"));
    let labelled = PutContent { labels: [("a".into(), "b".into())].into(), ..body(CANARY.as_bytes(), false) };
    assert_eq!(Fixture::problem(fixture.make("secrets", "key", &labelled).await).status, 409);
    let replaced = fixture.make("secrets", "key", &PutContent { replace: true, ..labelled }).await.unwrap();
    assert_eq!((replaced.digest.as_str(), replaced.labels["a"].as_str()), (first.digest.as_str(), "b"));
    // The other kind has names of its own, and shows its text when it is one.
    for path in ["/v1/configs/key", "/v1/secrets/none"] {
        assert_eq!(Fixture::problem(fixture.client.get::<Value>(path).await).status, 404, "{path}");
        assert_eq!(Fixture::problem(fixture.client.delete(path).await).status, 404, "{path}");
    }
    fixture.make("configs", "key", &body(b"colour", false)).await.unwrap();
    fixture.make("configs", "bytes", &body(b"\0\xff", false)).await.unwrap();
    let shown: ContentStatus = fixture.client.get("/v1/configs/key").await.unwrap();
    assert_eq!((shown.kind, shown.text.as_deref()), (ContentKind::Config, Some("colour")));
    let shown: ContentStatus = fixture.client.get("/v1/configs/bytes").await.unwrap();
    assert_eq!((shown.size.0, shown.text), (2, None));
    // A stack's own name is its own, by command and for another stack.
    fixture.rolled("k1", "c1").await;
    let problem = Fixture::problem(fixture.make("secrets", "shop_key", &body(b"x", true)).await);
    assert_eq!((problem.status, problem.kind.as_str()), (409, "name-taken"));
    let problem = Fixture::problem(fixture.client.delete("/v1/secrets/shop_key").await);
    assert_eq!((problem.status, problem.kind.as_str()), (409, "in-use"));
    let mut other = shop();
    other.name = "other".parse().unwrap();
    other.networks.clear();
    other.services.values_mut().for_each(|service| service.task.network = TaskNetwork::None);
    let problem = Fixture::problem(fixture.bring(&other, "x", "y").await);
    assert_eq!((problem.status, problem.detail.as_str()), (409, "secret shop_key belongs to stack shop"));
    // One that a service uses stays, and the service is named.
    let mut user = service("web:1", 1);
    user.task.container.files = vec![file(ContentKind::Secret, "key", "/run/secrets/key")];
    let mut spec = stack("user", &[("web", user)]);
    spec.secrets = [("key".parse().unwrap(), ContentSpec { external: true, ..Default::default() })].into();
    let change = fixture.put(&spec).await.unwrap();
    fixture.converged("user", change.revision).await;
    let problem = Fixture::problem(fixture.client.delete("/v1/secrets/key").await);
    assert_eq!((problem.status, problem.kind.as_str()), (409, "in-use"));
    assert_eq!(problem.detail, "secret key is used by user/web");
    let shown: ContentStatus = fixture.client.get("/v1/secrets/key").await.unwrap();
    assert_eq!(shown.used_by, ["user/web".parse().unwrap()].into());
    let found = files_with(directory.path(), CANARY);
    assert!(found.is_empty(), "{found:?}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_rolls_the_users_alone_and_what_nobody_needs_goes() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(directory.path());
    let first = fixture.rolled("k1", "c1").await;
    assert_eq!(fixture.rolled("k1", "c1").await, first, "the same content changes nothing");
    let key = fixture.rolled("k2", "c1").await;
    assert!(key[0] != first[0] && key[1..] == first[1..], "{first:?} {key:?}");
    let conf = fixture.rolled("k2", "c2").await;
    assert!(conf[0] != key[0] && conf[1] != key[1] && conf[2] == key[2], "{key:?} {conf:?}");
    let digest = |status: &[ContentStatus]| status.iter().map(|s| s.digest.clone()).collect::<Vec<_>>();
    let now: Vec<ContentStatus> = fixture.client.get("/v1/secrets").await.unwrap();
    fixture.rolled("k1", "c2").await;
    let back: Vec<ContentStatus> = fixture.client.get("/v1/secrets").await.unwrap();
    assert_ne!(digest(&now), digest(&back));
    fixture.rolled("k2", "c2").await;
    let again: Vec<ContentStatus> = fixture.client.get("/v1/secrets").await.unwrap();
    assert_eq!(digest(&now), digest(&again), "what comes back is what it was");
    // Without content a deploy keeps what the revision in force has.
    let given = fixture.bring(&shop(), "k2", "c2").await.unwrap();
    assert_eq!(fixture.put(&shop()).await.unwrap().revision, given.revision);
    fixture.client.delete("/v1/stacks/shop").await.unwrap();
    let gone = async {
        loop {
            let left: Vec<ContentStatus> = fixture.client.get("/v1/secrets").await.unwrap();
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_key_is_told_and_what_comes_anew_is_sealed_under_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(directory.path());
    fixture.rolled("k1", "c1").await;
    fixture.make("secrets", "key", &body(b"made", false)).await.unwrap();
    fixture.stop().await;
    let path = directory.path().join("keys/secrets.key");
    let key = std::fs::read(&path).unwrap();
    std::fs::write(&path, &key[1..]).unwrap();
    let config = || carrack_scheduler::SchedulerConfig {
        state_dir: directory.path().to_path_buf(),
        cluster_cidr: "10.192.0.0/10".into(),
        version: "0.1.0".into(),
    };
    let damaged = carrack_scheduler::Scheduler::open(config()).unwrap_err().to_string();
    assert!(damaged.contains("31 bytes in place of 32; restore it"), "{damaged}");
    std::fs::remove_file(&path).unwrap();
    let fixture = Fixture::start(directory.path());
    let closed = closed_events(&fixture).await;
    assert_eq!(closed, ["key", "shop_key"]);
    // What is brought again is kept, and users roll.
    fixture.rolled("k1", "c1").await;
    fixture.make("secrets", "key", &body(b"made", true)).await.unwrap();
    fixture.stop().await;
    let fixture = Fixture::start(directory.path());
    assert_eq!(closed_events(&fixture).await, closed, "none is told of again");
    fixture.stop().await;
}

/// Subjects of the events that tell of secrets which do not open.
async fn closed_events(fixture: &Fixture) -> Vec<String> {
    let mut stream = fixture.client.events("/v1/events", None).await.unwrap();
    let mut closed = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        let event: Event = serde_json::from_str(&event.data).unwrap();
        closed.extend((event.kind == "secret.closed").then_some(event.subject));
    }
    closed
}
