//! `carrack wait`: blocks until tasks have ended, or until a target is as wished; prints exit codes as `docker wait` does.

use std::time::Duration;

use carrack_api::{Rollout, StackName, StackView, TaskId, TaskState, TaskStatus};
use serde_json::json;

use super::wait::watch;
use super::{stacks, targets};
use crate::args::{WaitFor, WaitVerbArgs};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::task;
use crate::target::{Target, default_stack};
use crate::terminal::put;
use crate::{project, time};

/// `carrack wait`.
pub(crate) async fn run(args: &WaitVerbArgs, context: &Context) -> Outcome {
    let wanted = match args.targets.is_empty() {
        false => targets(context, &args.targets).await?,
        true => vec![Target::Stack(default_stack(project::here().as_ref(), &stacks(context).await?)?)],
    };
    let all = async {
        let mut ended = Vec::new();
        for target in &wanted {
            ended.extend(one(args.wanted, target, context).await?);
        }
        Ok::<_, CliError>(ended)
    };
    let limit = args.timeout.unwrap_or(FOREVER).min(FOREVER);
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, all) => match ended {
            Ok(ended) => ended?,
            Err(_elapsed) => {
                let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                return Err(CliError::new(format!("{}: not so after {}", names.join(", "), time::took(limit)))
                    .code(Code::TimedOut)
                    .hint("`carrack ps` shows how things stand, --timeout waits longer"));
            }
        },
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Ok(Code::Interrupted);
        }
    };
    tell(context, &ended)
}

/// No --timeout.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

fn tell(context: &Context, ended: &[TaskStatus]) -> Outcome {
    if context.json() {
        let told: Vec<_> = ended
            .iter()
            .map(|t| json!({ "task": t.id, "name": task::name(t), "state": t.state, "exit_code": code(t) }))
            .collect();
        context.put_json(&told)?;
        return Ok(Code::Ok);
    }
    for task in ended {
        // One number a line, as `docker wait` prints it; a task that never ran has none.
        put(&format!("{}\n", code(task).map_or_else(|| task.state.to_string(), |code| code.to_string())))?;
    }
    Ok(Code::Ok)
}

fn code(task: &TaskStatus) -> Option<i32> {
    task.exit.as_ref().map(|exit| exit.code)
}

async fn one(
    wanted: Option<WaitFor>,
    target: &Target,
    context: &Context,
) -> Result<Vec<TaskStatus>, CliError> {
    let stack = match target.stack() {
        Some(stack) => stack.clone(),
        None => stack_of(context, target).await?,
    };
    // Tasks that are there when the wait begins; those that replace them belong to another wait.
    let mut first: Option<Vec<TaskId>> = None;
    watch(context, &stack, |view| {
        let covered = || view.tasks.iter().filter(|t| target.covers(&t.service, t.slot, t.id));
        let ids = first.get_or_insert_with(|| newest(covered()).into_iter().map(|t| t.id).collect());
        judge(wanted, target, view, ids)
    })
    .await?
}

async fn stack_of(context: &Context, target: &Target) -> Result<StackName, CliError> {
    let Target::Task(id) = target else { return Err(CliError::new(format!("no stack of {target}"))) };
    let task: TaskStatus = context.client.get(&format!("/v1/tasks/{id}")).await?;
    Ok(task.service.stack)
}

/// The newest task of each slot.
fn newest<'a>(tasks: impl Iterator<Item = &'a TaskStatus>) -> Vec<&'a TaskStatus> {
    let mut newest: std::collections::BTreeMap<_, &TaskStatus> = std::collections::BTreeMap::new();
    for task in tasks {
        let known = newest.entry((&task.service, task.slot)).or_insert(task);
        if known.id < task.id {
            *known = task;
        }
    }
    newest.into_values().collect()
}

type Judged = Option<Result<Vec<TaskStatus>, CliError>>;

/// Whether it is so; `None` when it is still to come.
fn judge(wanted: Option<WaitFor>, target: &Target, view: &StackView, first: &[TaskId]) -> Judged {
    let Some(stack) = &view.stack else {
        let gone = CliError::new(format!("{target} was removed meanwhile")).code(Code::UsageOrChanged);
        return Some(if wanted == Some(WaitFor::Stopped) { Ok(Vec::new()) } else { Err(gone) });
    };
    let covered = || view.tasks.iter().filter(|t| target.covers(&t.service, t.slot, t.id));
    match wanted {
        None => {
            if first.is_empty() {
                return Some(Err(CliError::new(format!("{target} has no task to wait for")).hint(format!(
                    "`carrack wait --for healthy {target}` waits for what is still to come"
                ))));
            }
            let all = || covered().filter(|t| first.contains(&t.id));
            // One that was forgotten meanwhile has ended as well.
            all().all(|t| t.state.is_final()).then(|| Ok(all().cloned().collect()))
        }
        Some(WaitFor::Stopped) => covered().all(|t| t.state.is_final()).then(|| Ok(Vec::new())),
        Some(WaitFor::Healthy) => match target {
            Target::Slot(_) | Target::Task(_) => {
                newest(covered()).iter().any(|t| task::state(t) == "passing").then(|| Ok(Vec::new()))
            }
            Target::Stack(_) | Target::Service(_) => {
                let mut services = stack.services.iter().filter(|s| target.covers(&s.service, 0, TaskId(0)));
                if let Some((service, reason)) = services.clone().find_map(|s| match &s.rollout {
                    Rollout::Failed { reason } => Some((&s.service, reason)),
                    Rollout::Converged | Rollout::Progressing { .. } => None,
                }) {
                    return Some(Err(failed(&format!("{service} is not healthy: {reason}"), target)));
                }
                services.all(|s| s.rollout == Rollout::Converged).then(|| Ok(Vec::new()))
            }
        },
        Some(WaitFor::Completed) => {
            let newest = newest(covered());
            if let Some(bad) = newest.iter().find(|t| t.state.is_final() && t.state != TaskState::Completed) {
                let how = [task::state(bad), task::detail(bad)].join(": ");
                return Some(Err(failed(&format!("{} is {how}", task::name(bad)), target)));
            }
            let done = !newest.is_empty() && newest.iter().all(|t| t.state == TaskState::Completed);
            done.then(|| Ok(newest.into_iter().cloned().collect()))
        }
    }
}

fn failed(text: &str, target: &Target) -> CliError {
    CliError::new(text).hint(format!("`carrack logs {target}` shows what it wrote"))
}
