//! Logs of several tasks as one stream in order of time, to the end or for ever.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use carrack_api::stream::Frame;
use carrack_api::{LogQuery, LogRecord, Problem, TaskId};
use carrack_runtime::{LogLine, LogReader, LogStream, RuntimeError};
use tokio::io::AsyncRead;
use tokio::time::Instant;

use super::{Answer, Asker, Desk, View, done, internal, nobody};
use crate::containers::Containers;
use crate::fds::Signal;

/// Lines read of one task at a time.
const LINES_PER_READ: usize = 256;
/// Records of one batch.
const RECORDS_PER_BATCH: usize = 512;
/// Most tasks of one request.
const TASKS_MAX: usize = 1024;
/// How often it is looked whether all tasks have ended, while nothing is written.
const FOLLOW_TICK: Duration = Duration::from_millis(500);
/// A task that the node does not know yet may be on its way to it for this long.
const UNKNOWN_MAX: Duration = Duration::from_secs(5);
/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

impl Desk {
    pub(super) async fn logs<R: AsyncRead + Unpin>(
        &self,
        tasks: Vec<TaskId>,
        query: LogQuery,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        if tasks.len() > TASKS_MAX {
            let detail =
                format!("logs of {} tasks were asked for; at most {TASKS_MAX} are allowed", tasks.len());
            return Err(Problem::new(422, "too-many-tasks", detail));
        }
        let follow = query.follow;
        let begun = Instant::now();
        let mut merger = Merger::new(&tasks, &query);
        loop {
            // Asked before reading: what an ended task wrote last is then surely read.
            let ended = !follow || merger.all_ended(&self.view.borrow(), begun.elapsed() >= UNKNOWN_MAX);
            let sending = async {
                loop {
                    let (back, records) = self.read(merger).await?;
                    merger = back;
                    if records.is_empty() {
                        return Ok(merger);
                    }
                    for record in records {
                        answer.message(&record).await.map_err(|_| nobody())?;
                    }
                }
            };
            merger = tokio::select! {
                sent = sending => sent?,
                () = asker.gone() => return Err(nobody()),
            };
            if ended {
                return done(&());
            }
            let signals = merger.signals().map_err(|error| internal(&error))?;
            tokio::select! {
                () = any_readable(&signals) => {}
                () = tokio::time::sleep(FOLLOW_TICK) => {}
                () = asker.gone() => return Err(nobody()),
            }
        }
    }

    async fn read(&self, mut merger: Merger) -> Result<(Merger, Vec<LogRecord>), Problem> {
        let read = self.containers.clone().blocking(move |this| {
            let records = merger.next_records(this);
            (merger, records)
        });
        let (merger, records) = read.await;
        records.map(|records| (merger, records)).map_err(|error| internal(&error))
    }
}

async fn any_readable(signals: &[Signal]) {
    let waits: Vec<_> = signals.iter().map(|signal| Box::pin(signal.readable())).collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    let mut waits = waits;
    std::future::poll_fn(|context| {
        let ready = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Logs of several tasks, merged by time.
struct Merger {
    sources: Vec<Source>,
    wanted: carrack_runtime::LogQuery,
    until_ns: Option<u64>,
}

struct Source {
    task: TaskId,
    /// Absent while the task has no log yet.
    reader: Option<LogReader>,
    lines: VecDeque<LogLine>,
}

impl Merger {
    fn new(tasks: &[TaskId], query: &LogQuery) -> Self {
        let wanted = carrack_runtime::LogQuery {
            tail: query.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            since_ns: query.since.map(|at| at.0.saturating_mul(NS_PER_MS)),
            stream: None,
            run: None,
            follow: query.follow,
            raw: false,
        };
        let source = |task: &TaskId| Source { task: *task, reader: None, lines: VecDeque::new() };
        let until_ns = query.until.map(|at| at.0.saturating_mul(NS_PER_MS));
        Self { sources: tasks.iter().map(source).collect(), wanted, until_ns }
    }

    /// Opens the logs that exist by now.
    fn open(&mut self, containers: &Containers) -> Result<(), RuntimeError> {
        for source in self.sources.iter_mut().filter(|source| source.reader.is_none()) {
            source.reader = match containers.runtime().logs(&source.task.to_string(), self.wanted.clone()) {
                Ok(reader) => Some(reader),
                Err(RuntimeError::File { source, .. }) if source.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn signals(&self) -> std::io::Result<Vec<Signal>> {
        self.sources.iter().filter_map(|source| source.reader.as_ref()?.fd()).map(Signal::new).collect()
    }

    /// Nothing more will be written, also not by tasks that the node does not know, if those count as ended.
    fn all_ended(&self, view: &View, unknown_ended: bool) -> bool {
        self.sources.iter().all(|source| match view.report_of(source.task) {
            Some(report) => report.state.is_final(),
            None => unknown_ended,
        })
    }

    /// Further records in order of time; none when there are no more for now. Each source is read ahead before the earliest line
    /// is taken, so the order holds for all that is written already.
    fn next_records(&mut self, containers: &Containers) -> Result<Vec<LogRecord>, RuntimeError> {
        self.open(containers)?;
        let mut records = Vec::new();
        for source in &mut self.sources {
            source.fill()?;
        }
        while records.len() < RECORDS_PER_BATCH {
            let earliest = self
                .sources
                .iter_mut()
                .filter(|source| !source.lines.is_empty())
                .min_by_key(|source| (source.lines.front().map(|line| line.time_ns), source.task));
            let Some(source) = earliest else { break };
            let Some(line) = source.lines.pop_front() else { break };
            source.fill()?;
            if self.until_ns.is_none_or(|until| line.time_ns <= until) {
                records.push(record(source.task, line));
            }
        }
        Ok(records)
    }
}

impl Source {
    fn fill(&mut self) -> Result<(), RuntimeError> {
        if let Some(reader) = self.reader.as_mut().filter(|_| self.lines.is_empty()) {
            self.lines.extend(reader.next_lines(LINES_PER_READ)?);
        }
        Ok(())
    }
}

fn record(task: TaskId, line: LogLine) -> LogRecord {
    let mut text = String::from_utf8_lossy(&line.text).into_owned();
    text.push('\n');
    LogRecord {
        task,
        run: line.run,
        at_ns: line.time_ns,
        stream: match line.stream {
            LogStream::Stdout => carrack_api::LogStream::Stdout,
            LogStream::Stderr | LogStream::Supervisor => carrack_api::LogStream::Stderr,
        },
        text,
    }
}
