//! The loop against a simulated host under virtual time, as sentences.

use super::*;
use crate::simulated::Host;
use crate::testing::{CLUSTER, NODE, address, assigned, assignment};
use carrack_api::{
    Bytes, Health, ImageCollection, NodeId, RegistryCredentials, RestartCondition, TaskReport, TaskState,
};
use std::path::Path;
use std::sync::Mutex;
use tokio::sync::oneshot;

/// Longest virtual time that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(300);

/// A node on a simulated host; the daemon may die and come back, the host stays.
struct Rig {
    host: Arc<Host>,
    state: tempfile::TempDir,
    boot: String,
    assignments: watch::Sender<Option<Arc<Assignment>>>,
    reports: Arc<Mutex<Vec<NodeReport>>>,
    daemon: Option<(JoinHandle<()>, oneshot::Sender<Shutdown>)>,
}

impl Rig {
    fn new() -> Self {
        Self {
            host: Arc::default(),
            state: tempfile::tempdir().unwrap(),
            boot: "boot-1".to_owned(),
            assignments: watch::channel(None).0,
            reports: Arc::default(),
            daemon: None,
        }
    }

    /// A rig with a started daemon and these tasks of the service `web` wanted.
    async fn with_webs(tasks: u32) -> Self {
        let mut rig = Self::new();
        rig.start();
        rig.assign(webs(1, tasks));
        rig.until(|host, reports| host.running().len() == tasks as usize && all_passing(reports)).await;
        rig
    }

    fn start(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (host, directory, boot) = (self.host.clone(), self.state.path().to_path_buf(), self.boot.clone());
        let (assignments, reports) = (self.assignments.subscribe(), self.reports.clone());
        let daemon = tokio::spawn(async move {
            let driver = open(host, &directory, boot).await;
            let record = move |report, _: Option<&Arc<Assignment>>| reports.lock().unwrap().push(report);
            let shutdown = async { stopped.await.unwrap_or(Shutdown::KeepContainers) };
            driver.run(assignments, record, shutdown).await.unwrap();
        });
        self.daemon = Some((daemon, stop));
    }

    /// As kill -9: whatever was under way is dropped where it is.
    async fn kill(&mut self) {
        let (daemon, _stop) = self.daemon.take().unwrap();
        daemon.abort();
        assert!(daemon.await.is_err());
        // Its workers die with it; in one process they have to be let run out.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn stop(&mut self, how: Shutdown) {
        let (daemon, stop) = self.daemon.take().unwrap();
        stop.send(how).unwrap();
        daemon.await.unwrap();
    }

    fn assign(&self, assignment: Assignment) {
        self.assignments.send_replace(Some(Arc::new(assignment)));
    }

    async fn until(&self, done: impl Fn(&Host, &NodeReport) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.reports.lock().unwrap().last().cloned();
            if last.as_ref().is_some_and(|report| done(&self.host, report)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "last report: {last:#?}\neffects: {:#?}",
                self.host.state().effects
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn report(&self, task: u64) -> TaskReport {
        let reports = self.reports.lock().unwrap();
        reports.last().unwrap().tasks.iter().find(|report| report.task == TaskId(task)).unwrap().clone()
    }
}

async fn open(host: Arc<Host>, directory: &Path, boot: String) -> Driver<Host, Host> {
    let sealed = crate::sealed::SealedContents::open(directory).unwrap();
    let remembered = ledger::load(directory, &boot, &sealed).unwrap();
    let (ledger, _writer) = Ledger::start(directory.to_path_buf(), boot, sealed, ());
    let setup = Setup {
        info: info(),
        cluster: Some(ClusterId::new(CLUSTER).unwrap()),
        upstreams: Vec::new(),
        remembered,
        ledger,
        join: Box::new(|_| Ok(())),
        usage: Arc::default(),
    };
    Driver::adopt(host.clone(), host, setup).await.unwrap()
}

fn info() -> NodeInfo {
    NodeInfo {
        id: NodeId::new(NODE).unwrap(),
        hostname: "host".into(),
        os: "linux".into(),
        arch: "amd64".into(),
        cpus: Default::default(),
        memory: Default::default(),
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        version: "0".into(),
        lacks: BTreeMap::new(),
    }
}

fn webs(generation: u64, tasks: u32) -> Assignment {
    assignment(generation, (1..=tasks).map(|slot| (TaskId(slot.into()), assigned("web", slot))).collect())
}

fn with_desired(generation: u64, tasks: u32, desired: Desired) -> Assignment {
    let mut all = webs(generation, tasks);
    all.tasks.values_mut().for_each(|task| task.desired = desired);
    all
}

fn all_passing(report: &NodeReport) -> bool {
    report.tasks.iter().all(|task| task.health == Health::Passing)
}

fn state_of(report: &NodeReport, task: u64) -> Option<TaskState> {
    report.tasks.iter().find(|report| report.task == TaskId(task)).map(|task| task.state)
}

#[tokio::test(start_paused = true)]
async fn assigned_tasks_run_and_stand_behind_their_vip_once_they_pass() {
    let rig = Rig::with_webs(3).await;
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 3)).await;
    let report = rig.report(2);
    assert_eq!((report.run, report.state), (1, TaskState::Running));
    assert!(report.pid.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_task_is_told_as_passing_once_the_network_leads_to_it() {
    let mut rig = Rig::new();
    rig.host.state().program = Some(Refusal::Retry("no memory".into()));
    rig.start();
    rig.assign(webs(1, 1));
    rig.until(|host, _| host.running().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let waiting = rig.report(1);
    assert_eq!((waiting.state, waiting.health), (TaskState::Running, Health::Unknown));
    assert_eq!(waiting.reason.as_deref(), Some("the network does not lead to it yet: no memory"));
    rig.host.state().program = None;
    rig.until(|_, report| all_passing(report)).await;
    assert_eq!(rig.host.state().serving.last().map(BTreeSet::len), Some(1));
    assert_eq!(rig.report(1).reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_container_is_back_within_a_tenth_of_a_second_in_its_old_namespace() {
    let rig = Rig::with_webs(2).await;
    let before = Instant::now();
    rig.host.crash(TaskId(1), 1);
    rig.until(|host, _| host.running().contains(&(TaskId(1), 2))).await;
    assert!(before.elapsed() < Duration::from_millis(130), "{:?}", before.elapsed());
    assert_eq!(rig.host.effects("wire t1"), ["wire t1"]);
    rig.until(|_, report| all_passing(report)).await;
    assert_eq!(rig.report(1).crashes, 1);
    assert_eq!(rig.report(1).exit.unwrap().code, 1);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_endpoint_is_out_of_the_tables_at_once() {
    let rig = Rig::with_webs(2).await;
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 2)).await;
    rig.host.crash(TaskId(1), 1);
    rig.until(|host, _| host.state().serving.last() == Some(&BTreeSet::from([address(2)]))).await;
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 2)).await;
}

#[tokio::test(start_paused = true)]
async fn crashes_in_a_row_wait_longer_and_longer() {
    let rig = Rig::with_webs(1).await;
    let mut waits = Vec::new();
    for run in 2..=8 {
        let before = Instant::now();
        rig.host.crash(TaskId(1), 1);
        rig.until(|host, _| host.running().contains(&(TaskId(1), run))).await;
        waits.push(before.elapsed());
    }
    assert!(waits[0] < Duration::from_millis(130) && waits[6] > Duration::from_secs(3), "{waits:?}");
    assert!(rig.report(1).crashes == 7, "{:?}", rig.report(1));
}

#[tokio::test(start_paused = true)]
async fn files_of_a_crashed_run_go_but_its_log_stays() {
    let rig = Rig::with_webs(1).await;
    rig.host.crash(TaskId(1), 1);
    rig.until(|host, _| host.effects("remove t1.1").len() == 1).await;
    assert!(rig.host.state().logs.contains(&TaskId(1)));
}

#[tokio::test(start_paused = true)]
async fn success_completes_a_task_and_nothing_of_it_is_left_but_the_log() {
    let rig = Rig::with_webs(1).await;
    rig.host.crash(TaskId(1), 0);
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Completed)).await;
    rig.until(|host, _| host.effects("clean t1").len() == 1).await;
    assert!(rig.host.state().wired.is_empty() && rig.host.state().runs.is_empty());
    assert!(rig.host.state().logs.contains(&TaskId(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_goes_out_of_the_tables_drains_signals_and_only_then_unwires() {
    let rig = Rig::with_webs(1).await;
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 1)).await;
    rig.host.state().effects.clear();
    rig.host.state().connections.insert(address(1).into(), 2);
    rig.assign(with_desired(2, 1, Desired::Stop));
    rig.until(|host, _| host.state().serving.last().is_some_and(BTreeSet::is_empty)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.host.effects("signal").is_empty(), "it has open connections");
    rig.host.state().connections.clear();
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Stopped)).await;
    let effects = rig.host.state().effects.clone();
    assert_eq!(
        effects,
        ["serving 0", &format!("cut {}", address(1)), "signal t1.1 15", "unwire t1", "clean t1"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_and_a_deaf_container_are_waited_for_only_so_long() {
    let rig = Rig::with_webs(1).await;
    rig.host.state().connections.insert(address(1).into(), 1);
    rig.host.state().deaf = true;
    let before = Instant::now();
    rig.assign(with_desired(2, 1, Desired::Stop));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Stopped)).await;
    assert_eq!(rig.host.effects("kill").len(), 1);
    let took = before.elapsed();
    assert!(took > Duration::from_secs(39) && took < Duration::from_secs(42), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_neither_assigned_nor_retained_is_removed_with_its_log() {
    let rig = Rig::with_webs(3).await;
    let mut next = webs(2, 1);
    next.retained.insert(TaskId(2));
    rig.assign(next);
    rig.until(|_, report| report.tasks.len() == 2 && state_of(report, 2) == Some(TaskState::Stopped)).await;
    assert_eq!(rig.host.state().logs, BTreeSet::from([TaskId(1), TaskId(2)]));
    assert_eq!(rig.host.running(), BTreeSet::from([(TaskId(1), 1)]));
    rig.assign(webs(3, 1));
    rig.until(|host, report| report.tasks.len() == 1 && host.state().logs.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_older_assignment_changes_nothing() {
    let rig = Rig::with_webs(2).await;
    rig.assign(webs(5, 2));
    rig.until(|_, report| report.generation == 5).await;
    rig.assign(webs(4, 0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.host.running().len(), 2);
    rig.until(|_, report| report.generation == 5).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist_rejects_the_task_with_the_reason() {
    let mut rig = Rig::new();
    rig.host.state().prepare = Some(Refusal::Final("no image x:1".into()));
    rig.start();
    rig.assign(webs(1, 1));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Rejected)).await;
    assert_eq!(rig.report(1).reason.as_deref(), Some("no image x:1"));
}

/// One task of `web` with these hooks, of one word each.
fn hooked(generation: u64, post_start: &[&str], pre_stop: &[&str]) -> Assignment {
    let hooks = |words: &[&str]| {
        let hook =
            |word: &&str| carrack_api::Hook { command: vec![(*word).to_owned()], ..Default::default() };
        words.iter().map(hook).collect()
    };
    let mut assignment = webs(generation, 1);
    for task in assignment.tasks.values_mut() {
        let container = &mut task.spec.container;
        (container.post_start, container.pre_stop) = (hooks(post_start), hooks(pre_stop));
    }
    assignment
}

#[tokio::test(start_paused = true)]
async fn hooks_are_run_after_the_start_and_before_the_stop_signal() {
    let mut rig = Rig::new();
    rig.start();
    rig.assign(hooked(1, &["first", "second"], &["last", "fails", "never"]));
    rig.until(|host, reports| host.running().len() == 1 && all_passing(reports)).await;
    let run = |rig: &Rig| rig.host.state().hooks.iter().map(|(_, _, word)| word.clone()).collect::<Vec<_>>();
    assert_eq!(run(&rig), ["first", "second"]);
    let mut stop = hooked(2, &["first", "second"], &["last", "fails", "never"]);
    stop.tasks.values_mut().for_each(|task| task.desired = Desired::Stop);
    rig.assign(stop);
    rig.until(|host, _| host.running().is_empty()).await;
    assert_eq!(
        run(&rig),
        ["first", "second", "last", "fails"],
        "one that fails is the last, and stops nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_of_the_start_that_fails_rejects_the_task_and_leaves_nothing() {
    let mut rig = Rig::new();
    rig.start();
    rig.assign(hooked(1, &["first", "fails", "never"], &["last"]));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Rejected)).await;
    assert_eq!(rig.report(1).reason.as_deref(), Some("hook post_start[1] failed: it said no"));
    assert!(rig.host.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_asked_again() {
    let mut rig = Rig::new();
    rig.host.state().prepare = Some(Refusal::Retry("registry does not answer".into()));
    rig.start();
    rig.assign(webs(1, 1));
    rig.until(|host, _| host.effects("prepare").len() == 4).await;
    let waits = "registry does not answer; tried again in";
    rig.until(|_, report| {
        report.tasks.iter().any(|t| t.reason.as_ref().is_some_and(|r| r.starts_with(waits)))
    })
    .await;
    assert_eq!(rig.report(1).state, TaskState::Preparing);
    rig.host.state().prepare = None;
    rig.until(|_, report| all_passing(report)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_shown_the_newest_credentials_of_its_stack() {
    let login = |username: &str| RegistryCredentials { username: username.into(), password: "x".into() };
    let with = |generation, username: &str| {
        let logins = BTreeMap::from([("registry.test".to_owned(), login(username))]);
        let credentials = BTreeMap::from([("demo".parse().unwrap(), logins)]);
        Assignment { credentials, ..webs(generation, 1) }
    };
    let mut rig = Rig::new();
    rig.host.state().prepare = Some(Refusal::Retry("the token has expired".into()));
    rig.start();
    rig.assign(with(1, "ada"));
    rig.until(|host, _| host.effects("prepare").len() == 2).await;
    assert!(rig.host.effects("prepare").iter().all(|effect| effect.ends_with(" as ada")));
    rig.assign(with(2, "bob"));
    rig.until(|host, _| host.effects("prepare").iter().any(|effect| effect.ends_with(" as bob"))).await;
    rig.host.state().prepare = None;
    rig.until(|_, report| all_passing(report)).await;
}

#[tokio::test(start_paused = true)]
async fn images_that_nothing_needs_go_and_the_report_says_so() {
    let collection = ImageCollection {
        at: Timestamp(7),
        images: vec!["old:1".into()],
        freed: Bytes(5 << 20),
        used_before: 85,
        used_after: 69,
    };
    let mut rig = Rig::new();
    rig.host.state().collection = Some(collection.clone());
    rig.start();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(rig.host.state().spared, [], "nothing is known to be needed yet");
    rig.assign(Assignment { images_needed: ["sha256:kept".to_owned()].into(), ..webs(1, 1) });
    rig.until(|_, report| report.collection.as_ref() == Some(&collection)).await;
    assert!(rig.host.state().spared[0].contains("sha256:kept"));
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_broken_off_when_its_task_is_not_wanted_any_more() {
    let mut rig = Rig::new();
    rig.host.state().prepare_hangs = true;
    rig.start();
    rig.assign(webs(1, 1));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Preparing)).await;
    rig.assign(with_desired(2, 1, Desired::Stop));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Stopped)).await;
}

#[tokio::test(start_paused = true)]
async fn the_death_of_the_daemon_touches_no_container_and_leaves_no_gap_in_the_tables() {
    let mut rig = Rig::with_webs(3).await;
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 3)).await;
    let (running, tables) = (rig.host.running(), rig.host.state().serving.len());
    rig.kill().await;
    rig.reports.lock().unwrap().clear();
    rig.start();
    rig.until(|host, report| all_passing(report) && host.effects("wire").len() == 6).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(rig.host.running(), running);
    assert_eq!(rig.host.state().serving.len(), tables, "{:?}", rig.host.state().serving);
    assert_eq!(rig.host.effects("start").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_exit_while_no_daemon_was_there_is_reported_and_followed_by_policy() {
    let mut rig = Rig::with_webs(2).await;
    rig.kill().await;
    rig.host.crash(TaskId(1), 7);
    rig.reports.lock().unwrap().clear();
    rig.start();
    rig.until(|host, _| host.running().contains(&(TaskId(1), 2))).await;
    assert_eq!(rig.report(1).exit.unwrap().code, 7);
    assert_eq!(rig.host.effects("start t2"), ["start t2.1"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_everything_is_back_without_the_scheduler() {
    let mut rig = Rig::with_webs(3).await;
    let addresses = rig.host.state().wired.clone();
    rig.kill().await;
    rig.host.reboot();
    rig.boot = "boot-2".to_owned();
    rig.assignments.send_replace(None);
    rig.reports.lock().unwrap().clear();
    rig.start();
    rig.until(|host, report| host.running().len() == 3 && all_passing(report)).await;
    assert_eq!(rig.host.state().wired, addresses);
    assert_eq!(rig.report(1).crashes, 0);
    assert_eq!(rig.report(1).run, 2);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_at_any_moment_converges_when_it_is_back() {
    for moment in (0..60).step_by(2) {
        let mut rig = Rig::new();
        rig.start();
        rig.assign(webs(1, 2));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        rig.kill().await;
        rig.start();
        rig.until(|host, report| host.running().len() == 2 && all_passing(report) && report.tasks.len() == 2)
            .await;
        rig.host.crash(TaskId(1), 1);
        tokio::time::sleep(Duration::from_millis(moment * 3)).await;
        rig.kill().await;
        rig.start();
        rig.until(|host, report| {
            let newest = host.running().iter().filter(|(id, run)| *id == TaskId(1) && *run > 1).count();
            newest == 1 && all_passing(report)
        })
        .await;
        rig.assign(with_desired(2, 2, Desired::Stop));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        rig.kill().await;
        rig.start();
        rig.until(|_, report| [1, 2].iter().all(|task| state_of(report, *task) == Some(TaskState::Stopped)))
            .await;
        rig.assign(webs(3, 0));
        rig.until(|_, report| report.tasks.is_empty()).await;
        let state = rig.host.state();
        assert!(
            state.runs.is_empty() && state.wired.is_empty() && state.logs.is_empty(),
            "{moment} ms: {state:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_probes_go_on_failing_is_withdrawn_then_restarted() {
    let mut rig = Rig::new();
    rig.host.state().healthcheck = Some(carrack_api::Healthcheck {
        test: carrack_api::HealthTest::Shell("check".into()),
        interval: Some(Duration::from_secs(1)),
        timeout: None,
        retries: Some(3),
        start_period: None,
        start_interval: None,
    });
    rig.start();
    rig.assign(webs(1, 1));
    rig.until(|host, _| host.state().serving.last().is_some_and(|serving| serving.len() == 1)).await;
    rig.host.state().sick = true;
    rig.until(|_, report| report.tasks[0].health == Health::Failing).await;
    assert!(rig.report(1).reason.unwrap().contains("connection refused"));
    rig.until(|host, _| host.state().serving.last().is_some_and(BTreeSet::is_empty)).await;
    assert_eq!(rig.host.effects("start").len(), 1);
    rig.until(|host, _| host.running().contains(&(TaskId(1), 2))).await;
    rig.host.state().sick = false;
    rig.until(|_, report| all_passing(report)).await;
    assert_eq!(rig.report(1).crashes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_never_restarted_is_only_reported_unhealthy() {
    let mut rig = Rig::new();
    rig.host.state().sick = true;
    rig.host.state().healthcheck = Some(carrack_api::Healthcheck {
        test: carrack_api::HealthTest::Exec(vec!["check".into()]),
        interval: None,
        timeout: None,
        retries: Some(1),
        start_period: Some(Duration::ZERO),
        start_interval: None,
    });
    rig.start();
    let mut tasks = webs(1, 1);
    tasks.tasks.values_mut().for_each(|task| task.spec.restart.condition = RestartCondition::Never);
    rig.assign(tasks);
    rig.until(|_, report| report.tasks.first().is_some_and(|task| task.health == Health::Failing)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.host.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_fails_is_tried_again_and_a_stop_does_not_hang_on_it() {
    let rig = Rig::with_webs(1).await;
    rig.host.state().program = Some(Refusal::Retry("no memory".into()));
    rig.assign(with_desired(2, 1, Desired::Stop));
    rig.until(|_, report| state_of(report, 1) == Some(TaskState::Stopped)).await;
    rig.host.state().program = None;
    rig.until(|host, _| host.state().serving.last().is_some_and(BTreeSet::is_empty)).await;
}

#[tokio::test(start_paused = true)]
async fn stopping_the_daemon_keeps_the_containers_unless_asked() {
    let mut rig = Rig::with_webs(2).await;
    rig.stop(Shutdown::KeepContainers).await;
    assert_eq!(rig.host.running().len(), 2);
    rig.start();
    rig.until(|_, report| report.tasks.len() == 2).await;
    rig.stop(Shutdown::StopContainers).await;
    assert!(rig.host.running().is_empty() && rig.host.state().wired.is_empty());
    assert_eq!(rig.host.effects("signal").len(), 2);
    assert_eq!(rig.host.effects("remove the network").len(), 1);
}
