//! `carrack events`: what happened.

use std::time::Duration;

use carrack_api::client::ClientError;
use carrack_api::{Event, Timestamp};

use super::{is_away, targets, with_query};
use crate::args::EventsArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::style::{Style, clean, paint};
use crate::target::Target;
use crate::terminal::put;
use crate::time::{self, Moment};

/// Between two attempts to reach a daemon that went away, while following.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// `carrack events`.
pub(crate) async fn run(args: &EventsArgs, context: &Context) -> Outcome {
    let target = match &args.target {
        Some(text) => targets(context, std::slice::from_ref(text)).await?.into_iter().next(),
        None => None,
    };
    let since = from(args.since, args.follow, time::now());
    let mut reader = Reader { context, args, target, since, last: None };
    tokio::select! {
        ended = reader.run() => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(Code::Ok)
}

struct Reader<'a> {
    context: &'a Context,
    args: &'a EventsArgs,
    target: Option<Target>,
    since: Option<Timestamp>,
    /// The last event that was seen, to go on after it.
    last: Option<u64>,
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<(), CliError> {
        let mut reached = false;
        loop {
            match self.stream(&mut reached).await {
                Ok(()) if !self.args.follow => return Ok(()),
                Ok(()) => {}
                Err(Stop::Client(error)) if reached && self.args.follow && is_away(&error) => {}
                Err(Stop::Client(error)) => return Err(error.into()),
                Err(Stop::Cli(error)) => return Err(error),
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    fn path(&self) -> String {
        let mut query = Vec::new();
        if self.args.follow {
            query.push("follow=true".to_owned());
        }
        if let Some(since) = self.since {
            query.push(format!("since={}", since.0));
        }
        if let Some(last) = self.last {
            query.push(format!("after={last}"));
        }
        with_query("/v1/events", &query)
    }

    async fn stream(&mut self, reached: &mut bool) -> Result<(), Stop> {
        let path = self.path();
        let last = self.last.map(|id| id.to_string());
        let mut events = self.context.client.events(&path, last.as_deref()).await.map_err(Stop::Client)?;
        *reached = true;
        while let Some(event) = events.next().await.map_err(Stop::Client)? {
            let event: Event = serde_json::from_str(&event.data).map_err(|e| Stop::Cli(e.into()))?;
            self.last = Some(event.id);
            if self.target.as_ref().is_none_or(|target| concerns(target, &event)) {
                self.show(&event).map_err(Stop::Cli)?;
            }
        }
        Ok(())
    }

    fn show(&self, event: &Event) -> Result<(), CliError> {
        if self.context.json() {
            return self.context.put_json_line(event);
        }
        put(&line(event, self.context.terminal.colour_out()))
    }
}

enum Stop {
    Client(ClientError),
    Cli(CliError),
}

/// From when on events are shown. Whoever follows wants what comes, unless he names a moment.
fn from(since: Option<Moment>, follow: bool, now: Timestamp) -> Option<Timestamp> {
    match since {
        Some(since) => Some(since.resolve(now)),
        None => follow.then_some(now),
    }
}

/// The event is of the target or of a part of it.
fn concerns(target: &Target, event: &Event) -> bool {
    if let Target::Task(task) = target {
        return event.task == Some(*task);
    }
    let name = target.to_string();
    match event.subject.strip_prefix(&name) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || rest.starts_with('.'),
        None => false,
    }
}

fn line(event: &Event, colour: bool) -> String {
    let style = match event.kind.rsplit('.').next().unwrap_or_default() {
        "failed" | "rejected" | "lost" | "conflict" => Style::Bad,
        "healthy" | "passing" | "converged" | "completed" => Style::Good,
        _ => Style::Plain,
    };
    let task = event.task.map(|task| format!(" ({task})")).unwrap_or_default();
    format!(
        "{}  {}  {}{task}: {}\n",
        time::moment(event.at),
        paint(&format!("{:<18}", event.kind), style, colour),
        event.subject,
        clean(&event.message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::TaskId;

    fn event(subject: &str) -> Event {
        Event {
            id: 7,
            at: Timestamp(1_767_323_045_678),
            kind: "task.failed".into(),
            subject: subject.into(),
            message: "exit code 3".into(),
            task: Some(TaskId(4)),
            run: None,
        }
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(
            line(&event("a/web.1"), false),
            "2026-01-02T03:04:05.678Z  task.failed         a/web.1 (t4): exit code 3\n"
        );
    }

    #[test]
    fn following_begins_now_unless_a_moment_is_named() {
        let now = Timestamp(1_000_000);
        assert_eq!(from(None, false, now), None);
        assert_eq!(from(None, true, now), Some(now));
        let minute = time::parse_moment("1m").unwrap();
        assert_eq!(from(Some(minute), true, now), Some(Timestamp(940_000)));
    }

    #[test]
    fn a_target_has_the_events_of_its_parts() {
        let of = |target: &Target, subject: &str| concerns(target, &event(subject));
        let stack = Target::Stack("a".parse().unwrap());
        let service = Target::Service("a/web".parse().unwrap());
        assert!(of(&stack, "a") && of(&stack, "a/web.1") && !of(&stack, "ab/web"));
        assert!(of(&service, "a/web") && of(&service, "a/web.2") && !of(&service, "a/webx.2"));
        assert!(of(&Target::Task(TaskId(4)), "x") && !of(&Target::Task(TaskId(5)), "x"));
    }
}
