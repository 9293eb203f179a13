//! Verbs of other tools and ours for the same thing, for people who come from there.

/// A verb of another tool.
struct Foreign {
    tool: &'static str,
    verb: &'static str,
    ours: &'static str,
}

const fn verb(tool: &'static str, verb: &'static str, ours: &'static str) -> Foreign {
    Foreign { tool, verb, ours }
}

const DOCKER: &str = "Docker";
const COMPOSE: &str = "Compose";
const SWARM: &str = "Docker Swarm";
const NOMAD: &str = "Nomad";
const KUBECTL: &str = "kubectl";

/// Two words stand before one, so that `stack deploy` is found before `stack`.
const FOREIGN: &[Foreign] = &[
    verb(SWARM, "stack deploy", "deploy"),
    verb(SWARM, "stack up", "deploy"),
    verb(SWARM, "stack ls", "ls"),
    verb(SWARM, "stack ps", "ps STACK"),
    verb(SWARM, "stack rm", "rm STACK"),
    verb(SWARM, "stack services", "ls STACK"),
    verb(SWARM, "stack config", "deploy --dry-run"),
    verb(SWARM, "service ls", "ls"),
    verb(SWARM, "service ps", "ps SERVICE"),
    verb(SWARM, "service logs", "logs SERVICE"),
    verb(SWARM, "service scale", "scale SERVICE=N"),
    verb(SWARM, "service inspect", "inspect SERVICE"),
    verb(SWARM, "service create", "deploy"),
    verb(SWARM, "service update", "set SERVICE KEY=VALUE"),
    verb(SWARM, "service rm", "deploy` of a file without it, or `carrack rm STACK"),
    verb(SWARM, "service rollback", "deploy` of the file before"),
    verb(SWARM, "swarm init", "daemon -d"),
    verb(SWARM, "swarm leave", "daemon --stop --stop-containers"),
    verb(SWARM, "node ls", "version"),
    verb(NOMAD, "job run", "deploy"),
    verb(NOMAD, "job plan", "deploy --dry-run"),
    verb(NOMAD, "job status", "ls"),
    verb(NOMAD, "job stop", "rm STACK"),
    verb(NOMAD, "job scale", "scale SERVICE=N"),
    verb(NOMAD, "alloc logs", "logs TASK"),
    verb(NOMAD, "alloc exec", "exec TASK"),
    verb(NOMAD, "alloc status", "inspect TASK"),
    verb(NOMAD, "node status", "version"),
    verb(NOMAD, "system gc", "image rm"),
    verb(DOCKER, "container ls", "ps"),
    verb(DOCKER, "container run", "run SERVICE"),
    verb(DOCKER, "container rm", "rm STACK"),
    verb(DOCKER, "container logs", "logs TARGET"),
    verb(DOCKER, "container exec", "exec TARGET"),
    verb(DOCKER, "container stop", "stop SERVICE"),
    verb(DOCKER, "container start", "start SERVICE"),
    verb(DOCKER, "container restart", "restart SERVICE"),
    verb(DOCKER, "container kill", "kill TARGET"),
    verb(DOCKER, "container wait", "wait TARGET"),
    verb(DOCKER, "container port", "port TARGET"),
    verb(DOCKER, "system info", "doctor"),
    verb(DOCKER, "system events", "events"),
    verb(COMPOSE, "compose up", "up"),
    verb(COMPOSE, "compose down", "down"),
    verb(COMPOSE, "compose ps", "ps"),
    verb(COMPOSE, "compose logs", "logs"),
    verb(COMPOSE, "compose exec", "exec"),
    verb(COMPOSE, "compose run", "run"),
    verb(COMPOSE, "compose stop", "stop"),
    verb(COMPOSE, "compose start", "start"),
    verb(COMPOSE, "compose restart", "restart"),
    verb(COMPOSE, "compose kill", "kill TARGET"),
    verb(COMPOSE, "compose wait", "wait TARGET"),
    verb(COMPOSE, "compose port", "port TARGET"),
    verb(DOCKER, "container attach", "attach TARGET"),
    verb(DOCKER, "container cp", "cp TARGET:PATH PATH"),
    verb(DOCKER, "create", "deploy"),
    verb(DOCKER, "images", "image ls"),
    verb(DOCKER, "rmi", "image rm"),
    verb(DOCKER, "load", "image load"),
    verb(DOCKER, "pull", "image pull"),
    verb(DOCKER, "info", "doctor"),
    verb(DOCKER, "stats", "ps -o json"),
    verb(DOCKER, "top", "exec TARGET ps"),
    verb(DOCKER, "container", "ps"),
    verb(DOCKER, "volumes", "volume ls"),
    verb(DOCKER, "dockerd", "daemon"),
    verb(COMPOSE, "compose", "up"),
    verb(DOCKER, "build", "image load` of what another tool built, or `carrack image pull"),
    verb(COMPOSE, "config", "deploy --dry-run"),
    verb(COMPOSE, "convert", "deploy --dry-run"),
    verb(SWARM, "stack", "deploy"),
    verb(SWARM, "service", "ls"),
    verb(SWARM, "swarm", "daemon -d"),
    verb(SWARM, "services", "ls"),
    verb(NOMAD, "agent", "daemon"),
    verb(NOMAD, "job", "deploy"),
    verb(NOMAD, "alloc", "ps"),
    verb(NOMAD, "status", "ls"),
    verb(NOMAD, "plan", "deploy --dry-run"),
    verb(NOMAD, "monitor", "events -f"),
    verb(KUBECTL, "apply", "deploy"),
    verb(KUBECTL, "get", "ps"),
    verb(KUBECTL, "describe", "inspect TARGET"),
    verb(KUBECTL, "delete", "rm STACK"),
    verb(KUBECTL, "diff", "deploy --dry-run"),
    verb("Podman", "play", "deploy"),
];

/// What to type in place of `first second`, as a sentence part; `None` when no other tool has such a verb.
pub(crate) fn ours(first: &str, second: Option<&str>) -> Option<String> {
    let both = second.map(|second| format!("{first} {second}"));
    let found = FOREIGN
        .iter()
        .find(|foreign| both.as_deref() == Some(foreign.verb))
        .or_else(|| FOREIGN.iter().find(|foreign| foreign.verb == first))?;
    let Foreign { tool, verb, ours } = found;
    Some(format!("with {tool}'s `{verb}` you mean `carrack {ours}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_verb_is_answered_with_ours() {
        assert_eq!(
            ours("stack", Some("deploy")).unwrap(),
            "with Docker Swarm's `stack deploy` you mean `carrack deploy`"
        );
        assert_eq!(
            ours("stack", Some("-x")).unwrap(),
            "with Docker Swarm's `stack` you mean `carrack deploy`"
        );
        assert_eq!(ours("images", None).unwrap(), "with Docker's `images` you mean `carrack image ls`");
        assert_eq!(ours("nonsense", None), None);
    }

    #[test]
    fn our_verbs_exist() {
        use clap::CommandFactory;
        let command = crate::args::Cli::command();
        for foreign in FOREIGN {
            let verb = foreign.ours.split([' ', '`']).next().unwrap();
            assert!(command.find_subcommand(verb).is_some(), "{} -> {}", foreign.verb, foreign.ours);
            assert!(command.find_subcommand(foreign.verb).is_none(), "{} is ours", foreign.verb);
        }
    }
}
