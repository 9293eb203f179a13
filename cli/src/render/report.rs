//! Why a deploy did not become healthy: per task its state, reason, end, last probe, last lines of log, and the next command.

use std::fmt::Write as _;

use carrack_api::{Health, LogRecord, TaskState, TaskStatus, Timestamp};

use super::style::{Style, clean, paint};
use super::task;

/// Last lines of log that are shown of a task that failed.
pub(crate) const LOG_LINES: u64 = 20;
/// Tasks that are shown in full; more of the same help nobody.
pub(crate) const TASKS_MAX: usize = 5;
/// Lines of a probe's output that are shown.
const PROBE_LINES_MAX: usize = 10;

/// The tasks that are worth a report: not healthy, the newest of each slot.
pub(crate) fn unhealthy(tasks: &[TaskStatus]) -> Vec<&TaskStatus> {
    let mut found: Vec<&TaskStatus> = Vec::new();
    for task in tasks {
        let healthy = task.state == TaskState::Completed
            || (task.state == TaskState::Running && task.health == Health::Passing);
        if !task.current || healthy || task.state == TaskState::Stopped {
            continue;
        }
        found
            .retain(|other| (&other.service, other.slot) != (&task.service, task.slot) || other.id > task.id);
        if !found.iter().any(|other| (&other.service, other.slot) == (&task.service, task.slot)) {
            found.push(task);
        }
    }
    // A task that says why is of more interest than one that waits for it.
    found
        .sort_by_key(|task| (task.exit.is_none() && !task.state.is_final(), task.service.clone(), task.slot));
    found
}

/// One task in full.
pub(crate) fn task(task: &TaskStatus, logs: &[LogRecord], now: Timestamp, colour: bool) -> String {
    let mut out = String::new();
    let state = paint(&task::state(task), task::style(task), colour);
    let name = paint(&task::name(task), Style::Bold, colour);
    let reason = task.reason.as_deref().map(|reason| format!(": {}", clean(reason))).unwrap_or_default();
    let _ = writeln!(out, "{name} ({}) is {state}{reason}", task.id);
    if let Some(placement) = task.placement.as_deref().filter(|_| task.state == TaskState::Pending) {
        let _ = writeln!(out, "  placement: {}", clean(placement));
    }
    if let Some(progress) = task.progress.as_ref().filter(|_| task.state == TaskState::Preparing) {
        let _ = writeln!(out, "  bringing its {}", task::image_progress(progress));
    }
    if let Some(exit) = &task.exit {
        let _ =
            writeln!(out, "  run {} ended {} ago: {}", task.run, task::age(exit.at, now), exit.describe());
    }
    if let Some(probe) = task.probe.as_ref().filter(|probe| !probe.passed) {
        // While a run starts, failures do not count yet.
        let count =
            if probe.failures == 0 { String::new() } else { format!(" ({} in a row)", probe.failures) };
        let _ = writeln!(out, "  last probe failed{count}:");
        for line in probe.output.lines().take(PROBE_LINES_MAX) {
            let _ = writeln!(out, "    {}", clean(line));
        }
    }
    if logs.is_empty() {
        if task.run > 0 {
            let _ = writeln!(out, "  it wrote no output");
        }
    } else {
        let _ = writeln!(out, "  its last {}:", super::count(logs.len(), "line"));
        for record in logs {
            let _ = writeln!(out, "    {}", clean(record.text.trim_end_matches(['\n', '\r'])));
        }
    }
    let next = match logs.len() {
        0 => format!("carrack inspect {}", task.id),
        _ => format!("carrack logs {}", task.id),
    };
    let _ = writeln!(out, "  next: {next}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::task::tests::passing;
    use carrack_api::{Exit, LogStream, ProbeResult, TaskId};

    fn failed(name: &str, id: u64) -> TaskStatus {
        let exit = Exit {
            code: 137,
            signal: Some(9),
            oom: true,
            peak_memory: None,
            at: Timestamp(9_000),
            error: None,
        };
        TaskStatus {
            state: TaskState::Failed,
            health: Health::Failing,
            reason: Some("3 runs failed".into()),
            run: 3,
            exit: Some(exit),
            ..passing(name, id)
        }
    }

    #[test]
    fn a_task_without_output_leads_to_what_is_known_of_it() {
        let mut task = passing("a/web.1", 4);
        task.probe = Some(ProbeResult {
            passed: false,
            output: "nothing listens".into(),
            at: Timestamp(0),
            failures: 0,
        });
        let text = super::task(&task, &[], Timestamp(0), false);
        assert!(text.contains("\n  last probe failed:\n    nothing listens\n"), "{text}");
        assert!(text.ends_with("  next: carrack inspect t4\n"), "{text}");
    }

    #[test]
    fn a_report_has_all_that_is_known_and_the_next_command() {
        let probe =
            ProbeResult { passed: false, output: "refused\n".into(), at: Timestamp(8_000), failures: 2 };
        let line = LogRecord {
            task: TaskId(4),
            run: 3,
            at_ns: 1,
            stream: LogStream::Stderr,
            text: "cannot bind\n".into(),
        };
        let status = TaskStatus { probe: Some(probe), ..failed("a/web.1", 4) };
        assert_eq!(
            task(&status, &[line], Timestamp(12_000), false),
            "a/web.1 (t4) is failed: 3 runs failed\n  run 3 ended 3s ago: out of memory\n  last probe failed (2 in a row):\n    \
             refused\n  its last 1 line:\n    cannot bind\n  next: carrack logs t4\n"
        );
    }

    #[test]
    fn only_the_newest_unhealthy_task_of_a_slot_is_reported_and_the_telling_first() {
        let waiting =
            TaskStatus { state: TaskState::Pending, health: Health::Unknown, ..passing("a/api.1", 9) };
        let old = TaskStatus { current: false, ..failed("a/web.3", 1) };
        let tasks = [waiting, failed("a/web.1", 2), failed("a/web.1", 5), passing("a/web.2", 3), old];
        let ids: Vec<u64> = unhealthy(&tasks).iter().map(|task| task.id.0).collect();
        assert_eq!(ids, [5, 9]);
    }
}
