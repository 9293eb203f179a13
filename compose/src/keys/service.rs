//! `services.*`.

use super::build::BUILD;
use super::deploy::{DEPLOY, DEVICE_REQUEST};
use super::{ANY, Form, Key, Shape, TEXT_SET, TEXTS, key};

/// A service.
pub(crate) const SERVICE: &[Key] = &[
    key("profiles", TEXTS),
    key("annotations", Shape::Labels),
    key("attach", Shape::Bool).keep(),
    key("build", Shape::Short("context", BUILD)),
    key("develop", Shape::MapOrNull(DEVELOP)),
    key("blkio_config", Shape::Map(BLKIO)),
    key("cap_add", TEXTS),
    key("cap_drop", TEXTS),
    key("cgroup_parent", Shape::Text),
    key("cgroup", Shape::Word(&["host", "private"])),
    key("cpu_count", Shape::Int(0, i64::MAX)),
    key("cpu_percent", Shape::Float),
    key("cpu_period", Shape::CpuTime),
    key("cpu_quota", Shape::Number),
    key("cpu_rt_period", Shape::CpuTime),
    key("cpu_rt_runtime", Shape::CpuTime),
    key("cpus", Shape::Float),
    key("cpuset", Shape::Text),
    key("cpu_shares", Shape::Number),
    key("command", Shape::Command).always(),
    key("configs", Shape::List(&Shape::Short("source", FILE_MOUNT))),
    key("container_name", Shape::Form(Form::ContainerName)),
    key("credential_spec", Shape::Map(CREDENTIALS)),
    key("depends_on", Shape::Names(&Shape::Map(DEPENDENCY))),
    key("deploy", Shape::MapOrNull(DEPLOY)),
    key("device_cgroup_rules", TEXT_SET),
    key("devices", Shape::List(&Shape::Syntax(DEVICE))),
    key("dns", Shape::OneOrList(&Shape::Text)),
    key("dns_opt", TEXTS),
    key("dns_search", Shape::OneOrList(&Shape::Text)),
    key("domainname", Shape::Text),
    key("entrypoint", Shape::Command).always(),
    key("provider", Shape::Map(PROVIDER)),
    key("environment", Shape::Variables),
    key("env_file", Shape::OneOrList(&Shape::Short("path", ENV_FILE))),
    key("expose", Shape::List(&Shape::TextOrNumber)),
    key("extends", Shape::Short("service", EXTENDS)),
    key("external_links", TEXT_SET),
    key("extra_hosts", Shape::Hosts),
    key("group_add", Shape::Set(&Shape::TextOrNumber)),
    key("gpus", Shape::Gpus(&Shape::Map(DEVICE_REQUEST))),
    key("hostname", Shape::Text),
    key("healthcheck", Shape::Map(HEALTH)),
    key("image", Shape::Text),
    key("init", Shape::Bool).keep(),
    key("ipc", Shape::Text),
    key("isolation", Shape::Text),
    key("labels", Shape::Labels),
    key("label_file", Shape::OneOrList(&Shape::Text)),
    key("links", TEXTS),
    key("logging", Shape::Map(LOGGING)),
    key("mem_limit", Shape::Size),
    key("mem_reservation", Shape::Size),
    key("memswap_limit", Shape::Size),
    key("mem_swappiness", Shape::Size),
    key("mac_address", Shape::Text),
    key("models", Shape::Names(&Shape::MapOrNull(MODEL_USE))),
    key("network_mode", Shape::Text),
    key("networks", Shape::Names(&Shape::MapOrNull(ATTACHMENT))),
    key("oom_kill_disable", Shape::Bool),
    key("oom_score_adj", Shape::Int(-1000, 1000)),
    key("pid", Shape::Text),
    key("pids_limit", Shape::Number),
    key("platform", Shape::Text),
    key("ports", Shape::List(&Shape::Syntax(PORT))),
    key("privileged", Shape::Bool),
    key("pull_policy", Shape::Form(Form::PullPolicy)),
    key("pull_refresh_after", Shape::Text).unsaid(),
    key("read_only", Shape::Bool),
    key("restart", Shape::Form(Form::Restart)),
    key("runtime", Shape::Text),
    key("scale", ANY).keep(),
    key("secrets", Shape::List(&Shape::Short("source", FILE_MOUNT))),
    key("security_opt", TEXT_SET),
    key("shm_size", Shape::Size),
    key("stdin_open", Shape::Bool),
    key("stop_grace_period", Shape::Duration).keep(),
    key("stop_signal", Shape::Text),
    key("storage_opt", Shape::Options),
    key("sysctls", Shape::Labels),
    key("tmpfs", Shape::OneOrList(&Shape::Text)),
    key("tty", Shape::Bool),
    key("ulimits", Shape::Dict(&Shape::Limit(LIMIT))),
    key("use_api_socket", Shape::Flag),
    key("user", Shape::Text),
    key("userns_mode", Shape::Text),
    key("uts", Shape::Text),
    key("volumes", Shape::List(&Shape::Syntax(MOUNT))),
    key("volumes_from", TEXT_SET),
    key("working_dir", Shape::Text),
    key("pre_start", Shape::List(&Shape::Map(PRE_START))),
    key("post_start", Shape::List(&Shape::Map(HOOK))),
    key("pre_stop", Shape::List(&Shape::Map(HOOK))),
];

const BLKIO: &[Key] = &[
    key("weight", Shape::Int(0, 65_535)),
    key("weight_device", Shape::List(&Shape::Map(BLKIO_WEIGHT))),
    key("device_read_bps", Shape::List(&Shape::Map(BLKIO_RATE))),
    key("device_read_iops", Shape::List(&Shape::Map(BLKIO_RATE))),
    key("device_write_bps", Shape::List(&Shape::Map(BLKIO_RATE))),
    key("device_write_iops", Shape::List(&Shape::Map(BLKIO_RATE))),
];

const BLKIO_WEIGHT: &[Key] =
    &[key("path", Shape::Text).always(), key("weight", Shape::Int(0, 65_535)).always()];

const BLKIO_RATE: &[Key] = &[key("path", Shape::Text).always(), key("rate", Shape::Size).always()];

const CREDENTIALS: &[Key] =
    &[key("config", Shape::Text), key("file", Shape::Text), key("registry", Shape::Text)];

const DEPENDENCY: &[Key] = &[
    key("condition", Shape::Word(&["service_started", "service_healthy", "service_completed_successfully"]))
        .required(),
    key("restart", Shape::Bool),
    key("required", Shape::Bool).always(),
];

const DEVELOP: &[Key] = &[key("watch", Shape::List(&Shape::Map(WATCH)))];

const WATCH: &[Key] = &[
    key("path", Shape::Text).always().required(),
    key("action", Shape::Word(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]))
        .always()
        .required(),
    key("target", Shape::Text),
    key("exec", Shape::Map(HOOK)).always(),
    key("include", Shape::OneOrList(&Shape::Text)),
    key("ignore", Shape::OneOrList(&Shape::Text)),
    key("initial_sync", Shape::Flag),
];

const DEVICE: &[Key] =
    &[key("source", Shape::Text).required(), key("target", Shape::Text), key("permissions", Shape::Text)];

const PROVIDER: &[Key] = &[key("type", Shape::Text).required(), key("options", Shape::MultiOptions)];

const ENV_FILE: &[Key] = &[
    key("path", Shape::Text).required(),
    key("required", Shape::Bool),
    key("format", Shape::Word(&["raw"])),
];

const EXTENDS: &[Key] = &[key("service", Shape::Text).required(), key("file", Shape::Text)];

/// A secret or config of a service.
pub(super) const FILE_MOUNT: &[Key] = &[
    key("source", Shape::Text),
    key("target", Shape::Text),
    key("uid", Shape::Text),
    key("gid", Shape::Text),
    key("mode", Shape::Mode).keep(),
];

const HEALTH: &[Key] = &[
    key("test", Shape::Test),
    key("timeout", Shape::Duration).keep(),
    key("interval", Shape::Duration).keep(),
    key("retries", Shape::Number).keep(),
    key("start_period", Shape::Duration).keep(),
    key("start_interval", Shape::Duration).keep(),
    key("disable", Shape::Bool),
];

const LOGGING: &[Key] = &[key("driver", Shape::Text), key("options", Shape::Options)];

const MODEL_USE: &[Key] = &[key("endpoint_var", Shape::Text), key("model_var", Shape::Text)];

const ATTACHMENT: &[Key] = &[
    key("aliases", TEXTS),
    key("driver_opts", Shape::Options),
    key("gw_priority", Shape::Whole),
    key("interface_name", Shape::Text),
    key("ipv4_address", Shape::Text),
    key("ipv6_address", Shape::Text),
    key("link_local_ips", TEXTS),
    key("mac_address", Shape::Text),
    key("priority", Shape::Whole),
];

const PORT: &[Key] = &[
    key("name", Shape::Text),
    key("mode", Shape::Text),
    key("host_ip", Shape::Form(Form::Address)),
    key("target", Shape::Int(1, 65_535)).required(),
    key("published", Shape::FormOrNumber(Form::Published)),
    key("protocol", Shape::Text),
    key("app_protocol", Shape::Text),
];

/// A pair of limits.
pub(super) const LIMIT: &[Key] = &[key("soft", ANY).required(), key("hard", ANY).required()];

const MOUNT: &[Key] = &[
    key("type", Shape::Word(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])).required(),
    key("source", Shape::Text),
    key("target", Shape::Text),
    key("read_only", Shape::Bool),
    key("consistency", Shape::Text),
    key("bind", Shape::Map(BIND)),
    key("volume", Shape::Map(VOLUME)),
    key("tmpfs", Shape::Map(TMPFS)),
    key("image", Shape::Map(&[key("subpath", Shape::Text)])),
];

const BIND: &[Key] = &[
    key("selinux", Shape::Word(&["z", "Z"])),
    key("propagation", Shape::Text),
    key("create_host_path", Shape::Bool).drop_true(),
    key("recursive", Shape::Word(&["enabled", "disabled", "writable", "readonly"])),
];

const VOLUME: &[Key] =
    &[key("labels", Shape::Labels), key("nocopy", Shape::Bool), key("subpath", Shape::Text)];

const TMPFS: &[Key] = &[key("size", Shape::Size), key("mode", Shape::Number)];

const HOOK: &[Key] = &[
    key("command", Shape::Command).always().required(),
    key("user", Shape::Text),
    key("privileged", Shape::Bool),
    key("working_dir", Shape::Text),
    key("environment", Shape::Variables),
];

const PRE_START: &[Key] = &[
    key("command", Shape::Command).always(),
    key("image", Shape::Text),
    key("user", Shape::Text),
    key("privileged", Shape::Bool),
    key("working_dir", Shape::Text),
    key("environment", Shape::Variables),
    key("per_replica", Shape::Bool),
];
