//! Credentials of stacks: kept sealed, shown to the registry and to the node that pulls, seen nowhere else; and when tags are
//! resolved again.

use std::collections::BTreeMap;
use std::path::Path;

use carrack_api::*;

use super::{Fixture, service, stack};

const HOST: &str = "private.test:5000";
const CANARY: &str = "canary-5b0e";

fn login(password: &str) -> RegistryCredentials {
    RegistryCredentials { username: "ada".into(), password: password.into() }
}

impl Fixture {
    async fn put_as(&self, spec: &StackSpec, password: Option<&str>) -> Result<StackChange, Problem> {
        let logins = password.map(|password| (HOST.to_owned(), login(password)));
        let body = PutStack {
            spec: spec.clone(),
            credentials: logins.into_iter().collect(),
            contents: Default::default(),
        };
        let path = format!("/v1/stacks/{}", spec.name);
        let put = self.client.json(::http::Method::PUT, &path, Some(&body), &[]).await;
        put.map_err(|error| Self::problem(Err::<(), _>(error)))
    }

    async fn login(&self, password: &str) -> Result<RegistryStacks, Problem> {
        let body = RegistryLogin { registry: HOST.into(), credentials: login(password) };
        let answer = self.client.json(::http::Method::POST, "/v1/registries/login", Some(&body), &[]).await;
        answer.map_err(|error| Self::problem(Err::<(), _>(error)))
    }

    /// Waits until the node is told these passwords, by stack.
    async fn told(&self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<StackName, String> =
            wanted.iter().map(|(stack, password)| (stack.parse().unwrap(), (*password).into())).collect();
        let mut last = BTreeMap::new();
        let until = tokio::time::Instant::now() + super::DEADLINE;
        while tokio::time::Instant::now() < until {
            let told = self.behaviour.lock().unwrap().credentials.clone();
            let passwords = told
                .into_iter()
                .filter_map(|(stack, mut logins)| Some((stack, logins.remove(HOST)?.password)));
            last = passwords.collect();
            if last == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the node was told {last:?}");
    }
}

/// Files below a directory that hold the text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(text.len()).any(|window| window == text.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_kept_sealed_and_outlive_a_restart_a_deploy_without_and_a_login() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let image = format!("{HOST}/web:1");
    let spec = stack("shop", &[("web", service(&image, 1))]);
    let refused = fixture.put_as(&spec, None).await.unwrap_err();
    assert_eq!((refused.status, refused.kind.as_str()), (403, "registry-refused"), "{refused:?}");
    fixture.put_as(&spec, Some(CANARY)).await.unwrap();
    fixture.converged("shop", 1).await;
    fixture.told(&[("shop", CANARY)]).await;
    fixture.stop().await;
    assert_eq!(files_with(dir.path(), CANARY), Vec::<String>::new());

    let fixture = Fixture::start(dir.path());
    fixture.told(&[("shop", CANARY)]).await;
    let mut second = spec.clone();
    let replicas = ServiceMode::Replicated { replicas: 2 };
    second.services.values_mut().for_each(|service| service.mode = replicas);
    assert_eq!(fixture.put_as(&second, None).await.unwrap().revision, 2, "what is kept serves later deploys");

    assert_eq!(fixture.login("wrong").await.unwrap_err().status, 403);
    let stacks = fixture.login(&format!("{CANARY}-2")).await.unwrap().stacks;
    assert_eq!(stacks, ["shop".parse::<StackName>().unwrap()]);
    fixture.told(&[("shop", &format!("{CANARY}-2"))]).await;
    for path in ["/v1/stacks/shop", "/v1/stacks/shop/spec", "/v1/tasks?all=true", "/v1/services"] {
        let shown: serde_json::Value = fixture.client.get(path).await.unwrap();
        assert!(!shown.to_string().contains(CANARY), "{path}");
    }
    fixture.client.delete("/v1/stacks/shop").await.unwrap();
    fixture.until("shop", |view| view.stack.is_none()).await;
    fixture.told(&[]).await;
    assert!(fixture.login(CANARY).await.unwrap().stacks.is_empty(), "they go with the stack");
    fixture.stop().await;
    assert_eq!(files_with(dir.path(), CANARY), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_can_be_forgotten_and_bad_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let spec = stack("shop", &[("web", service(&format!("{HOST}/web:1"), 1))]);
    let bad = fixture.put_as(&spec, Some("two\nlines")).await.unwrap_err();
    assert!(bad.detail.contains(HOST) && !bad.detail.contains("lines"), "{bad:?}");
    fixture.put_as(&spec, Some(CANARY)).await.unwrap();
    fixture.told(&[("shop", CANARY)]).await;
    let path = format!("/v1/registries/{HOST}");
    let none = None::<&()>;
    let forgot: RegistryStacks = fixture.client.json(::http::Method::DELETE, &path, none, &[]).await.unwrap();
    assert_eq!(forgot.stacks.len(), 1);
    fixture.told(&[]).await;
    for host in ["name", "a%2Fb", "index.docker.io"] {
        let path = format!("/v1/registries/{host}");
        let answer =
            fixture.client.json::<(), RegistryStacks>(::http::Method::DELETE, &path, None, &[]).await;
        assert_eq!(Fixture::problem(answer).kind, "invalid-registry", "{host}");
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_resolved_again_only_when_its_policy_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let with = |pull: PullPolicy| {
        let mut web = service("moving:1", 1);
        web.task.container.pull = pull;
        stack("shop", &[("web", web)])
    };
    let asked = |fixture: &Fixture| fixture.behaviour.lock().unwrap().resolved.clone();
    let often = with(PullPolicy::Every { seconds: 3600 });
    for _ in 0..3 {
        assert_eq!(fixture.put_as(&often, None).await.unwrap().revision, 1);
    }
    assert_eq!(asked(&fixture), [PullPolicy::Always], "asked once within the hour");
    fixture.stop().await;

    let fixture = Fixture::start(dir.path());
    fixture.put_as(&often, None).await.unwrap();
    assert_eq!(asked(&fixture), [], "when is durable");
    fixture.put_as(&with(PullPolicy::Always), None).await.unwrap();
    fixture.put_as(&with(PullPolicy::Missing), None).await.unwrap();
    fixture.put_as(&often, None).await.unwrap();
    assert_eq!(asked(&fixture), [PullPolicy::Always, PullPolicy::Missing, PullPolicy::Always]);
    fixture.stop().await;
}
