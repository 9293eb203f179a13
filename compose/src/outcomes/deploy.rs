//! Keys of a service: how many, where, and how they are replaced.

use super::{Key, anyway, exact, later, mapped, place};

const DEVICES: &str = "reserving devices is not built yet";
const DEVICES_HINT: &str =
    "name the device nodes in `devices`, and keep tasks on nodes that have them with a constraint";
const GENERIC: &str = "resources of other kinds are not built yet";
const GENERIC_HINT: &str = "give nodes a label and use `placement.constraints`";
const GENERIC_EXAMPLE: &str = "deploy: {resources: {reservations: \
    {generic_resources: [{discrete_resource_spec: {kind: a, value: 1}}]}}}";
const DEVICES_EXAMPLE: &str = "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}";
const PACE: &str = "a rollback goes at the pace of `update_config`";
const SPREAD: &str = "tasks are spread over all nodes that fit, without preferences";

pub(super) const KEYS: &[Key] = &[
    exact("services.scale", "scale: 2"),
    place("services.deploy"),
    exact("services.deploy.mode", "deploy: {mode: global}"),
    later(
        "services.deploy.mode",
        "deploy: {mode: replicated-job}",
        "jobs are not built yet",
        "a service that ends with exit code 0 is completed and not started again",
    )
    .of("replicated-job, global-job"),
    exact("services.deploy.replicas", "deploy: {replicas: 2}"),
    exact("services.deploy.labels", "deploy: {labels: {a: b}}"),
    anyway("services.deploy.endpoint_mode", "deploy: {endpoint_mode: vip}").of("vip"),
    mapped(
        "services.deploy.endpoint_mode",
        "deploy: {endpoint_mode: dnsrr}",
        "the name leads to one virtual address; `tasks.NAME` lists all tasks",
    )
    .of("dnsrr"),
    place("services.deploy.resources"),
    place("services.deploy.resources.limits"),
    exact("services.deploy.resources.limits.cpus", "deploy: {resources: {limits: {cpus: '0.5'}}}"),
    exact("services.deploy.resources.limits.memory", "deploy: {resources: {limits: {memory: 64m}}}"),
    exact("services.deploy.resources.limits.pids", "deploy: {resources: {limits: {pids: 50}}}"),
    place("services.deploy.resources.reservations"),
    exact(
        "services.deploy.resources.reservations.cpus",
        "deploy: {resources: {reservations: {cpus: '0.5'}}}",
    ),
    exact(
        "services.deploy.resources.reservations.memory",
        "deploy: {resources: {reservations: {memory: 32m}}}",
    ),
    later("services.deploy.resources.reservations.devices", DEVICES_EXAMPLE, DEVICES, DEVICES_HINT),
    later("services.deploy.resources.reservations.devices.*", DEVICES_EXAMPLE, DEVICES, DEVICES_HINT),
    later("services.deploy.resources.reservations.generic_resources", GENERIC_EXAMPLE, GENERIC, GENERIC_HINT),
    later(
        "services.deploy.resources.reservations.generic_resources.*",
        GENERIC_EXAMPLE,
        GENERIC,
        GENERIC_HINT,
    ),
    place("services.deploy.restart_policy"),
    exact("services.deploy.restart_policy.condition", "deploy: {restart_policy: {condition: none}}"),
    exact("services.deploy.restart_policy.delay", "deploy: {restart_policy: {delay: 5s}}"),
    exact("services.deploy.restart_policy.max_attempts", "deploy: {restart_policy: {max_attempts: 2}}"),
    mapped(
        "services.deploy.restart_policy.window",
        "deploy: {restart_policy: {window: 5s}}",
        "a run that is healthy for 60 s starts the count anew, whatever is written here",
    ),
    place("services.deploy.placement"),
    exact(
        "services.deploy.placement.constraints",
        "deploy: {placement: {constraints: [node.hostname == a]}}",
    ),
    exact(
        "services.deploy.placement.max_replicas_per_node",
        "deploy: {placement: {max_replicas_per_node: 1}}",
    ),
    mapped(
        "services.deploy.placement.preferences",
        "deploy: {placement: {preferences: [{spread: node.labels.zone}]}}",
        SPREAD,
    ),
    mapped(
        "services.deploy.placement.preferences.*",
        "deploy: {placement: {preferences: [{spread: node.labels.zone}]}}",
        SPREAD,
    ),
    place("services.deploy.update_config"),
    exact("services.deploy.update_config.order", "deploy: {update_config: {order: stop-first}}"),
    exact("services.deploy.update_config.parallelism", "deploy: {update_config: {parallelism: 2}}"),
    exact("services.deploy.update_config.delay", "deploy: {update_config: {delay: 10s}}"),
    exact("services.deploy.update_config.monitor", "deploy: {update_config: {monitor: 10s}}"),
    anyway(
        "services.deploy.update_config.failure_action",
        "deploy: {update_config: {failure_action: rollback}}",
    )
    .of("rollback"),
    later(
        "services.deploy.update_config.failure_action",
        "deploy: {update_config: {failure_action: pause}}",
        "a rollout that fails is rolled back; {} is not built yet",
        "use rollback, or leave it out",
    )
    .of("pause, continue"),
    anyway(
        "services.deploy.update_config.max_failure_ratio",
        "deploy: {update_config: {max_failure_ratio: 0}}",
    )
    .of("0"),
    later(
        "services.deploy.update_config.max_failure_ratio",
        "deploy: {update_config: {max_failure_ratio: 0.3}}",
        "tolerating failures in a rollout is not built yet",
        "leave it out",
    )
    .of("others"),
    later("services.deploy.rollback_config", "deploy: {rollback_config: {delay: 1s}}", PACE, "take it away")
        .cosmetic(),
    later(
        "services.deploy.rollback_config.*",
        "deploy: {rollback_config: {delay: 1s}}",
        PACE,
        "take it away",
    )
    .cosmetic(),
];
