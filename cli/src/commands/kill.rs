//! `carrack kill`: a signal for tasks that run. What follows their end is their restart policy's.

use carrack_api::client::ClientError;
use carrack_api::container::{parse_signal, signal_name};
use carrack_api::{SendSignal, TaskState, TaskStatus};
use http::Method;
use serde_json::{Value, json};

use super::{targets, tasks_of};
use crate::args::KillArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::task;
use crate::terminal::put;

/// `carrack kill`.
pub(crate) async fn run(args: &KillArgs, context: &Context) -> Outcome {
    let Some(number) = parse_signal(&args.signal) else {
        return Err(CliError::usage(format!("{:?} is no signal", args.signal))
            .hint("for example -s TERM, -s SIGHUP or -s 9"));
    };
    let mut told: Vec<Value> = Vec::new();
    for target in targets(context, &args.targets).await? {
        let tasks = tasks_of(context, target.stack(), false).await?;
        let running =
            |t: &&TaskStatus| t.state == TaskState::Running && target.covers(&t.service, t.slot, t.id);
        let running: Vec<&TaskStatus> = tasks.iter().filter(running).collect();
        if running.is_empty() {
            return Err(CliError::new(format!("no task of {target} is running"))
                .hint(format!("`carrack ps -a {target}` shows how its tasks ended")));
        }
        for task in running {
            if send(context, task, &args.signal).await? {
                let name = task::name(task);
                if !context.json() {
                    put(&format!("{name} ({}) was sent {}\n", task.id, signal_name(number)))?;
                }
                told.push(json!({ "task": task.id, "name": name, "signal": number }));
            }
        }
    }
    if context.json() {
        context.put_json(&told)?;
    }
    Ok(Code::Ok)
}

/// `false` when the task has ended by itself meanwhile.
async fn send(context: &Context, task: &TaskStatus, signal: &str) -> Result<bool, CliError> {
    let path = format!("/v1/tasks/{}/signal", task.id);
    let body = SendSignal { signal: signal.to_owned() };
    match context.client.json::<_, Value>(Method::POST, &path, Some(&body), &[]).await {
        Ok(_) => Ok(true),
        Err(ClientError::Problem(problem)) if matches!(problem.status, 404 | 409) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
