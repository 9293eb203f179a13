//! PID 1 of a container: starts the program, forwards signals to it, reaps what is left behind, exits as it did.
//!
//! A mode of our own binary, reached over a descriptor, so that the image needs nothing and holds nothing of it. One
//! thread, no allocation after the start. Invoked as `carrack-init __init REPORT_FD PROGRAM ARGS...`.

use std::os::fd::RawFd;

use crate::child;
use crate::program::{ProgramError, Report, become_program};

/// The mode's name on the command line.
pub(crate) const MODE: &str = "__init";

/// Runs the mode.
pub(crate) fn main(arguments: &[String]) -> ! {
    let Some((report, argv)) =
        arguments.split_first().and_then(|(fd, argv)| Some((fd.parse::<RawFd>().ok()?, argv))).filter(|(_, argv)| !argv.is_empty())
    else {
        child::exit_now(125)
    };
    if child::set_cloexec(report, true).is_err() {
        child::exit_now(125);
    }
    child::block_signals();
    let main_child = match spawn(argv) {
        Ok(pid) => pid,
        Err(error) => {
            let code = if matches!(error, ProgramError::Missing { .. }) { 127 } else { 126 };
            Report::Failed(error).send(report);
            child::exit_now(code);
        }
    };
    Report::Started.send(report);
    loop {
        let signal = child::next_signal();
        if signal == libc::SIGCHLD {
            while let Ok(Some((pid, status))) = child::reap(-1, false) {
                if pid == main_child && !libc::WIFSTOPPED(status) {
                    Report::Ended(status).send(report);
                    child::exit_now(exit_code(status));
                }
            }
        } else if signal > 0 && !matches!(signal, libc::SIGTTIN | libc::SIGTTOU) {
            // A child that is gone is reaped in the next round.
            let _ = child::kill(main_child, signal);
        }
    }
}

/// Starts the program and returns when `execve` has happened.
fn spawn(argv: &[String]) -> Result<i32, ProgramError> {
    let step = |step: &str, error: std::io::Error| ProgramError::Step { step: step.into(), why: error.to_string() };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| step("pipe", e.into()))?;
    let env: Vec<String> =
        std::env::vars_os().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy())).collect();
    match child::fork().map_err(|error| step("fork", error))? {
        None => {
            child::own_foreground_group();
            child::reset_signals();
            let error = become_program(argv, &env);
            Report::Failed(error).send(std::os::fd::AsRawFd::as_raw_fd(&write));
            child::exit_now(127)
        }
        Some(pid) => {
            drop(write);
            let mut text = Vec::new();
            // End of file without a word: the descriptor was closed by a successful `execve`.
            std::io::Read::read_to_end(&mut std::fs::File::from(read), &mut text).map_err(|e| step("read", e))?;
            match Report::parse(&text).into_iter().next() {
                Some(Report::Failed(error)) => Err(error),
                _ => Ok(pid),
            }
        }
    }
}

/// The code a shell shows for a raw wait status.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
