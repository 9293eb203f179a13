//! Image references as people write them, normalised as Docker does. Pure.
//!
//! `nginx` means `docker.io/library/nginx:latest`; the first component is a registry only when it
//! has a dot or a colon or is `localhost`. A digest wins over a tag when both are given. What may be written is said by
//! [`ImageName`], which also refuses a stack with another name.

use std::fmt;
use std::str::FromStr;

use carrack_api::image::{BAD_DIGEST, ImageName, OFFICIAL};
use serde::{Deserialize, Serialize};

use super::digest::Digest;

pub use carrack_api::image::DEFAULT_REGISTRY;
/// The tag meant when neither tag nor digest is written.
pub const DEFAULT_TAG: &str = "latest";

/// A complete image reference: registry, repository, and a tag, a digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an image reference: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl ImageReference {
    /// Parses and normalises a reference as Docker does.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(300).collect(), reason })
    }

    /// The registry, `docker.io` by default; may carry a port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent only when a digest is given without one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository pinned to `digest`; the tag is kept for people.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// `registry/repository:tag` without the digest; `None` when there is no tag.
    pub fn tagged(&self) -> Option<Self> {
        self.tag.as_ref()?;
        Some(Self { digest: None, ..self.clone() })
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What the registry is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The short form that people write: `nginx:latest`, `user/app:1`, `localhost:5000/app:1`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

fn parse(text: &str) -> Result<ImageReference, &'static str> {
    let ImageName { registry, repository, tag, digest } = ImageName::parse(text)?;
    let digest = digest.map(str::parse).transpose().map_err(|_| BAD_DIGEST)?;
    let repository = match (registry, repository.contains('/')) {
        (DEFAULT_REGISTRY, false) => format!("{OFFICIAL}/{repository}"),
        _ => repository.to_owned(),
    };
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageReference { registry: registry.to_owned(), repository, tag, digest })
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (text, full, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1"),
            ("ghcr.io/x/y__z/a--b:T_1", "ghcr.io/x/y__z/a--b:T_1", "ghcr.io/x/y__z/a--b:T_1"),
        ] {
            let reference = ImageReference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(ImageReference::parse(full).unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_wins_over_one() {
        let pinned = ImageReference::parse(&format!("nginx@{DIGEST}")).unwrap();
        assert_eq!((pinned.tag(), pinned.selector().as_str()), (None, DIGEST));
        assert_eq!(pinned.tagged(), None);
        let both = ImageReference::parse(&format!("nginx:1@{DIGEST}")).unwrap();
        assert_eq!(both.selector(), DIGEST);
        assert_eq!(both.tagged().unwrap().to_string(), "docker.io/library/nginx:1");
    }

    #[test]
    fn malformed_references_are_refused_with_a_reason() {
        for bad in [
            "",
            ":",
            "Nginx",
            "nginx:",
            "nginx:-x",
            "a//b",
            "../etc",
            "a/../b",
            "nginx@sha256:12",
            "nginx@md5:00",
            "local host/app",
            "reg.io:0/app",
            "reg.io:99999/app",
            "reg.io:+80/app",
            "-reg.io/app",
            "[::g]:1/app",
            "a.-b",
            "a___b",
            "nginx:a b",
            "https://reg.io/app",
        ] {
            assert!(ImageReference::parse(bad).is_err(), "{bad} was accepted");
        }
        assert!(ImageReference::parse(&"a".repeat(300)).is_err());
        assert!(ImageReference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert_eq!(
            ImageReference::parse("Nginx").unwrap_err().to_string(),
            "'Nginx' is not an image reference: the repository name must be lower case"
        );
    }
}
