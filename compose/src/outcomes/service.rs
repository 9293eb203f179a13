//! Keys of a service: what runs, as whom, when it starts and ends, and what it is told.

use super::{Key, anyway, exact, later, mapped, never, place};

const HOOKS: &str = "containers that run before a task starts are not built yet";
const HOOKS_HINT: &str =
    "do it in the entrypoint, or in a service that others wait for (service_completed_successfully)";
const WINDOWS: &str = "is a setting of Windows";
const DEVELOP: &str = "is for development with Docker Compose and means nothing here";
const KEPT: &str = "Carrack keeps the last 50 MB of each task itself";
const MODELS: &str = "models are not built yet";
const MODELS_HINT: &str = "run a server of models as a service, and give its address in `environment`";
const PROVIDERS: &str = "providers are not built yet";
const PROVIDERS_HINT: &str = "run it yourself, and give the service its address in `environment`";

pub(super) const KEYS: &[Key] = &[
    exact("services", "services: {s: {image: i}, t: {image: i}}"),
    exact("services.image", "image: nginx:1"),
    exact("services.pull_policy", "pull_policy: always"),
    mapped("services.pull_policy", "pull_policy: refresh", "without pull_refresh_after it means every day")
        .of("refresh, alone"),
    mapped(
        "services.pull_policy",
        "pull_policy: build",
        "`carrack deploy --build` builds it; without, the image built last is used",
    )
    .of("build"),
    exact("services.pull_refresh_after", "{pull_policy: refresh, pull_refresh_after: 12h}"),
    mapped(
        "services.pull_refresh_after",
        "pull_refresh_after: 12h",
        "has a meaning only with `pull_policy: refresh`",
    )
    .of("without refresh"),
    exact("services.platform", "platform: linux/arm64"),
    never(
        "services.platform",
        "platform: windows/amd64",
        "only Linux containers are run",
        "use a Linux image",
    )
    .of("others than Linux"),
    exact("services.command", "command: [a, b]"),
    exact("services.entrypoint", "entrypoint: [a]"),
    exact("services.environment", "environment: {A: b}"),
    place("services.env_file"),
    exact("services.env_file.path", "env_file: a.env"),
    exact("services.env_file.required", "env_file: [{path: none.env, required: false}]"),
    exact("services.env_file.format", "env_file: [{path: a.env, format: raw}]"),
    exact("services.labels", "labels: {a: b}"),
    exact("services.label_file", "label_file: a.env"),
    mapped("services.annotations", "annotations: {a: b}", "no other runtime is there to read them"),
    exact("services.user", "user: '33'"),
    exact("services.group_add", "group_add: [mail]"),
    exact("services.working_dir", "working_dir: /srv"),
    exact("services.hostname", "hostname: h"),
    exact("services.domainname", "domainname: d"),
    exact("services.init", "init: false"),
    exact("services.tty", "tty: true"),
    exact("services.stdin_open", "stdin_open: true"),
    exact("services.stop_signal", "stop_signal: SIGINT"),
    exact("services.stop_grace_period", "stop_grace_period: 1m"),
    exact("services.restart", "restart: always"),
    mapped(
        "services.restart",
        "{restart: always, deploy: {restart_policy: {condition: none}}}",
        "`deploy.restart_policy` says it and wins",
    )
    .of("beside deploy.restart_policy"),
    place("services.healthcheck"),
    exact("services.healthcheck.test", "healthcheck: {test: a}"),
    exact("services.healthcheck.disable", "healthcheck: {disable: true}"),
    exact("services.healthcheck.interval", "healthcheck: {test: a, interval: 1h}"),
    exact("services.healthcheck.timeout", "healthcheck: {test: a, timeout: 1h}"),
    exact("services.healthcheck.retries", "healthcheck: {test: a, retries: 9}"),
    exact("services.healthcheck.start_period", "healthcheck: {test: a, start_period: 1h}"),
    exact("services.healthcheck.start_interval", "healthcheck: {test: a, start_interval: 1h}"),
    exact("services.profiles", "profiles: [p]"),
    exact("services.extends", "extends: {service: t}"),
    exact("services.extends.service", "extends: {service: t}"),
    exact("services.extends.file", "extends: {file: other.yaml, service: o}"),
    mapped(
        "services.container_name",
        "container_name: boss",
        "is a further name of the service on its networks",
    ),
    mapped(
        "services.container_name",
        "{container_name: boss, network_mode: host}",
        "names nothing without a network of its own",
    )
    .of("without a network"),
    mapped("services.attach", "attach: false", "`carrack up` shows the logs of all services"),
    mapped("services.develop", "develop: {watch: []}", DEVELOP),
    mapped("services.develop.*", "develop: {watch: [{path: a, action: rebuild}]}", DEVELOP),
    place("services.logging"),
    mapped(
        "services.logging.driver",
        "logging: {driver: json-file}",
        "Carrack keeps the output of every task itself",
    ),
    later(
        "services.logging.driver",
        "logging: {driver: syslog}",
        "sending logs to {} is not built yet",
        "take it away and read `carrack logs`",
    )
    .of("drivers that send")
    .cosmetic(),
    mapped("services.logging.options", "logging: {options: {max-size: 10m}}", KEPT),
    mapped("services.runtime", "runtime: runc", "Carrack runs containers itself"),
    never(
        "services.runtime",
        "runtime: kata",
        "there is no runtime {:?}",
        "leave it out: Carrack runs containers itself",
    )
    .of("others than runc, crun and youki"),
    later("services.pre_start", "pre_start: [{command: x}]", HOOKS, HOOKS_HINT),
    later("services.pre_start.*", "pre_start: [{command: x}]", HOOKS, HOOKS_HINT),
    place("services.post_start"),
    exact("services.post_start.command", "post_start: [{command: x}]"),
    exact("services.post_start.user", "post_start: [{command: x, user: '7'}]"),
    exact("services.post_start.privileged", "post_start: [{command: x, privileged: true}]"),
    exact("services.post_start.working_dir", "post_start: [{command: x, working_dir: /tmp}]"),
    exact("services.post_start.environment", "post_start: [{command: x, environment: {A: b}}]"),
    place("services.pre_stop"),
    exact("services.pre_stop.command", "pre_stop: [{command: x}]"),
    exact("services.pre_stop.user", "pre_stop: [{command: x, user: '7'}]"),
    exact("services.pre_stop.privileged", "pre_stop: [{command: x, privileged: true}]"),
    exact("services.pre_stop.working_dir", "pre_stop: [{command: x, working_dir: /tmp}]"),
    exact("services.pre_stop.environment", "pre_stop: [{command: x, environment: {A: b}}]"),
    later("services.provider", "provider: {type: x}", PROVIDERS, PROVIDERS_HINT),
    later("services.provider.*", "provider: {type: x}", PROVIDERS, PROVIDERS_HINT),
    later("services.models", "models: [m]", MODELS, MODELS_HINT),
    later("services.models.*", "models: {m: {model_var: M}}", MODELS, MODELS_HINT),
    never("services.use_api_socket", "use_api_socket: true", "there is no Docker API socket", "take it away"),
    never("services.credential_spec", "credential_spec: {file: x}", WINDOWS, "take it away").cosmetic(),
    never("services.credential_spec.*", "credential_spec: {file: x}", WINDOWS, "take it away").cosmetic(),
    anyway("services.isolation", "isolation: default").of("default"),
    never("services.isolation", "isolation: hyperv", WINDOWS, "take it away")
        .of("others than default")
        .cosmetic(),
    never("services.cpu_count", "cpu_count: 2", WINDOWS, "use `cpus`").cosmetic(),
    never("services.cpu_percent", "cpu_percent: 50", WINDOWS, "use `cpus`").cosmetic(),
];
