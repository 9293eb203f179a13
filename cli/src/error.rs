//! What a command ends with: its exit code, and on failure one lower-case sentence, its causes, and the next command.
//!
//! Owns the contract of exit codes ([`Code`]) and how every error is printed, once, at the edge. Owns no wording of the server:
//! a [`Problem`] is shown as it came.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;

use carrack_api::client::ClientError;
use carrack_api::{FieldProblem, Problem, defaults};

/// The exit codes. They are an interface: scripts branch on them. 3 is kept for a deploy that was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done; a deploy is healthy.
    Ok,
    /// It did not work.
    Error,
    /// The command was not understood, or a dry run found changes, or the stack changed in between.
    UsageOrChanged,
    /// Not healthy in time; it goes on in the background.
    TimedOut,
    /// No daemon, or no permission to use it.
    NoDaemon,
    /// Ctrl-C ended the wait.
    Interrupted,
    /// The exit code of a program that ran in a container.
    Program(u8),
}

impl Code {
    /// The number for the shell.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::UsageOrChanged => 2,
            Self::TimedOut => 4,
            Self::NoDaemon => 5,
            Self::Interrupted => 130,
            Self::Program(code) => code,
        }
    }
}

/// Why a command did not work.
#[derive(Debug)]
pub(crate) struct CliError {
    code: Code,
    /// Empty when everything worth saying was said.
    message: String,
    details: Vec<String>,
    causes: Vec<String>,
    hint: Option<String>,
}

/// What a command answers with.
pub(crate) type Outcome = Result<Code, CliError>;

impl CliError {
    /// An error of the general kind.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            code: Code::Error,
            message: message.into(),
            details: Vec::new(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(message).code(Code::UsageOrChanged)
    }

    /// Ends the command without a further word: whoever read our output is gone.
    pub(crate) fn closed() -> Self {
        Self::new("").code(Code::Ok)
    }

    /// The same exit code without a word: it was told already.
    pub(crate) fn said(self) -> Self {
        Self::new("").code(self.code)
    }

    /// The same with another exit code.
    pub(crate) fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same with a hint, which names the next command.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with one more line below the message.
    pub(crate) fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// The same with what it came from.
    pub(crate) fn caused_by(mut self, error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            let text = cause.to_string();
            if self.causes.last() != Some(&text) && !self.message.ends_with(&text) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// What it came from, the nearest first.
    pub(crate) fn causes(&self) -> &[String] {
        &self.causes
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> Code {
        self.code
    }

    /// The error as it is printed.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        if self.message.is_empty() {
            return text;
        }
        let paint = |word: &str, code: &str| match colour {
            true => format!("\x1b[1;{code}m{word}\x1b[0m"),
            false => word.to_owned(),
        };
        let _ = writeln!(text, "{}: {}", paint("error", "31"), self.message);
        for line in self.details.iter().flat_map(|detail| detail.lines()) {
            let _ = writeln!(text, "  {line}");
        }
        for cause in &self.causes {
            let _ = writeln!(text, "  caused by: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "{}: {hint}", paint("hint", "36"));
        }
        text
    }
}

/// One line for a problem of a field, with its hint below.
pub(crate) fn field_problem(problem: &FieldProblem) -> String {
    match &problem.hint {
        Some(hint) => format!("{}: {}\n  hint: {hint}", problem.path, problem.message),
        None => format!("{}: {}", problem.path, problem.message),
    }
}

impl CliError {
    /// A problem of the server. `place` tells where in the user's file a field stands.
    pub(crate) fn at(problem: Problem, place: impl Fn(&str) -> Option<String>) -> Self {
        let code = match problem.status {
            412 => Code::UsageOrChanged,
            _ => Code::Error,
        };
        let mut error = Self::new(problem.detail).code(code);
        error.hint = problem.hint;
        if let [only] = &problem.problems[..]
            && error.message.contains(&only.message)
        {
            // Said already, but for the place and what to do.
            let place = place(&only.path).map(|place| format!("at {place}, {}", only.path));
            error.details = place.into_iter().collect();
            error.hint = only.hint.clone().or(error.hint);
            return error;
        }
        for field in &problem.problems {
            let place = place(&field.path).map(|place| format!("{place}: ")).unwrap_or_default();
            error.details.push(format!("{place}{}", field_problem(field)));
        }
        error
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        Self::at(problem, |_| None)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => problem.into(),
            ClientError::NoDaemon { ref source, .. } => Self::new(error.to_string())
                .code(Code::NoDaemon)
                .caused_by(source)
                .hint("start one with `sudo carrack daemon -d`, or name another with --host or CARRACK_HOST"),
            ClientError::Permission { .. } => {
                Self::new(error.to_string()).code(Code::NoDaemon).hint(format!(
                    "the socket belongs to the group {group}: `sudo usermod -aG {group} $USER` and log in again, \
                     or use sudo",
                    group = defaults::SOCKET_GROUP
                ))
            }
            ClientError::Transport { ref source, .. } => {
                Self::new(error.to_string()).caused_by(&**source).hint("`carrack doctor` checks the host")
            }
            ClientError::Decode { ref source, .. } => Self::new(error.to_string()).caused_by(source),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::closed(),
            _ => Self::new(format!("cannot write the output: {error}")),
        }
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new("a message of the daemon cannot be read").caused_by(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_sentence_its_causes_and_the_next_command() {
        let refused = io::Error::from_raw_os_error(111);
        let error = CliError::from(ClientError::NoDaemon { path: "/run/x.sock".into(), source: refused });
        assert_eq!(error.exit_code().number(), 5);
        assert_eq!(
            error.render(false),
            "error: no carrack daemon answers on /run/x.sock\n  caused by: Connection refused (os error 111)\n\
             hint: start one with `sudo carrack daemon -d`, or name another with --host or CARRACK_HOST\n"
        );
    }

    #[test]
    fn a_missing_permission_names_the_group() {
        let error = CliError::from(ClientError::Permission { path: "/run/x.sock".into() });
        assert_eq!(error.exit_code(), Code::NoDaemon);
        assert!(error.render(false).contains("usermod -aG carrack"), "{}", error.render(false));
    }

    #[test]
    fn a_stack_that_changed_in_between_has_an_exit_code_of_its_own() {
        let changed = Problem::new(412, "revision-changed", "stack hello is at revision 4, not 3");
        assert_eq!(CliError::from(changed).exit_code(), Code::UsageOrChanged);
        let missing = Problem::not_found("no-stack", "no stack \"x\"").hint("`carrack ls` lists them");
        let error = CliError::from(missing);
        assert_eq!(error.exit_code(), Code::Error);
        assert_eq!(error.render(false), "error: no stack \"x\"\nhint: `carrack ls` lists them\n");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.exit_code(), error.render(true).as_str()), (Code::Ok, ""));
    }
}
