//! Events that follow from two reports in a row. Pure.

use carrack_api::{Health, ImageCollection, NodeReport, TaskId, TaskReport, TaskState};

use crate::plan::{EventDraft, slot_name};
use crate::store::{Snapshot, TaskRecord};

/// The kind of a crash.
const CRASHED: &str = "task.crashed";

/// The last thing told of a task's run: what kind, and of which run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) run: u32,
}

/// What happened to tasks between two reports. The first report after a start is compared with what was told before: what a
/// task did while no daemon ran is told then.
pub(crate) fn from_reports(
    before: Option<&NodeReport>,
    after: &NodeReport,
    state: &Snapshot,
    told: impl Fn(TaskId) -> Option<Told>,
) -> Vec<EventDraft> {
    let mut events = Vec::new();
    let Some(before) = before else {
        for task in &after.tasks {
            let Some((record, last)) = state.tasks.get(&task.task).zip(told(task.task)) else { continue };
            events.extend(missed(&last, task).into_iter().map(|(kind, text)| of(record, task, kind, &text)));
        }
        return events;
    };
    if after.collection != before.collection
        && let Some(collection) = &after.collection
    {
        events.push(EventDraft::new("image.collected", &after.node.hostname, collected(collection)));
    }
    for task in &after.tasks {
        let Some(record) = state.tasks.get(&task.task) else { continue };
        let old = before.tasks.iter().find(|t| t.task == task.task);
        events.extend(changes(old, task).into_iter().map(|(kind, text)| of(record, task, kind, &text)));
    }
    events
}

fn of(record: &TaskRecord, task: &TaskReport, kind: &'static str, text: &str) -> EventDraft {
    EventDraft {
        kind,
        subject: slot_name(&record.service, record.slot),
        message: format!("{} {text}", task.task),
        task: Some(task.task),
        run: Some(task.run),
    }
}

/// What a task did while nobody listened.
fn missed(last: &Told, new: &TaskReport) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let again = new.run > last.run;
    let waits = new.run == last.run && new.state < TaskState::Running && last.kind != CRASHED;
    if let Some(exit) = new.exit.as_ref().filter(|exit| (again || waits) && !exit.success()) {
        out.push((CRASHED, format!("crashed: {} while no daemon ran", exit.describe())));
    }
    if again {
        out.push(("task.restarted", format!("restarted, run {}", new.run)));
    }
    out
}

/// Images named in an event; the rest are counted.
const IMAGES_NAMED: usize = 5;

fn collected(collection: &ImageCollection) -> String {
    let ImageCollection { images, freed, used_before, used_after, .. } = collection;
    let mut named: Vec<&str> = images.iter().take(IMAGES_NAMED).map(String::as_str).collect();
    let more = images.len().saturating_sub(IMAGES_NAMED);
    let more_text = format!("{more} more");
    if more > 0 {
        named.push(&more_text);
    }
    let what = match images.is_empty() {
        true => "no image could be taken away".to_owned(),
        false => format!("took away {} and freed {freed}", named.join(", ")),
    };
    format!("the disk of the images was {used_before} % full: {what}; now {used_after} %")
}

fn changes(old: Option<&TaskReport>, new: &TaskReport) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let same_run = old.is_some_and(|o| o.run == new.run);
    if new.crashes > old.map_or(0, |o| o.crashes) {
        let why = new.exit.as_ref().map(|e| e.describe()).unwrap_or_else(|| "no exit record".into());
        // Most reasons begin with how it ended.
        let next = new.reason.as_ref().map(|reason| reason.strip_prefix(&why).unwrap_or(reason));
        let next = next.map(|next| next.trim_start_matches("; ")).filter(|next| !next.is_empty());
        let next = next.map(|next| format!("; {next}")).unwrap_or_default();
        out.push((CRASHED, format!("crashed: {why}{next}")));
    }
    if new.run > 1 && old.is_some_and(|o| o.run < new.run) {
        out.push(("task.restarted", format!("restarted, run {}", new.run)));
    }
    if new.state == TaskState::Running && !(same_run && old.is_some_and(|o| o.state == TaskState::Running)) {
        out.push(("task.running", format!("runs, run {}", new.run)));
    }
    let health =
        |wanted: Health| new.health == wanted && !(same_run && old.is_some_and(|o| o.health == wanted));
    if health(Health::Passing) {
        out.push(("task.passing", "is passing".into()));
    }
    if health(Health::Failing) {
        let said = new.probe.as_ref().map(|p| p.output.trim().lines().next().unwrap_or_default().to_owned());
        let said = said.filter(|s| !s.is_empty()).map(|s| format!(": {s}")).unwrap_or_default();
        out.push(("task.failing", format!("is failing{said}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::{Exit, Timestamp};

    fn report(run: u32, state: TaskState, health: Health, crashes: u32) -> TaskReport {
        let mut report: TaskReport = serde_json::from_value(serde_json::json!({
            "task": "t1", "run": run, "state": "running", "health": "unknown"
        }))
        .unwrap();
        (report.state, report.health, report.crashes, report.task) = (state, health, crashes, TaskId(1));
        report
    }

    fn kinds(old: Option<&TaskReport>, new: &TaskReport) -> Vec<&'static str> {
        changes(old, new).into_iter().map(|c| c.0).collect()
    }

    #[test]
    fn images_that_went_are_named_up_to_a_few() {
        let gone = |count: usize| ImageCollection {
            at: Timestamp(1),
            images: (0..count).map(|n| format!("web:{n}")).collect(),
            freed: carrack_api::Bytes(3 << 20),
            used_before: 81,
            used_after: 70,
        };
        assert_eq!(
            collected(&gone(2)),
            "the disk of the images was 81 % full: took away web:0, web:1 and freed 3 MiB; now 70 %"
        );
        assert!(collected(&gone(7)).contains("web:4, 2 more and freed"));
        assert!(collected(&gone(0)).contains("no image could be taken away"));
    }

    #[test]
    fn a_life_is_told_step_by_step() {
        let starting = report(1, TaskState::Starting, Health::Unknown, 0);
        let running = report(1, TaskState::Running, Health::Unknown, 0);
        let passing = report(1, TaskState::Running, Health::Passing, 0);
        let crashed = report(1, TaskState::Starting, Health::Unknown, 1);
        let again = report(2, TaskState::Running, Health::Passing, 1);
        assert_eq!(kinds(None, &starting), Vec::<&str>::new());
        assert_eq!(kinds(Some(&starting), &running), ["task.running"]);
        assert_eq!(kinds(Some(&running), &passing), ["task.passing"]);
        assert_eq!(kinds(Some(&passing), &passing), Vec::<&str>::new());
        assert_eq!(kinds(Some(&passing), &crashed), ["task.crashed"]);
        assert_eq!(kinds(Some(&crashed), &again), ["task.restarted", "task.running", "task.passing"]);
    }

    #[test]
    fn why_it_crashed_is_said_once() {
        let before = report(1, TaskState::Running, Health::Unknown, 0);
        let mut after = report(1, TaskState::Failed, Health::Unknown, 1);
        after.exit = serde_json::from_value(serde_json::json!({"code": 137, "oom": true, "at": 1})).unwrap();
        let why = after.exit.as_ref().unwrap().describe();
        let said = |after: &TaskReport| changes(Some(&before), after)[0].1.clone();
        after.reason = Some(why.clone());
        assert_eq!(said(&after), format!("crashed: {why}"));
        after.reason = Some(format!("{why}; tried again in 2 s"));
        assert_eq!(said(&after), format!("crashed: {why}; tried again in 2 s"));
        after.reason = Some("no more restarts".into());
        assert_eq!(said(&after), format!("crashed: {why}; no more restarts"));
    }

    #[test]
    fn what_a_task_did_while_no_daemon_ran_is_told_once() {
        let exit =
            |code| Exit { code, signal: None, oom: false, peak_memory: None, at: Timestamp(1), error: None };
        let told = |kind: &str, run| Told { kind: kind.into(), run };
        let said = |last: &Told, new: &TaskReport| -> Vec<String> {
            missed(last, new).into_iter().map(|(kind, text)| format!("{kind}: {text}")).collect()
        };
        let mut again = report(2, TaskState::Running, Health::Passing, 1);
        again.exit = Some(exit(42));
        assert_eq!(
            said(&told("task.passing", 1), &again),
            ["task.crashed: crashed: exit code 42 while no daemon ran", "task.restarted: restarted, run 2"]
        );
        assert!(said(&told("task.running", 2), &again).is_empty(), "an adopted run is no news");
        let mut waits = report(1, TaskState::Starting, Health::Unknown, 1);
        waits.exit = Some(exit(1));
        assert_eq!(said(&told("task.passing", 1), &waits).len(), 1);
        assert!(said(&told("task.crashed", 1), &waits).is_empty(), "it was told before");
        again.exit = Some(exit(0));
        assert_eq!(said(&told("task.passing", 1), &again), ["task.restarted: restarted, run 2"]);
    }
}
