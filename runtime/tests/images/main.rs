//! Images against the real kernel, real tools and a real registry. Needs root.
//!
//! The binary is its own unpack child, so `main` calls the re-exec dispatch before the harness.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should panic")]

mod bombs;
mod faults;
mod fixture;
mod gc;
mod hostile;
mod load;
mod pull;
mod real;
mod registry;
mod server;
mod store;
mod tls;

use libtest_mimic::{Arguments, Trial};

fn main() {
    carrack_runtime::reexec::dispatch();
    store::dispatch_crash_child();
    tls::dispatch_pull_child();
    faults::dispatch_pull_child();
    bombs::dispatch_load_child();
    let tests: Vec<(&str, fn())> = [
        load::TESTS,
        hostile::TESTS,
        bombs::TESTS,
        store::TESTS,
        pull::TESTS,
        faults::TESTS,
        real::TESTS,
        gc::TESTS,
        tls::TESTS,
    ]
    .concat();
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
