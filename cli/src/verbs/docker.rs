//! Docker's, Swarm's and Compose's verbs. Those that are ours under the same name are not here.

use super::{Row, not_there, ours};

const ONE_HOST: &str = "a cluster is one host so far; `carrack version` shows its node";
const BUILDER: &str = "`carrack build` runs docker, podman or buildah of this machine, with what they keep";
const PUSH: &str = "images are pushed by the tool that builds them";
const PLUGINS: &str = "there are no plugins: volumes are local, networks are Carrack's own";
const CONTEXTS: &str = "name the daemon with --host or CARRACK_HOST";
const COMMIT: &str = "a container's changes are gone with it; build an image, or keep data in a volume";
const PAUSE: &str = "a task is running or it is not; `carrack stop` stops a service and keeps its volumes";
const TRUST: &str = "pin an image by its digest (image: name@sha256:...); `carrack image inspect` shows it";
const CHECKPOINT: &str = "a running container cannot be saved; `carrack restart` starts it anew";
const UPDATE: &str = "set`, or change the Compose file and `carrack deploy";

/// One word. Compose knows most of them, too.
pub(super) const DOCKER: &[Row] = &[
    ours("create", "deploy"),
    ours("images", "image ls"),
    ours("rmi", "image rm"),
    ours("load", "image load"),
    ours("save", "image save"),
    ours("tag", "image tag"),
    ours("pull", "image pull"),
    ours("history", "image inspect"),
    ours("import", "image load"),
    ours("info", "doctor` and `carrack version"),
    ours("top", "exec TARGET ps"),
    ours("container", "ps"),
    ours("volumes", "volume ls"),
    ours("dockerd", "daemon"),
    ours("update", UPDATE),
    ours("rename", "deploy -p NAME"),
    ours("context", "version --host SOCKET"),
    ours("system", "doctor"),
    ours("trust", "image inspect"),
    not_there("builder", BUILDER),
    not_there("buildx", BUILDER),
    ours("bake", "build"),
    not_there("push", PUSH),
    not_there("search", "ask the registry's own site"),
    not_there("commit", COMMIT),
    not_there("diff", COMMIT),
    not_there(
        "export",
        "`carrack cp TARGET:/ -` writes files as a tar archive, `carrack image save` an image",
    ),
    not_there("pause", PAUSE),
    not_there("unpause", PAUSE),
    not_there("checkpoint", CHECKPOINT),
    not_there(
        "manifest",
        "a manifest list is read, never written; `carrack image inspect` shows what was chosen",
    ),
    ours("networks", "network ls"),
    not_there("plugin", PLUGINS),
];

/// Two words, the first an object.
pub(super) const DOCKER_OBJECTS: &[Row] = &[
    ours("container ls", "ps"),
    ours("container list", "ps"),
    ours("container ps", "ps"),
    ours("container inspect", "inspect TARGET"),
    ours("container rm", "rm STACK"),
    ours(
        "container prune",
        "ps -a` to see past tasks: they are forgotten by themselves, as in `carrack defaults",
    ),
    ours("image history", "image inspect"),
    ours("image import", "image load"),
    ours("image build", "build"),
    not_there("image push", PUSH),
    ours("system info", "doctor` and `carrack version"),
    ours("system events", "events"),
    ours("system df", "image ls` and `carrack volume ls"),
    ours("system prune", "image prune` and `carrack volume prune"),
    ours("system dial-stdio", "version --host SOCKET"),
    not_there(
        "volume create",
        "a volume is made by the first task that uses it; name it in the Compose file",
    ),
    not_there("volume update", "a volume has nothing to update"),
    not_there("network connect", "name the network in the service's `networks:` and `carrack deploy`"),
    not_there("network disconnect", "take it out of the service's `networks:` and `carrack deploy`"),
    not_there("context ls", CONTEXTS),
    not_there("context use", CONTEXTS),
    not_there("context create", CONTEXTS),
    not_there("context export", CONTEXTS),
    not_there("context import", CONTEXTS),
    not_there("context inspect", CONTEXTS),
    not_there("context rm", CONTEXTS),
    not_there("context show", CONTEXTS),
    not_there("context update", CONTEXTS),
    not_there("trust inspect", TRUST),
    not_there("trust revoke", TRUST),
    not_there("trust sign", TRUST),
    not_there("trust key", TRUST),
    not_there("trust signer", TRUST),
];

/// Swarm's.
pub(super) const SWARM: &[Row] = &[
    ours("stack deploy", "deploy"),
    ours("stack up", "deploy"),
    ours("stack ls", "ls"),
    ours("stack ps", "ps STACK"),
    ours("stack rm", "rm STACK"),
    ours("stack down", "rm STACK"),
    ours("stack services", "ls STACK"),
    ours("stack config", "config"),
    ours("service ls", "ls"),
    ours("service ps", "ps SERVICE"),
    ours("service logs", "logs SERVICE"),
    ours("service scale", "scale SERVICE=N"),
    ours("service inspect", "inspect SERVICE"),
    ours("service create", "deploy"),
    ours("service update", UPDATE),
    ours("service rm", "deploy` of a file without it, or `carrack stop SERVICE"),
    ours("service rollback", "deploy` of the file before"),
    ours("swarm init", "daemon -d"),
    not_there("swarm join", ONE_HOST),
    not_there("swarm join-token", ONE_HOST),
    ours("swarm leave", "uninstall"),
    not_there("swarm update", "`carrack defaults` shows what is in force"),
    not_there("swarm ca", "nodes are not joined over a network so far"),
    not_there("swarm unlock", "the daemon starts without a key from outside"),
    not_there("swarm unlock-key", "the daemon starts without a key from outside"),
    ours("node ls", "version"),
    ours("node list", "version"),
    ours("node inspect", "version -o json"),
    ours("node ps", "ps"),
    ours("node update", "daemon --label KEY=VALUE"),
    not_there("node promote", ONE_HOST),
    not_there("node demote", ONE_HOST),
    ours("node rm", "uninstall"),
    ours("stack", "deploy"),
    ours("service", "ls"),
    ours("services", "ls"),
    ours("swarm", "daemon -d"),
    ours("node", "version"),
];

/// Compose's that Docker itself does not have.
pub(super) const COMPOSE: &[Row] = &[
    ours("compose", "up"),
    ours("convert", "config"),
    ours("watch", "deploy` after each change"),
    ours("viz", "ls -o json"),
    not_there("publish", "a Compose file is deployed from where it is: `carrack deploy -f FILE`"),
    not_there(
        "bridge",
        "a Compose file is not turned into other formats; `carrack deploy --dry-run` shows what it means",
    ),
    not_there("alpha", "what works has a verb; `carrack --help` lists them"),
];
