//! The verbs, one file each. A verb asks the API, waits where that is its meaning, and prints.

mod attach;
mod build;
mod check;
mod config;
mod confirm;
mod content;
mod cp;
mod defaults;
mod deploy;
mod dns;
mod doctor;
mod down;
mod events;
mod exec;
mod image;
mod inspect;
mod kill;
mod lifecycle;
mod list;
mod login;
mod logs;
mod man;
mod network;
mod port;
mod run;
mod scale;
mod set;
mod stats;
mod tasks;
pub(crate) mod uninstall;
mod version;
mod volume;
mod wait;
mod wait_verb;

pub(crate) use attach::DetachKeys;
pub(crate) use content::{ConfigCommand, SecretCommand};

use std::io;

use carrack_api::client::{ClientError, segment};
use carrack_api::{StackName, StackStatus, TaskStatus};
use clap::CommandFactory;
use lifecycle::Verb;

use crate::args::{Cli, Command, CompletionsArgs};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::target::{self, Target};
use crate::{project, terminal, verbs};

pub(crate) use run::parse_publish;

/// Runs a verb.
pub(crate) async fn run(command: Command, context: &Context) -> Outcome {
    match command {
        // These two are run by `main`: they make runtimes of their own.
        Command::Daemon(_) | Command::Uninstall(_) => Ok(Code::Ok),
        Command::Check(args) => check::run(&args, context),
        Command::Build(args) => build::run(&args, context).await,
        Command::Deploy(args) => deploy::deploy(&args, context).await,
        Command::Config(args) => match &args.command {
            Some(command) => command.run(context).await,
            None => config::run(&args, context),
        },
        Command::Secret(args) => args.command.run(context).await,
        Command::Up(args) => deploy::up(&args, context).await,
        Command::Down(args) => down::down(&args, context).await,
        Command::Rm(args) => down::rm(&args, context).await,
        Command::Ls(args) => list::run(&args, context).await,
        Command::Ps(args) => tasks::run(&args, context).await,
        Command::Inspect(args) => inspect::run(&args, context).await,
        Command::Scale(args) => scale::run(&args, context).await,
        Command::Run(args) => run::run(&args, context).await,
        Command::Stop(args) => lifecycle::run(Verb::Stop, &args.selection, context).await,
        Command::Start(args) => lifecycle::run(Verb::Start, &args.selection, context).await,
        Command::Restart(args) => lifecycle::run(Verb::Restart, &args.selection, context).await,
        Command::Kill(args) => kill::run(&args, context).await,
        Command::Set(args) => set::run(&args, context).await,
        Command::Wait(args) => wait_verb::run(&args, context).await,
        Command::Port(args) => port::run(&args, context).await,
        Command::Logs(args) => logs::run(&args, context).await,
        Command::Exec(args) => exec::run(&args, context).await,
        Command::Attach(args) => attach::run(&args, context).await,
        Command::Cp(args) => cp::run(&args, context).await,
        Command::Stats(args) => stats::run(&args, context).await,
        Command::Dns(args) => dns::run(&args, context).await,
        Command::Events(args) => events::run(&args, context).await,
        Command::Login(args) => login::login(&args, context).await,
        Command::Logout(args) => login::logout(&args, context).await,
        Command::Image(args) => image::run(&args.command, context).await,
        Command::Network(args) => network::run(&args.command, context).await,
        Command::Volume(args) => volume::run(&args.command, context).await,
        Command::Doctor(args) => doctor::run(&args, context).await,
        Command::Version => version::run(context).await,
        Command::Defaults => defaults::run(context),
        Command::Completions(args) => completions(&args),
        Command::Man(args) => man::run(&args, context),
    }
}

fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "carrack", &mut script);
    terminal::put_bytes(&script)?;
    Ok(Code::Ok)
}

/// Whether one of our verbs has verbs of its own, like `image`.
pub(crate) fn has_subcommands(verb: &str) -> bool {
    Cli::command().find_subcommand(verb).is_some_and(clap::Command::has_subcommands)
}

/// The answer to what is no command of ours: `words` from its first word on, of which so many are.
pub(crate) fn unknown_verb(words: &[&str], known: usize) -> CliError {
    let command = Cli::command();
    let verb = words.get(known).copied().unwrap_or_default();
    let parent = words.first().filter(|_| known > 0).and_then(|first| command.find_subcommand(first));
    let typed = words[..words.len().min(known + 1)].join(" ");
    let error = CliError::usage(format!("unknown command `{typed}`"));
    if let Some(answer) = verbs::answer(words, &|verb| command.find_subcommand(verb).is_some()) {
        return error.hint(answer);
    }
    let path = parent.map(|parent| format!("{} ", parent.get_name())).unwrap_or_default();
    let names = parent.unwrap_or(&command).get_subcommands().filter(|verb| !verb.is_hide_set());
    match target::nearest(verb, names.map(clap::Command::get_name)) {
        Some(near) => error.hint(format!("did you mean `carrack {path}{near}`?")),
        None => error.hint(format!("`carrack {path}--help` lists the commands")),
    }
}

/// The answer to an option, or a word too many, that the verb among `words` does not take; `near` is one that it has.
pub(crate) fn unknown_option(words: &[&str], option: &str, near: Option<&str>) -> CliError {
    let root = Cli::command();
    let mut rest = words.iter().take_while(|word| **word != option);
    let mut path = Vec::new();
    let mut command = &root;
    while let Some(verb) = rest.find_map(|word| command.find_subcommand(word)) {
        path.push(verb.get_name().to_owned());
        command = verb;
        if !verb.has_subcommands() {
            break;
        }
    }
    let path = path.join(" ");
    let behind = if path.is_empty() { "carrack".to_owned() } else { format!("carrack {path}") };
    let error = CliError::usage(format!("`{behind}` does not take `{option}`"));
    match (verbs::option(&path, option), near) {
        (Some(answer), _) => error.hint(answer),
        (None, Some(near)) => {
            error.hint(format!("did you mean `{near}`? `{behind} --help` lists the options"))
        }
        (None, None) => error.hint(format!("`{behind} --help` lists the options")),
    }
}

/// All stacks.
async fn stacks(context: &Context) -> Result<Vec<StackStatus>, CliError> {
    Ok(context.client.get("/v1/stacks").await?)
}

/// Tasks of a stack or of all, past ones when asked for.
async fn tasks_of(
    context: &Context,
    stack: Option<&StackName>,
    all: bool,
) -> Result<Vec<TaskStatus>, CliError> {
    let mut query = Vec::new();
    if let Some(stack) = stack {
        query.push(format!("stack={}", segment(stack.as_str())));
    }
    if all {
        query.push("all=true".to_owned());
    }
    Ok(context.client.get(&with_query("/v1/tasks", &query)).await?)
}

/// A path with its query.
fn with_query(path: &str, query: &[String]) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// What the texts mean.
async fn targets(context: &Context, texts: &[String]) -> Result<Vec<Target>, CliError> {
    let stacks = stacks(context).await?;
    let here = project::here();
    texts.iter().map(|text| target::resolve(text, here.as_ref(), &stacks)).collect()
}

/// An error of the client that only says that something does not exist.
fn is_missing(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if problem.status == 404)
}

/// An error of the client that another attempt may mend: the daemon is being started again.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Transport { .. } => true,
        ClientError::NoDaemon { source, .. } => {
            matches!(source.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
        ClientError::Problem(problem) => problem.status == 503,
        ClientError::Permission { .. } | ClientError::Decode { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verb_is_answered_with_ours() {
        let text = unknown_verb(&["stack", "deploy"], 0).render(false);
        assert_eq!(
            text,
            "error: unknown command `stack`\nhint: with Docker Swarm's `stack deploy` you mean `carrack deploy`\n"
        );
        assert!(unknown_verb(&["depoly"], 0).render(false).contains("did you mean `carrack deploy`?"));
        assert!(unknown_verb(&["frobnicate"], 0).render(false).contains("`carrack --help` lists"));
        assert!(
            unknown_verb(&["image", "pul"], 1).render(false).contains("did you mean `carrack image pull`?")
        );
        assert!(unknown_verb(&["image", "build"], 1).render(false).contains("unknown command `image build`"));
    }

    #[test]
    fn an_unknown_option_is_answered_with_ours() {
        let told = |words: &[&str], option: &str, near| unknown_option(words, option, near).render(false);
        assert!(
            told(&["-o", "json", "stop", "-t", "5", "web"], "-t", None)
                .starts_with("error: `carrack stop` does not take `-t`\nhint: how long a task may take")
        );
        assert!(
            told(&["image", "ls", "-q"], "-q", None).starts_with("error: `carrack image ls` does not take")
        );
        assert!(told(&["-f", "x.yaml", "up"], "-f", None).contains("behind the verb"));
        assert_eq!(
            told(&["ls", "--outptu"], "--outptu", Some("--output")),
            "error: `carrack ls` does not take `--outptu`\nhint: did you mean `--output`? `carrack ls --help` lists the options\n"
        );
    }
}
