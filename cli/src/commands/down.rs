//! `carrack down` and `carrack rm`: stacks go; their volumes only when asked.

use std::collections::BTreeSet;
use std::time::Duration;

use carrack_api::client::segment;
use carrack_api::{ServiceKey, StackName, StackSpec, StackStatus, human_duration};
use serde_json::json;

use super::wait::{Ended, Goal, wait};
use super::{is_missing, run, stacks};
use crate::args::{DownArgs, RmArgs};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::project;
use crate::target::{self, Target};
use crate::terminal::{put, say};

/// `carrack down`.
pub(crate) async fn down(args: &DownArgs, context: &Context) -> Outcome {
    let name = project::name(&args.project)?;
    let timeout = (!args.wait.detach).then_some(args.wait.timeout);
    let mut doomed = BTreeSet::new();
    if args.volumes {
        doomed = volumes_of(context, &name).await?;
        // Of a stack that is gone already, the file still knows the volumes.
        if let Ok(loaded) = project::load(&args.project)
            && loaded.stack.name == name
        {
            doomed.extend(own_volumes(&loaded.stack));
        }
    }
    take_away(context, &name, doomed, timeout).await
}

/// `carrack rm`.
pub(crate) async fn rm(args: &RmArgs, context: &Context) -> Outcome {
    let all = stacks(context).await?;
    let (runs, stacks): (Vec<_>, Vec<_>) =
        args.targets.iter().map(|text| (text, one_off(text, &all))).partition(|(_, run)| run.is_some());
    let names: Vec<StackName> = stacks
        .into_iter()
        .map(|(text, _)| match all.iter().find(|stack| stack.name.as_str() == text) {
            Some(stack) => Ok(stack.name.clone()),
            None => Err(not_a_stack(text, target::resolve(text, project::here().as_ref(), &all))),
        })
        .collect::<Result<_, _>>()?;
    let timeout = (!args.wait.detach).then_some(args.wait.timeout);
    for run in runs.into_iter().filter_map(|(_, run)| run) {
        run::remove_and_wait(context, &run).await?;
        tell(context, &run.to_string(), true)?;
    }
    for name in &names {
        let doomed = if args.volumes { volumes_of(context, name).await? } else { BTreeSet::new() };
        match take_away(context, name, doomed, timeout).await? {
            Code::Ok => {}
            other => return Ok(other),
        }
    }
    Ok(Code::Ok)
}

/// The one-off task that is meant, when it is one.
fn one_off(text: &str, all: &[StackStatus]) -> Option<ServiceKey> {
    let Ok(Target::Service(key)) = target::resolve(text, project::here().as_ref(), all) else { return None };
    all.iter().flat_map(|stack| &stack.runs).any(|status| status.run == key).then_some(key)
}

fn not_a_stack(text: &str, meant: Result<Target, CliError>) -> CliError {
    match meant {
        Ok(Target::Service(service)) => {
            CliError::usage(format!("{service} is a service; only stacks are removed")).hint(format!(
                "take it out of the Compose file and run `carrack deploy`, or stop it with `carrack stop {service}`"
            ))
        }
        Ok(Target::Slot(slot)) => {
            CliError::usage(format!("{slot} is one replica of a service; only stacks are removed"))
                .hint(format!("`carrack scale {}=N` sets how many there are", slot.service))
        }
        Ok(Target::Task(task)) => CliError::usage(format!("{task} is a task; only stacks are removed"))
            .hint("past tasks are forgotten by themselves"),
        Ok(Target::Stack(_)) | Err(_) => {
            CliError::new(format!("no stack {text:?}")).hint("`carrack ls` lists them")
        }
    }
}

/// Removes a stack, then these volumes.
async fn take_away(
    context: &Context,
    name: &StackName,
    doomed: BTreeSet<String>,
    timeout: Option<Duration>,
) -> Outcome {
    if timeout.is_none() && !doomed.is_empty() {
        return Err(CliError::usage("volumes can only be removed once the tasks are gone")
            .hint("leave -d out, or run `carrack volume rm` later"));
    }
    match remove(context, name, timeout).await? {
        Code::Ok => {}
        other => return Ok(other),
    }
    for volume in doomed {
        match context.client.delete(&format!("/v1/volumes/{}", segment(&volume))).await {
            Ok(()) => say(&format!("volume {volume} is removed")),
            // One that no task ever used was never made.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Code::Ok)
}

async fn volumes_of(context: &Context, name: &StackName) -> Result<BTreeSet<String>, CliError> {
    let path = format!("/v1/stacks/{}/spec", segment(name.as_str()));
    match context.client.get::<StackSpec>(&path).await {
        Ok(spec) => Ok(own_volumes(&spec)),
        Err(error) if is_missing(&error) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Volumes that belong to the stack alone.
fn own_volumes(spec: &StackSpec) -> BTreeSet<String> {
    spec.volumes.iter().filter(|(_, volume)| !volume.external).map(|(name, _)| name.to_string()).collect()
}

/// Removes a stack and, given a time, waits until nothing of it runs. That there is none is said and no error.
pub(crate) async fn remove(context: &Context, name: &StackName, timeout: Option<Duration>) -> Outcome {
    match context.client.delete(&format!("/v1/stacks/{}", segment(name.as_str()))).await {
        Ok(()) => {}
        Err(error) if is_missing(&error) => {
            say(&format!("no stack {name} is deployed"));
            return Ok(Code::Ok);
        }
        Err(error) => return Err(error.into()),
    }
    let Some(timeout) = timeout else {
        tell(context, name.as_str(), false)?;
        return Ok(Code::Ok);
    };
    match wait(context, name, &Goal::Gone, timeout).await? {
        Ended::Reached(_) => {
            tell(context, name.as_str(), true)?;
            Ok(Code::Ok)
        }
        Ended::Interrupted => {
            say(&format!("\nno longer waiting; {name} goes on being removed"));
            Ok(Code::Interrupted)
        }
        Ended::Failed(..) | Ended::Overtaken(_) | Ended::TimedOut(..) => {
            Err(CliError::new(format!("{name} is not gone after {}", human_duration(timeout)))
                .code(Code::TimedOut)
                .hint(format!("`carrack ps {name}` shows what is left")))
        }
    }
}

/// Says that something is removed, or that it will be.
fn tell(context: &Context, name: &str, removed: bool) -> Result<(), CliError> {
    if context.json() {
        return context.put_json_line(&json!({ "name": name, "removed": removed }));
    }
    put(&format!("{name} is {}\n", if removed { "removed" } else { "being removed" }))
}
