//! `carrack deploy` and `carrack up`: a Compose file becomes a running stack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carrack_api::client::{ClientError, segment};
use carrack_api::{
    Desired, FieldProblem, Problem, PullPolicy, PutStack, Rollout, ServiceKey, StackChange, StackName,
    StackStatus, StackView, TaskState, TaskStatus,
};
use carrack_compose::Loaded;
use http::Method;

use super::wait::{Ended, Goal, wait};
use super::{build, down, is_missing, logs};
use crate::args::{BuildFirst, DeployArgs, UpArgs};
use crate::context::Context;
use crate::credentials;
use crate::error::{CliError, Code, Outcome};
use crate::render::{self, change, report, style, table};
use crate::terminal::{put, say};
use crate::{project, time};

/// `carrack deploy`.
pub(crate) async fn deploy(args: &DeployArgs, context: &Context) -> Outcome {
    let mut loaded = project::load_as(&args.project, &args.strictness)?;
    tell_notes(&loaded, args.verbose);
    if args.build.build && !build_images(&mut loaded, &[], &args.build, context).await? {
        return Ok(Code::Interrupted);
    }
    let begun = Instant::now();
    let mut plan = Deploy::new(context, loaded)?;
    if args.dry_run {
        return plan.dry_run().await;
    }
    let Some(accepted) = plan.put(&args.build).await? else { return Ok(Code::Interrupted) };
    if args.wait.detach {
        return plan.detached(&accepted);
    }
    plan.finish(&accepted, args.wait.timeout, begun).await
}

/// `carrack up`.
pub(crate) async fn up(args: &UpArgs, context: &Context) -> Outcome {
    let mut loaded = project::load_as(&args.project, &args.strictness)?;
    tell_notes(&loaded, false);
    if args.build.build && !build_images(&mut loaded, &[], &args.build, context).await? {
        return Ok(Code::Interrupted);
    }
    let begun = Instant::now();
    let mut plan = Deploy::new(context, loaded)?;
    let Some(accepted) = plan.put(&args.build).await? else { return Ok(Code::Interrupted) };
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

/// Builds these services, or all that the file builds, and lets the deploy use just that; `false` when the user broke it off.
async fn build_images(
    loaded: &mut Loaded,
    services: &[String],
    args: &BuildFirst,
    context: &Context,
) -> Result<bool, CliError> {
    let options = build::Options { builder: args.builder.as_deref(), ..build::Options::default() };
    let Some(built) = build::build(loaded, services, &options, context).await? else { return Ok(false) };
    for one in built {
        say(&build::describe(&one));
        if let Some(service) = loaded.stack.services.get_mut(&one.service) {
            let pull = &mut service.task.container.pull;
            // What a registry holds under that name is not what was built.
            if matches!(pull, PullPolicy::Always | PullPolicy::Every { .. }) {
                *pull = PullPolicy::Missing;
            }
        }
    }
    Ok(true)
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
        let contents = project::contents(&loaded)?;
        let name = loaded.stack.name.clone();
        Ok(Self {
            context,
            name,
            body: PutStack { spec: loaded.stack.clone(), credentials, contents },
            loaded,
        })
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

    async fn ask(&self, query: &str, revision: u64) -> Result<StackChange, ClientError> {
        let path = format!("{}{query}", self.path());
        let based_on = format!("\"{revision}\"");
        let headers = [("if-match", based_on.as_str())];
        self.context.client.json(Method::PUT, &path, Some(&self.body), &headers).await
    }

    /// The error with places in the file.
    fn placed(&self, error: ClientError) -> CliError {
        match error {
            ClientError::Problem(mut problem) => {
                self.explain_unbuilt(&mut problem);
                CliError::at(problem, |path| self.loaded.position_of(path).map(|at| at.to_string()))
            }
            other => other.into(),
        }
    }

    /// The service whose missing image is the problem, when the file builds it.
    fn unbuilt<'p>(&self, path: &'p str) -> Option<&'p str> {
        let service = path.strip_prefix("services.").and_then(|rest| rest.strip_suffix(".image"))?;
        self.loaded.builds.keys().any(|known| known.as_str() == service).then_some(service)
    }

    /// The service's `image:` stands in the file.
    fn names_image(&self, service: &str) -> bool {
        self.loaded.position_of(&format!("{service}.image")) != self.loaded.position_of(service)
    }

    /// An image that is missing because nobody built it yet.
    fn explain_unbuilt(&self, problem: &mut Problem) {
        let hint = "`carrack deploy --build` builds it here; what was built elsewhere is brought by `carrack image load`";
        let all = problem.problems.len();
        let fields = problem.problems.iter_mut();
        let mut unbuilt: Vec<&mut FieldProblem> =
            fields.filter(|field| self.unbuilt(&field.path).is_some()).collect();
        let mut unnamed = Vec::new();
        for field in &mut unbuilt {
            field.hint = Some(hint.into());
            let service = field.path.trim_end_matches(".image").to_owned();
            if !self.names_image(&service) {
                // Neither the image nor a pull policy was written: the server's words are about what we made of the file.
                let image = field.message.split(": ").next().unwrap_or_default().to_owned();
                field.message = format!("nobody has built {image} yet");
                field.path = format!("{service}.build");
                unnamed.push(image);
            }
        }
        let Some((_, others)) = unbuilt.split_first_mut() else { return };
        // Said once.
        others.iter_mut().for_each(|field| field.hint = None);
        problem.hint = None;
        if unnamed.len() == all {
            problem.detail = format!("nobody has built {} yet", unnamed.join(", "));
        }
    }

    async fn dry_run(&self) -> Outcome {
        let revision = self.revision().await?;
        let change = self.ask("?dry_run=true", revision).await.map_err(|error| self.placed(error))?;
        if self.context.json() {
            self.context.put_json(&change)?;
        } else {
            put(&change::text(&change, self.context.terminal.colour_out()))?;
        }
        Ok(if change::changes(&change) { Code::UsageOrChanged } else { Code::Ok })
    }

    /// Deploys; builds before what nobody has and the file builds, when that is all that is wrong. `None` when the user broke
    /// that off.
    async fn put(&mut self, first: &BuildFirst) -> Result<Option<StackChange>, CliError> {
        let revision = self.revision().await?;
        let mut answer = self.ask("", revision).await;
        if let Err(ClientError::Problem(problem)) = &answer
            && !(first.build || first.no_build || problem.problems.is_empty())
            && let Some(missing) =
                problem.problems.iter().map(|field| self.unbuilt(&field.path)).collect::<Option<Vec<_>>>()
        {
            let missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
            say(&format!("to be built, as nobody has the image: {}", missing.join(", ")));
            if !build_images(&mut self.loaded, &missing, first, self.context).await? {
                return Ok(None);
            }
            self.body.spec = self.loaded.stack.clone();
            answer = self.ask("", revision).await;
        }
        let change = answer.map_err(|error| self.placed(error))?;
        if change::changes(&change) || !change.notes.is_empty() {
            let text = change::text(&change, self.context.terminal.colour_err());
            say(&format!("{}: revision {}\n{}", self.name, change.revision, text.trim_end()));
        }
        Ok(Some(change))
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
        let (services, behind) = causes(view, services);
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
        for (service, reason) in behind {
            error = error.detail(format!("{service}: {reason}"));
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
        let hint = match &services[..] {
            [(service, _)] => format!(
                "mend the cause and run `carrack deploy` again; `carrack logs {service}` shows all of its output"
            ),
            _ => "mend the cause and run `carrack deploy` again".into(),
        };
        Err(error.hint(hint))
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

/// A service with the reason for its state.
type Reasoned = (ServiceKey, String);

/// What failed by itself, and apart from it what only waits for that: services that have no task yet because of it, or that hold
/// their new revision back.
fn causes(view: &StackView, failed: Vec<Reasoned>) -> (Vec<Reasoned>, Vec<Reasoned>) {
    let begun = |service: &ServiceKey| view.tasks.iter().any(|task| task.service == *service);
    let (mut causes, mut behind): (Vec<_>, Vec<_>) =
        failed.into_iter().partition(|(service, _)| begun(service));
    if causes.is_empty() {
        std::mem::swap(&mut causes, &mut behind);
    }
    for service in view.stack.iter().flat_map(|stack| &stack.services) {
        if let Rollout::Progressing { reason } = &service.rollout {
            behind.push((service.service.clone(), reason.clone()));
        }
    }
    (causes, behind)
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
