//! What live tests see of each Compose key that counts as exact. Pure data: `live_keys` looks, other live tests say what they
//! saw, and the table in `docs/compose-keys.md` is made of it, so that the documentation cannot say more than a test has seen.

mod by_tests;
mod inside;

use std::collections::BTreeSet;

/// A live test: a file of `integration/tests` and the function in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// `live_keys`.
    pub file: &'static str,
    /// The function.
    pub name: &'static str,
}

const fn test(file: &'static str, name: &'static str) -> Test {
    Test { file, name }
}

/// What holds while containers run.
pub const MAIN: Test = test("live_keys", "keys_do_what_they_say_inside_containers");
/// What holds when they end, fail and are replaced.
pub const ENDS: Test = test("live_keys", "tasks_end_and_come_back_as_written");
/// Who waits for whom.
pub const ORDER: Test = test("live_depends", "services_start_in_order_and_follow_a_restart");
/// Images that are built.
pub const BUILT: Test = test("live_build", "what_was_built_runs_and_only_a_change_rolls");
/// What a builder is told.
pub const BUILT_KEYS: Test = test("live_build", "a_builder_is_told_what_the_keys_say");
/// Files of secrets and configs.
pub const SECRETS: Test =
    test("live_secrets", "secrets_and_configs_are_files_of_their_users_and_change_with_their_content");
/// Networks of several stacks.
pub const NETWORKS: Test = test("live_networks", "stacks_share_a_network_that_stays_while_it_is_used");
/// When a registry is asked.
pub const PULLS: Test = test("live_registry", "a_registry_is_asked_when_the_pull_policy_says_so");

/// A key and where its effect is seen.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// The key with its form, as `carrack_compose::outcomes` names it.
    pub key: &'static str,
    /// Where its effect is seen.
    pub seen: Seen,
}

/// Where the effect of a key is seen.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// A command in a container of the service `service` of the stack of `live_keys`.
    Inside {
        /// The service.
        service: &'static str,
        /// For its shell.
        command: &'static str,
        /// What it prints.
        prints: Prints,
    },
    /// By a test that looks itself and says so to [`Notes`].
    Test {
        /// Which.
        test: Test,
        /// What it looks at.
        what: &'static str,
    },
}

/// What a command prints, without white space around it.
#[derive(Debug, Clone, Copy)]
pub enum Prints {
    /// This and nothing else.
    Is(&'static str),
    /// This among other things.
    Has(&'static str),
    /// One of these: cgroup v1 and v2, and kernels without a feature, print different things.
    OneOf(&'static [&'static str]),
}

impl Prints {
    /// Whether this was printed.
    pub fn fits(self, printed: &str) -> bool {
        match self {
            Self::Is(text) => printed == text,
            Self::Has(text) => printed.contains(text),
            Self::OneOf(texts) => texts.contains(&printed),
        }
    }

    /// In words.
    pub fn describe(self) -> String {
        match self {
            Self::Is(text) => format!("prints `{text}`"),
            Self::Has(text) => format!("prints `{text}` among others"),
            Self::OneOf(texts) => {
                let texts: Vec<String> =
                    texts.iter().filter(|text| !text.is_empty()).map(|text| format!("`{text}`")).collect();
                format!("prints {}", texts.join(" or "))
            }
        }
    }
}

/// All of them.
pub fn observed() -> impl Iterator<Item = &'static Observation> {
    inside::ROWS.iter().chain(by_tests::ROWS)
}

/// What one run of a live test has seen. At its end that is what the rows say which name the test: neither less nor more.
#[derive(Debug)]
pub struct Notes {
    test: Test,
    keys: BTreeSet<&'static str>,
}

impl Notes {
    /// Of a test that begins.
    pub fn of(test: Test) -> Self {
        Self { test, keys: BTreeSet::new() }
    }

    /// The effect of these keys was seen.
    pub fn saw(&mut self, keys: &[&'static str]) {
        self.keys.extend(keys);
    }

    /// The end of the test: panics unless all was seen that its rows say.
    #[track_caller]
    pub fn finish(self) {
        let of_test = |o: &&Observation| matches!(o.seen, Seen::Test { test, .. } if test == self.test);
        let rows: BTreeSet<&str> = observed().filter(of_test).map(|o| o.key).collect();
        assert_eq!(self.keys, rows, "what {} has seen, and what its rows say", self.test.name);
    }
}
