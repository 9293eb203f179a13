//! `carrack inspect`: everything that is known, as JSON.

use carrack_api::client::segment;
use carrack_api::{ServiceKey, SlotKey, StackName, StackSpec, StackStatus, TaskId, TaskState, TaskStatus};
use serde_json::{Value, json};

use super::{targets, tasks_of};
use crate::args::InspectArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::target::Target;

/// `carrack inspect`.
pub(crate) async fn run(args: &InspectArgs, context: &Context) -> Outcome {
    let mut values = Vec::new();
    for target in targets(context, &args.targets).await? {
        values.push(match target {
            Target::Stack(name) => stack(context, &name).await?,
            Target::Service(key) => service(context, &key).await?,
            Target::Slot(key) => slot(context, &key).await?,
            Target::Task(id) => task(context, id).await?,
        });
    }
    match &values[..] {
        [only] => context.put_json(only)?,
        _ => context.put_json(&values)?,
    }
    Ok(Code::Ok)
}

async fn status_and_spec(context: &Context, name: &StackName) -> Result<(StackStatus, StackSpec), CliError> {
    let path = format!("/v1/stacks/{}", segment(name.as_str()));
    let status = context.client.get(&path).await?;
    let spec = context.client.get(&format!("{path}/spec")).await?;
    Ok((status, spec))
}

async fn stack(context: &Context, name: &StackName) -> Result<Value, CliError> {
    let (status, spec) = status_and_spec(context, name).await?;
    let tasks = tasks_of(context, Some(name), false).await?;
    Ok(json!({ "stack": status, "spec": spec, "tasks": tasks }))
}

async fn service(context: &Context, key: &ServiceKey) -> Result<Value, CliError> {
    let (status, spec) = status_and_spec(context, &key.stack).await?;
    if status.runs.iter().any(|run| run.run == *key) {
        return slot(context, &SlotKey { service: key.clone(), slot: 0 }).await;
    }
    let mut tasks = tasks_of(context, Some(&key.stack), false).await?;
    tasks.retain(|task| task.service == *key);
    let status = status.services.into_iter().find(|service| service.service == *key);
    Ok(json!({ "service": status, "spec": spec.services.get(&key.service), "tasks": tasks }))
}

/// The task that is in the slot now, else the last one that was.
async fn slot(context: &Context, key: &SlotKey) -> Result<Value, CliError> {
    let mut tasks = tasks_of(context, Some(&key.service.stack), true).await?;
    tasks.retain(|task| task.service == key.service && task.slot == key.slot);
    let newest = tasks.iter().max_by_key(|task| (task.state == TaskState::Running, task.id));
    match newest {
        Some(found) => task(context, found.id).await,
        None => Err(CliError::new(format!("no task in {key}"))
            .hint(format!("`carrack ps -a {}` lists its tasks", key.service))),
    }
}

async fn task(context: &Context, id: TaskId) -> Result<Value, CliError> {
    let status: TaskStatus = context.client.get(&format!("/v1/tasks/{id}")).await?;
    let mut value = serde_json::to_value(&status)?;
    if status.node.is_some() {
        // A node that does not answer takes nothing away from what the scheduler knows.
        let extra = match context.client.get::<Value>(&format!("/v1/tasks/{id}/inspect")).await {
            Ok(extra) => extra,
            Err(error) => json!({ "error": error.to_string() }),
        };
        if let Some(object) = value.as_object_mut() {
            object.insert("on_node".into(), extra);
        }
    }
    Ok(value)
}
