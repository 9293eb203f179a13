//! `carrack stop`, `start` and `restart`: services of a stack come to rest, run again, or get new tasks; each waits until it
//! is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use carrack_api::client::segment;
use carrack_api::{Selection, ServiceKey, ServiceStatus, StackName, StackStatus};
use http::Method;

use super::wait::{Ended, Goal, wait};
use super::{stacks, targets};
use crate::args::LifecycleArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::count;
use crate::target::{Target, default_stack};
use crate::terminal::{put, say};
use crate::{project, time};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// To zero, until a start or a deploy.
    Stop,
    /// Back to what was in force.
    Start,
    /// New tasks of the same definition.
    Restart,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// `carrack stop`, `start` or `restart`.
pub(crate) async fn run(verb: Verb, args: &LifecycleArgs, context: &Context) -> Outcome {
    let begun = Instant::now();
    let mut done: Vec<StackStatus> = Vec::new();
    for (stack, selection) in select(verb, args, context).await? {
        let path = format!("/v1/stacks/{}/{}", segment(stack.as_str()), verb.name());
        let status: StackStatus = context.client.json(Method::POST, &path, Some(&selection), &[]).await?;
        if args.wait.detach {
            done.push(status);
            continue;
        }
        let services = chosen(&status, &selection);
        let goal = Goal::Settled { services, revision: status.revision, stopped: verb == Verb::Stop };
        match wait(context, &stack, &goal, args.wait.timeout).await? {
            Ended::Reached(view) => done.extend(view.stack),
            Ended::Interrupted => {
                say(&format!("\nno longer waiting; the {} goes on", verb.name()));
                return Ok(Code::Interrupted);
            }
            ended => return Err(unsettled(&stack, verb.name(), ended, begun)),
        }
        if !context.json() {
            tell(verb, done.last(), &selection, begun)?;
        }
    }
    if context.json() {
        context.put_json(&done)?;
    }
    Ok(Code::Ok)
}

/// What is meant, by stack.
async fn select(
    verb: Verb,
    args: &LifecycleArgs,
    context: &Context,
) -> Result<BTreeMap<StackName, Selection>, CliError> {
    let mut wanted: BTreeMap<StackName, Selection> = BTreeMap::new();
    if args.targets.is_empty() {
        let stack = default_stack(project::here().as_ref(), &stacks(context).await?)?;
        return Ok([(stack, Selection::default())].into());
    }
    let mut whole = BTreeSet::new();
    for target in targets(context, &args.targets).await? {
        match target {
            Target::Stack(stack) => {
                whole.insert(stack.clone());
                wanted.insert(stack, Selection::default());
            }
            Target::Service(key) if key.service.as_str().contains(".run-") => {
                return Err(one_off(verb, &key));
            }
            Target::Service(key) => wanted.entry(key.stack).or_default().services.push(key.service),
            Target::Slot(_) | Target::Task(_) => return Err(one_replica(verb, &target)),
        }
    }
    for stack in whole {
        wanted.insert(stack, Selection::default());
    }
    Ok(wanted)
}

fn one_off(verb: Verb, key: &ServiceKey) -> CliError {
    CliError::usage(format!("{key} is a one-off task; `{}` is for services", verb.name()))
        .hint(format!("`carrack rm {key}` stops and removes it, `carrack kill {key}` sends it a signal"))
}

fn one_replica(verb: Verb, target: &Target) -> CliError {
    let error = CliError::usage(format!("{target} is one replica; `{}` is for services", verb.name()));
    match (verb, target) {
        (Verb::Stop, Target::Slot(slot)) => {
            error.hint(format!("`carrack scale {}=N` sets how many there are", slot.service))
        }
        (_, Target::Slot(slot)) => error.hint(format!(
            "`carrack restart {}` replaces all of them, one at a time; `carrack kill {slot}` restarts this one",
            slot.service
        )),
        (_, _) => error.hint("name its service, or a stack"),
    }
}

/// The services that a selection means.
fn chosen(status: &StackStatus, selection: &Selection) -> Vec<ServiceKey> {
    let wanted =
        |key: &ServiceKey| selection.services.is_empty() || selection.services.contains(&key.service);
    status.services.iter().map(|s| &s.service).filter(|key| wanted(key)).cloned().collect()
}

fn tell(
    verb: Verb,
    status: Option<&StackStatus>,
    selection: &Selection,
    begun: Instant,
) -> Result<(), CliError> {
    let Some(status) = status else { return Ok(()) };
    let keys = chosen(status, selection);
    let services: Vec<&ServiceStatus> =
        status.services.iter().filter(|service| keys.contains(&service.service)).collect();
    let what = match selection.services.is_empty() {
        true => status.name.to_string(),
        false => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let took = time::took(begun.elapsed());
    if verb == Verb::Stop {
        return put(&format!(
            "{what} is stopped, after {took}; it stays so, `carrack start {what}` runs it again\n",
            what = what.replace(", ", " ")
        ));
    }
    let passing: u32 = services.iter().map(|service| service.passing).sum();
    let running = count(passing as usize, "task");
    match verb {
        Verb::Restart => put(&format!("{what} is restarted: {running} passing, after {took}\n"))?,
        Verb::Start | Verb::Stop => put(&format!("{what} is started: {running} passing, after {took}\n"))?,
    }
    for done in services.iter().filter(|s| s.completed > 0 && verb == Verb::Start) {
        say(&format!("note: {0} has completed; `carrack restart {0}` runs it again", done.service));
    }
    Ok(())
}

/// A change that did not come to its end.
pub(crate) fn unsettled(stack: &StackName, verb: &str, ended: Ended, begun: Instant) -> CliError {
    let look = format!("`carrack ps {stack}` shows the tasks, `carrack logs {stack}` their output");
    match ended {
        Ended::Failed(_, failed) => {
            let mut error = match &failed[..] {
                [(service, reason)] => CliError::new(format!("the {verb} of {service} failed: {reason}")),
                _ => CliError::new(format!("the {verb} of {} failed", count(failed.len(), "service"))),
            };
            for (service, reason) in failed.iter().filter(|_| failed.len() > 1) {
                error = error.detail(format!("{service}: {reason}"));
            }
            error.hint(look)
        }
        Ended::Overtaken(what) => CliError::new(what).code(Code::UsageOrChanged),
        Ended::TimedOut(_, reasons) => {
            let took = time::took(begun.elapsed());
            let error = CliError::new(format!("the {verb} is not done after {took}"))
                .code(Code::TimedOut)
                .hint(format!("it goes on in the background; {look}"));
            reasons.into_iter().fold(error, CliError::detail)
        }
        Ended::Reached(_) | Ended::Interrupted => CliError::new(format!("the {verb} ended")),
    }
}
