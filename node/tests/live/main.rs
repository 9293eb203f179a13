//! The whole node on the real kernel, as root: real containers of a busybox image, real VIPs, one network namespace for all.
//!
//! The binary is also its own supervisor and data plane, and moves into a namespace of its own before any thread exists; the
//! tests run one after the other in it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests panic, and print what they measured")]

mod lifecycle;
mod requests;
mod support;

use libtest_mimic::{Arguments, Trial};

fn main() {
    carrack_node::dispatch();
    support::own_namespace();
    // What the product warns of explains a failure.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let mut arguments = Arguments::from_args();
    // They share one network namespace, as daemons of one host would.
    arguments.test_threads = Some(1);
    let trials: Vec<Trial> = [lifecycle::trials(), requests::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Tests by the names of their functions.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$(libtest_mimic::Trial::test(format!("{module}::{}", stringify!($name)), || {
                $crate::support::run($name);
                Ok(())
            })),*]
        }
    };
}
