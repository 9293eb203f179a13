//! `carrack logs`: what tasks wrote, past ones included.
//!
//! Each target is one stream of the API. Several are merged: in order of time, or when following in order of arrival.

use std::collections::VecDeque;

use carrack_api::client::{Client, ClientError, Frames, empty, segment};
use carrack_api::stream::Frame;
use carrack_api::{LogRecord, StackName, TaskId, TaskStatus};
use futures_util::stream::{self, SelectAll, StreamExt as _};
use http::Method;

use super::{stacks, targets, tasks_of, with_query};
use crate::args::{LogsArgs, Tail};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::log::LogPrinter;
use crate::target::{Target, default_stack};
use crate::terminal::put;
use crate::{project, time};

/// `carrack logs`.
pub(crate) async fn run(args: &LogsArgs, context: &Context) -> Outcome {
    let targets = match args.targets.is_empty() {
        false => targets(context, &args.targets).await?,
        true => vec![Target::Stack(default_stack(project::here().as_ref(), &stacks(context).await?)?)],
    };
    let query = query(args);
    let mut paths = Vec::new();
    for target in &targets {
        paths.extend(paths_of(context, target, &query).await?);
    }
    let mut sink = Sink::new(context, targets, !args.no_log_prefix, args.timestamps);
    sink.learn().await?;
    if args.follow {
        tokio::select! {
            followed = follow(context, &paths, &mut sink) => followed?,
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
    } else {
        merge(context, &paths, &mut sink).await?;
    }
    sink.finish()?;
    Ok(Code::Ok)
}

/// Follows a whole stack from its beginning until Ctrl-C.
pub(crate) async fn follow_stack(context: &Context, stack: &StackName) -> Result<(), CliError> {
    let paths =
        vec![with_query("/v1/logs", &[format!("stack={}", segment(stack.as_str())), "follow=true".into()])];
    let mut sink = Sink::new(context, vec![Target::Stack(stack.clone())], true, false);
    sink.learn().await?;
    tokio::select! {
        followed = follow(context, &paths, &mut sink) => followed?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    sink.finish()
}

/// The last lines of one task; none when they cannot be had, since they are only an addition to what is told.
pub(crate) async fn last_lines(context: &Context, task: TaskId, lines: u64) -> Vec<LogRecord> {
    let path = format!("/v1/logs?task={task}&tail={lines}");
    let mut found = VecDeque::new();
    let Ok(mut frames) = open(&context.client, &path).await else { return Vec::new() };
    while let Ok(Some(record)) = next(&mut frames).await {
        found.push_back(record);
        if found.len() as u64 > lines {
            found.pop_front();
        }
    }
    found.into()
}

fn query(args: &LogsArgs) -> Vec<String> {
    let now = time::now();
    let mut query = Vec::new();
    if args.follow {
        query.push("follow=true".into());
    }
    if let Some(Tail::Lines(lines)) = args.tail {
        query.push(format!("tail={lines}"));
    }
    if let Some(since) = args.since {
        query.push(format!("since={}", since.resolve(now).0));
    }
    if let Some(until) = args.until {
        query.push(format!("until={}", until.resolve(now).0));
    }
    query
}

/// The streams of a target. A slot is its tasks: the API knows no slots.
async fn paths_of(context: &Context, target: &Target, query: &[String]) -> Result<Vec<String>, CliError> {
    let path = |selection: String| {
        let mut all = vec![selection];
        all.extend_from_slice(query);
        with_query("/v1/logs", &all)
    };
    let of_service = |key: &carrack_api::ServiceKey| {
        format!("stack={}&service={}", segment(key.stack.as_str()), segment(key.service.as_str()))
    };
    match target {
        Target::Stack(stack) => Ok(vec![path(format!("stack={}", segment(stack.as_str())))]),
        Target::Service(service) => Ok(vec![path(of_service(service))]),
        Target::Task(task) => Ok(vec![path(format!("task={task}"))]),
        Target::Slot(slot) => {
            let tasks = tasks_of(context, Some(&slot.service.stack), true).await?;
            let of_slot = tasks.iter().filter(|t| t.service == slot.service && t.slot == slot.slot);
            let paths: Vec<String> = of_slot.map(|task| path(format!("task={}", task.id))).collect();
            if paths.is_empty() {
                return Err(CliError::new(format!("no task in {slot}"))
                    .hint(format!("`carrack ps -a {}` lists its tasks", slot.service)));
            }
            Ok(paths)
        }
    }
}

async fn open(client: &Client, path: &str) -> Result<Frames, ClientError> {
    client.frames(Method::GET, path, empty(), &[]).await
}

async fn next(frames: &mut Frames) -> Result<Option<LogRecord>, CliError> {
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::Message(json) => return Ok(Some(serde_json::from_slice(&json)?)),
            Frame::Done(_) => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// In order of time: each stream is in order already.
async fn merge(context: &Context, paths: &[String], sink: &mut Sink<'_>) -> Result<(), CliError> {
    let mut heads: Vec<(LogRecord, Frames)> = Vec::new();
    for path in paths {
        let mut frames = open(&context.client, path).await?;
        if let Some(record) = next(&mut frames).await? {
            heads.push((record, frames));
        }
    }
    while let Some(first) = (0..heads.len()).min_by_key(|&i| heads[i].0.at_ns) {
        let (head, frames) = &mut heads[first];
        match next(frames).await? {
            Some(record) => sink.put(std::mem::replace(head, record)).await?,
            None => {
                let (last, _) = heads.swap_remove(first);
                sink.put(last).await?;
            }
        }
    }
    Ok(())
}

/// In order of arrival, until the server ends all streams.
async fn follow(context: &Context, paths: &[String], sink: &mut Sink<'_>) -> Result<(), CliError> {
    let mut all = SelectAll::new();
    for path in paths {
        let frames = open(&context.client, path).await?;
        all.push(Box::pin(stream::unfold(frames, |mut frames| async move {
            next(&mut frames).await.transpose().map(|record| (record, frames))
        })));
    }
    while let Some(record) = all.next().await {
        sink.put(record?).await?;
    }
    Ok(())
}

/// Prints records, and asks for the names of tasks that it meets.
struct Sink<'a> {
    context: &'a Context,
    targets: Vec<Target>,
    printer: LogPrinter,
    prefix: bool,
}

impl<'a> Sink<'a> {
    fn new(context: &'a Context, targets: Vec<Target>, prefix: bool, timestamps: bool) -> Self {
        let printer = LogPrinter::new(prefix, timestamps, context.terminal.colour_out());
        Self { context, targets, printer, prefix }
    }

    /// Takes the names of all tasks that are meant; without their stack when it is the same.
    async fn learn(&mut self) -> Result<(), CliError> {
        if !self.prefix || self.context.json() {
            return Ok(());
        }
        let mut tasks = tasks_of(self.context, None, true).await?;
        let meant = |task: &TaskStatus| {
            self.targets.iter().any(|target| target.covers(&task.service, task.slot, task.id))
        };
        tasks.retain(meant);
        let stacks: std::collections::BTreeSet<&StackName> =
            tasks.iter().map(|task| &task.service.stack).collect();
        let several = stacks.len() > 1;
        for task in &tasks {
            self.printer.name(task.id, short_name(task, several));
        }
        Ok(())
    }

    async fn put(&mut self, record: LogRecord) -> Result<(), CliError> {
        if self.context.json() {
            return self.context.put_json_line(&record);
        }
        if !self.printer.knows(record.task) {
            self.learn().await?;
            if !self.printer.knows(record.task) {
                self.printer.name(record.task, record.task.to_string());
            }
        }
        put(&self.printer.render(&record))
    }

    fn finish(&mut self) -> Result<(), CliError> {
        put(self.printer.finish())
    }
}

fn short_name(task: &TaskStatus, several_stacks: bool) -> String {
    match several_stacks {
        true => format!("{}.{}", task.service, task.slot),
        false => format!("{}.{}", task.service.service, task.slot),
    }
}
