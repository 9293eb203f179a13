//! Keys of the specification that Carrack refuses, each with the reason and what to do instead. A key leaves this table when
//! its feature lands.

use crate::fields::Refused;

const fn later(key: &'static str, why: &'static str) -> Refused {
    Refused { key, why, hint: None }
}

const fn instead(key: &'static str, why: &'static str, hint: &'static str) -> Refused {
    Refused { key, why, hint: Some(hint) }
}

/// At the top of the file.
pub(super) const ROOT: &[Refused] = &[later("models", "models are not built yet")];

/// In a service.
pub(super) const SERVICE: &[Refused] = &[
    later("annotations", "annotations are not built yet"),
    later("blkio_config", "limits on block devices are not built yet"),
    instead("cgroup_parent", "Carrack owns the cgroups of its tasks", "take it away"),
    instead("cpu_count", "is a setting of Windows", "use `cpus`"),
    instead("cpu_percent", "is a setting of Windows", "use `cpus`"),
    later("cpu_rt_period", "realtime scheduling is not built yet"),
    later("cpu_rt_runtime", "realtime scheduling is not built yet"),
    later("credential_spec", "is a setting of Windows"),
    later("device_cgroup_rules", "rules for devices are not built yet"),
    instead("external_links", "links to other stacks are not built yet", "put both on one external network"),
    later("gpus", "GPUs are not built yet"),
    later("mac_address", "fixed MAC addresses are not built yet"),
    later("mem_swappiness", "swappiness of a container is not built yet"),
    later("models", "models are not built yet"),
    instead("oom_kill_disable", "a container without memory would hang", "raise its memory limit"),
    later("post_start", "lifecycle hooks are not built yet"),
    later("pre_start", "lifecycle hooks are not built yet"),
    later("pre_stop", "lifecycle hooks are not built yet"),
    later("provider", "providers are not built yet"),
    later("storage_opt", "limits on the writable layer are not built yet"),
    instead("use_api_socket", "there is no Docker API socket", "take it away"),
    instead("volumes_from", "is not built yet", "name the same volumes in both services"),
];

/// In `deploy`.
pub(super) const DEPLOY: &[Refused] =
    &[instead("rollback_config", "an own pace for rollbacks is not built yet", "take it away")];

/// In `deploy.resources.limits` and `.reservations`.
pub(super) const RESOURCES: &[Refused] = &[
    later("devices", "reserving devices is not built yet"),
    later("generic_resources", "generic resources are not built yet"),
];

/// In a network of a service.
pub(super) const ATTACHMENT: &[Refused] = &[
    instead("ipv4_address", "fixed addresses are not built yet", "use the service's name"),
    instead("ipv6_address", "fixed addresses are not built yet", "use the service's name"),
    later("link_local_ips", "link-local addresses are not built yet"),
    later("mac_address", "fixed MAC addresses are not built yet"),
    later("interface_name", "names of interfaces are not built yet"),
    later("driver_opts", "options of a network's driver are not built yet"),
];
