//! Typed names and ids. Owns their grammar; owns no relation between the things they name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name or id that does not fit its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What kind of name it was meant to be, for example `service name`.
    pub kind: &'static str,
    /// The text as given.
    pub value: String,
    /// The rule it breaks, as a sentence part.
    pub rule: &'static str,
}

/// Longest stack, service, network or volume name in bytes; one DNS label.
pub const NAME_MAX_BYTES: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $type(String);

        impl $type {
            /// Checks the text against the grammar of this name.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(InvalidName { kind: $kind, value: text, rule: $rule }) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_name(text: &str, extra: &[u8]) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_MAX_BYTES
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || extra.contains(b))
}

fn is_long_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 2 * NAME_MAX_BYTES + 1
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(b))
}

name!(
    /// The name of a stack: a Compose project name.
    StackName,
    "stack name",
    "use lower-case letters, digits, `-` and `_`, starting with a letter or digit, at most 63 characters",
    |t| is_name(t, b"-_") && !t.bytes().any(|b| b.is_ascii_uppercase())
);
name!(
    /// The name of a service within its stack.
    ServiceName,
    "service name",
    "use letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 63 characters",
    |t| is_name(t, b".-_")
);
name!(
    /// The name of a network: its key within a stack's file, or its cluster-wide name `STACK_KEY`.
    NetworkName,
    "network name",
    "use letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 127 characters",
    is_long_name
);
name!(
    /// The cluster-wide name of a volume, `STACK_KEY` unless the file names it.
    VolumeName,
    "volume name",
    "use letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 127 characters",
    is_long_name
);
name!(
    /// The cluster-wide name of a secret or config, `STACK_KEY` unless the file names it.
    ContentName,
    "name of a secret or config",
    "use letters, digits, `.`, `-` and `_`, starting with a letter or digit, at most 127 characters",
    is_long_name
);
name!(
    /// A node's identity; made at its first start and kept in its state directory.
    NodeId,
    "node id",
    "a node id is 12 lower-case hexadecimal digits",
    |t| t.len() == 12 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
name!(
    /// A cluster's identity; made at the first start of its scheduler.
    ClusterId,
    "cluster id",
    "a cluster id is 12 lower-case hexadecimal digits",
    |t| t.len() == 12 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

/// A task's id: a number that the scheduler never gives twice, written `t17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, example = "t17")]
pub struct TaskId(pub u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("t{}", self.0))
    }
}

impl FromStr for TaskId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix('t')
            .filter(|digits| {
                digits.bytes().all(|b| b.is_ascii_digit()) && !(digits.len() > 1 && digits.starts_with('0'))
            })
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or(InvalidName { kind: "task id", value: text.into(), rule: "a task id is `t` and a number" })
    }
}

impl Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A service of a stack, written `stack/service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The stack.
    pub stack: StackName,
    /// The service within it.
    pub service: ServiceName,
}

impl ServiceKey {
    /// Joins the two names.
    pub fn new(stack: StackName, service: ServiceName) -> Self {
        Self { stack, service }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.stack, self.service))
    }
}

impl FromStr for ServiceKey {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (stack, service) = text.split_once('/').ok_or(InvalidName {
            kind: "service",
            value: text.into(),
            rule: "write it as stack/service",
        })?;
        Ok(Self { stack: stack.parse()?, service: service.parse()? })
    }
}

impl utoipa::PartialSchema for ServiceKey {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}

impl utoipa::ToSchema for ServiceKey {}

impl Serialize for ServiceKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A slot: the identity of one replica over time, written `stack/service.n`; slots count from 1. Slot 0 is that of a one-off
/// task, which is alone under its name, written `stack/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The service.
    pub service: ServiceKey,
    /// The slot's number, from 1; 0 for a one-off task.
    pub slot: u32,
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            0 => self.service.fmt(f),
            slot => f.pad(&format!("{}.{slot}", self.service)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_accept_what_compose_accepts() {
        for good in ["web", "my_app-2", "0x", "a"] {
            assert!(StackName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Web", "-a", "_a", "a b", "a/b", "ü", &"a".repeat(64)] {
            assert!(StackName::new(bad).is_err(), "{bad}");
        }
        assert!(ServiceName::new("Web.1").is_ok());
    }

    #[test]
    fn a_task_id_is_read_back_as_written() {
        assert_eq!("t17".parse::<TaskId>().unwrap(), TaskId(17));
        assert_eq!(TaskId(17).to_string(), "t17");
        for bad in ["17", "t", "t-1", "t01", "T1", "t18446744073709551616"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_says_the_rule() {
        let error = StackName::new("My App").unwrap_err().to_string();
        assert!(error.contains("\"My App\"") && error.contains("lower-case"), "{error}");
    }
}
