//! Words to systemd: datagrams to the socket that `NOTIFY_SOCKET` names, see `sd_notify(3)`.
//!
//! Owns their form and where they go. When what is said is decided in `herald`. The variables stay in this process: what it starts
//! gets an environment of its own, or one without them ([`forget_manager`]).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

/// What a manager tells a service by its environment, and nobody else: a program of ours that is started by the daemon or beside
/// it is no service.
const OF_MANAGER: [&str; 9] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
];

/// Somebody who wants to know how the daemon fares.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    watchdog: Option<Duration>,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// It answers, and has adopted what runs.
    Ready,
    /// It ends.
    Stopping,
    /// It lives.
    Alive,
    /// Start or stop may take that long from now on.
    Extend(Duration),
    /// How it is, in one line.
    Status(String),
}

impl Notifier {
    /// Whom the environment names; `None` when nobody wants to know. An address that cannot be one is an error.
    pub(super) fn from_environment() -> io::Result<Option<Self>> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let Some(address) = variable("NOTIFY_SOCKET") else { return Ok(None) };
        let number = |name: &str| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let watchdog = watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID"), std::process::id());
        Self::to(&address, watchdog).map(Some)
    }

    /// For the socket of that name: a path, or an abstract name after `@`.
    pub(super) fn to(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let to = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::Error::other(format!("{address:?} is no unix socket"))),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that hangs must not make the daemon hang.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to, watchdog })
    }

    /// How often at least it wants a sign of life.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says something. That nobody listens any more is no reason to stop.
    pub(super) fn say(&self, words: &[Word]) {
        let text: Vec<String> = words.iter().map(Word::line).collect();
        if let Err(error) = self.socket.send_to_addr(text.join("\n").as_bytes(), &self.to) {
            tracing::warn!(%error, ?words, "the manager of this service cannot be told");
        }
    }
}

impl Word {
    fn line(&self) -> String {
        match self {
            Self::Ready => "READY=1".into(),
            Self::Stopping => "STOPPING=1".into(),
            Self::Alive => "WATCHDOG=1".into(),
            Self::Extend(time) => format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Self::Status(text) => format!("STATUS={}", text.replace('\n', " ")),
        }
    }
}

/// The interval, when it is meant for this process.
fn watchdog(microseconds: Option<u64>, process: Option<u64>, own: u32) -> Option<Duration> {
    let meant = process.is_none_or(|process| process == u64::from(own));
    microseconds.filter(|microseconds| meant && *microseconds > 0).map(Duration::from_micros)
}

/// Lets a program that this one starts know nothing of the manager.
pub(super) fn forget_manager(command: &mut Command) -> &mut Command {
    for name in OF_MANAGER {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn words_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("carrack-test-notify-{}", std::process::id());
        let at_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&at_name).unwrap(), format!("@{name}")),
        ] {
            let notifier = Notifier::to(OsStr::new(&address), None).unwrap();
            notifier.say(&[Word::Ready, Word::Status("2 tasks\nrun".into())]);
            assert_eq!(heard(&listener), "READY=1\nSTATUS=2 tasks run");
            notifier.say(&[Word::Extend(Duration::from_secs(2))]);
            assert_eq!(heard(&listener), "EXTEND_TIMEOUT_USEC=2000000");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_hangs_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.as_os_str(), None).unwrap();
        // More than any socket holds of what nobody reads.
        for _ in 0..10_000 {
            notifier.say(&[Word::Alive]);
        }
        drop(listener);
        notifier.say(&[Word::Stopping]);
    }

    #[test]
    fn the_watchdog_is_of_the_process_it_names() {
        let half = Some(Duration::from_millis(500));
        assert_eq!(watchdog(Some(500_000), None, 7), half);
        assert_eq!(watchdog(Some(500_000), Some(7), 7), half);
        assert_eq!(watchdog(Some(500_000), Some(8), 7), None);
        assert_eq!(watchdog(Some(0), None, 7), None);
        assert_eq!(watchdog(None, Some(7), 7), None);
        assert!(Notifier::to(OsStr::new("vsock:2:1"), None).is_err());
    }

    #[test]
    fn a_program_that_is_started_knows_nothing_of_the_manager() {
        let mut command = Command::new("env");
        for name in OF_MANAGER {
            command.env(name, "set");
        }
        let output = forget_manager(&mut command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(OF_MANAGER.iter().all(|name| !text.contains(name)), "{text}");
    }
}
