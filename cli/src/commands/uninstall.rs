//! `carrack uninstall`: gives the host back. A running daemon stops its containers in order and ends; for one that is gone this
//! process does the same; then everything that Carrack put on the host goes.
//!
//! Works on the host itself, not through the API: the last thing it takes away is what would answer. Asks before it begins, and
//! each part finds nothing to do when it was done before.

use std::io::BufRead as _;
use std::path::Path;

use carrack_api::client::Client;
use carrack_api::{Info, defaults};
use carrack_node::uninstall::{
    Places, Removed, needs_stop, remove_files, remove_runtime_files, running, stop_in_order, strange, sweep,
};
use serde_json::json;

use crate::args::{Global, OutputFormat, UninstallArgs};
use crate::daemon::{background, lock};
use crate::error::{CliError, Code, Outcome};
use crate::render::count;
use crate::terminal::{Terminal, draw, put, say};

/// `carrack uninstall`.
pub(crate) fn main(args: &UninstallArgs, global: &Global) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::new("only root can take Carrack off this host").hint("sudo carrack uninstall"));
    }
    let places = places(args)?;
    let socket = match &global.socket {
        Some(socket) => absolute(socket)?,
        None => places.runtime_dir.join(defaults::SOCKET_NAME),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new("cannot start").caused_by(&error))?;
    let daemon = lock::holder(&places.state_dir)?;
    if daemon.is_none()
        && let Ok(info) = runtime.block_on(Client::unix(&socket).get::<Info>("/v1/info"))
    {
        return Err(CliError::usage(format!(
            "the daemon on {} keeps its state in {}, not in {}",
            socket.display(),
            info.state_dir,
            places.state_dir.display()
        ))
        .hint(format!("carrack uninstall --state-dir {}", info.state_dir)));
    }
    refuse_strange(&places)?;
    if args.unless_running {
        refuse_running(&places)?;
    }
    if !args.yes {
        confirm(args, &places, daemon.is_some())?;
    }
    let mut done = Removed::default();
    match daemon {
        Some(Some(pid)) => {
            background::end(&places.state_dir, pid, true)?;
            done.removed.push(format!("the daemon, pid {pid}, and its containers, stopped in order"));
        }
        Some(None) => {
            return Err(CliError::new(format!(
                "a daemon has {}, and it cannot be told which process it is",
                places.state_dir.display()
            )));
        }
        None => {}
    }
    take_away(&runtime, args, &places, &mut done)?;
    remove_socket(&socket, &mut done)?;
    tell(&done, &places, global)
}

fn places(args: &UninstallArgs) -> Result<Places, CliError> {
    let exe = std::env::current_exe()
        .map_err(|error| CliError::new("this program cannot find itself").caused_by(&error))?;
    Ok(Places { state_dir: absolute(&args.state_dir)?, runtime_dir: absolute(&args.runtime_dir)?, exe })
}

/// A directory that was never a daemon's is not emptied.
fn refuse_strange(places: &Places) -> Result<(), CliError> {
    let found = strange(places)
        .map_err(|error| CliError::new("it cannot be told what is installed").caused_by(&error))?;
    match found {
        None => Ok(()),
        Some(directory) => Err(CliError::usage(format!(
            "{} holds something, but no carrack daemon ever had it",
            directory.display()
        ))
        .hint("give the daemon's own directories: carrack uninstall --state-dir DIR --runtime-dir DIR")),
    }
}

fn refuse_running(places: &Places) -> Result<(), CliError> {
    let runs =
        running(places).map_err(|error| CliError::new("it cannot be told what runs").caused_by(&error))?;
    match runs {
        false => Ok(()),
        true => Err(CliError::new("containers run: nothing was removed")
            .hint("stop them with `carrack stop STACK`, or leave out --unless-running")),
    }
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, CliError> {
    std::path::absolute(path)
        .map_err(|error| CliError::new(format!("{} cannot be used", path.display())).caused_by(&error))
}

/// Asks on a terminal; elsewhere nobody could answer, so nothing is done.
fn confirm(args: &UninstallArgs, places: &Places, running: bool) -> Result<(), CliError> {
    let terminal = Terminal::detect();
    if !terminal.stdin || !terminal.stderr {
        return Err(CliError::usage("uninstall asks before it removes anything, and there is no terminal")
            .hint("carrack uninstall -y"));
    }
    if running {
        say("The daemon runs: all its containers are stopped in order, then the daemon.");
    }
    let (state, runtime) = (places.state_dir.display(), places.runtime_dir.display());
    if args.keep_state {
        say(&format!("All that runs is stopped; {runtime}, cgroups and network are removed."));
        say(&format!("{state} stays: stacks, images, logs, volumes."));
    } else {
        say(&format!(
            "Everything of Carrack is removed from this host: {state} and {runtime}, its cgroups, network,"
        ));
        say("images, logs and the record of all stacks.");
        say(match args.volumes {
            true => "Volumes are removed with their data.",
            false => "Named volumes stay.",
        });
    }
    draw("Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::new("the answer cannot be read").caused_by(&error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::new("nothing was removed")),
    }
}

/// Everything but the daemon. No daemon can start meanwhile.
fn take_away(
    runtime: &tokio::runtime::Runtime,
    args: &UninstallArgs,
    places: &Places,
    done: &mut Removed,
) -> Result<(), CliError> {
    let restarted = |error: CliError| {
        error.hint("something starts the daemon again; if it is a service: `systemctl disable --now carrack`")
    };
    let _locks = [&places.state_dir, &places.runtime_dir]
        .into_iter()
        .filter(|directory| directory.is_dir())
        .map(|directory| lock::take(directory).map_err(restarted))
        .collect::<Result<Vec<_>, _>>()?;
    if needs_stop(places) {
        match runtime.block_on(stop_in_order(places)) {
            Ok(()) => {
                done.removed.push("the containers that a dead daemon had left, stopped in order".into())
            }
            Err(error) => {
                let why = CliError::new("").caused_by(&error);
                say(&format!("not stopped in order, what runs is killed: {}", why.causes().join(": ")));
            }
        }
    }
    let incomplete = |error: carrack_node::NodeError| {
        CliError::new("this host is not clean yet")
            .caused_by(&error)
            .hint("mend that and run `carrack uninstall` again: it goes on where it ended")
    };
    sweep(places, done).map_err(incomplete)?;
    if args.keep_state {
        done.kept.push(format!("{}: the next daemon goes on with it", places.state_dir.display()));
        return remove_runtime_files(places, done).map_err(incomplete);
    }
    remove_files(places, args.volumes, done).map_err(incomplete)
}

/// A socket outside of the runtime directory.
fn remove_socket(socket: &Path, done: &mut Removed) -> Result<(), CliError> {
    match std::fs::remove_file(socket) {
        Ok(()) => done.removed.push(socket.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(
                CliError::new(format!("socket {} cannot be removed", socket.display())).caused_by(&error)
            );
        }
    }
    Ok(())
}

fn tell(done: &Removed, places: &Places, global: &Global) -> Outcome {
    let mut kept = done.kept.clone();
    if Path::new(defaults::CONFIG_FILE).exists() {
        kept.push(format!("{}: it is yours", defaults::CONFIG_FILE));
    }
    // The one that a removed package had left in the state directory is gone with it.
    if places.exe.exists() {
        kept.push(format!("the program itself, {}", places.exe.display()));
    }
    if global.output == OutputFormat::Json {
        let value = json!({ "removed": done.removed, "kept": kept });
        put(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        return Ok(Code::Ok);
    }
    let mut text = String::new();
    for line in &done.removed {
        text.push_str(&format!("removed  {line}\n"));
    }
    for line in &kept {
        text.push_str(&format!("kept     {line}\n"));
    }
    put(&text)?;
    say(&match done.removed.len() {
        0 => "nothing of Carrack was on this host".to_owned(),
        number => format!("Carrack is off this host; {} removed", count(number, "object")),
    });
    Ok(Code::Ok)
}
