//! A question before something is lost. Without a terminal nobody can be asked, and then nothing is done.

use std::io::{self, BufRead as _};

use crate::context::Context;
use crate::error::CliError;
use crate::terminal;

/// Asks on the terminal; only `y` and `yes` are a yes.
pub(super) fn confirm(question: &str, context: &Context) -> Result<bool, CliError> {
    if !context.terminal.stdin || !context.terminal.stderr {
        return Err(CliError::usage("nobody can be asked: this is no terminal")
            .hint("give -f to do it without a question"));
    }
    terminal::draw(&format!("{question} [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::new("the answer cannot be read").caused_by(&error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
