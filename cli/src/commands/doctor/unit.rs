//! The units of systemd: the daemon's own and the one that holds all workloads. Asks `systemctl`; the judgement is pure.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use carrack_api::fact::Fact;

use super::host::AREA;

const DAEMON: &str = "carrack.service";
const TASKS: &str = "carrack-tasks.service";
/// An answer of systemd that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has come.
const ANSWER_POLL: Duration = Duration::from_millis(5);
/// Most bytes of it.
const ANSWER_MAX_BYTES: u64 = 64 << 10;

/// Nothing where systemd is not in charge.
pub(super) fn facts() -> Vec<Fact> {
    if !Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    match ask(DAEMON) {
        Ok(daemon) => {
            std::iter::once(of_daemon(&daemon)).chain(ask(TASKS).ok().and_then(|it| of_tasks(&it))).collect()
        }
        Err(error) => vec![
            Fact::note(
                AREA,
                DAEMON,
                format!("systemctl: {error}"),
                "it is not known whether it starts at boot",
            )
            .hint("systemctl status carrack"),
        ],
    }
}

type Properties = BTreeMap<String, String>;

fn ask(unit: &str) -> std::io::Result<Properties> {
    let wanted = "--property=LoadState,ActiveState,SubState,UnitFileState,WatchdogUSec,NRestarts,TasksMax";
    let mut child = Command::new("systemctl")
        .args(["show", wanted, unit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + ANSWER_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(ANSWER_POLL);
    }
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX_BYTES).read_to_string(&mut text)?;
    }
    Ok(parse(&text))
}

fn parse(text: &str) -> Properties {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn value<'a>(properties: &'a Properties, key: &str) -> &'a str {
    properties.get(key).map_or("", String::as_str)
}

fn of_daemon(unit: &Properties) -> Fact {
    if value(unit, "LoadState") != "loaded" {
        return Fact::ok(AREA, DAEMON, "not installed; the daemon is started by hand");
    }
    let (state, file) = (value(unit, "ActiveState"), value(unit, "UnitFileState"));
    let watchdog = match value(unit, "WatchdogUSec") {
        "" | "0" | "infinity" => String::new(),
        time => format!(", watchdog {time}"),
    };
    let restarts = match value(unit, "NRestarts") {
        "" | "0" => String::new(),
        number => format!(", started again {number} times"),
    };
    let found = format!("{file}, {state}{watchdog}{restarts}");
    match (state, file) {
        ("failed", _) => {
            Fact::note(AREA, DAEMON, found, "no daemon: nothing is deployed, restarted or healed")
                .hint("journalctl -u carrack -e, then systemctl restart carrack")
        }
        (_, "disabled" | "masked") => Fact::note(AREA, DAEMON, found, "after a reboot nothing is started")
            .hint("systemctl enable --now carrack"),
        ("inactive", _) => {
            Fact::note(AREA, DAEMON, found, "no daemon: nothing is deployed, restarted or healed")
                .hint("systemctl start carrack")
        }
        _ => Fact::ok(AREA, DAEMON, found),
    }
}

/// Only while it is there: it is made by the daemon.
fn of_tasks(unit: &Properties) -> Option<Fact> {
    if value(unit, "ActiveState") != "active" {
        return None;
    }
    Some(match value(unit, "TasksMax") {
        "" | "infinity" => Fact::ok(AREA, TASKS, "active; holds all containers, limits none"),
        most => {
            let found = format!("active; at most {most} processes in all containers together");
            Fact::note(AREA, TASKS, found, "containers cannot fork when it is reached")
                .hint(format!("systemctl set-property --runtime {TASKS} TasksMax=infinity"))
        }
    })
}

#[cfg(test)]
mod tests {
    use carrack_api::fact::Verdict;

    use super::*;

    fn daemon(text: &str) -> Fact {
        of_daemon(&parse(text))
    }

    #[test]
    fn an_enabled_unit_that_runs_is_well() {
        let fact = daemon(
            "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nWatchdogUSec=30s\nNRestarts=2\n",
        );
        assert_eq!(
            (fact.verdict, &*fact.found),
            (Verdict::Ok, "enabled, active, watchdog 30s, started again 2 times")
        );
        assert_eq!(daemon("LoadState=not-found\nActiveState=inactive\n").verdict, Verdict::Ok);
    }

    #[test]
    fn a_unit_that_does_not_serve_says_what_to_type() {
        for (text, hint) in [
            (
                "ActiveState=failed\nUnitFileState=enabled",
                "journalctl -u carrack -e, then systemctl restart carrack",
            ),
            ("ActiveState=inactive\nUnitFileState=enabled", "systemctl start carrack"),
            ("ActiveState=active\nUnitFileState=disabled", "systemctl enable --now carrack"),
        ] {
            let fact = daemon(&format!("LoadState=loaded\n{text}\n"));
            assert_eq!((fact.verdict, &*fact.hint), (Verdict::Note, hint), "{text}");
        }
    }

    #[test]
    fn a_limit_of_all_containers_together_is_worth_a_word() {
        assert_eq!(of_tasks(&parse("ActiveState=inactive\nTasksMax=4915\n")), None);
        let fact = of_tasks(&parse("ActiveState=active\nTasksMax=4915\n")).unwrap();
        assert_eq!(fact.verdict, Verdict::Note);
        assert_eq!(of_tasks(&parse("ActiveState=active\nTasksMax=infinity\n")).unwrap().verdict, Verdict::Ok);
    }
}
