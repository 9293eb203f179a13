//! `build`.

use super::{Key, Shape, TEXTS, key};

pub(super) const BUILD: &[Key] = &[
    key("context", Shape::Text),
    key("dockerfile", Shape::Text),
    key("dockerfile_inline", Shape::Text),
    key("entitlements", TEXTS),
    key("args", Shape::Variables),
    key("provenance", Shape::TextOrBool),
    key("sbom", Shape::TextOrBool),
    key("ssh", Shape::Ssh),
    key("labels", Shape::Labels),
    key("cache_from", TEXTS),
    key("cache_to", TEXTS),
    key("no_cache", Shape::Bool),
    key("no_cache_filter", Shape::OneOrList(&Shape::Text)),
    key("additional_contexts", Shape::Labels),
    key("pull", Shape::Bool),
    key("extra_hosts", Shape::Hosts),
    key("isolation", Shape::Text),
    key("network", Shape::Text),
    key("target", Shape::Text),
    key("secrets", Shape::List(&Shape::Short("source", super::service::FILE_MOUNT))),
    key("shm_size", Shape::Size),
    key("tags", TEXTS),
    key("ulimits", Shape::Dict(&Shape::Limit(super::service::LIMIT))),
    key("platforms", TEXTS),
    key("privileged", Shape::Bool),
];
