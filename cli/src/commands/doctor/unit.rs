//! The units of systemd: the daemon's own and the one that holds all workloads. Asks `systemctl`; the judgement is pure.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use carrack_api::Bytes;
use carrack_api::fact::Fact;

use super::host::AREA;

const DAEMON: &str = "carrack.service";
const TASKS: &str = "carrack-tasks.service";
const SLICE: &str = "carrack.slice";
/// An answer of systemd that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has come.
const ANSWER_POLL: Duration = Duration::from_millis(5);
/// Most bytes of it.
const ANSWER_MAX_BYTES: u64 = 64 << 10;

/// A limit that an administrator may have put on all containers together.
struct Limit {
    /// Its name when it is read.
    property: &'static str,
    /// Its assignment that takes it away.
    lifted: &'static str,
    /// What stands before its value, and after it.
    words: (&'static str, &'static str),
    cost: &'static str,
}

const LIMITS: [Limit; 4] = [
    Limit {
        property: "MemoryMax",
        lifted: "MemoryMax=infinity",
        words: ("at most ", " of memory"),
        cost: "the kernel kills in any of them when all together use more memory",
    },
    Limit {
        property: "MemoryHigh",
        lifted: "MemoryHigh=infinity",
        words: ("held back above ", " of memory"),
        cost: "all become slow when together they use more memory",
    },
    Limit {
        property: "CPUQuotaPerSecUSec",
        lifted: "CPUQuota=",
        words: ("at most ", " of CPU time a second"),
        cost: "all become slow when together they want more CPU time",
    },
    Limit {
        property: "TasksMax",
        lifted: "TasksMax=infinity",
        words: ("at most ", " processes"),
        cost: "containers cannot fork when it is reached",
    },
];

/// Nothing where systemd is not in charge.
pub(super) fn facts() -> Vec<Fact> {
    if !Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    match ask(DAEMON) {
        Ok(daemon) => {
            // The slice has limits of its own, which count for the unit as well.
            let tasks = ask(TASKS).and_then(|unit| Ok(of_tasks(&unit, &ask(SLICE)?)));
            let tasks = tasks.unwrap_or_else(|error| Some(silent(TASKS, &error)));
            std::iter::once(of_daemon(&daemon)).chain(tasks).collect()
        }
        Err(error) => vec![silent(DAEMON, &error)],
    }
}

fn silent(unit: &str, error: &std::io::Error) -> Fact {
    let cost = match unit {
        DAEMON => "it is not known whether it starts at boot",
        _ => "it is not known what limits all containers together",
    };
    Fact::note(AREA, unit, format!("systemctl: {error}"), cost).hint(format!("systemctl status {unit}"))
}

type Properties = BTreeMap<String, String>;

fn ask(unit: &str) -> std::io::Result<Properties> {
    let wanted = "--property=LoadState,ActiveState,SubState,UnitFileState,WatchdogUSec,NRestarts";
    let limits = LIMITS.map(|limit| limit.property).join(",");
    let mut child = Command::new("systemctl")
        .args(["show", &format!("{wanted},{limits}"), unit])
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
fn of_tasks(unit: &Properties, slice: &Properties) -> Option<Fact> {
    if value(unit, "ActiveState") != "active" {
        return None;
    }
    let (mut found, mut costs, mut hints) = (Vec::new(), Vec::new(), Vec::new());
    for (name, properties) in [(TASKS, unit), (SLICE, slice)] {
        let set = LIMITS.iter().filter_map(|limit| match value(properties, limit.property) {
            "" | "infinity" | "[not set]" => None,
            value => Some((limit, value)),
        });
        let mut lifted = Vec::new();
        for (limit, value) in set {
            let (before, after) = limit.words;
            found.push(format!("{before}{}{after} ({name})", shown(limit, value)));
            costs.push(limit.cost);
            lifted.push(limit.lifted);
        }
        if !lifted.is_empty() {
            hints.push(format!("systemctl set-property --runtime {name} {}", lifted.join(" ")));
        }
    }
    if found.is_empty() {
        return Some(Fact::ok(AREA, TASKS, "active; holds all containers, limits none"));
    }
    costs.dedup();
    let found = format!("active; all containers together: {}", found.join(", "));
    Some(Fact::note(AREA, TASKS, found, costs.join("; ")).hint(hints.join(" && ")))
}

/// Memory comes in bytes.
fn shown(limit: &Limit, value: &str) -> String {
    match (limit.property, value.parse()) {
        ("MemoryMax" | "MemoryHigh", Ok(bytes)) => Bytes(bytes).to_string(),
        _ => value.to_owned(),
    }
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
        let fact = |unit: &str, slice: &str| of_tasks(&parse(unit), &parse(slice));
        assert_eq!(fact("ActiveState=inactive\nTasksMax=4915\n", ""), None);
        let none =
            "MemoryMax=infinity\nMemoryHigh=infinity\nCPUQuotaPerSecUSec=infinity\nTasksMax=infinity\n";
        let free = format!("ActiveState=active\n{none}");
        assert_eq!(fact(&free, none).unwrap().verdict, Verdict::Ok);
        // A slice that no unit is in, and a systemd that does not count what is asked for.
        assert_eq!(fact(&free, "").unwrap().verdict, Verdict::Ok);
        for (set, found, lifted) in [
            ("TasksMax=4915", "at most 4915 processes", "TasksMax=infinity"),
            ("MemoryMax=2147483648", "at most 2 GiB of memory", "MemoryMax=infinity"),
            ("MemoryHigh=1048576", "held back above 1 MiB of memory", "MemoryHigh=infinity"),
            ("CPUQuotaPerSecUSec=500ms", "at most 500ms of CPU time a second", "CPUQuota="),
        ] {
            for (unit, slice, name) in
                [(format!("ActiveState=active\n{set}\n"), "", TASKS), (free.clone(), set, SLICE)]
            {
                let fact = fact(&unit, slice).unwrap();
                assert_eq!((fact.verdict, fact.cost.is_empty()), (Verdict::Note, false), "{fact}");
                assert!(fact.found.ends_with(&format!("{found} ({name})")), "{fact}");
                assert_eq!(fact.hint, format!("systemctl set-property --runtime {name} {lifted}"));
            }
        }
    }

    #[test]
    fn limits_of_the_unit_and_of_its_slice_are_told_together() {
        let unit = parse("ActiveState=active\nTasksMax=100\nMemoryMax=1000\n");
        let fact = of_tasks(&unit, &parse("MemoryMax=2000\nTasksMax=infinity\n")).unwrap();
        assert_eq!(
            fact.hint,
            "systemctl set-property --runtime carrack-tasks.service MemoryMax=infinity TasksMax=infinity \
             && systemctl set-property --runtime carrack.slice MemoryMax=infinity"
        );
    }
}
