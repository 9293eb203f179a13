//! `carrack-bench [NAME]`: figures that we claim, measured on this machine, beside a peer or a floor in the same alternating run.
//!
//! Prints a table and writes `results.json` into the directory that `BENCH_OUT` names: a list of
//! `{name, unit, ours, peer, peer_name, ratio, n, target}`. See `BENCHMARKS.md`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use carrack_integration::bench::{Setting, inside, world};

#[expect(clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text =
        |at: usize| arguments.get(at).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    if arguments.first().is_some_and(|first| first == "--inside") {
        world::begin_inside();
        let setting = Setting { work: PathBuf::from(text(1)) };
        return inside(&text(3), &setting, Path::new(&text(2)));
    }
    // The inner process is in another directory of processes, not of files: the path stays.
    let out = std::env::var_os("BENCH_OUT").unwrap_or_else(|| "target/bench".into());
    match world::run(&[vec![out], arguments].concat()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("carrack-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
