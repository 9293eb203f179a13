//! `carrack deploy` and `carrack up`: a Compose file becomes a running stack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carrack_api::client::{ClientError, segment};
use carrack_api::{
    Desired, PutStack, Rollout, ServiceKey, StackChange, StackName, StackStatus, StackView, TaskState,
    TaskStatus,
};
use carrack_compose::Loaded;
use http::Method;

use super::wait::{Ended, Goal, wait};
use super::{down, is_missing, logs};
use crate::args::{DeployArgs, UpArgs};
use crate::context::Context;
use crate::credentials;
use crate::error::{CliError, Code, Outcome};
use crate::render::{self, change, report, style, table};
use crate::terminal::{put, say};
use crate::{project, time};

/// `carrack deploy`.
pub(crate) async fn deploy(args: &DeployArgs, context: &Context) -> Outcome {
    let loaded = project::load(&args.project)?;
    tell_notes(&loaded, args.verbose);
    let begun = Instant::now();
    let plan = Deploy::new(context, loaded)?;
    if args.dry_run {
        return plan.dry_run().await;
    }
    let accepted = plan.put().await?;
    if args.wait.detach {
        return plan.detached(&accepted);
    }
    plan.finish(&accepted, args.wait.timeout, begun).await
}

/// `carrack up`.
pub(crate) async fn up(args: &UpArgs, context: &Context) -> Outcome {
    let loaded = project::load(&args.project)?;
    tell_notes(&loaded, false);
    let begun = Instant::now();
    let plan = Deploy::new(context, loaded)?;
    let accepted = plan.put().await?;
    if args.detach {
        return plan.finish(&accepted, args.timeout, begun).await;
    }
    let goal = Goal::Healthy { revision: accepted.revision };
    let ended = wait(context, &plan.name, &goal, args.timeout).await?;
    if !matches!(ended, Ended::Interrupted) {
        match plan.concluded(ended, begun).await? {
            Code::Ok => {}
            other => return Ok(other),
        }
        say(&format!("following the logs of {}; Ctrl-C stops and removes its containers", plan.name));
        logs::follow_stack(context, &plan.name).await?;
    }
    say(&format!(
        "\nstopping {}; volumes stay, and `carrack up -d` leaves it running (Ctrl-C again: do not wait)",
        plan.name
    ));
    down::remove(context, &plan.name, Some(args.timeout)).await
}

fn tell_notes(loaded: &Loaded, verbose: bool) {
    for note in loaded.notes.iter().filter(|note| verbose || !note.detail) {
        say(&format!("note: {note}"));
    }
    if verbose && !loaded.inactive.is_empty() {
        let names: Vec<&str> = loaded.inactive.iter().map(|name| name.as_str()).collect();
        say(&format!("note: left out, no active profile asks for them: {}", names.join(", ")));
    }
}

/// One deploy: what is wanted and where it goes.
struct Deploy<'a> {
    context: &'a Context,
    name: StackName,
    body: PutStack,
    /// What was loaded, to tell where in the file a field stands.
    loaded: Loaded,
}

impl<'a> Deploy<'a> {
    fn new(context: &'a Context, loaded: Loaded) -> Result<Self, CliError> {
        let images = loaded.stack.services.values().map(|s| s.task.container.image.as_str());
        let credentials: BTreeMap<_, _> = credentials::for_images(images)?;
        let name = loaded.stack.name.clone();
        Ok(Self { context, name, body: PutStack { spec: loaded.stack.clone(), credentials }, loaded })
    }

    fn path(&self) -> String {
        format!("/v1/stacks/{}", segment(self.name.as_str()))
    }

    /// The revision that is in force; 0 for none.
    async fn revision(&self) -> Result<u64, CliError> {
        match self.context.client.get::<StackStatus>(&self.path()).await {
            Ok(stack) => Ok(stack.revision),
            Err(error) if is_missing(&error) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    async fn ask(&self, query: &str, revision: u64) -> Result<StackChange, CliError> {
        let path = format!("{}{query}", self.path());
        let based_on = format!("\"{revision}\"");
        let headers = [("if-match", based_on.as_str())];
        let answer = self.context.client.json(Method::PUT, &path, Some(&self.body), &headers).await;
        answer.map_err(|error| match error {
            ClientError::Problem(problem) => {
                CliError::at(problem, |path| self.loaded.position_of(path).map(|at| at.to_string()))
            }
            other => other.into(),
        })
    }

    async fn dry_run(&self) -> Outcome {
        let revision = self.revision().await?;
        let change = self.ask("?dry_run=true", revision).await?;
        if self.context.json() {
            self.context.put_json(&change)?;
        } else {
            put(&change::text(&change, self.context.terminal.colour_out()))?;
        }
        Ok(if change::changes(&change) { Code::UsageOrChanged } else { Code::Ok })
    }

    async fn put(&self) -> Result<StackChange, CliError> {
        let revision = self.revision().await?;
        let change = self.ask("", revision).await?;
        if change::changes(&change) || !change.notes.is_empty() {
            let text = change::text(&change, self.context.terminal.colour_err());
            say(&format!("{}: revision {}\n{}", self.name, change.revision, text.trim_end()));
        }
        Ok(change)
    }

    fn detached(&self, accepted: &StackChange) -> Outcome {
        if self.context.json() {
            self.context.put_json(accepted)?;
        } else {
            put(&format!(
                "{} revision {} is accepted; `carrack ps {}` shows how it goes\n",
                self.name, accepted.revision, self.name
            ))?;
        }
        Ok(Code::Ok)
    }

    async fn finish(&self, accepted: &StackChange, timeout: Duration, begun: Instant) -> Outcome {
        let goal = Goal::Healthy { revision: accepted.revision };
        match wait(self.context, &self.name, &goal, timeout).await? {
            Ended::Interrupted => {
                say(&format!(
                    "\nno longer waiting; the deploy goes on (`carrack ps {}` shows how)",
                    self.name
                ));
                Ok(Code::Interrupted)
            }
            ended => self.concluded(ended, begun).await,
        }
    }

    /// Says how it ended.
    async fn concluded(&self, ended: Ended, begun: Instant) -> Outcome {
        match ended {
            Ended::Reached(view) => self.healthy(&view, begun.elapsed()),
            Ended::Failed(view, services) => self.failed(&view, services).await,
            Ended::TimedOut(view, reasons) => {
                self.timed_out(view.as_deref(), &reasons, begun.elapsed()).await
            }
            Ended::Overtaken(what) => Err(CliError::new(what)
                .code(Code::UsageOrChanged)
                .hint(format!("`carrack ls {}` shows what is in force", self.name))),
            Ended::Interrupted => Ok(Code::Interrupted),
        }
    }

    fn healthy(&self, view: &StackView, took: Duration) -> Outcome {
        if self.context.json() {
            self.context.put_json(view)?;
            return Ok(Code::Ok);
        }
        let Some(stack) = &view.stack else { return Ok(Code::Ok) };
        let tasks: u32 = stack.services.iter().map(|service| service.current).sum();
        let mut text = format!(
            "{} is healthy: {}, {}, revision {}, after {}\n",
            self.name,
            render::count(stack.services.len(), "service"),
            render::count(tasks as usize, "task"),
            stack.revision,
            time::took(took)
        );
        for service in &stack.services {
            for url in service.ports.iter().filter_map(render::url) {
                text.push_str(&format!("  {} {url}\n", service.service));
            }
        }
        put(&text)?;
        Ok(Code::Ok)
    }

    async fn failed(&self, view: &StackView, services: Vec<(ServiceKey, String)>) -> Outcome {
        self.report(view, |task| services.iter().any(|(key, _)| *key == task.service)).await?;
        let serving = old_tasks_serve(view, services.iter().map(|(key, _)| key));
        let mut error = match &services[..] {
            [(service, reason)] => CliError::new(format!("{service} did not become healthy: {reason}")),
            _ => {
                CliError::new(format!("{} did not become healthy", render::count(services.len(), "service")))
            }
        };
        if services.len() > 1 {
            for (service, reason) in &services {
                error = error.detail(format!("{service}: {reason}"));
            }
        }
        if serving {
            error = error.detail("the tasks of the revision before go on serving");
        } else if view.tasks.iter().any(|task| {
            !task.state.is_final()
                && task.desired == Desired::Run
                && services.iter().any(|(key, _)| *key == task.service)
        }) {
            error = error.detail("what failed goes on being restarted in the background");
        }
        Err(error.hint("mend the cause and run `carrack deploy` again"))
    }

    async fn timed_out(&self, view: Option<&StackView>, reasons: &[String], took: Duration) -> Outcome {
        if let Some(view) = view {
            self.report(view, |_| true).await?;
        }
        let mut error = CliError::new(format!("{} is not healthy after {}", self.name, time::took(took)))
            .code(Code::TimedOut)
            .hint(format!(
                "it goes on in the background: `carrack ps {}` shows how, --timeout waits longer",
                self.name
            ));
        for reason in reasons {
            error = error.detail(reason.clone());
        }
        Err(error)
    }

    /// Tells per task what went wrong.
    async fn report(&self, view: &StackView, concerns: impl Fn(&TaskStatus) -> bool) -> Result<(), CliError> {
        if self.context.json() {
            self.context.put_json(view)?;
        }
        let colour = self.context.terminal.colour_err();
        let tasks: Vec<&TaskStatus> =
            report::unhealthy(&view.tasks).into_iter().filter(|task| concerns(task)).collect();
        for task in tasks.iter().take(report::TASKS_MAX) {
            let records = match task.run {
                0 => Vec::new(),
                _ => logs::last_lines(self.context, task.id, report::LOG_LINES).await,
            };
            say(&format!("\n{}", report::task(task, &records, time::now(), colour).trim_end()));
        }
        if tasks.len() > report::TASKS_MAX {
            say(&format!("\nand {} more like these", tasks.len() - report::TASKS_MAX));
        }
        say("");
        Ok(())
    }
}

/// Each of the services still has a task of before that serves.
fn old_tasks_serve<'a>(view: &StackView, mut services: impl Iterator<Item = &'a ServiceKey>) -> bool {
    services.all(|service| {
        view.tasks.iter().any(|task| {
            task.service == *service
                && !task.current
                && task.state == TaskState::Running
                && style::of_state(task.state, task.health) == style::Style::Good
        })
    })
}

/// The state of a service's rollout in a word, with its reason.
pub(crate) fn rollout_cell(rollout: &Rollout) -> table::Cell {
    match rollout {
        Rollout::Converged => table::Cell::styled("ok", style::Style::Good),
        Rollout::Progressing { reason } => table::Cell::styled(reason.clone(), style::Style::Busy),
        Rollout::Failed { reason } => table::Cell::styled(format!("failed: {reason}"), style::Style::Bad),
    }
}
