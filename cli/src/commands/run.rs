//! `carrack run`: a one-off task of a service's definition, its streams here, its exit code ours.
//!
//! ```text
//!   asked for -> wait for its task (dependencies, image) -> its streams, from their beginning -> its exit code
//! ```
//! The task belongs to the server: it goes on when this command is killed, and `--rm` takes it away all the same.

use std::io;
use std::path::Path;

use carrack_api::client::segment;
use carrack_api::{
    AttachRequest, Mount, MountSource, PublishedPort, RunRequest, RunStatus, ServiceKey, StackName,
    StackSpec, StackView, TaskState, TaskStatus, VolumeName,
};
use http::Method;

use super::attach::{DetachKeys, End, Join};
use super::wait::watch;
use super::{is_missing, targets};
use crate::args::RunArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::board::Board;
use crate::render::task;
use crate::target::Target;
use crate::terminal::{self, put, say};

/// `carrack run`.
pub(crate) async fn run(args: &RunArgs, context: &Context) -> Outcome {
    let target = targets(context, std::slice::from_ref(&args.service)).await?.into_iter().next();
    let Some(Target::Service(service)) = target else {
        return Err(CliError::usage(format!("{} is not a service", args.service))
            .hint("write it as carrack run web COMMAND; `carrack ls` lists the services"));
    };
    let (stdin, tty) = streams(args, context)?;
    let request = request(args, service, stdin, tty, context).await?;
    let run: RunStatus = context.client.json(Method::POST, "/v1/runs", Some(&request), &[]).await?;
    if args.detach {
        match context.json() {
            true => context.put_json(&run)?,
            false => put(&format!("{}\n", run.run))?,
        }
        return Ok(Code::Ok);
    }
    let task = tokio::select! {
        task = begun(context, &run) => task,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            remove(context, &run.run).await?;
            say(&format!("\n{} is taken away before it ran", run.run));
            return Ok(Code::Interrupted);
        }
    };
    let task = match task {
        Ok(task) => task,
        Err(error) => {
            remove(context, &run.run).await?;
            return Err(error);
        }
    };
    let join = Join {
        task: task.id,
        name: task::name(&task),
        request: AttachRequest {
            stdin,
            close_stdin: stdin,
            tty: terminal::window_size().filter(|_| tty),
            replay: true,
        },
        keys: DetachKeys::default(),
        signals: true,
    };
    let ended = join.run(context).await?;
    match ended {
        End::Exited(code) => {
            if args.remove {
                remove(context, &run.run).await?;
            }
            Ok(Code::Program(code))
        }
        End::Detached => Ok(Code::Ok),
    }
}

/// Whether to send standard input and whether to allocate a terminal, as `exec` decides it.
fn streams(args: &RunArgs, context: &Context) -> Result<(bool, bool), CliError> {
    if args.detach {
        return Ok((args.interactive, args.tty));
    }
    let terminals = context.terminal.stdin && context.terminal.stdout;
    if args.tty && args.interactive && !context.terminal.stdin {
        return Err(CliError::usage("standard input is no terminal").hint("leave -t out"));
    }
    match (args.interactive, args.tty) {
        (false, false) => Ok((terminals, terminals && !args.no_tty)),
        given => Ok(given),
    }
}

async fn request(
    args: &RunArgs,
    service: ServiceKey,
    stdin: bool,
    tty: bool,
    context: &Context,
) -> Result<RunRequest, CliError> {
    let env = args.env.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    });
    let directory = std::env::current_dir()?;
    let mounts = args.volumes.iter().map(|text| mount(text, &service.stack, &directory));
    let mut ports = args.publish.clone();
    if args.service_ports {
        let path = format!("/v1/stacks/{}/spec", segment(service.stack.as_str()));
        let spec: StackSpec = context.client.get(&path).await?;
        ports.extend(spec.services.get(&service.service).into_iter().flat_map(|s| s.ports.clone()));
    }
    Ok(RunRequest {
        command: args.command.clone(),
        entrypoint: args.entrypoint.as_deref().map(words).transpose()?,
        env: env.collect(),
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        name: args.name.clone(),
        mounts: mounts.collect::<Result<_, _>>()?,
        labels: args.labels.iter().cloned().collect(),
        no_deps: args.no_deps,
        remove: args.remove,
        tty,
        stdin,
        ports,
        service,
    })
}

/// Words of an entrypoint; an empty text clears it.
fn words(text: &str) -> Result<Vec<String>, CliError> {
    if text.contains(['"', '\'', '\\']) {
        return Err(CliError::usage(format!("--entrypoint {text:?}: quotes are not understood"))
            .hint("give the program alone, its arguments come after the service"));
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// `SOURCE:TARGET[:ro]`: a path of this host, or a volume of the stack by its key. `TARGET` alone is a fresh volume.
fn mount(text: &str, stack: &StackName, directory: &Path) -> Result<Mount, CliError> {
    let bad = |why: &str| {
        CliError::usage(format!("-v {text:?}: {why}")).hint("for example -v ./src:/src:ro or -v data:/data")
    };
    let mut parts: Vec<&str> = text.split(':').collect();
    let read_only = match parts.last() {
        Some(&"ro") => parts.pop().is_some(),
        Some(&"rw") => parts.pop().is_none(),
        _ => false,
    };
    let (source, target) = match parts[..] {
        [target] => (MountSource::Anonymous, target),
        [source, target] if source.starts_with(['/', '.', '~']) => {
            let path = match source.strip_prefix('~') {
                Some(rest) => {
                    let home = std::env::var("HOME").map_err(|_| bad("HOME is not set"))?;
                    Path::new(&home).join(rest.trim_start_matches('/'))
                }
                None => directory.join(source),
            };
            let path = normal(&path).ok_or_else(|| bad("the path is not UTF-8"))?;
            (MountSource::Bind { path, create: true, propagation: String::new(), alone: false }, target)
        }
        [source, target] => {
            let name = VolumeName::new(format!("{stack}_{source}")).map_err(|e| bad(&e.to_string()))?;
            (MountSource::Volume { name, nocopy: false, subpath: None }, target)
        }
        _ => return Err(bad("write SOURCE:TARGET or SOURCE:TARGET:ro")),
    };
    if !target.starts_with('/') {
        return Err(bad("the place in the container is not absolute"));
    }
    Ok(Mount { target: target.to_owned(), source, read_only })
}

/// The path without `.` and `..`, which name nothing in a specification.
fn normal(path: &Path) -> Option<String> {
    use std::path::Component;
    let mut out = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out.to_str().map(str::to_owned)
}

/// The task once it runs or has ended; an error when it never will.
async fn begun(context: &Context, run: &RunStatus) -> Result<TaskStatus, CliError> {
    let mut board = Board::new(&context.terminal);
    let mut waits = None;
    watch(context, &run.run.stack, |view| {
        let answer = judge(run, view);
        let bringing: Vec<TaskStatus> =
            view.tasks.iter().filter(|t| t.service == run.run && t.progress.is_some()).cloned().collect();
        if !bringing.is_empty() {
            board.show(&bringing);
        }
        let reason = status(run, view).and_then(|status| status.reason.clone());
        if answer.is_none() && reason != waits {
            if let Some(reason) = &reason {
                say(&format!("{} {reason}", run.run));
            }
            waits = reason;
        }
        answer
    })
    .await?
}

fn status<'a>(run: &RunStatus, view: &'a StackView) -> Option<&'a RunStatus> {
    view.stack.as_ref()?.runs.iter().find(|status| status.run == run.run)
}

/// Whether it runs, has ended, or never will; `None` while it is on its way.
fn judge(run: &RunStatus, view: &StackView) -> Option<Result<TaskStatus, CliError>> {
    let Some(status) = status(run, view) else {
        let text = format!("{} was taken away meanwhile", run.run);
        return Some(Err(CliError::new(text).code(Code::UsageOrChanged)));
    };
    let Some(task) = view.tasks.iter().find(|t| Some(t.id) == status.task) else {
        let reason = status.reason.clone().filter(|_| status.state == TaskState::Rejected)?;
        let error = CliError::new(format!("{} cannot start: it {reason}", run.run));
        return Some(Err(error.hint("--no-deps runs it all the same")));
    };
    match task.state {
        TaskState::Rejected => Some(Err(rejected(task))),
        TaskState::Lost => Some(Err(CliError::new(format!("{} is lost with its node", run.run)))),
        state if state.is_final() || state == TaskState::Running => Some(Ok(task.clone())),
        _ => None,
    }
}

fn rejected(task: &TaskStatus) -> CliError {
    let reason = task.reason.clone().unwrap_or_else(|| "its node cannot run it".to_owned());
    let code = task.exit.as_ref().and_then(|exit| u8::try_from(exit.code).ok()).filter(|code| *code > 0);
    let error = CliError::new(format!("{} could not start: {reason}", task::name(task)))
        .hint("nothing of it is left; mind the command, the image and the mounts");
    match code {
        Some(code) => error.code(Code::Program(code)),
        None => error,
    }
}

async fn remove(context: &Context, run: &ServiceKey) -> Result<(), CliError> {
    let path = format!("/v1/runs/{}/{}", segment(run.stack.as_str()), segment(run.service.as_str()));
    match context.client.delete(&path).await {
        Ok(()) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `[ADDRESS:][PORT:]TARGET[/PROTO]`, as `-p` is written.
pub(crate) fn parse_publish(text: &str) -> Result<PublishedPort, String> {
    let bad = || format!("{text:?} is not of the form 8080:80, 127.0.0.1:8080:80 or 5353:53/udp");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => carrack_api::Protocol::Tcp,
        "udp" => carrack_api::Protocol::Udp,
        _ => return Err(bad()),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(bad);
    let parts: Vec<&str> = numbers.split(':').collect();
    let (host_ip, published, target) = match parts[..] {
        [target] => (None, None, number(target)?),
        [published, target] => (None, Some(number(published)?), number(target)?),
        [ip, published, target] => {
            (Some(ip.parse().map_err(|_| bad())?), Some(number(published)?), number(target)?)
        }
        _ => return Err(bad()),
    };
    Ok(PublishedPort { target, published, range: None, host_ip, protocol, mode: Default::default() })
}

/// A one-off task is asked to go, and waited for.
pub(super) async fn remove_and_wait(context: &Context, run: &ServiceKey) -> Result<(), CliError> {
    remove(context, run).await?;
    watch(context, &run.stack, |view| {
        let there = view.stack.as_ref().is_some_and(|s| s.runs.iter().any(|r| r.run == *run));
        (!there).then_some(())
    })
    .await
    .map_err(|error| error.caused_by(&io::Error::other("while waiting for its end")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Mount, String> {
        mount(text, &"hello".parse().unwrap(), Path::new("/work/here")).map_err(|e| e.render(false))
    }

    #[test]
    fn a_mount_is_a_path_a_volume_of_the_stack_or_fresh() {
        let bind = of("../src:/src:ro").unwrap();
        let MountSource::Bind { path, .. } = bind.source else { panic!("no bind") };
        assert_eq!((path.as_str(), bind.target.as_str(), bind.read_only), ("/work/src", "/src", true));
        let volume = of("data:/data").unwrap();
        assert!(matches!(volume.source, MountSource::Volume { name, .. } if name.as_str() == "hello_data"));
        assert_eq!(of("/cache").unwrap().source, MountSource::Anonymous);
        for bad in ["a:b:c:d", "./x:y", "x", "a b:/x"] {
            assert!(of(bad).unwrap_err().contains("hint: for example"), "{bad}");
        }
    }

    #[test]
    fn a_port_is_published_as_docker_writes_it() {
        let port = parse_publish("127.0.0.1:5353:53/udp").unwrap();
        assert_eq!(
            (port.target, port.published, port.protocol),
            (53, Some(5353), carrack_api::Protocol::Udp)
        );
        assert_eq!(parse_publish("80").unwrap().published, None);
        for bad in ["", "0", "x:80", "80/sctp", "a:1:2", "1:2:3:4", "70000:1"] {
            assert!(parse_publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entrypoint_is_words_without_quotes() {
        assert_eq!(words("/bin/sh -c").unwrap(), ["/bin/sh", "-c"]);
        assert!(words("").unwrap().is_empty());
        assert!(words("sh -c 'x'").is_err());
    }
}
