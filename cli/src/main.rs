//! The `carrack` command: reads what was typed, runs the verb, prints its error, ends with its exit code.
//!
//! Owns no logic that the API lacks. The same binary is the daemon and, in its hidden modes, the supervisor of a container and
//! the data plane of a node: [`carrack_node::dispatch`] comes before everything else.

mod args;
mod builder;
mod commands;
mod context;
mod credentials;
mod daemon;
mod error;
mod help;
mod project;
mod render;
mod target;
mod terminal;
mod time;
mod typed;
mod verbs;

use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::{Cli, Command, OutputFormat};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::help::Detail;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    carrack_node::dispatch();
    restore_terminal_on_panic();
    let words = typed::as_meant(std::env::args_os().collect());
    let command = help::command(Detail::of(words.iter().skip(1).cloned()));
    let parsed = command.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match parsed {
        Ok(cli) => run(cli),
        Err(error) => not_understood(&error),
    };
    terminal::restore();
    let code = outcome.unwrap_or_else(|error| {
        let text = error.render(Terminal::detect().colour_err());
        if !text.is_empty() {
            terminal::say(text.trim_end());
        }
        error.exit_code()
    });
    ExitCode::from(code.number())
}

fn run(cli: Cli) -> Outcome {
    if cli.global.output == OutputFormat::Yaml && !matches!(cli.command, Command::Config(_)) {
        return Err(CliError::usage("only `carrack config` prints YAML").hint("use -o json"));
    }
    match cli.command {
        Command::Daemon(args) => daemon::main(&args, &cli.global),
        Command::Uninstall(args) => commands::uninstall::main(&args, &cli.global),
        command => {
            let context = Context::new(&cli.global)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| CliError::new("cannot start").caused_by(&error))?;
            let outcome = runtime.block_on(commands::run(command, &context));
            // A read of standard input that nobody waits for any more must not hold the command back.
            runtime.shutdown_background();
            outcome
        }
    }
}

/// Help and version are answers; anything else gets our words, and our verb for one of another tool.
fn not_understood(error: &clap::Error) -> Outcome {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            terminal::put(&error.to_string())?;
            return Ok(Code::Ok);
        }
        ErrorKind::InvalidSubcommand => {}
        ErrorKind::UnknownArgument => return unknown_argument(error),
        _ => {
            terminal::say(error.to_string().trim_end());
            return Ok(Code::UsageOrChanged);
        }
    }
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else {
        terminal::say(error.to_string().trim_end());
        return Ok(Code::UsageOrChanged);
    };
    let words = typed_words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let at = words.iter().position(|word| word == verb).unwrap_or_default();
    // `image build`: the first word is ours, the second is not.
    let begin = if at > 0 && commands::has_subcommands(words[at - 1]) { at - 1 } else { at };
    Err(commands::unknown_verb(words.get(begin..).unwrap_or_default(), at - begin))
}

/// An option, or a word too many, that the verb does not take.
fn unknown_argument(error: &clap::Error) -> Outcome {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        terminal::say(error.to_string().trim_end());
        return Ok(Code::UsageOrChanged);
    };
    let near = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(near)) => Some(near.as_str()),
        _ => None,
    };
    let words = typed_words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Err(commands::unknown_option(&words, option, near))
}

fn typed_words() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// A panic in raw mode would leave a terminal that shows nothing and a message that nobody can read.
fn restore_terminal_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        print(panic);
    }));
}
