//! Verbs of other tools and ours for the same thing, for people who come from there.
//!
//! Pure: words in, a sentence out. `docker` and `nomad` hold the tables; what has no counterpart says so and why, so that nobody
//! looks for it any longer.

mod docker;
mod nomad;
mod options;

/// A verb of another tool, of one word or two.
struct Row {
    verb: &'static str,
    answer: Answer,
}

/// What a verb of another tool is here.
enum Answer {
    /// Ours. It stands between backticks behind `carrack`, so it may close them and open others.
    Ours(&'static str),
    /// There is none, for this reason.
    NotThere(&'static str),
}

const fn ours(verb: &'static str, ours: &'static str) -> Row {
    Row { verb, answer: Answer::Ours(ours) }
}

const fn not_there(verb: &'static str, why: &'static str) -> Row {
    Row { verb, answer: Answer::NotThere(why) }
}

/// In the order in which people mean them.
const TABLES: [(&str, &[Row]); 6] = [
    ("Docker Swarm", docker::SWARM),
    ("Docker", docker::DOCKER_OBJECTS),
    ("Docker", docker::DOCKER),
    ("Compose", docker::COMPOSE),
    ("Nomad", nomad::NOMAD),
    ("kubectl", nomad::KUBECTL),
];

/// Words that only name the tool, or the object that is meant anyway.
const TOOLS: [&str; 7] = ["docker", "compose", "docker-compose", "podman", "container", "nomad", "kubectl"];

/// What to type in place of `words`, as a sentence; `None` when no other tool has such a verb. `is_ours` tells our verbs.
pub(crate) fn answer(words: &[&str], is_ours: &dyn Fn(&str) -> bool) -> Option<String> {
    let (first, rest) = words.split_first()?;
    if let Some(second) = rest.first()
        && let Some(found) = find(&format!("{first} {second}"))
    {
        return Some(found);
    }
    if TOOLS.contains(first) {
        if let Some(second) = rest.first().filter(|second| is_ours(second)) {
            return Some(format!("with `{first} {second}` you mean `carrack {second}`"));
        }
        if let Some(found) = answer(rest, is_ours) {
            return Some(found);
        }
    }
    find(first)
}

/// What to type in place of an option of another tool, or of a word too many, behind a verb of ours; empty is before any verb.
pub(crate) fn option(verb: &str, option: &str) -> Option<&'static str> {
    options::answer(verb, option)
}

fn find(verb: &str) -> Option<String> {
    let mut rows = TABLES.iter().flat_map(|(tool, rows)| rows.iter().map(move |row| (tool, row)));
    let (tool, row) = rows.find(|(_, row)| row.verb == verb)?;
    Some(match row.answer {
        Answer::Ours(ours) => {
            let closing = if ours.matches('`').count() % 2 == 0 { "`" } else { "" };
            format!("with {tool}'s `{verb}` you mean `carrack {ours}{closing}")
        }
        Answer::NotThere(why) => format!("{tool}'s `{verb}` is not there: {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// `docker --help` and `docker OBJECT --help` of 28, an object a line.
    const DOCKER: &str = "\
        run exec ps build bake pull push images login logout search version info attach commit cp create diff events export
        history import inspect kill load logs pause port rename restart rm rmi save start stats stop tag top unpause update wait
        builder:build prune
        buildx:bake build create dial-stdio du history imagetools inspect ls prune rm stop use version
        checkpoint:create ls rm
        compose:up
        config:create inspect ls rm
        container:attach commit cp create diff exec export inspect kill logs ls list ps pause port prune rename restart rm run start \
                  stats stop top unpause update wait
        context:create export import inspect ls rm show update use
        image:build history import inspect load ls prune pull push rm save tag
        manifest:annotate create inspect push rm
        network:connect create disconnect inspect ls prune rm
        node:demote inspect ls promote ps rm update
        plugin:create disable enable inspect install ls push rm set upgrade
        secret:create inspect ls rm
        service:create inspect logs ls ps rm rollback scale update
        stack:config deploy ps rm services ls
        swarm:ca init join join-token leave unlock unlock-key update
        system:df dial-stdio events info prune
        trust:inspect revoke sign key signer
        volume:create inspect ls prune rm update";
    /// `docker compose --help` of v2.
    const COMPOSE: &str = "\
        attach build bridge commit config convert cp create down events exec export images kill logs ls pause port ps publish pull
        push restart rm run scale start stats stop top unpause up version viz volumes wait watch alpha";
    /// `nomad --help` and `nomad OBJECT --help` of 1.x.
    const NOMAD: &str = "\
        run status stop fs exec logs plan agent agent-info monitor init login ui version validate inspect start check fmt
        acl:auth-method binding-rule bootstrap policy role token
        alloc:checks exec fs logs pause restart signal status stop
        config:validate
        deployment:fail list pause promote resume status unblock
        eval:delete list status
        job:action allocs deployments dispatch eval history init inspect periodic plan promote restart revert run scale \
            scaling-events start status stop tag validate
        license:get inspect
        namespace:apply delete inspect list status
        node:config drain eligibility identity intro meta pool status
        operator:api autopilot client-state debug gossip metrics raft root scheduler snapshot utilization
        plugin:status
        quota:apply delete init inspect list status
        recommendation:apply dismiss info list
        scaling:policy
        sentinel:apply delete list read
        server:force-leave join members
        service:delete info list
        setup:consul vault
        system:gc reconcile
        tls:ca cert
        var:get init list lock purge put
        volume:claim create delete deregister detach init list register snapshot status";

    fn verbs_of(list: &'static str) -> Vec<Vec<&'static str>> {
        let mut verbs = Vec::new();
        for line in list.lines().map(str::trim) {
            match line.split_once(':') {
                Some((object, second)) => {
                    verbs.push(vec![object]);
                    verbs.extend(second.split_whitespace().map(|second| vec![object, second]));
                }
                None => verbs.extend(line.split_whitespace().map(|verb| vec![verb])),
            }
        }
        verbs
    }

    fn is_ours(words: &[&str]) -> bool {
        let command = crate::args::Cli::command();
        let Some(first) = words.first().and_then(|first| command.find_subcommand(first)) else {
            return false;
        };
        match words.get(1) {
            Some(second) if first.has_subcommands() => first.find_subcommand(second).is_some(),
            _ => true,
        }
    }

    fn answered(words: &[&str]) -> Option<String> {
        answer(words, &|verb| is_ours(&[verb]))
    }

    #[test]
    fn every_verb_of_docker_compose_and_nomad_is_ours_or_answered() {
        let mut unanswered = Vec::new();
        let mut asked = 0;
        for (tool, list) in [("docker", DOCKER), ("compose", COMPOSE), ("nomad", NOMAD)] {
            for words in verbs_of(list) {
                asked += 1;
                if !is_ours(&words) && answered(&words).is_none() {
                    unanswered.push(words.join(" "));
                }
                // And as it is typed by those who only replace the tool's name in front, or forget to.
                let with_tool: Vec<&str> = std::iter::once(tool).chain(words.iter().copied()).collect();
                if answered(&with_tool).is_none() {
                    unanswered.push(with_tool.join(" "));
                }
            }
        }
        assert!(asked > 250, "{asked}");
        assert!(unanswered.is_empty(), "{unanswered:?}");
    }

    #[test]
    fn what_an_answer_names_exists() {
        for (_, rows) in TABLES {
            for row in rows {
                let words: Vec<&str> = row.verb.split(' ').collect();
                assert!(!is_ours(&words), "{} is ours", row.verb);
                let text = find(row.verb).unwrap();
                let mut named = 0;
                for quoted in text.split('`').skip(1).step_by(2) {
                    let Some(command) = quoted.strip_prefix("carrack ") else { continue };
                    named += 1;
                    let words: Vec<&str> =
                        command.split(' ').take_while(|word| word.starts_with(char::is_lowercase)).collect();
                    assert!(
                        command.starts_with("--") || is_ours(&words),
                        "{}: `carrack {command}`",
                        row.verb
                    );
                }
                let there = matches!(row.answer, Answer::Ours(_));
                assert!(!there || named > 0, "{}", row.verb);
                assert_eq!(text.matches('`').count() % 2, 0, "{text}");
            }
        }
    }

    #[test]
    fn a_foreign_verb_is_answered_with_ours() {
        let told = |words: &[&str]| answered(words).unwrap();
        assert_eq!(
            told(&["stack", "deploy"]),
            "with Docker Swarm's `stack deploy` you mean `carrack deploy`"
        );
        assert_eq!(told(&["stack", "-x"]), "with Docker Swarm's `stack` you mean `carrack deploy`");
        assert_eq!(told(&["images"]), "with Docker's `images` you mean `carrack image ls`");
        assert_eq!(told(&["docker", "ps"]), "with `docker ps` you mean `carrack ps`");
        assert_eq!(
            told(&["docker", "service", "ls"]),
            "with Docker Swarm's `service ls` you mean `carrack ls`"
        );
        assert_eq!(told(&["container", "logs"]), "with `container logs` you mean `carrack logs`");
        assert!(told(&["builder"]).contains("is not there: `carrack build` runs docker, podman or buildah"));
        assert_eq!(answered(&["nonsense"]), None);
        assert_eq!(answered(&["nonsense", "ls"]), None);
        assert_eq!(answered(&[]), None);
    }
}
