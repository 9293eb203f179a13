//! Secrets and configs: content that is kept under a name, and the files that containers see of it.
//!
//! A spec holds names and digests, never content: content travels beside it, in [`Content`], which prints nothing of what it
//! holds and wipes it from memory at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::base64;
use crate::id::{ContentName, ServiceKey, StackName};
use crate::units::{Bytes, Timestamp};

/// Largest content of one secret or config, bytes; Docker's limit for secrets.
pub const CONTENT_MAX_BYTES: usize = 500 << 10;
/// Secrets and configs that one stack has.
pub const CONTENTS_MAX: usize = 50;
/// Content of all secrets and configs that one stack brings, bytes.
pub const CONTENTS_MAX_BYTES: usize = 2 << 20;
/// Permission bits of a file that says none, as in Docker.
pub const CONTENT_FILE_MODE: u32 = 0o444;
/// Where a secret is when its file says no other place.
pub const SECRETS_DIR: &str = "/run/secrets";

/// What is kept.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// Encrypted wherever it rests, and shown to nobody but the containers it is for.
    #[default]
    Secret,
    /// Anything that is not secret.
    Config,
}

impl ContentKind {
    /// `secrets` or `configs`: the key of a file and the part of a path.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }
}

impl fmt::Display for ContentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Secret => "secret",
            Self::Config => "config",
        })
    }
}

/// A secret or config of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContentSpec {
    /// Made by command or by another stack; this one brings no content.
    pub external: bool,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A secret or config as a file of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentFile {
    /// Which of the two.
    pub kind: ContentKind,
    /// Its cluster-wide name; the stack has it under `secrets` or `configs`.
    pub name: ContentName,
    /// Absolute path in the container.
    pub target: String,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
    /// Permission bits.
    #[serde(default = "file_mode")]
    pub mode: u32,
    /// What the name stood for at the deploy; empty before that. Of a secret it is keyed: nobody can try contents on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

fn file_mode() -> u32 {
    CONTENT_FILE_MODE
}

/// The bytes of a secret or config; base64 in JSON. Never printed, wiped when the last clone goes. Clones are cheap.
#[derive(Clone, Default, ToSchema)]
#[schema(value_type = String, format = Byte)]
pub struct Content(Arc<Zeroizing<Vec<u8>>>);

impl Content {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// The bytes, for whoever puts them where they belong.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Content {}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes, not shown)", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(base64::encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // Without the text: an error may be logged.
        let bytes = base64::decode(&text).ok_or_else(|| serde::de::Error::custom("content is not base64"))?;
        Ok(Self::new(bytes))
    }
}

/// Content that a deploy brings, by cluster-wide name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Contents {
    /// Of secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub secrets: BTreeMap<ContentName, Content>,
    /// Of configs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub configs: BTreeMap<ContentName, Content>,
}

impl Contents {
    /// Those of one kind.
    pub fn of(&self, kind: ContentKind) -> &BTreeMap<ContentName, Content> {
        match kind {
            ContentKind::Secret => &self.secrets,
            ContentKind::Config => &self.configs,
        }
    }

    /// Those of one kind, to add to them.
    pub fn of_mut(&mut self, kind: ContentKind) -> &mut BTreeMap<ContentName, Content> {
        match kind {
            ContentKind::Secret => &mut self.secrets,
            ContentKind::Config => &mut self.configs,
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.configs.is_empty()
    }
}

/// `PUT /v1/secrets/{name}` and `PUT /v1/configs/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PutContent {
    /// The content.
    pub content: Content,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Takes the place of another content under that name; stacks that use it take it with their next deploy.
    pub replace: bool,
}

/// A secret or config as users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentStatus {
    /// Which of the two.
    pub kind: ContentKind,
    /// Its name in the whole cluster.
    pub name: ContentName,
    /// What it stands for now.
    pub digest: String,
    /// How much that is.
    pub size: Bytes,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The stack that brings it and takes it away; `None` for one made by command.
    #[schema(value_type = Option<String>)]
    pub stack: Option<StackName>,
    /// When this content was brought.
    pub created_at: Timestamp,
    /// Services whose definition in force has it.
    #[schema(value_type = BTreeSet<String>)]
    pub used_by: BTreeSet<ServiceKey>,
    /// The content of a config that is text, when one config is asked for. Secrets are never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_carried_whole_and_never_printed() {
        let content = Content::new(b"canary\0\xff".to_vec());
        let json = serde_json::to_string(&content).unwrap();
        assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content);
        let contents = Contents {
            secrets: BTreeMap::from([("s".parse().unwrap(), content.clone())]),
            ..Contents::default()
        };
        for text in [
            format!("{content:?}"),
            format!("{contents:#?}"),
            format!("{:?}", PutContent { content, ..PutContent::default() }),
        ] {
            assert!(!text.contains("canary") && !text.contains("99"), "{text}");
            assert!(text.contains("8 bytes"), "{text}");
        }
        let error = serde_json::from_str::<Content>("\"canary!\"").unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
