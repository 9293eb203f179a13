//! A task in words: its name, its state, and what there is to say about it.

use carrack_api::{
    Bytes, Desired, Health, PullProgress, SlotKey, TaskState, TaskStatus, Timestamp, human_duration,
};

use super::style::{Style, of_state};

/// `hello/web.2`; of a one-off task `hello/web.run-1`.
pub(crate) fn name(task: &TaskStatus) -> String {
    SlotKey { service: task.service.clone(), slot: task.slot }.to_string()
}

/// The state in one word; a running task that must go is `stopping`, one that is not passing says so.
pub(crate) fn state(task: &TaskStatus) -> String {
    match (task.state, task.desired, task.health) {
        (state, Desired::Stop, _) if !state.is_final() => "stopping".into(),
        (TaskState::Running, Desired::Run, Health::Passing) => "passing".into(),
        (TaskState::Running, Desired::Run, Health::Failing) => "failing".into(),
        (state, _, _) => state.to_string(),
    }
}

/// The look of that word.
pub(crate) fn style(task: &TaskStatus) -> Style {
    match task.desired {
        Desired::Stop if !task.state.is_final() => Style::Busy,
        Desired::Stop | Desired::Run => of_state(task.state, task.health),
    }
}

/// What there is to say beside the state.
pub(crate) fn detail(task: &TaskStatus) -> String {
    if let (Some(progress), TaskState::Preparing) = (&task.progress, task.state) {
        return image_progress(progress);
    }
    let mut parts: Vec<String> = Vec::new();
    if let Some(reason) = &task.reason {
        parts.push(reason.clone());
    }
    if task.state < TaskState::Placed
        && let Some(placement) = &task.placement
    {
        parts.push(placement.clone());
    }
    if let Some(exit) = &task.exit
        && task.state != TaskState::Completed
        && !(task.state == TaskState::Running && task.health == Health::Passing)
    {
        let text = exit.describe();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(if task.state.is_final() { text } else { format!("last run: {text}") });
        }
    }
    if task.health == Health::Failing
        && task.state == TaskState::Running
        && let Some(probe) = &task.probe
        && let Some(line) = probe.output.lines().find(|line| !line.trim().is_empty())
        && !parts.iter().any(|part| part.contains(line.trim()))
    {
        parts.push(format!("probe: {}", line.trim()));
    }
    parts.join("; ")
}

/// `image 12.3 MiB of 54 MiB, layer 2 of 5`.
pub(crate) fn image_progress(progress: &PullProgress) -> String {
    let PullProgress { done, total, layers, waiting } = progress;
    let mut text = match total {
        Bytes(0) => format!("image {done}"),
        _ => format!("image {done} of {total}"),
    };
    if layers.1 > 0 {
        text.push_str(&format!(", {} of {} layers unpacked", layers.0, layers.1));
    }
    if *waiting > 0 {
        text.push_str(&format!(", the registry asked to wait {waiting}s"));
    }
    text
}

/// How long something has been so: `12s`, `3m20s`, `5h`, `2d`.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let age = now.since(since);
    match age.as_secs() {
        0..60 => format!("{}s", age.as_secs()),
        60..3_600 => human_duration(std::time::Duration::from_secs(age.as_secs())),
        3_600..172_800 => format!("{}h", age.as_secs() / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use carrack_api::{Exit, ProbeResult, TaskId};

    /// A task as tests need it: passing.
    pub(crate) fn passing(name: &str, id: u64) -> TaskStatus {
        let (service, slot) = name.rsplit_once('.').unwrap();
        TaskStatus {
            id: TaskId(id),
            service: service.parse().unwrap(),
            slot: slot.parse().unwrap(),
            node: None,
            hostname: Some("host".into()),
            revision: 1,
            current: true,
            desired: Desired::Run,
            run: 1,
            state: TaskState::Running,
            health: Health::Passing,
            reason: None,
            placement: None,
            exit: None,
            image: "web:1".into(),
            image_digest: None,
            addresses: vec![],
            created_at: Timestamp(1_000),
            started_at: Some(Timestamp(2_000)),
            progress: None,
            probe: None,
            pid: Some(7),
            usage: None,
        }
    }

    fn exit(code: i32) -> Exit {
        Exit { code, signal: None, oom: false, peak_memory: None, at: Timestamp(3_000), error: None }
    }

    #[test]
    fn a_task_says_what_it_is_about() {
        let task = passing("a/web.1", 1);
        assert_eq!((state(&task).as_str(), detail(&task).as_str()), ("passing", ""));
        let pull = PullProgress { done: Bytes(1 << 20), total: Bytes(4 << 20), layers: (1, 3), waiting: 0 };
        let task = TaskStatus { state: TaskState::Preparing, progress: Some(pull), ..task };
        assert_eq!(detail(&task), "image 1 MiB of 4 MiB, 1 of 3 layers unpacked");
        let waits = PullProgress { waiting: 7, ..Default::default() };
        assert_eq!(image_progress(&waits), "image 0 B, the registry asked to wait 7s");
    }

    #[test]
    fn an_end_is_told_once() {
        let task = TaskStatus { state: TaskState::Failed, exit: Some(exit(3)), ..passing("a/web.1", 1) };
        assert_eq!(detail(&task), "exit code 3");
        let told = TaskStatus { reason: Some("exit code 3, given up".into()), ..task.clone() };
        assert_eq!(detail(&told), "exit code 3, given up");
        let again =
            TaskStatus { state: TaskState::Starting, reason: Some("restarts in 0.4s".into()), ..task };
        assert_eq!(detail(&again), "restarts in 0.4s; last run: exit code 3");
    }

    #[test]
    fn a_failing_task_shows_its_probe() {
        let probe = ProbeResult {
            passed: false,
            output: "\nconnection refused\n".into(),
            at: Timestamp(0),
            failures: 3,
        };
        let task = TaskStatus { health: Health::Failing, probe: Some(probe), ..passing("a/web.1", 1) };
        assert_eq!((state(&task).as_str(), detail(&task).as_str()), ("failing", "probe: connection refused"));
    }

    #[test]
    fn ages_are_short() {
        let since = |seconds: u64| age(Timestamp(1_000), Timestamp(1_000 + seconds * 1_000));
        assert_eq!(since(5), "5s");
        assert_eq!(since(200), "3m20s");
        assert_eq!(since(7_300), "2h");
        assert_eq!(since(86_400 * 3), "3d");
    }
}
