//! Options of Docker, Compose and Swarm that a verb of ours of the same name does not have, and what is typed in their place.

const GRACE: &str = "how long a task may take to stop is its `stop_grace_period:` in the Compose file; `carrack kill` ends it at once";
const FILTER: &str = "`-o json` prints data for programs, `jq` picks from it";
const RECREATE: &str = "`carrack restart` replaces tasks that have not changed";
const SILENT: &str = "leave it out: it does not ask, and stops what still runs";
const SCALE: &str = "`carrack scale SERVICE=N`, or `deploy.replicas` in the Compose file";
const PULL: &str = "`pull_policy: always` in the Compose file, or `carrack image pull IMAGE`";
const BUILD: &str =
    "services of a Compose file are built, as their `build:` says; for one directory use the builder itself";
const BEHIND: &str = "it stands behind the verb: `carrack deploy -f FILE -p NAME`";
const WHOLE: &str = "a file is deployed as a whole; `carrack start SERVICE` starts one service, `--profile` chooses among them";

/// What to type in place of an option, or of a word too many, of a verb; the verb is empty before any.
pub(super) fn answer(verb: &str, option: &str) -> Option<&'static str> {
    Some(match (verb, option) {
        (
            "",
            "-f" | "--file" | "-p" | "--project-name" | "--project-directory" | "--env-file" | "--profile",
        ) => BEHIND,
        ("", "-c" | "--context") => "name the daemon with --host or CARRACK_HOST",
        ("", "-D" | "--debug" | "-l" | "--log-level") => {
            "the daemon logs: `carrack daemon --log-level debug`"
        }
        ("stop" | "restart" | "down" | "up", "-t" | "--time") => GRACE,
        ("build", "-t" | "--tag") => "the image's name is `image:` of its service in the Compose file",
        ("build", "--push") => "the image goes to the daemon; the builder itself pushes to a registry",
        ("build", "-q" | "--quiet" | "--progress") => {
            "the builder's output is on standard error: `2>/dev/null`"
        }
        ("build", "." | "--output" | "--load" | "--label" | "--target" | "--platform" | "--secret") => BUILD,
        ("network create", "-d" | "--driver" | "--attachable") => {
            "leave it out: all networks are of one kind, open to every service that names them"
        }
        ("network create", "--subnet" | "--gateway" | "--ip-range" | "--ipam-driver" | "--ipv6") => {
            "leave it out: addresses come from the cluster's own range"
        }
        ("up" | "deploy" | "run", "--pull") => PULL,
        ("up" | "deploy", "--scale") => SCALE,
        ("up" | "deploy", "--force-recreate" | "--always-recreate-deps") => RECREATE,
        ("up", "--wait") => "`carrack deploy` and `carrack up -d` wait until all is healthy",
        ("up" | "deploy" | "run", "--remove-orphans") | ("deploy", "--prune") => {
            "leave it out: services that are gone from the file are always removed"
        }
        ("down", "--remove-orphans") => "leave it out: `carrack down` removes all services of the stack",
        ("down", "--rmi") => "`carrack image prune -a` removes images that nobody needs any more",
        ("deploy", "-c" | "--compose-file") => "the file is `-f FILE`, the stack's name `-p NAME`",
        ("deploy", "--with-registry-auth") => {
            "leave it out: the credentials that a deploy needs always go with it"
        }
        ("deploy", name) if !name.starts_with('-') => "the file is `-f FILE`, the stack's name `-p NAME`",
        ("up", name) if !name.starts_with('-') => WHOLE,
        ("rm", "-f" | "--force" | "-s" | "--stop") => SILENT,
        ("volume rm" | "image rm" | "network rm", "-f" | "--force") => {
            "leave it out: it does not ask, and what is in use stays"
        }
        ("exec", "-d" | "--detach") => "`carrack run -d SERVICE COMMAND` runs a task in the background",
        ("exec", "--index") => "the replica stands in the target: `carrack exec web.2 COMMAND`",
        ("logs" | "attach" | "cp" | "kill" | "port", "--index") => {
            "the replica stands in the target: `web.2`"
        }
        ("exec" | "run", "--privileged") => {
            "a container has the capabilities of its service: `cap_add:` in the Compose file"
        }
        ("login", "-p" | "--password") => {
            "type it when asked, or give it on standard input: `--password-stdin`"
        }
        ("stats", "-a" | "--all") => "only tasks that run use something; `carrack ps -a` lists past ones",
        (
            "ps" | "ls" | "image ls" | "volume ls" | "network ls",
            "-q" | "--quiet" | "-f" | "--filter" | "--format" | "--no-trunc" | "--digests",
        )
        | ("ls" | "image ls", "-a" | "--all")
        | (
            "inspect" | "image inspect" | "volume inspect" | "network inspect" | "version",
            "-f" | "--format" | "--filter",
        )
        | ("stats" | "events", "--filter" | "--format" | "--no-trunc") => FILTER,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn what_other_tools_take_is_answered() {
        assert_eq!(answer("stop", "-t"), Some(GRACE));
        assert_eq!(answer("up", "web"), Some(WHOLE));
        assert_eq!(answer("", "-f"), Some(BEHIND));
        assert_eq!(answer("image ls", "-q"), Some(FILTER));
        assert_eq!(answer("ls", "--frobnicate"), None);
    }

    #[test]
    fn an_option_that_is_ours_is_not_answered() {
        for verb in Cli::command().get_subcommands() {
            for argument in verb.get_arguments() {
                let short = argument.get_short().map(|short| format!("-{short}"));
                let long = argument.get_long().map(|long| format!("--{long}"));
                for option in short.iter().chain(&long) {
                    assert_eq!(answer(verb.get_name(), option), None, "{} {option}", verb.get_name());
                }
            }
        }
    }
}
