//! What is asked of a node beside its assignment: exec, logs, images, volumes, inspect; each over one stream of frames.
//!
//! Owns the answers. What runs is read from the newest report, what is wanted from the assignment; nothing here changes either.

mod attach;
mod copy;
mod dns;
mod exec;
mod images;
mod logs;
mod signal;
mod upkeep;
mod volumes;

use std::io;
use std::sync::Arc;

use carrack_api::client::frames::{FrameReader, write_frame};
use carrack_api::stream::Frame;
use carrack_api::{
    AssignedTask, Assignment, NodeId, NodeReport, NodeRequest, Problem, SlotKey, TaskId, TaskReport,
    TaskState,
};
use carrack_runtime::error::chain;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf, split};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::containers::Containers;
use crate::engine::Engine;
use crate::fabric::Fabric;
use crate::usage::UsageRings;

/// Frames that may wait to be written.
const FRAMES_MAX: usize = 32;

/// What requests know of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The newest report.
    pub(crate) report: Option<Arc<NodeReport>>,
    /// The assignment it follows.
    pub(crate) assignment: Option<Arc<Assignment>>,
}

impl View {
    fn report_of(&self, task: TaskId) -> Option<&TaskReport> {
        self.report.as_ref()?.tasks.iter().find(|report| report.task == task)
    }

    fn assigned(&self, task: TaskId) -> Option<&AssignedTask> {
        self.assignment.as_ref()?.tasks.get(&task)
    }

    /// The run of a task that runs.
    fn running(&self, task: TaskId) -> Result<u32, Problem> {
        let report = self.report_of(task).ok_or_else(|| no_task(task))?;
        if report.state == TaskState::Running {
            return Ok(report.run);
        }
        Err(Problem::new(
            409,
            "task-not-running",
            format!("task {task} is not running: it is {}", report.state),
        ))
    }

    fn name(&self, task: TaskId) -> String {
        self.assigned(task)
            .map(|known| SlotKey { service: known.service.clone(), slot: known.slot })
            .map_or_else(|| task.to_string(), |slot| slot.to_string())
    }
}

fn no_task(task: TaskId) -> Problem {
    Problem::not_found("no-task", format!("no task {task} on this node"))
        .hint("carrack ps -a lists the tasks")
}

fn internal(error: &dyn std::error::Error) -> Problem {
    Problem::internal(chain(error))
}

/// Answers requests.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) node: NodeId,
    pub(crate) containers: Containers,
    pub(crate) usage: Arc<UsageRings>,
    pub(crate) fabric: Fabric,
    pub(crate) view: watch::Receiver<View>,
}

impl Desk {
    /// Answers one request; returns when the answer is written or the asker is gone.
    pub(crate) async fn serve<S>(&self, request: NodeRequest, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = split(stream);
        let (sender, writing) = Answer::start(writer);
        let mut asker = Asker { frames: FrameReader::new(reader) };
        let end = match self.answer(request, &mut asker, &sender).await {
            Ok(frame) => frame,
            Err(problem) => Frame::Problem(problem),
        };
        // The asker may be gone, and then there is nobody to tell.
        let told = sender.send(end).await;
        drop(sender);
        let written = writing.await;
        tracing::debug!(told = told.is_ok(), written = written.is_ok(), "a request was answered");
    }

    async fn answer<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        request: NodeRequest,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let view = self.view.borrow().clone();
        match request {
            NodeRequest::Exec { task, exec } => {
                self.exec(task, view.running(task)?, exec, asker, answer).await
            }
            NodeRequest::Logs { tasks, query } => self.logs(tasks, query, asker, answer).await,
            NodeRequest::Attach { task, attach } => self.attach(task, attach, asker, answer).await,
            NodeRequest::CopyOut { task, copy } => {
                self.copy_out(task, view.running(task)?, copy, asker, answer).await
            }
            NodeRequest::CopyIn { task, copy } => self.copy_in(task, view.running(task)?, copy, asker).await,
            NodeRequest::DnsLookup { name, from } => self.dns_lookup(name, from, view).await,
            NodeRequest::ImageInspect { reference } => self.image_inspect(reference).await,
            NodeRequest::ImageTag { tag } => self.image_tag(tag).await,
            NodeRequest::ImageSave { references } => self.image_save(references, asker, answer).await,
            NodeRequest::ImagePrune { prune, needed } => self.image_prune(prune, needed, view).await,
            NodeRequest::ImageLoad => self.image_load(asker, answer).await,
            NodeRequest::ImagePull { reference, credentials } => {
                self.image_pull(&reference, credentials.as_ref(), asker, answer).await
            }
            NodeRequest::ImageResolve { reference, policy, credentials } => {
                self.image_resolve(&reference, policy, credentials.as_ref()).await
            }
            NodeRequest::RegistryCheck { registry, credentials } => {
                self.registry_check(&registry, &credentials).await
            }
            NodeRequest::ImageList => done(&Engine::images(&self.containers)),
            NodeRequest::ImageRemove { reference } => self.image_remove(reference, view).await,
            NodeRequest::VolumeList => self.volume_list(view).await,
            NodeRequest::VolumeRemove { name } => self.volume_remove(name, view).await,
            NodeRequest::Signal { task, signal } => self.signal(task, view.running(task)?, signal).await,
            NodeRequest::TaskInspect { task } => self.task_inspect(task, &view),
        }
    }

    /// Everything the node knows of a task, without the values of its environment: they may be secret.
    fn task_inspect(&self, task: TaskId, view: &View) -> Result<Frame, Problem> {
        let report = view.report_of(task).ok_or_else(|| no_task(task))?;
        let assigned = view.assigned(task).map(|assigned| {
            let mut shown = assigned.clone();
            let hidden = || Some("(not shown)".to_owned());
            shown.spec.container.env.values_mut().filter(|value| value.is_some()).for_each(|v| *v = hidden());
            shown
        });
        done(&serde_json::json!({
            "node": self.node,
            "name": view.name(task),
            "report": report,
            "assigned": assigned,
            "usage": self.usage.of(task),
        }))
    }
}

fn done(value: &impl Serialize) -> Result<Frame, Problem> {
    Frame::done(value).map_err(|error| internal(&error))
}

/// What the asker sends.
struct Asker<R> {
    frames: FrameReader<R>,
}

impl<R: AsyncRead + Unpin> Asker<R> {
    /// The next frame; `None` when the asker is gone.
    async fn next(&mut self) -> Option<Frame> {
        match self.frames.next().await {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%error, "the asker of a request is gone");
                None
            }
        }
    }

    /// Returns once the asker is gone; what it sends meanwhile means nothing.
    async fn gone(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// Where the answer goes, frame by frame and from several places.
#[derive(Debug, Clone)]
struct Answer {
    frames: mpsc::Sender<Frame>,
}

impl Answer {
    fn start<W: AsyncWrite + Send + Unpin + 'static>(
        mut stream: WriteHalf<W>,
    ) -> (Self, JoinHandle<io::Result<()>>) {
        let (frames, mut queue) = mpsc::channel(FRAMES_MAX);
        let writing = tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                write_frame(&mut stream, &frame).await?;
            }
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        });
        (Self { frames }, writing)
    }

    /// Sends a frame; an error when the asker is gone.
    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Sends a JSON message.
    async fn message(&self, value: &impl Serialize) -> Result<(), Gone> {
        match Frame::message(value) {
            Ok(frame) => self.send(frame).await,
            Err(error) => {
                tracing::error!(%error, "a message cannot be written as JSON");
                Ok(())
            }
        }
    }
}

/// The asker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gone;

/// The end of an answer that nobody waits for any more.
fn nobody() -> Problem {
    Problem::new(499, "asker-gone", "the asker went away before the end of the answer")
}
