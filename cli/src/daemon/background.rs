//! `daemon -d` and `daemon --stop`: starting a daemon beside us and waiting until it answers, and ending one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carrack_api::client::Client;
use carrack_api::{Info, defaults, human_duration};
use rustix::process::{Pid, Signal};
use serde_json::json;

use super::notify::forget_manager;
use super::{Places, lock, log};
use crate::args::{DaemonArgs, Global, OutputFormat};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::terminal::{put, say};

/// Time for a daemon to answer: adopting many containers takes its time.
const READY_MAX: Duration = Duration::from_secs(60);
/// Time for a daemon to end that leaves its containers running.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Time for a daemon to end that stops its containers in order.
const STOP_CONTAINERS_MAX: Duration = Duration::from_secs(600);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Lines of the log that explain why a daemon did not start.
const LOG_LINES: usize = 20;

/// Starts a daemon in the background and returns once it answers.
pub(super) fn start(args: &DaemonArgs, places: &Places, output: OutputFormat) -> Outcome {
    let begun = Instant::now();
    places.make()?;
    for directory in [&places.state_dir, &places.runtime_dir] {
        if let Some(pid) = lock::holder(directory)? {
            return Err(lock::refused(directory, pid));
        }
    }
    let path = places.log();
    let cannot = |error: std::io::Error| CliError::new("the daemon cannot be started").caused_by(&error);
    let file = log::append(&path).map_err(cannot)?;
    let mark = file.metadata().map_err(cannot)?.len();
    let mut child = forget_manager(&mut Command::new(std::env::current_exe().map_err(cannot)?))
        .args(child_arguments(args, places))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(cannot)?)
        .stderr(file)
        .spawn()
        .map_err(cannot)?;
    let info = ready(&mut child, places, mark)?;
    if output == OutputFormat::Json {
        let (socket, log) = (places.socket.display().to_string(), path.display().to_string());
        let started = json!({ "version": info.version, "pid": info.pid, "socket": socket, "log": log });
        put(&format!("{started}\n"))?;
        return Ok(Code::Ok);
    }
    put(&format!(
        "carrack {} runs, pid {}, socket {}, log {}, ready after {}\n",
        info.version,
        info.pid,
        places.socket.display(),
        path.display(),
        crate::time::took(begun.elapsed())
    ))?;
    Ok(Code::Ok)
}

fn child_arguments(args: &DaemonArgs, places: &Places) -> Vec<std::ffi::OsString> {
    let mut out: Vec<std::ffi::OsString> = vec!["daemon".into(), "--background".into()];
    let mut option = |name: &str, value: &std::ffi::OsStr| {
        out.push(name.into());
        out.push(value.into());
    };
    option("--state-dir", places.state_dir.as_os_str());
    option("--runtime-dir", places.runtime_dir.as_os_str());
    option("--socket", places.socket.as_os_str());
    option("--log-level", args.log_level.as_str().to_lowercase().as_ref());
    if let Some(config) = &places.config {
        option("--config", config.as_os_str());
    }
    if let Some(cidr) = &args.cluster_cidr {
        option("--cluster-cidr", cidr.as_ref());
    }
    if let Some(hostname) = &args.hostname {
        option("--hostname", hostname.as_ref());
    }
    for (key, value) in &args.labels {
        option("--label", format!("{key}={value}").as_ref());
    }
    for server in &args.name_servers {
        option("--dns", server.to_string().as_ref());
    }
    if args.stop_containers {
        out.push("--stop-containers".into());
    }
    out
}

/// Waits until the child answers on its socket, or tells why it did not come so far.
fn ready(child: &mut Child, places: &Places, mark: u64) -> Result<Info, CliError> {
    let log = places.log();
    let explain = |what: String| {
        let said = log::tail(&log, mark, LOG_LINES);
        let error = CliError::new(what).hint(format!("all of it is in {}", log.display()));
        if said.is_empty() { error } else { error.detail(said) }
    };
    let deadline = Instant::now() + READY_MAX;
    loop {
        if let Some(info) = info(&places.socket)?
            && info.pid == child.id()
        {
            return Ok(info);
        }
        let ended = child
            .try_wait()
            .map_err(|error| CliError::new("the daemon cannot be waited for").caused_by(&error))?;
        if let Some(status) = ended {
            return Err(explain(format!("the daemon did not start ({status})")));
        }
        if Instant::now() > deadline {
            return Err(explain(format!(
                "the daemon, pid {}, does not answer after {}",
                child.id(),
                human_duration(READY_MAX)
            ))
            .code(Code::TimedOut));
        }
        std::thread::sleep(POLL);
    }
}

/// What a daemon says of itself; `None` when there is none that answers.
fn info(socket: &Path) -> Result<Option<Info>, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new("cannot start").caused_by(&error))?;
    let client = Client::unix(socket);
    Ok(runtime.block_on(async { client.get::<Info>("/v1/info").await.ok() }))
}

/// Called in the process that goes to the background: a session of its own, so that the terminal's end is not its end.
pub(super) fn leave_terminal() -> Result<(), CliError> {
    rustix::process::setsid().map(drop).map_err(|error| {
        CliError::new("the daemon cannot leave the terminal").caused_by(&std::io::Error::from(error))
    })
}

/// Ends a daemon and waits until it is gone.
pub(super) fn stop(args: &DaemonArgs, global: &Global) -> Outcome {
    let (state_dir, pid) = running(args, global)?;
    end(&state_dir, pid, args.stop_containers)?;
    let containers =
        if args.stop_containers { "its containers are stopped" } else { "its containers run on" };
    match global.output {
        OutputFormat::Json => {
            put(&format!(
                "{}\n",
                json!({ "pid": pid, "stopped": true, "containers_stopped": args.stop_containers })
            ))?;
        }
        OutputFormat::Text | OutputFormat::Yaml => {
            put(&format!("the daemon, pid {pid}, is stopped; {containers}\n"))?
        }
    }
    Ok(Code::Ok)
}

/// Ends the daemon of a state directory, with its containers or without, and waits until it is gone.
pub(crate) fn end(state_dir: &Path, pid: u32, stop_containers: bool) -> Result<(), CliError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| CliError::new(format!("the daemon's pid {pid} makes no sense")))?;
    let signal = if stop_containers { Signal::USR1 } else { Signal::TERM };
    rustix::process::kill_process(raw, signal).map_err(|error| {
        CliError::new(format!("the daemon, pid {pid}, cannot be stopped"))
            .caused_by(&std::io::Error::from(error))
            .hint("sudo carrack daemon --stop")
    })?;
    if stop_containers {
        say("stopping all containers, then the daemon");
    }
    let limit = if stop_containers { STOP_CONTAINERS_MAX } else { STOP_MAX };
    let deadline = Instant::now() + limit;
    while lock::holder(state_dir)? == Some(Some(pid)) {
        if Instant::now() > deadline {
            return Err(CliError::new(format!(
                "the daemon, pid {pid}, is not gone after {}",
                human_duration(limit)
            ))
            .code(Code::TimedOut)
            .hint(format!(
                "its log, {}, says what it waits for",
                state_dir.join(super::LOG_NAME).display()
            )));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The daemon that is meant: of the state directory that was named, else the one that answers.
fn running(args: &DaemonArgs, global: &Global) -> Result<(PathBuf, u32), CliError> {
    let socket = Context::new(global)?.client.socket().to_path_buf();
    let usual = args.state_dir == Path::new(defaults::STATE_DIR);
    if usual && let Some(info) = info(&socket)? {
        return Ok((info.state_dir.into(), info.pid));
    }
    match lock::holder(&args.state_dir)? {
        Some(Some(pid)) => Ok((args.state_dir.clone(), pid)),
        Some(None) => Err(CliError::new(format!(
            "a daemon has {}, and it cannot be told which process it is",
            args.state_dir.display()
        ))),
        None => Err(CliError::new(format!(
            "no daemon has {} and none answers on {}",
            args.state_dir.display(),
            socket.display()
        ))
        .code(Code::NoDaemon)
        .hint("name its --state-dir or its --socket")),
    }
}
