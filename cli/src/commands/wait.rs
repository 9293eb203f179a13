//! Waiting for a stack: follows its watch, shows one line per task, and says how it ended.
//!
//! The verdict is a pure function of the view ([`verdict`]); this file joins it with the stream, a deadline and Ctrl-C. A daemon
//! that is started again in between is waited for: its deploy goes on, so does the wait.

use std::collections::BTreeSet;
use std::time::Duration;

use carrack_api::client::{ClientError, segment};
use carrack_api::{Desired, Rollout, ServiceKey, ServiceStatus, StackName, StackView};
use tokio::time::Instant;

use super::is_away;
use crate::context::Context;
use crate::error::CliError;
use crate::render::board::Board;

/// Between two attempts to reach a daemon that went away.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// What is waited for.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// All services of the stack, at this revision or a later one, are as wanted.
    Healthy {
        /// The revision.
        revision: u64,
    },
    /// These services have so many replicas and are as wanted.
    Scaled {
        /// Each with its replicas.
        services: Vec<(ServiceKey, u32)>,
    },
    /// These services, at this revision or a later one, run as wanted or have come to rest.
    Settled {
        /// The services.
        services: Vec<ServiceKey>,
        /// The revision of their stack.
        revision: u64,
        /// At rest.
        stopped: bool,
    },
    /// The stack is gone.
    Gone,
}

/// Where things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not yet, for these reasons.
    Waiting(Vec<String>),
    /// As wanted.
    Reached,
    /// Given up by the scheduler.
    Failed(Vec<(ServiceKey, String)>),
    /// Somebody deployed another revision.
    Superseded(u64),
    /// Somebody removed the stack.
    Removed,
}

/// How a wait ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As wanted.
    Reached(Box<StackView>),
    /// The scheduler gave up.
    Failed(Box<StackView>, Vec<(ServiceKey, String)>),
    /// Somebody else changed the stack.
    Overtaken(String),
    /// The time is over.
    TimedOut(Option<Box<StackView>>, Vec<String>),
    /// Ctrl-C.
    Interrupted,
}

/// Where things stand by this view.
pub(crate) fn verdict(goal: &Goal, view: &StackView) -> Verdict {
    let Some(stack) = &view.stack else {
        return match goal {
            Goal::Gone => Verdict::Reached,
            Goal::Healthy { .. } | Goal::Scaled { .. } | Goal::Settled { .. } => Verdict::Removed,
        };
    };
    let wanted: Option<BTreeSet<&ServiceKey>> = match goal {
        Goal::Gone => {
            let left = view.tasks.iter().filter(|task| !task.state.is_final()).count();
            return Verdict::Waiting(vec![format!("{} still to stop", crate::render::count(left, "task"))]);
        }
        Goal::Healthy { revision } => {
            if stack.revision < *revision {
                return Verdict::Waiting(vec![format!("revision {revision} is not in force yet")]);
            }
            if stack.revision > *revision {
                return Verdict::Superseded(stack.revision);
            }
            None
        }
        Goal::Scaled { services } => Some(services.iter().map(|(service, _)| service).collect()),
        Goal::Settled { revision, .. } if stack.revision < *revision => {
            return Verdict::Waiting(vec![format!("revision {revision} is not in force yet")]);
        }
        Goal::Settled { services, .. } => Some(services.iter().collect()),
    };
    if stack.removing {
        return Verdict::Removed;
    }
    let mut waiting = Vec::new();
    let mut failed = Vec::new();
    for service in &stack.services {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&service.service)) {
            continue;
        }
        if let Goal::Scaled { services } = goal
            && services.iter().any(|(key, n)| *key == service.service && *n != service.replicas)
        {
            waiting.push(format!("{}: the new scale is not in force yet", service.service));
            continue;
        }
        if let Goal::Settled { stopped, .. } = goal
            && service.stopped != *stopped
        {
            let what = if service.stopped { "is stopped" } else { "is started" };
            waiting.push(format!("{} {what}", service.service));
            continue;
        }
        match &service.rollout {
            Rollout::Converged => {}
            Rollout::Progressing { reason } => waiting.push(format!("{}: {reason}", service.service)),
            Rollout::Failed { reason } => failed.push((service.service.clone(), reason.clone())),
        }
    }
    match still_to_stop(view, &stack.services, wanted.as_ref()) {
        0 => {}
        left => waiting.push(format!("{} still to stop", crate::render::count(left, "task"))),
    }
    match (failed.is_empty(), waiting.is_empty()) {
        (false, _) => Verdict::Failed(failed),
        (true, false) => Verdict::Waiting(waiting),
        (true, true) => Verdict::Reached,
    }
}

/// Tasks that must go, which is part of what is wanted: whoever looks next should see only what is to be there. Surplus counts
/// before the scheduler has asked it to stop: it is asked an instant after a new scale is in force.
fn still_to_stop(
    view: &StackView,
    services: &[ServiceStatus],
    wanted: Option<&BTreeSet<&ServiceKey>>,
) -> usize {
    let alive = |service: &ServiceKey| {
        view.tasks.iter().filter(|task| task.service == *service && !task.state.is_final()).count()
    };
    // Slot 0 is that of one-off tasks, which are nobody's replicas.
    let leaving = view.tasks.iter().filter(|task| {
        task.desired == Desired::Stop
            && task.slot > 0
            && !task.state.is_final()
            && wanted.is_none_or(|wanted| wanted.contains(&task.service))
    });
    let surplus = services
        .iter()
        .filter(|service| wanted.is_none_or(|wanted| wanted.contains(&service.service)))
        .map(|service| alive(&service.service).saturating_sub(service.replicas as usize));
    leaving.count().max(surplus.sum())
}

/// Follows the stack until the goal is reached, the time is over, or it cannot be reached.
pub(crate) async fn wait(
    context: &Context,
    stack: &StackName,
    goal: &Goal,
    timeout: Duration,
) -> Result<Ended, CliError> {
    let mut follow = Follow { context, stack, goal, board: Board::new(&context.terminal), last: None };
    tokio::select! {
        ended = tokio::time::timeout_at(deadline(timeout), follow.run()) => match ended {
            Ok(ended) => return ended,
            Err(_elapsed) => {}
        },
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Ok(Ended::Interrupted);
        }
    }
    let reasons = match follow.last.as_ref().map(|view| verdict(goal, view)) {
        Some(Verdict::Waiting(reasons)) => reasons,
        _ => Vec::new(),
    };
    Ok(Ended::TimedOut(follow.last, reasons))
}

/// Follows the stack until `check` has an answer. A daemon that is away is waited for.
pub(crate) async fn watch<T>(
    context: &Context,
    stack: &StackName,
    mut check: impl FnMut(&StackView) -> Option<T>,
) -> Result<T, CliError> {
    let path = format!("/v1/watch?stack={}", segment(stack.as_str()));
    loop {
        let mut events = match context.client.events(&path, None).await {
            Ok(events) => Some(events),
            Err(error) if is_away(&error) => None,
            Err(error) => return Err(error.into()),
        };
        while let Some(open) = &mut events {
            match open.next().await {
                Ok(Some(event)) => {
                    let view: StackView = serde_json::from_str(&event.data)?;
                    if let Some(answer) = check(&view) {
                        return Ok(answer);
                    }
                }
                Ok(None) => events = None,
                Err(error) if is_away(&error) => events = None,
                Err(error) => return Err(error.into()),
            }
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// A moment so far away saturates instead of overflowing.
fn deadline(timeout: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(365 * 86_400);
    Instant::now() + timeout.min(FOREVER)
}

struct Follow<'a> {
    context: &'a Context,
    stack: &'a StackName,
    goal: &'a Goal,
    board: Board,
    last: Option<Box<StackView>>,
}

impl Follow<'_> {
    async fn run(&mut self) -> Result<Ended, CliError> {
        loop {
            match self.stream().await {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(error) if is_away(&error) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    /// One connection's worth; `None` when the server ended it.
    async fn stream(&mut self) -> Result<Option<Ended>, ClientError> {
        let path = format!("/v1/watch?stack={}", segment(self.stack.as_str()));
        let mut events = self.context.client.events(&path, None).await?;
        while let Some(event) = events.next().await? {
            let view: StackView = serde_json::from_str(&event.data)
                .map_err(|source| ClientError::Decode { call: format!("GET {path}"), source })?;
            self.board.show(&view.tasks);
            let verdict = verdict(self.goal, &view);
            let view = Box::new(view);
            match verdict {
                Verdict::Waiting(_) => self.last = Some(view),
                Verdict::Reached => return Ok(Some(Ended::Reached(view))),
                Verdict::Failed(services) => return Ok(Some(Ended::Failed(view, services))),
                Verdict::Superseded(revision) => {
                    let text = format!("revision {revision} of {} was deployed meanwhile", self.stack);
                    return Ok(Some(Ended::Overtaken(text)));
                }
                Verdict::Removed => {
                    return Ok(Some(Ended::Overtaken(format!("{} was removed meanwhile", self.stack))));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::task::tests::passing;
    use carrack_api::{StackStatus, Timestamp};

    fn service(name: &str, replicas: u32, rollout: Rollout) -> ServiceStatus {
        ServiceStatus {
            service: name.parse().unwrap(),
            image: "x".into(),
            replicas,
            scaled: false,
            running: 0,
            passing: 0,
            current: 0,
            vips: vec![],
            ports: vec![],
            rollout,
            stopped: false,
            completed: 0,
        }
    }

    fn view(revision: u64, services: Vec<ServiceStatus>) -> StackView {
        let stack = StackStatus {
            name: "a".parse().unwrap(),
            revision,
            deployed_at: Timestamp(0),
            removing: false,
            services,
            runs: vec![],
        };
        StackView { stack: Some(stack), tasks: vec![passing("a/web.1", 1)] }
    }

    #[test]
    fn a_deploy_waits_for_its_revision_and_all_services() {
        let goal = Goal::Healthy { revision: 3 };
        let busy = Rollout::Progressing { reason: "1 of 2 passing".into() };
        let web = |rollout| service("a/web", 2, rollout);
        let db = || service("a/db", 1, Rollout::Converged);
        assert!(matches!(verdict(&goal, &view(2, vec![web(Rollout::Converged)])), Verdict::Waiting(_)));
        assert_eq!(
            verdict(&goal, &view(3, vec![db(), web(busy)])),
            Verdict::Waiting(vec!["a/web: 1 of 2 passing".into()])
        );
        assert_eq!(verdict(&goal, &view(3, vec![db(), web(Rollout::Converged)])), Verdict::Reached);
        assert_eq!(verdict(&goal, &view(4, vec![])), Verdict::Superseded(4));
        assert_eq!(verdict(&goal, &StackView { stack: None, tasks: vec![] }), Verdict::Removed);
    }

    #[test]
    fn one_failed_service_ends_the_wait() {
        let failed = service("a/web", 1, Rollout::Failed { reason: "3 runs failed".into() });
        let busy = service("a/db", 1, Rollout::Progressing { reason: "x".into() });
        let verdict = verdict(&Goal::Healthy { revision: 1 }, &view(1, vec![busy, failed]));
        assert!(matches!(verdict, Verdict::Failed(services) if services.len() == 1));
    }

    #[test]
    fn scaling_waits_for_the_new_number_and_only_for_its_services() {
        let goal = Goal::Scaled { services: vec![("a/web".parse().unwrap(), 5)] };
        let other = || service("a/db", 1, Rollout::Failed { reason: "x".into() });
        let now = view(1, vec![other(), service("a/web", 3, Rollout::Converged)]);
        assert!(matches!(verdict(&goal, &now), Verdict::Waiting(_)));
        let now = view(1, vec![other(), service("a/web", 5, Rollout::Converged)]);
        assert_eq!(verdict(&goal, &now), Verdict::Reached);
    }

    #[test]
    fn what_must_go_is_waited_for() {
        let goal = Goal::Scaled { services: vec![("a/web".parse().unwrap(), 1)] };
        let mut now = view(1, vec![service("a/web", 1, Rollout::Converged)]);
        now.tasks.push(carrack_api::TaskStatus { desired: Desired::Stop, ..passing("a/web.2", 2) });
        assert_eq!(verdict(&goal, &now), Verdict::Waiting(vec!["1 task still to stop".into()]));
        now.tasks[1].service = "a/db".parse().unwrap();
        assert_eq!(verdict(&goal, &now), Verdict::Reached, "another service is not waited for");
    }

    #[test]
    fn surplus_is_waited_for_before_it_is_asked_to_stop() {
        let goal = Goal::Scaled { services: vec![("a/web".parse().unwrap(), 0)] };
        let now = view(1, vec![service("a/web", 0, Rollout::Converged)]);
        assert_eq!(verdict(&goal, &now), Verdict::Waiting(vec!["1 task still to stop".into()]));
    }

    #[test]
    fn a_removal_is_over_when_nothing_is_left() {
        assert!(matches!(verdict(&Goal::Gone, &view(1, vec![])), Verdict::Waiting(_)));
        assert_eq!(verdict(&Goal::Gone, &StackView { stack: None, tasks: vec![] }), Verdict::Reached);
    }
}
