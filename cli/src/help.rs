//! The command line as it is explained: groups of verbs, short and long help.
//!
//! Owns what clap cannot derive: the order in which a newcomer meets the verbs, and what `-h` leaves out. The words themselves
//! are the doc comments in `args`.

use std::fmt::Write as _;

use clap::CommandFactory as _;

use crate::args::Cli;

/// Verbs as people look for them. Each visible verb is in exactly one group.
const GROUPS: &[(&str, &[&str])] = &[
    ("Deploy", &["deploy", "build", "config", "check", "up", "down", "rm", "set", "scale"]),
    ("Look", &["ls", "ps", "logs", "stats", "events", "inspect", "port", "dns"]),
    ("Act", &["exec", "run", "attach", "cp", "stop", "start", "restart", "kill", "wait"]),
    ("Images, volumes, networks", &["image", "volume", "network", "secret", "login", "logout"]),
    ("Host", &["daemon", "doctor", "defaults", "version", "uninstall", "completions", "man"]),
];
/// Verbs stand in a column this wide.
const NAME_COLUMNS: usize = 13;

/// How much help is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// `-h`: what the verb takes, and examples.
    Short,
    /// `--help` and `help VERB`: everything.
    Long,
}

impl Detail {
    /// What a command line asks for, should it ask for help.
    pub(crate) fn of(words: impl Iterator<Item = std::ffi::OsString>) -> Self {
        let mut detail = Self::Long;
        for word in words {
            match word.to_str() {
                Some("--help" | "help") => return Self::Long,
                Some("-h") => detail = Self::Short,
                _ => {}
            }
        }
        detail
    }
}

/// The whole command line.
pub(crate) fn command(detail: Detail) -> clap::Command {
    let root = config_prints_yaml(Cli::command());
    let overview = overview(&root);
    // `{all-args}` would list the verbs a second time.
    let template =
        format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{overview}Options:\n{{options}}{{after-help}}");
    let root = root.help_template(template);
    match detail {
        Detail::Long => root,
        Detail::Short => shortened(root),
    }
}

/// Of all verbs only `config` itself has a further format; a verb keeps an option of its own where all have one of that name.
fn config_prints_yaml(root: clap::Command) -> clap::Command {
    let Some(output) = root.get_arguments().find(|arg| arg.get_id() == "output").cloned() else {
        return root;
    };
    root.mut_subcommand("config", |config| {
        let own = output.clone().help("Print data as `text`, `json` or `yaml`");
        config.mut_subcommands(|verb| verb.arg(output.clone())).arg(own)
    })
}

/// The verbs by groups.
fn overview(root: &clap::Command) -> String {
    let mut text = String::new();
    for (group, verbs) in GROUPS {
        let _ = writeln!(text, "{group}:");
        for verb in
            verbs.iter().filter_map(|verb| root.find_subcommand(verb)).filter(|verb| !verb.is_hide_set())
        {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:<NAME_COLUMNS$}{about}", verb.get_name());
        }
        text.push('\n');
    }
    text
}

/// Options that every verb has are known after the first time, and so is what stands below the examples.
fn shortened(command: clap::Command) -> clap::Command {
    let after = command.get_after_help().map(|text| first_paragraph(&text.to_string())).unwrap_or_default();
    let name = command.get_name().to_owned();
    let more = match name.as_str() {
        "carrack" => "`carrack VERB -h` explains a verb, `carrack --help` tells more".to_owned(),
        _ => "--help tells more".to_owned(),
    };
    let after = if after.is_empty() { more } else { format!("{after}\n\n{more}") };
    let mut command = command.after_help(after);
    for global in ["output", "host", "socket"] {
        if command.get_arguments().any(|arg| arg.get_id() == global) {
            command = command.mut_arg(global, |arg| arg.hide(true));
        }
    }
    command.mut_subcommands(shortened)
}

/// The examples of a verb, which its text begins with.
pub(crate) fn first_paragraph(text: &str) -> String {
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(command: &clap::Command) -> Vec<&clap::Command> {
        command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help").collect()
    }

    #[test]
    fn every_verb_is_in_one_group() {
        let root = Cli::command();
        for verb in visible(&root) {
            let groups = GROUPS.iter().filter(|(_, verbs)| verbs.contains(&verb.get_name())).count();
            assert_eq!(groups, 1, "{}: add it to a group of cli/src/help.rs", verb.get_name());
        }
    }

    #[test]
    fn every_verb_has_examples() {
        let root = Cli::command();
        for verb in visible(&root) {
            let verbs = if verb.has_subcommands() { visible(verb) } else { vec![verb] };
            for verb in verbs {
                let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(text.starts_with("Examples:\n  "), "{}: {text}", verb.get_name());
            }
        }
    }

    #[test]
    fn short_help_is_the_verb_and_its_examples() {
        let mut short = command(Detail::Short);
        short.build();
        let logs = short.find_subcommand_mut("logs").unwrap().render_help().to_string();
        assert!(logs.contains("Examples:") && !logs.contains("--socket"), "{logs}");
        let mut long = command(Detail::Long);
        long.build();
        let logs = long.find_subcommand_mut("logs").unwrap().render_help().to_string();
        assert!(logs.contains("--socket"), "{logs}");
    }

    #[test]
    fn what_is_asked_for_is_what_was_typed() {
        let of = |words: &[&str]| Detail::of(words.iter().map(Into::into));
        assert_eq!(of(&["logs", "-h"]), Detail::Short);
        assert_eq!(of(&["logs", "--help"]), Detail::Long);
        assert_eq!(of(&["help", "logs"]), Detail::Long);
        assert_eq!(of(&["logs"]), Detail::Long);
    }
}
