//! `carrack-load`: a load from the command line, for the demo. Ends after `--seconds` or when a file appears.
//!
//! ```text
//! carrack-load ADDRESS:PORT PATH [--clients N] [--seconds N] [--until FILE] [--netns FILE]
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carrack_integration::load::{Load, Report, Target, run};

const USAGE: &str =
    "usage: carrack-load ADDRESS:PORT PATH [--clients N] [--seconds N] [--until FILE] [--netns FILE]";

struct Options {
    load: Load,
    seconds: u64,
    until: Option<PathBuf>,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line program")]
fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match drive(&options) {
        Ok(report) => {
            println!("sent {} failed {} slowest {} ms", report.sent, report.failed, report.slowest_ms);
            report.errors.iter().for_each(|error| eprintln!("  {error}"));
            ExitCode::from(u8::from(report.failed > 0 || report.sent == 0))
        }
        Err(error) => {
            eprintln!("carrack-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drive(options: &Options) -> std::io::Result<Report> {
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| run(&options.load, &stop));
        while Instant::now() < end
            && !load.is_finished()
            && !options.until.as_ref().is_some_and(|f| f.exists())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().map_err(|_| std::io::Error::other("the load panicked"))?
    })
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Options> {
    let target = Target::Address(words.next()?.parse().ok()?);
    let path = words.next()?;
    let mut options = Options {
        load: Load { target, path, clients: 4, pause: Duration::from_millis(10), netns: None },
        seconds: 60,
        until: None,
    };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--clients" => options.load.clients = value.parse().ok()?,
            "--seconds" => options.seconds = value.parse().ok()?,
            "--until" => options.until = Some(value.into()),
            "--netns" => options.load.netns = Some(value.into()),
            _ => return None,
        }
    }
    Some(options)
}
