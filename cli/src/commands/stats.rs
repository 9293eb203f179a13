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
    /// Percent of the periods between the last two samples in which its CPU limit held it back; absent without a limit.
    throttled_percent: Option<f64>,
    /// What the host does not control or account for is absent, here and below.
    memory: Option<Bytes>,
    memory_peak: Option<Bytes>,
    memory_limit: Option<Bytes>,
    pids: u64,
    /// From and to block devices, so far.
    disk_read: Option<Bytes>,
    disk_written: Option<Bytes>,
    /// Processes that the kernel killed for lack of memory.
    oom_kills: Option<u64>,
    /// Percent of the time between the last two samples; absent on cgroup v1, whose kernels do not tell.
    pressure: Option<Waits>,
}

/// How much of the time something of a task waited for what it lacked, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Waits {
    cpu: f64,
    memory: f64,
    io: f64,
}

/// What two samples say together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Rates {
    cpu: Option<f64>,
    throttled: Option<f64>,
    pressure: Option<Waits>,
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
    /// The newest sample of each task, and the rates up to it.
    last: BTreeMap<TaskId, (Usage, Rates)>,
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
            let rates = self.rates(task.id, &usage);
            rows.push(Row {
                task: task.id,
                name: task::name(&task),
                at: usage.at,
                cpu_percent: rates.cpu,
                throttled_percent: rates.throttled,
                memory: usage.memory,
                memory_peak: usage.detail.as_ref().and_then(|detail| detail.memory_peak),
                memory_limit: self.limit(context, &task.service).await?,
                pids: usage.pids,
                disk_read: usage.detail.as_ref().and_then(|detail| detail.disk_read),
                disk_written: usage.detail.as_ref().and_then(|detail| detail.disk_written),
                oom_kills: usage.detail.as_ref().map(|detail| detail.oom_kills),
                pressure: rates.pressure,
            });
        }
        Ok(rows)
    }

    /// The rates between the last two samples.
    fn rates(&mut self, task: TaskId, now: &Usage) -> Rates {
        let rates = match self.last.get(&task) {
            Some((before, rates)) if before.at == now.at => *rates,
            Some((before, _)) => rates(before, now),
            None => Rates::default(),
        };
        self.last.insert(task, (now.clone(), rates));
        rates
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

/// The rates between two samples.
fn rates(before: &Usage, now: &Usage) -> Rates {
    let wall_us = now.at.0.saturating_sub(before.at.0).saturating_mul(1000);
    // A new run counts from zero.
    let share = |before: u64, now: u64, of: u64| percent(now.checked_sub(before)?, of);
    let cpu = share(before.cpu_us, now.cpu_us, wall_us);
    let (Some(then), Some(detail)) = (&before.detail, &now.detail) else {
        return Rates { cpu, ..Rates::default() };
    };
    let periods = detail.cpu_periods.saturating_sub(then.cpu_periods);
    let pressure = then.pressure.zip(detail.pressure).and_then(|(then, now)| {
        Some(Waits {
            cpu: share(then.cpu_us, now.cpu_us, wall_us)?,
            memory: share(then.memory_us, now.memory_us, wall_us)?,
            io: share(then.io_us, now.io_us, wall_us)?,
        })
    });
    Rates { cpu, throttled: share(then.throttled_periods, detail.throttled_periods, periods), pressure }
}

/// A part in percent, with two digits; of nothing there is none.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (part as f64 * 10_000.0 / of as f64).round() / 100.0)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        cut("TASK"),
        full("CPU"),
        full("THROTTLED"),
        full("MEMORY"),
        full("PEAK"),
        full("LIMIT"),
        full("PIDS"),
        full("READ"),
        full("WRITTEN"),
    ]);
    let bytes = |bytes: Option<Bytes>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let limit = row.memory_limit.filter(|limit| limit.0 > 0);
        table.row([
            row.name.as_str().into(),
            or_dash(row.cpu_percent.map(|cpu| format!("{cpu:.1}%"))).into(),
            or_dash(row.throttled_percent.map(|share| format!("{share:.0}%"))).into(),
            match row.memory.zip(limit) {
                Some((used, limit)) => format!("{used} ({}%)", used.0.saturating_mul(100) / limit.0),
                None => bytes(row.memory),
            }
            .into(),
            bytes(row.memory_peak).into(),
            bytes(limit).into(),
            row.pids.to_string().into(),
            bytes(row.disk_read).into(),
            bytes(row.disk_written).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use carrack_api::{Pressure, UsageDetail};

    use super::*;

    fn usage(at: u64, cpu_us: u64) -> Usage {
        Usage { cpu_us, memory: Some(Bytes(32 << 20)), pids: 3, at: Timestamp(at), detail: None }
    }

    #[test]
    fn cpu_use_is_that_between_two_samples() {
        let cpu = |before: &Usage, now: &Usage| rates(before, now).cpu;
        assert_eq!(cpu(&usage(1000, 0), &usage(2000, 500_000)), Some(50.0));
        assert_eq!(cpu(&usage(1000, 0), &usage(1000, 5)), None, "the same sample");
        assert_eq!(cpu(&usage(1000, 9), &usage(2000, 5)), None, "another run");
    }

    #[test]
    fn throttling_is_a_share_of_periods_and_pressure_one_of_time() {
        let with = |at, cpu_periods, throttled_periods, io_us| {
            let pressure = Some(Pressure { io_us, ..Pressure::default() });
            let detail = UsageDetail { cpu_periods, throttled_periods, pressure, ..UsageDetail::default() };
            Usage { detail: Some(Box::new(detail)), ..usage(at, 0) }
        };
        let both = rates(&with(1000, 10, 2, 0), &with(2000, 20, 7, 250_000));
        assert_eq!(both.throttled, Some(50.0));
        assert_eq!(both.pressure, Some(Waits { cpu: 0.0, memory: 0.0, io: 25.0 }));
        let unlimited = rates(&with(1000, 0, 0, 0), &with(2000, 0, 0, 0));
        assert_eq!(unlimited.throttled, None);
        assert_eq!(rates(&usage(1000, 0), &with(2000, 9, 9, 9)).pressure, None);
    }

    #[test]
    fn tasks_are_shown_with_what_they_use_of_their_limit() {
        let row = |name: &str, cpu, throttled, limit| Row {
            task: TaskId(1),
            name: name.into(),
            at: Timestamp(0),
            cpu_percent: cpu,
            throttled_percent: throttled,
            memory: Some(Bytes(32 << 20)),
            memory_peak: Some(Bytes(48 << 20)),
            memory_limit: limit,
            pids: 3,
            disk_read: Some(Bytes(1 << 20)),
            disk_written: None,
            oom_kills: Some(0),
            pressure: None,
        };
        let rows = [
            row("hello/web.1", Some(12.34), Some(3.9), Some(Bytes(64 << 20))),
            row("hello/db.1", None, None, None),
            Row { memory: None, memory_peak: None, ..row("hello/no.1", None, None, Some(Bytes(64 << 20))) },
        ];
        assert_eq!(
            table(&rows).render(None, false),
            "TASK         CPU    THROTTLED  MEMORY        PEAK    LIMIT   PIDS  READ   WRITTEN\n\
             hello/web.1  12.3%  4%         32 MiB (50%)  48 MiB  64 MiB  3     1 MiB  -\n\
             hello/db.1   -      -          32 MiB        48 MiB  -       3     1 MiB  -\n\
             hello/no.1   -      -          -             -       64 MiB  3     1 MiB  -\n"
        );
    }
}
