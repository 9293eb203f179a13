//! Logs of tasks, ended ones included, and of those that come while a client follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use carrack_api::stream::Frame;
use carrack_api::{LogQuery, NodeId, NodeRequest, Problem, ServiceName, StackName, TaskId, Timestamp};
use serde::Deserialize;
use tokio::task::JoinSet;
use utoipa::IntoParams;

use super::App;
use super::nodes::{Gone, Sink, open, stream};
use super::problem::{ApiResult, Params};
use super::stacks::no_stack;
use crate::store::{Snapshot, TaskRecord};
use crate::wiring::Inner;

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    /// Of this stack.
    #[param(value_type = Option<String>)]
    stack: Option<StackName>,
    /// Of this service of the stack.
    #[param(value_type = Option<String>)]
    service: Option<ServiceName>,
    /// Of this task alone.
    #[param(value_type = Option<String>)]
    task: Option<TaskId>,
    /// Stays and sends new records, also of tasks that are made later.
    #[serde(default)]
    follow: bool,
    /// Only the last this many of each task.
    tail: Option<u64>,
    /// Only from this moment on, milliseconds since the epoch.
    #[param(value_type = Option<u64>)]
    since: Option<Timestamp>,
    /// Only up to this moment, milliseconds since the epoch.
    #[param(value_type = Option<u64>)]
    until: Option<Timestamp>,
}

impl LogParams {
    fn matches(&self, task: &TaskRecord) -> bool {
        match self.task {
            Some(id) => id == task.id,
            None => {
                self.stack.as_ref() == Some(&task.service.stack)
                    && self.service.as_ref().is_none_or(|s| *s == task.service.service)
            }
        }
    }

    fn query(&self) -> LogQuery {
        LogQuery { follow: self.follow, tail: self.tail, since: self.since, until: self.until }
    }
}

/// Log records as `Message` frames of `LogRecord`; ends with `Done` unless it follows.
#[utoipa::path(get, path = "/v1/logs", params(LogParams),
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn logs(State(inner): App, Params(params): Params<LogParams>) -> ApiResult<Response> {
    check(&inner.cluster.store.snapshot(), &params)?;
    Ok(stream(|sink| async move {
        // A client that is gone needs no end.
        let _: Result<(), Gone> = Reader { inner, params, open: BTreeSet::new() }.run(&sink).await;
    }))
}

fn check(snapshot: &Snapshot, params: &LogParams) -> Result<(), Problem> {
    match (params.task, &params.stack) {
        (Some(id), _) if snapshot.tasks.get(&id).is_none() => {
            Err(Problem::not_found("no-task", format!("no task {id}"))
                .hint("`carrack ps -a` lists all tasks"))
        }
        (Some(_), _) => Ok(()),
        (None, None) => Err(Problem::new(400, "invalid-query", "say of which stack or task")),
        (None, Some(stack)) => {
            let record = snapshot.stack(stack).ok_or_else(|| no_stack(stack))?;
            let Some(service) = &params.service else { return Ok(()) };
            let in_spec =
                snapshot.spec(stack, record.revision).is_some_and(|s| s.services.contains_key(service));
            let known = snapshot.services_of(stack).any(|s| s.key.service == *service)
                || snapshot.runs_of(stack).any(|r| r.key.service == *service);
            if in_spec || known {
                return Ok(());
            }
            Err(Problem::not_found("no-service", format!("no service {service:?} in stack {stack}"))
                .hint(format!("`carrack ls {stack}` lists its services")))
        }
    }
}

struct Reader {
    inner: Arc<Inner>,
    params: LogParams,
    /// Tasks that were asked for already.
    open: BTreeSet<TaskId>,
}

impl Reader {
    async fn run(mut self, sink: &Sink) -> Result<(), Gone> {
        let mut changes = self.inner.cluster.store.watch();
        let mut reports = self.inner.cluster.observations.subscribe();
        let mut streams = JoinSet::new();
        let mut query = self.params.query();
        loop {
            for (node, tasks) in self.new_tasks() {
                streams.spawn(read(self.inner.clone(), node, tasks, query.clone(), sink.clone()));
            }
            // What comes later is told from its beginning.
            (query.tail, query.since) = (None, None);
            let single = self.params.task.is_some();
            if streams.is_empty() && (!self.params.follow || single || self.is_gone()) {
                return sink.send(&Frame::Done(b"null".to_vec())).await;
            }
            tokio::select! {
                Some(ended) = streams.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(Ended::Gone)) | Err(_) => return Err(Gone),
                    Ok(Err(Ended::Problem(problem))) => {
                        if !self.params.follow {
                            return sink.send(&Frame::Problem(problem)).await;
                        }
                        tracing::debug!(%problem, "a log stream ended early");
                    }
                },
                () = sink.closed() => return Err(Gone),
                changed = changes.changed(), if self.params.follow => if changed.is_err() { return Ok(()) },
                changed = reports.changed(), if self.params.follow => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Tasks of interest that were not asked for yet, by node: those that their node reports, or that ended.
    fn new_tasks(&mut self) -> BTreeMap<NodeId, Vec<TaskId>> {
        let (snapshot, observations) = (self.inner.cluster.store.snapshot(), self.inner.cluster.observed());
        let mut by_node: BTreeMap<NodeId, Vec<TaskId>> = BTreeMap::new();
        for task in snapshot.tasks.values().filter(|t| self.params.matches(t)) {
            let Some(node) = task.node.clone().filter(|node| observations.heard(node)) else { continue };
            let known = !task.is_live() || observations.of(task).report().is_some();
            if known && self.open.insert(task.id) {
                by_node.entry(node).or_default().push(task.id);
            }
        }
        by_node
    }

    fn is_gone(&self) -> bool {
        let snapshot = self.inner.cluster.store.snapshot();
        self.params.stack.as_ref().is_some_and(|stack| snapshot.stack(stack).is_none())
    }
}

enum Ended {
    Gone,
    Problem(Problem),
}

/// Hands the records of one node on.
async fn read(
    inner: Arc<Inner>,
    node: NodeId,
    tasks: Vec<TaskId>,
    query: LogQuery,
    sink: Sink,
) -> Result<(), Ended> {
    let mut call = open(&inner, &node, NodeRequest::Logs { tasks, query }).await.map_err(Ended::Problem)?;
    loop {
        let frame = tokio::select! {
            frame = call.next() => frame.map_err(Ended::Problem)?,
            () = sink.closed() => return Err(Ended::Gone),
        };
        match frame {
            Frame::Done(_) => return Ok(()),
            Frame::Message(_) => sink.send(&frame).await.map_err(|Gone| Ended::Gone)?,
            Frame::Data(_) | Frame::Error(_) | Frame::Resize(_) | Frame::Signal(_) | Frame::Problem(_) => {}
        }
    }
}
