//! PID 1 of a container: starts the program, forwards signals to it, reaps what is left behind, exits as it did.
//!
//! A mode of our own binary, reached over a descriptor, so that the image needs nothing and holds nothing of it. One thread.
//! Invoked as `carrack-init __init REPORT_FD PROGRAM ARGS...`. A binary that is linked dynamically (development builds)
//! would not find its loader in the image; then the same code runs without an `execve`, at the price of some memory.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

use crate::child;
use crate::program::{ProgramError, Report, become_program};

/// The mode's name on the command line.
pub(crate) const MODE: &str = "__init";
/// The exit code when PID 1 itself was called wrongly.
const EXIT_MISUSE: i32 = 125;

/// Runs the mode.
pub(crate) fn main(arguments: &[String]) -> ! {
    let parsed = arguments.split_first().and_then(|(fd, argv)| Some((fd.parse::<RawFd>().ok()?, argv)));
    let Some((report, argv)) = parsed.filter(|(_, argv)| !argv.is_empty()) else {
        child::exit_now(EXIT_MISUSE)
    };
    // Executed by descriptor, it would be a number in `ps`; the name is for people only.
    let _ = rustix::thread::set_name(c"carrack-init");
    let env: Vec<String> = std::env::vars_os()
        .map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy()))
        .collect();
    run(report, argv, &env)
}

/// Is PID 1 until the program ends.
pub(crate) fn run(report: RawFd, argv: &[String], env: &[String]) -> ! {
    // Nothing of the host may stay open here: what is open in PID 1 is a door for the container.
    let Ok(report) = child::close_all_but(report) else { child::exit_now(EXIT_MISUSE) };
    child::block_signals();
    let main_child = match spawn(argv, env) {
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
fn spawn(argv: &[String], env: &[String]) -> Result<i32, ProgramError> {
    let step =
        |step: &str, error: std::io::Error| ProgramError::Step { step: step.into(), why: error.to_string() };
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| step("pipe", e.into()))?;
    match child::fork().map_err(|error| step("fork", error))? {
        None => {
            child::own_foreground_group();
            child::reset_signals();
            Report::Failed(become_program(argv, env)).send(write.as_raw_fd());
            child::exit_now(127)
        }
        Some(pid) => {
            drop(write);
            let mut text = Vec::new();
            // End of file without a word: the descriptor was closed by a successful `execve`.
            std::io::Read::read_to_end(&mut File::from(read), &mut text)
                .map_err(|error| step("read", error))?;
            match Report::parse(&text).into_iter().next() {
                Some(Report::Failed(error)) => Err(error),
                _ => Ok(pid),
            }
        }
    }
}

/// Whether an ELF program runs without a loader.
pub(crate) fn is_static(program: &File) -> bool {
    const PT_INTERP: u32 = 3;
    let read = |offset: u64, buffer: &mut [u8]| program.read_exact_at(buffer, offset).is_ok();
    let mut header = [0; 64];
    if !read(0, &mut header) || header[..5] != *b"\x7fELF\x02" {
        return false;
    }
    let mut table = [0; 8];
    table.copy_from_slice(&header[32..40]);
    let entry = u64::from(u16::from_le_bytes([header[54], header[55]]));
    let count = u64::from(u16::from_le_bytes([header[56], header[57]]));
    (0..count).all(|index| {
        let mut kind = [0; 4];
        read(u64::from_le_bytes(table) + index * entry, &mut kind) && u32::from_le_bytes(kind) != PT_INTERP
    })
}

/// The code a shell shows for a raw wait status.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
