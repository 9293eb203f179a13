//! The file itself, and what stands at its top beside services.

use super::{Key, Shape, TEXTS, key};

/// A whole file.
pub(crate) const ROOT: &[Key] = &[
    key("version", Shape::Text),
    key("name", Shape::Text),
    key("include", Shape::List(&Shape::Short("path", INCLUDE))),
    key("services", Shape::Dict(&Shape::Map(super::SERVICE))),
    key("networks", Shape::Dict(&Shape::MapOrNull(NETWORK))),
    key("volumes", Shape::Dict(&Shape::MapOrNull(VOLUME))),
    key("secrets", Shape::Dict(&Shape::Map(SECRET))),
    key("configs", Shape::Dict(&Shape::Map(CONFIG))),
    key("models", Shape::Dict(&Shape::Map(MODEL))).unsaid(),
];

const INCLUDE: &[Key] = &[
    key("path", Shape::OneOrList(&Shape::Text)),
    key("env_file", Shape::OneOrList(&Shape::Text)),
    key("project_directory", Shape::Text),
];

const NETWORK: &[Key] = &[
    key("name", Shape::Text),
    key("driver", Shape::Text),
    key("driver_opts", Shape::Options),
    key("ipam", Shape::Map(IPAM)).always(),
    key("external", Shape::External),
    key("internal", Shape::Bool),
    key("attachable", Shape::Bool),
    key("labels", Shape::Labels),
    key("enable_ipv4", Shape::Bool).keep(),
    key("enable_ipv6", Shape::Bool).keep(),
];

const IPAM: &[Key] = &[
    key("driver", Shape::Text),
    key("config", Shape::List(&Shape::Map(POOL))),
    key("options", Shape::Options),
];

const POOL: &[Key] = &[
    key("subnet", Shape::Text),
    key("gateway", Shape::Text),
    key("ip_range", Shape::Text),
    key("aux_addresses", Shape::Options),
];

const VOLUME: &[Key] = &[
    key("name", Shape::Text),
    key("driver", Shape::Text),
    key("driver_opts", Shape::Options),
    key("external", Shape::External),
    key("labels", Shape::Labels),
];

const SECRET: &[Key] = &[
    key("name", Shape::Text),
    key("file", Shape::Text),
    key("environment", Shape::Text),
    key("external", Shape::External),
    key("labels", Shape::Labels),
    key("driver", Shape::Text),
    key("driver_opts", Shape::Options),
    key("template_driver", Shape::Text),
];

const CONFIG: &[Key] = &[
    key("name", Shape::Text),
    key("file", Shape::Text),
    key("environment", Shape::Text),
    key("content", Shape::Text),
    key("external", Shape::External),
    key("labels", Shape::Labels),
    key("template_driver", Shape::Text),
];

const MODEL: &[Key] = &[
    key("name", Shape::Text),
    key("model", Shape::Text).required(),
    key("context_size", Shape::Whole),
    key("runtime_flags", TEXTS),
];
