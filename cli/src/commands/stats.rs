//! `carrack stats`: what running tasks use, from the samples that their nodes report each second.

use std::collections::BTreeMap;
use std::time::Duration;

use carrack_api::client::segment;
use carrack_api::{Bytes, ServiceKey, StackName, StackSpec, TaskId, TaskState, TaskStatus, Timestamp, Usage};
use serde::Serialize;
use tokio::time::Instant;

use super::{targets, tasks_of};
use crate::args::StatsArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::project;
use crate::render::table::{Table, cut, full};
use crate::render::task;
use crate::target::Target;
use crate::terminal::{put, say};

/// Between two looks; samples come once a second.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks while the second sample of each task is awaited.
const FIRST_EVERY: Duration = Duration::from_millis(250);
/// How long the second sample is waited for, without which there is no CPU use.
const SECOND_SAMPLE_MAX: Duration = Duration::from_secs(5);

/// One sample, as it is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    task: TaskId,
    name: String,
    at: Timestamp,
    /// Percent of one CPU; absent until there are two samples.
    cpu_percent: Option<f64>,
    memory: Bytes,
    memory_limit: Option<Bytes>,
    pids: u64,
}

/// `carrack stats`.
pub(crate) async fn run(args: &StatsArgs, context: &Context) -> Outcome {
    let wanted = match args.targets.is_empty() {
        false => targets(context, &args.targets).await?,
        true => project::here().map(Target::Stack).into_iter().collect(),
    };
    let mut watch = Watch { wanted, limits: BTreeMap::new(), last: BTreeMap::new(), shown: BTreeMap::new() };
    let mut lines = 0;
    let begun = Instant::now();
    loop {
        let rows = watch.look(context, args.targets.is_empty()).await?;
        let complete = rows.iter().all(|row| row.cpu_percent.is_some());
        if !complete && begun.elapsed() < SECOND_SAMPLE_MAX {
            tokio::time::sleep(FIRST_EVERY).await;
            continue;
        }
        if context.json() {
            for row in watch.news(&rows) {
                context.put_json_line(row)?;
            }
        } else if args.no_stream || !context.terminal.stdout {
            put(&table(&rows).render(context.terminal.width(), context.terminal.colour_out()))?;
        } else {
            let text = table(&rows).render(context.terminal.width(), context.terminal.colour_out());
            // Over what was drawn before: up, and clear to the end of the screen.
            let back = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
            lines = text.lines().count();
            put(&format!("{back}{text}"))?;
        }
        if args.no_stream {
            if rows.is_empty() {
                say("no task runs");
            }
            return Ok(Code::Ok);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What was seen so far.
struct Watch {
    wanted: Vec<Target>,
    limits: BTreeMap<StackName, BTreeMap<ServiceKey, Option<Bytes>>>,
    /// The newest sample of each task, and the CPU use up to it.
    last: BTreeMap<TaskId, (Usage, Option<f64>)>,
    shown: BTreeMap<TaskId, Timestamp>,
}

impl Watch {
    async fn look(&mut self, context: &Context, all: bool) -> Result<Vec<Row>, CliError> {
        let mut tasks = tasks_of(context, None, false).await?;
        let here = |task: &TaskStatus| {
            self.wanted.iter().any(|target| target.covers(&task.service, task.slot, task.id))
        };
        // Without a target it is the stack that is here, when it is deployed, else everything.
        let any = tasks.iter().any(here);
        if !all || any {
            tasks.retain(here);
        }
        tasks.retain(|task| task.state == TaskState::Running);
        self.last.retain(|id, _| tasks.iter().any(|task| task.id == *id));
        let mut rows = Vec::new();
        for task in tasks {
            let Some(usage) = task.usage.clone() else { continue };
            let cpu = self.cpu(task.id, &usage);
            rows.push(Row {
                task: task.id,
                name: task::name(&task),
                at: usage.at,
                cpu_percent: cpu,
                memory: usage.memory,
                memory_limit: self.limit(context, &task.service).await?,
                pids: usage.pids,
            });
        }
        Ok(rows)
    }

    /// Percent of one CPU between the last two samples.
    fn cpu(&mut self, task: TaskId, now: &Usage) -> Option<f64> {
        let percent = match self.last.get(&task) {
            Some((before, percent)) if before.at == now.at => *percent,
            Some((before, _)) => percent(before, now),
            None => None,
        };
        self.last.insert(task, (now.clone(), percent));
        percent
    }

    async fn limit(&mut self, context: &Context, service: &ServiceKey) -> Result<Option<Bytes>, CliError> {
        if !self.limits.contains_key(&service.stack) {
            let path = format!("/v1/stacks/{}/spec", segment(service.stack.as_str()));
            let spec: StackSpec = context.client.get(&path).await?;
            let limits = spec.services.iter().map(|(name, known)| {
                let key = ServiceKey::new(spec.name.clone(), name.clone());
                (key, known.task.container.limits.memory)
            });
            self.limits.insert(service.stack.clone(), limits.collect());
        }
        Ok(self.limits.get(&service.stack).and_then(|limits| limits.get(service).copied()).flatten())
    }

    /// Samples that were not printed yet.
    fn news<'r>(&mut self, rows: &'r [Row]) -> Vec<&'r Row> {
        rows.iter().filter(|row| self.shown.insert(row.task, row.at) != Some(row.at)).collect()
    }
}

/// Percent of one CPU between two samples.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(before: &Usage, now: &Usage) -> Option<f64> {
    let wall_us = now.at.0.checked_sub(before.at.0)?.checked_mul(1000).filter(|us| *us > 0)?;
    // A new run counts from zero.
    let used_us = now.cpu_us.checked_sub(before.cpu_us)?;
    let percent = used_us as f64 * 100.0 / wall_us as f64;
    Some((percent * 100.0).round() / 100.0)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[cut("TASK"), full("CPU"), full("MEMORY"), full("LIMIT"), full("PIDS")]);
    for row in rows {
        let limit = row.memory_limit.filter(|limit| limit.0 > 0);
        table.row([
            row.name.as_str().into(),
            row.cpu_percent.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}%")).into(),
            match limit {
                Some(limit) => format!("{} ({}%)", row.memory, row.memory.0.saturating_mul(100) / limit.0),
                None => row.memory.to_string(),
            }
            .into(),
            limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()).into(),
            row.pids.to_string().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(at: u64, cpu_us: u64) -> Usage {
        Usage { cpu_us, memory: Bytes(32 << 20), pids: 3, at: Timestamp(at) }
    }

    #[test]
    fn cpu_use_is_that_between_two_samples() {
        assert_eq!(percent(&usage(1000, 0), &usage(2000, 500_000)), Some(50.0));
        assert_eq!(percent(&usage(1000, 0), &usage(1000, 5)), None, "the same sample");
        assert_eq!(percent(&usage(1000, 9), &usage(2000, 5)), None, "another run");
    }

    #[test]
    fn tasks_are_shown_with_what_they_use_of_their_limit() {
        let row = |name: &str, cpu, limit| Row {
            task: TaskId(1),
            name: name.into(),
            at: Timestamp(0),
            cpu_percent: cpu,
            memory: Bytes(32 << 20),
            memory_limit: limit,
            pids: 3,
        };
        let rows = [row("hello/web.1", Some(12.34), Some(Bytes(64 << 20))), row("hello/db.1", None, None)];
        assert_eq!(
            table(&rows).render(None, false),
            "TASK         CPU    MEMORY        LIMIT   PIDS\n\
             hello/web.1  12.3%  32 MiB (50%)  64 MiB  3\n\
             hello/db.1   -      32 MiB        -       3\n"
        );
    }
}
