//! `deploy`, and requests for devices.

use super::{ANY, Key, Shape, TEXT_SET, TEXTS, key};

/// A count that begins at zero.
const NATURAL: Shape = Shape::Int(0, i64::MAX);

pub(super) const DEPLOY: &[Key] = &[
    key("mode", Shape::Text),
    key("replicas", ANY).keep(),
    key("labels", Shape::Labels),
    key("update_config", Shape::Map(UPDATE)),
    key("rollback_config", Shape::Map(UPDATE)),
    key("resources", Shape::Map(RESOURCES)).always(),
    key("restart_policy", Shape::Map(RESTART)),
    key("placement", Shape::Map(PLACEMENT)).always(),
    key("endpoint_mode", Shape::Text),
];

const UPDATE: &[Key] = &[
    key("parallelism", NATURAL).keep(),
    key("delay", Shape::Duration),
    key("failure_action", Shape::Text),
    key("monitor", Shape::Duration),
    key("max_failure_ratio", Shape::Float),
    key("order", Shape::Word(&["start-first", "stop-first"])),
];

const RESOURCES: &[Key] = &[key("limits", Shape::Map(LIMITS)), key("reservations", Shape::Map(RESERVATIONS))];

const LIMITS: &[Key] = &[key("cpus", Shape::Float), key("memory", Shape::Memory), key("pids", ANY)];

const RESERVATIONS: &[Key] = &[
    key("cpus", Shape::Float),
    key("memory", Shape::Memory),
    key("generic_resources", Shape::List(&Shape::Map(GENERIC))),
    key("devices", Shape::List(&Shape::Map(DEVICE_NEEDED))),
];

const GENERIC: &[Key] = &[key("discrete_resource_spec", Shape::Map(DISCRETE))];

const DISCRETE: &[Key] = &[key("kind", Shape::Text).always(), key("value", Shape::Number).always()];

const DEVICE_NEEDED: &[Key] = &[
    key("capabilities", TEXT_SET).required(),
    key("driver", Shape::Text),
    key("count", Shape::Count),
    key("device_ids", TEXT_SET),
    key("options", Shape::Labels),
];

/// An element of `gpus`.
pub(super) const DEVICE_REQUEST: &[Key] = &[
    key("capabilities", TEXT_SET),
    key("driver", Shape::Text),
    key("count", Shape::Count),
    key("device_ids", TEXT_SET),
    key("options", Shape::Labels),
];

const RESTART: &[Key] = &[
    key("condition", Shape::Text),
    key("delay", Shape::Duration).keep(),
    key("max_attempts", NATURAL).keep(),
    key("window", Shape::Duration).keep(),
];

const PLACEMENT: &[Key] = &[
    key("constraints", TEXTS),
    key("preferences", Shape::List(&Shape::Map(&[key("spread", Shape::Text)]))),
    key("max_replicas_per_node", NATURAL),
];
