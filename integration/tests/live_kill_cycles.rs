//! `kill -9` of the daemon again and again while clients write through its API: what it acknowledged is never lost.
//!
//! Each writer owns one stack and deploys it over and over; the number of the deploy is in the stack's labels, so that what is
//! found can be told from what was acknowledged. An answer that did not come says nothing: the write may or may not be there.
//!
//! `LONG=1` (`make test-all`): 1,000 kills, or as many as fit into four minutes on a slow machine, but 20 at least; else 20.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carrack_integration::http::ask;
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::wait::until;
use serde_json::{Value, json};

/// Clients that write at once.
const WRITERS: usize = 4;
/// Kills of the short and of the long run.
const KILLS: (u32, u32) = (20, 1000);
/// The long run ends after this time, with what it did.
const LONG_MAX: Duration = Duration::from_secs(240);
/// Writes that a cycle waits for before it kills.
const WRITES_A_CYCLE: u64 = 3;

/// What a writer knows for certain.
#[derive(Debug, Default, Clone, Copy)]
struct Acknowledged {
    /// Number of its newest write that was acknowledged.
    number: u64,
    /// The revision that was answered.
    revision: u64,
    /// Acknowledged writes.
    count: u64,
}

fn body(stack: &str, number: u64) -> Value {
    let service = json!({
        "task": {"container": {"image": "busybox:1", "env": {"NUMBER": number.to_string()}}},
        "mode": {"replicated": {"replicas": 0}}
    });
    json!({"spec": {"name": stack, "services": {"one": service}}})
}

/// The number and the revision that the daemon knows of a stack.
fn found(socket: &Path, stack: &str) -> Result<(u64, u64), String> {
    let spec = ask(socket, "GET", &format!("/v1/stacks/{stack}/spec"), None).map_err(|e| e.to_string())?;
    if spec.status == 404 {
        return Ok((0, 0));
    }
    let status = ask(socket, "GET", &format!("/v1/stacks/{stack}"), None).map_err(|e| e.to_string())?;
    let number = spec.body["services"]["one"]["task"]["container"]["env"]["NUMBER"].as_str();
    let number = number.and_then(|text| text.parse().ok()).ok_or_else(|| format!("{spec:?}"))?;
    Ok((number, status.body["revision"].as_u64().ok_or_else(|| format!("{status:?}"))?))
}

/// Writes until told to stop. After every write whose answer did not come it looks what is there: never less than what was
/// acknowledged, never more than what was sent.
fn write(socket: PathBuf, stack: String, acknowledged: &AtomicU64, stop: &AtomicBool) -> Acknowledged {
    let mut known = Acknowledged::default();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        sent += 1;
        match ask(&socket, "PUT", &format!("/v1/stacks/{stack}"), Some(&body(&stack, sent))) {
            Ok(answer) if answer.status == 200 => {
                let revision = answer.body["revision"].as_u64().expect("a revision");
                assert!(revision > known.revision, "{stack}: revision {revision} after {known:?}");
                known = Acknowledged { number: sent, revision, count: known.count + 1 };
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Not ready yet, or gone in the middle.
            Ok(answer) => {
                assert!(answer.status >= 500, "{stack}: {answer:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        if known.number != sent
            && let Ok((number, revision)) = found(&socket, &stack)
        {
            assert!(
                (known.number..=sent).contains(&number) && revision >= known.revision,
                "{stack}: number {number}, revision {revision} are there, {known:?} was acknowledged, {sent} were sent"
            );
        }
    }
    known
}

#[test]
fn a_thousand_kills_under_writes_lose_no_acknowledged_write() {
    let long = std::env::var_os("LONG").is_some_and(|value| value == "1");
    let kills = if long { KILLS.1 } else { KILLS.0 };
    let mut lab = Lab::started();
    lab.load_images(&["busybox"]);
    let socket = lab.socket();
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let stacks: Vec<String> = (0..WRITERS).map(|n| format!("writer{n}")).collect();
    let begun = Instant::now();
    let mut done = 0;
    let known: Vec<Acknowledged> = std::thread::scope(|scope| {
        let writers: Vec<_> = stacks
            .iter()
            .map(|stack| {
                let (socket, stack, acknowledged, stop) =
                    (socket.clone(), stack.clone(), &acknowledged, &stop);
                scope.spawn(move || write(socket, stack, acknowledged, stop))
            })
            .collect();
        let stopper = StopOnDrop(&stop);
        while done < KILLS.0 || (done < kills && begun.elapsed() < LONG_MAX) {
            let before = acknowledged.load(Ordering::Relaxed);
            until("writes are acknowledged", SOON, || {
                assert!(!writers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a writer gave up");
                match acknowledged.load(Ordering::Relaxed) - before {
                    WRITES_A_CYCLE.. => Ok(()),
                    some => Err(format!("{some}\n{}", lab.daemon_log().lines().last().unwrap_or_default())),
                }
            });
            lab.kill_daemon();
            lab.spawn();
            done += 1;
        }
        drop(stopper);
        writers.into_iter().map(|writer| writer.join().expect("a writer's end")).collect()
    });
    let lost: Vec<String> = stacks
        .iter()
        .zip(&known)
        .filter_map(|(stack, known)| {
            let (number, revision) = until("the daemon answers", SOON, || found(&socket, stack));
            (number < known.number || revision < known.revision)
                .then(|| format!("{stack}: {number} at revision {revision}, acknowledged was {known:?}"))
        })
        .collect();
    let writes: u64 = known.iter().map(|known| known.count).sum();
    println!(
        "{done} kills in {} s, {writes} writes acknowledged, {} lost",
        begun.elapsed().as_secs(),
        lost.len()
    );
    assert!(lost.is_empty(), "{}", lost.join("\n"));
    assert!(done >= kills.min(KILLS.0) && writes >= u64::from(done), "{done} kills, {writes} writes");
    lab.finish();
}

/// Ends the writers also when the test fails, so that its scope ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
