//! The task that tells systemd how the daemon fares: when it is up, that it lives, what it does, that it ends.
//!
//! ```text
//!   Starting ── one whole round ──> Serving ── asked to stop ──> Stopping
//!   "takes longer"                  "lives", status              "takes longer"
//! ```
//! A sign of life is never given by a timer alone: it follows a [`Pulse`], one round through all of the daemon. The API answers,
//! and what it answers has come from the node's loop through the scheduler's since the sign before. A loop that hangs, a runtime
//! without a free thread, a store that waits for a dead disk: each ends the signs, and systemd ends and restarts the daemon.

use std::sync::Arc;
use std::time::Duration;

use carrack_api::client::Client;
use carrack_api::{Info, NodeId, human_duration};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::notify::{Notifier, Word};

/// Between two tries of a round while the daemon starts.
const STARTING_LOOK: Duration = Duration::from_millis(50);
/// Longest time between two looks at a daemon that serves, for the status.
const SERVING_LOOK: Duration = Duration::from_secs(5);
/// How much more time is asked for at once, for a start or a stop that is under way.
const EXTENSION: Duration = Duration::from_secs(60);
/// How often it is asked for.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// For how long at most: a start or a stop that takes longer hangs.
const EXTEND_MAX: Duration = Duration::from_secs(900);
/// Longest time for one round.
const ROUND_MAX: Duration = Duration::from_secs(10);

/// One round through the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pulse {
    /// Differs whenever the node's loop and the scheduler's have turned since.
    pub(super) turned: u64,
    /// Tasks that run.
    pub(super) tasks: u32,
    /// Services there are.
    pub(super) services: usize,
}

/// Takes a pulse; `None` when there is none.
pub(super) type Feel = Arc<dyn Fn() -> BoxFuture<'static, Option<Pulse>> + Send + Sync>;

/// How far the daemon is.
#[derive(Clone)]
enum Phase {
    /// Nothing can be asked yet.
    Starting,
    /// It is or will soon be up.
    Up(Feel),
    /// It was asked to end.
    Stopping,
}

/// Tells whoever manages this process; nobody, when nobody does.
pub(super) struct Herald {
    notifier: Option<Arc<Notifier>>,
    phase: watch::Sender<Phase>,
    task: Option<JoinHandle<()>>,
}

impl Herald {
    /// Begins with a daemon that starts. Must be called within a tokio runtime.
    pub(super) fn start(notifier: Option<Notifier>) -> Self {
        let (phase, phases) = watch::channel(Phase::Starting);
        let notifier = notifier.map(Arc::new);
        let task = notifier.clone().map(|notifier| tokio::spawn(tell(notifier, phases)));
        Self { notifier, phase, task }
    }

    /// The daemon's parts all run; it is ready at the first pulse that `feel` takes.
    pub(super) fn up(&self, feel: Feel) {
        self.phase.send_replace(Phase::Up(feel));
    }

    /// The daemon ends, in that way.
    pub(super) fn stopping(&self, how: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.say(&[Word::Stopping, Word::Status(how.to_owned()), Word::Extend(EXTENSION)]);
        }
        self.phase.send_replace(Phase::Stopping);
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Takes the pulse of a daemon by its API: what it says of its own node was told by the node's loop and read by the scheduler's.
pub(super) fn by_api(
    socket: &std::path::Path,
    node: NodeId,
    services: impl Fn() -> usize + Send + Sync + 'static,
) -> Feel {
    let client = Arc::new(Client::unix(socket));
    let services = Arc::new(services);
    Arc::new(move || {
        let (client, node, services) = (client.clone(), node.clone(), services.clone());
        Box::pin(async move {
            let info = timeout(ROUND_MAX, client.get::<Info>("/v1/info")).await.ok()?.ok()?;
            let own = info.nodes.into_iter().find(|status| status.info.id == node)?;
            // Zero until the node was heard of since this start.
            (own.seen_at.0 > 0).then(|| Pulse {
                turned: own.seen_at.0,
                tasks: own.tasks,
                services: services(),
            })
        })
    })
}

async fn tell(notifier: Arc<Notifier>, mut phases: watch::Receiver<Phase>) {
    let started = Instant::now();
    let mut extended: Option<Instant> = None;
    let mut extend = |since: Instant| {
        let due = extended.is_none_or(|at| at.elapsed() >= EXTEND_EVERY);
        if due && since.elapsed() < EXTEND_MAX {
            extended = Some(Instant::now());
            notifier.say(&[Word::Extend(EXTENSION)]);
        }
    };
    loop {
        extend(started);
        let phase = phases.borrow_and_update().clone();
        match phase {
            Phase::Starting => {}
            Phase::Up(feel) => {
                if let Some(pulse) = feel().await {
                    serve(&notifier, &mut phases, &feel, pulse).await;
                    break;
                }
            }
            Phase::Stopping => break,
        }
        if wait(&mut phases, STARTING_LOOK).await {
            break;
        }
    }
    let stopped = Instant::now();
    loop {
        extend(stopped);
        tokio::time::sleep(EXTEND_EVERY).await;
    }
}

/// Says that the daemon is up, then gives signs of life until it is to stop.
async fn serve(notifier: &Notifier, phases: &mut watch::Receiver<Phase>, feel: &Feel, first: Pulse) {
    let mut said = status(&first);
    tracing::info!("all that runs is adopted, and the API answers");
    notifier.say(&[Word::Ready, Word::Alive, Word::Status(said.clone())]);
    // A sign after half of the interval at the latest is what sd_watchdog_enabled(3) asks for.
    let look = notifier.watchdog().map_or(SERVING_LOOK, |interval| SERVING_LOOK.min(interval / 4));
    let (mut alive, mut alive_at) = (first, Instant::now());
    let mut told = false;
    while !matches!(*phases.borrow(), Phase::Stopping) {
        if wait(phases, look).await {
            return;
        }
        match feel().await {
            Some(pulse) if pulse.turned != alive.turned => {
                (alive, alive_at, told) = (pulse, Instant::now(), false);
                let mut words = vec![Word::Alive];
                let now = status(&pulse);
                if now != said {
                    words.push(Word::Status(now.clone()));
                    said = now;
                }
                notifier.say(&words);
            }
            _ => {
                let silent = alive_at.elapsed();
                let half = notifier.watchdog().is_some_and(|interval| silent >= interval / 2);
                if half && !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        silent = human_duration(silent),
                        "the daemon does not get round: without change systemd restarts it, and containers run on"
                    );
                }
            }
        }
    }
}

/// Waits that long, or until another phase; whether the daemon is to stop.
async fn wait(phases: &mut watch::Receiver<Phase>, time: Duration) -> bool {
    match timeout(time, phases.changed()).await {
        Ok(Ok(())) | Err(_) => matches!(*phases.borrow(), Phase::Stopping),
        Ok(Err(_)) => true,
    }
}

fn status(pulse: &Pulse) -> String {
    let many = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", many(pulse.tasks.into(), "task"), many(pulse.services as u64, "service"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// A manager with a real socket, and a daemon whose loop turns as long as it is told to.
    struct Rig {
        _directory: tempfile::TempDir,
        manager: tokio::net::UnixDatagram,
        herald: Herald,
        turns: Arc<AtomicBool>,
        answers: Arc<AtomicBool>,
    }

    impl Rig {
        fn new(watchdog: Duration) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let manager = UnixDatagram::bind(&path).unwrap();
            manager.set_nonblocking(true).unwrap();
            let manager = tokio::net::UnixDatagram::from_std(manager).unwrap();
            let notifier = Notifier::to(OsStr::new(&path), Some(watchdog)).unwrap();
            Self {
                _directory: directory,
                manager,
                herald: Herald::start(Some(notifier)),
                turns: Arc::new(AtomicBool::new(true)),
                answers: Arc::new(AtomicBool::new(true)),
            }
        }

        fn feel(&self) -> Feel {
            let (turns, answers) = (self.turns.clone(), self.answers.clone());
            let turned = Arc::new(AtomicU64::new(1));
            Arc::new(move || {
                let (turns, answers, turned) = (turns.clone(), answers.clone(), turned.clone());
                Box::pin(async move {
                    if turns.load(Ordering::SeqCst) {
                        turned.fetch_add(1, Ordering::SeqCst);
                    }
                    let turned = turned.load(Ordering::SeqCst);
                    answers.load(Ordering::SeqCst).then_some(Pulse { turned, tasks: 12, services: 1 })
                })
            })
        }

        /// The next datagram that says more than that it takes longer.
        async fn hears(&self) -> String {
            loop {
                let mut buffer = [0; 512];
                let length = timeout(Duration::from_secs(60), self.manager.recv(&mut buffer));
                let length = length.await.expect("a word within a minute").unwrap();
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if !text.starts_with("EXTEND_TIMEOUT_USEC=") {
                    return text;
                }
            }
        }

        fn drain(&self) {
            while self.manager.try_recv(&mut [0; 512]).is_ok() {}
        }
    }

    #[tokio::test]
    async fn ready_comes_with_the_first_round_and_stopping_is_told() {
        let rig = Rig::new(Duration::from_millis(200));
        rig.answers.store(false, Ordering::SeqCst);
        rig.herald.up(rig.feel());
        tokio::task::yield_now().await;
        rig.answers.store(true, Ordering::SeqCst);
        assert_eq!(rig.hears().await, "READY=1\nWATCHDOG=1\nSTATUS=12 tasks, 1 service");
        assert_eq!(rig.hears().await, "WATCHDOG=1", "the status is told when it changes");
        rig.herald.stopping("all containers are stopped");
        while !rig.hears().await.starts_with("STOPPING=1\nSTATUS=all containers are stopped") {}
    }

    #[tokio::test]
    async fn a_loop_that_hangs_gives_no_sign_of_life_and_goes_on_when_it_turns_again() {
        for hang in [|rig: &Rig| rig.turns.clone(), |rig: &Rig| rig.answers.clone()] {
            let rig = Rig::new(Duration::from_millis(40));
            rig.herald.up(rig.feel());
            rig.hears().await;
            hang(&rig).store(false, Ordering::SeqCst);
            rig.drain();
            // One round may have been under way; a timer would give twenty signs in that time.
            let mut signs = 0;
            let _ = timeout(Duration::from_millis(200), async {
                loop {
                    rig.hears().await;
                    signs += 1;
                }
            })
            .await;
            assert!(signs <= 1, "{signs} signs of life without life");
            hang(&rig).store(true, Ordering::SeqCst);
            assert_eq!(rig.hears().await, "WATCHDOG=1");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_nobody_manages_says_nothing() {
        let herald = Herald::start(None);
        herald.up(Arc::new(|| Box::pin(async { panic!("nobody asked") })));
        herald.stopping("it ends");
    }
}
