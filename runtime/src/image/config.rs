//! The image config: what an image says about running it, parsed with bounds. Pure.
//!
//! Nothing here is trusted: lengths and counts are bounded, labels in our namespace are dropped,
//! and paths and users are only carried, never resolved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Largest config document, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;
/// Most layers of one image: overlayfs allows 500 lower directories.
pub const MAX_LAYERS: usize = 500;
/// Most entries of one list or map of the config.
const MAX_LIST: usize = 4096;
/// Longest single text of the config, in bytes: the kernel's limit on one argument.
const MAX_TEXT: usize = 128 * 1024;
/// Labels below this prefix are ours; an image cannot set them.
const RESERVED_LABELS: &str = "carrack.";

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The entrypoint; empty when not set.
    pub entrypoint: Vec<String>,
    /// The default command, or the arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs in the image's order.
    pub env: Vec<String>,
    /// `user[:group]`, by name or number; empty means root.
    pub user: String,
    /// The working directory; empty means `/`. Not validated against the root filesystem.
    pub working_dir: String,
    /// The signal that asks the process to stop, as written.
    pub stop_signal: Option<String>,
    /// Paths declared as volumes.
    pub volumes: Vec<String>,
    /// Ports such as `80/tcp`, in order.
    pub exposed_ports: Vec<String>,
    /// Docker's health check.
    pub healthcheck: Option<Healthcheck>,
    /// Labels without those in our namespace.
    pub labels: BTreeMap<String, String>,
    /// The operating system, `linux`.
    pub os: String,
    /// The architecture in Go's naming, such as `amd64`.
    pub architecture: String,
    /// The architecture's variant, such as `v8`.
    pub variant: Option<String>,
}

/// A health check as images declare it (Docker's extension).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args...]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Time between checks, in nanoseconds; 0 means inherit.
    pub interval_ns: u64,
    /// Time one check may take, in nanoseconds; 0 means inherit.
    pub timeout_ns: u64,
    /// Time after the start in which failures do not count, in nanoseconds.
    pub start_period_ns: u64,
    /// Time between checks during the start period, in nanoseconds.
    pub start_interval_ns: u64,
    /// Failures in a row that mean unhealthy; 0 means inherit.
    pub retries: u32,
}

/// A platform as images name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The architecture in Go's naming.
    pub architecture: String,
    /// The architecture's variant.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for `offered` runs here. An absent variant of arm64 means v8.
    pub fn accepts(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let variant = variant.filter(|text| !text.is_empty());
        os == self.os
            && architecture == self.architecture
            && (variant.is_none() || variant == self.variant.as_deref() || variant == Some("v1"))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The parts of a config document that a store needs.
#[derive(Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Parses an OCI or Docker config document; the error says what is wrong.
pub(crate) fn parse(document: &[u8]) -> Result<ParsedConfig, String> {
    let raw: RawConfig = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    let diff_ids = raw.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
    if diff_ids.len() > MAX_LAYERS {
        return Err(format!("{} layers, more than the {MAX_LAYERS} that overlayfs allows", diff_ids.len()));
    }
    let run = raw.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: bounded("Entrypoint", run.entrypoint)?,
        cmd: bounded("Cmd", run.cmd)?,
        env: bounded("Env", run.env)?,
        user: text("User", run.user)?,
        working_dir: text("WorkingDir", run.working_dir)?,
        stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
        volumes: bounded("Volumes", run.volumes.map(keys))?,
        exposed_ports: bounded("ExposedPorts", run.exposed_ports.map(keys))?,
        healthcheck: run.healthcheck.map(healthcheck).transpose()?,
        labels: labels(run.labels.unwrap_or_default())?,
        os: text("os", raw.os)?,
        architecture: text("architecture", raw.architecture)?,
        variant: raw.variant.filter(|variant| !variant.is_empty()),
    };
    if let Some(entry) = config.env.iter().find(|entry| entry.find('=').unwrap_or(0) == 0) {
        return Err(format!("Env has '{}', which is not NAME=value", entry.escape_debug()));
    }
    Ok(ParsedConfig { config, diff_ids })
}

fn keys(map: BTreeMap<String, serde::de::IgnoredAny>) -> Vec<String> {
    map.into_keys().collect()
}

fn text(field: &str, value: Option<String>) -> Result<String, String> {
    let value = value.unwrap_or_default();
    if value.len() > MAX_TEXT {
        return Err(format!("{field} is longer than {MAX_TEXT} bytes"));
    }
    if value.contains('\0') {
        return Err(format!("{field} holds a zero byte"));
    }
    Ok(value)
}

fn bounded(field: &str, list: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let list = list.unwrap_or_default();
    if list.len() > MAX_LIST {
        return Err(format!("{field} has more than {MAX_LIST} entries"));
    }
    list.into_iter().map(|value| text(field, Some(value))).collect()
}

fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if labels.len() > MAX_LIST {
        return Err(format!("Labels has more than {MAX_LIST} entries"));
    }
    let labels: BTreeMap<_, _> =
        labels.into_iter().filter(|(name, _)| !name.starts_with(RESERVED_LABELS)).collect();
    for (name, value) in &labels {
        if name.len() > MAX_TEXT || value.len() > MAX_TEXT {
            return Err(format!("a label is longer than {MAX_TEXT} bytes"));
        }
    }
    Ok(labels)
}

fn healthcheck(raw: RawHealthcheck) -> Result<Healthcheck, String> {
    let nanoseconds = |field: &str, value: Option<i64>| {
        u64::try_from(value.unwrap_or(0)).map_err(|_| format!("Healthcheck.{field} is negative"))
    };
    Ok(Healthcheck {
        test: bounded("Healthcheck.Test", raw.test)?,
        interval_ns: nanoseconds("Interval", raw.interval)?,
        timeout_ns: nanoseconds("Timeout", raw.timeout)?,
        start_period_ns: nanoseconds("StartPeriod", raw.start_period)?,
        start_interval_ns: nanoseconds("StartInterval", raw.start_interval)?,
        retries: u32::try_from(raw.retries.unwrap_or(0))
            .map_err(|_| "Healthcheck.Retries is out of range".to_owned())?,
    })
}

#[derive(Deserialize)]
struct RawConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    healthcheck: Option<RawHealthcheck>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_config_is_read_with_all_its_fields() {
        let document = br#"{"architecture":"amd64","os":"linux","config":{
            "Entrypoint":["/init"],"Cmd":["a"],"Env":["A=b=c"],"User":"1000:staff","WorkingDir":"/w",
            "StopSignal":"SIGQUIT","Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},
            "Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":3},
            "Labels":{"a":"b","carrack.owner":"evil"}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[]}"#;
        let config = parse(document).unwrap().config;
        assert_eq!(config.entrypoint, ["/init"]);
        assert_eq!(config.env, ["A=b=c"]);
        assert_eq!(config.user, "1000:staff");
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval_ns, check.retries), (5_000_000_000, 3));
        assert_eq!(config.labels.keys().collect::<Vec<_>>(), ["a"], "labels in our namespace are dropped");
    }

    #[test]
    fn nulls_and_absent_fields_mean_not_set() {
        let config = parse(br#"{"config":{"Cmd":null,"Labels":null,"Volumes":null}}"#).unwrap().config;
        assert_eq!(config, ImageConfig::default());
        assert_eq!(parse(b"{}").unwrap().config, ImageConfig::default());
    }

    #[test]
    fn malformed_documents_are_refused() {
        for bad in [
            "",
            "[",
            r#"{"config":{"Cmd":"x"}}"#,
            r#"{"config":{"Env":["NOEQUALS"]}}"#,
            r#"{"config":{"Env":["=x"]}}"#,
            r#"{"config":{"User":"a\u0000b"}}"#,
            r#"{"config":{"Healthcheck":{"Interval":-1}}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_platform_accepts_its_own_variant_and_none() {
        let arm = Platform { os: "linux".into(), architecture: "arm64".into(), variant: Some("v8".into()) };
        assert!(arm.accepts("linux", "arm64", None));
        assert!(arm.accepts("linux", "arm64", Some("v8")));
        assert!(!arm.accepts("linux", "arm", Some("v7")));
        assert!(!arm.accepts("linux", "arm64", Some("v9")));
        assert!(!arm.accepts("windows", "arm64", None));
    }
}
