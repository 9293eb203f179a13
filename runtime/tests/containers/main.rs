//! Containers on the real kernel, as root. The binary is also its own child: see `support`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test binary without the usual harness; clippy.toml allows these in tests only"
)]

mod confined;
mod devices;
mod exec;
mod hostile;
mod lifecycle;
mod probe;
mod races;
mod real;
mod resources;
mod security;
mod storage;
mod support;
mod survival;

use libtest_mimic::{Arguments, Trial};

fn main() {
    carrack_runtime::reexec::dispatch();
    support::remember_open_files();
    let own: Vec<String> = std::env::args().skip(1).collect();
    if own.first().is_some_and(|mode| mode == "daemon-that-waits") {
        survival::daemon_that_waits(&own[1..]);
    }
    if own.first().is_some_and(|mode| mode == probe::MODE) {
        probe::main(&own[1..]);
    }
    if own.first().is_some_and(|mode| mode == devices::MODE) {
        devices::on_cgroup2();
    }
    let mut arguments = Arguments::from_args();
    // Each container costs processes and cgroups of a small machine.
    arguments.test_threads.get_or_insert(4);
    let trials: Vec<Trial> = [
        lifecycle::trials(),
        security::trials(),
        confined::trials(),
        races::trials(),
        hostile::trials(),
        resources::trials(),
        devices::trials(),
        exec::trials(),
        storage::trials(),
        survival::trials(),
        real::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Tests by the names of their functions.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$(libtest_mimic::Trial::test(format!("{module}::{}", stringify!($name)), || {
                $name();
                Ok(())
            })),*]
        }
    };
}
