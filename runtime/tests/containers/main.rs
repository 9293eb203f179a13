//! Containers on the real kernel, as root. The binary is also its own child: see `support`.

mod lifecycle;
mod support;

use libtest_mimic::{Arguments, Trial};

fn main() {
    carrack_runtime::reexec::dispatch();
    let mut arguments = Arguments::from_args();
    // Each container costs processes and cgroups of a small machine.
    arguments.test_threads.get_or_insert(4);
    let trials: Vec<Trial> = [lifecycle::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Tests by the names of their functions.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$(libtest_mimic::Trial::test(format!("{module}::{}", stringify!($name)), || {
                $name();
                Ok(())
            })),*]
        }
    };
}
