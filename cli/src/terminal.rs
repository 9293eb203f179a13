//! The terminal: whether there is one, how large it is, colour, raw mode. Owns the promise that it is left as it was found.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use carrack_api::WindowSize;
use rustix::termios::{self, OptionalActions, Termios};

use crate::error::{CliError, Code};

/// What is known of the three standard streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Standard input is a terminal.
    pub stdin: bool,
    /// Standard output is a terminal.
    pub stdout: bool,
    /// Standard error is a terminal that can be drawn on.
    pub stderr: bool,
    /// Colour is welcome (on the streams that are terminals).
    pub colour: bool,
}

impl Terminal {
    /// Asks the streams and the environment (`NO_COLOR`, `TERM`).
    pub(crate) fn detect() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            stdin: io::stdin().is_terminal(),
            stdout: io::stdout().is_terminal(),
            stderr: io::stderr().is_terminal() && !dumb,
            colour: !set("NO_COLOR") && !dumb,
        }
    }

    /// Colour on standard output.
    pub(crate) fn colour_out(&self) -> bool {
        self.stdout && self.colour
    }

    /// Colour on standard error.
    pub(crate) fn colour_err(&self) -> bool {
        self.stderr && self.colour
    }

    /// Columns that a table may take; `None` when the output is no terminal and nothing needs to be cut.
    pub(crate) fn width(&self) -> Option<usize> {
        if !self.stdout {
            return None;
        }
        size_of(io::stdout()).map(|size| usize::from(size.columns))
    }
}

/// Size of the terminal that standard output is, when it is one that knows.
pub(crate) fn window_size() -> Option<WindowSize> {
    size_of(io::stdout())
}

/// Size of the terminal that standard error is.
pub(crate) fn window_size_err() -> Option<WindowSize> {
    size_of(io::stderr())
}

fn size_of(stream: impl std::os::fd::AsFd) -> Option<WindowSize> {
    let size = termios::tcgetwinsize(stream).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The settings to go back to, while standard input is raw. One for the process: the panic hook needs it too.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input passes every byte on as typed until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes standard input raw.
    pub(crate) fn enter() -> Result<Self, CliError> {
        let fail = |error: rustix::io::Errno| {
            CliError::new("cannot set up the terminal").caused_by(&io::Error::from(error))
        };
        let before = termios::tcgetattr(io::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        raw.make_raw();
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back to how it was before [`RawMode::enter`]; nothing when it is not raw.
pub(crate) fn restore() {
    if let Some(before) = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing is left to try when this fails: the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Asks for a line that is not shown as it is typed. Ctrl-C ends the command, and the terminal is left as it was.
pub(crate) fn ask_hidden(prompt: &str) -> Result<String, CliError> {
    draw(prompt);
    let raw = RawMode::enter()?;
    let line = read_hidden(io::stdin().lock());
    drop(raw);
    draw("\n");
    line
}

/// Longest line that is typed, bytes.
const HIDDEN_MAX_BYTES: usize = 64 << 10;

/// A line from a raw terminal: its usual editing keys work.
fn read_hidden(mut input: impl io::Read) -> Result<String, CliError> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CTRL_U: u8 = 21;
    const DELETE: u8 = 127;
    let mut line = Vec::new();
    let mut byte = [0];
    while input.read(&mut byte)? > 0 {
        match byte[0] {
            b'\r' | b'\n' | CTRL_D => break,
            CTRL_C => return Err(CliError::closed().code(Code::Interrupted)),
            CTRL_U => line.clear(),
            BACKSPACE | DELETE => {
                // A character of several bytes goes whole.
                while line.pop().is_some_and(|byte: u8| byte & 0b1100_0000 == 0b1000_0000) {}
            }
            _ if line.len() >= HIDDEN_MAX_BYTES => return Err(CliError::usage("the line is too long")),
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(|_| CliError::usage("what was typed is not UTF-8 text"))
}

/// Writes data to standard output. A reader that has gone ends the command without a word.
pub(crate) fn put(text: &str) -> Result<(), CliError> {
    put_bytes(text.as_bytes())
}

/// [`put`] for bytes that need not be text.
pub(crate) fn put_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes what a program said on its standard error to ours.
pub(crate) fn put_error(bytes: &[u8]) -> Result<(), CliError> {
    let mut err = io::stderr().lock();
    err.write_all(bytes)?;
    err.flush()?;
    Ok(())
}

/// Says a line on standard error. That nobody hears it is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Draws on standard error, as it is. That nobody sees it is no reason to stop.
pub(crate) fn draw(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_line_is_edited_as_usual_and_ctrl_c_ends_it() {
        let read = |bytes: &[u8]| read_hidden(bytes).map_err(|error| error.exit_code());
        assert_eq!(read(b"secret\rmore"), Ok("secret".to_owned()));
        assert_eq!(read(b"wrong\x15s\xc3\xa4\x7fx\x08y\n"), Ok("sy".to_owned()));
        assert_eq!(read(b"\x7f\x7fa"), Ok("a".to_owned()));
        assert_eq!(read(b"half\x03"), Err(Code::Interrupted));
        assert_eq!(read(b"\xff\r"), Err(Code::UsageOrChanged));
    }
}
