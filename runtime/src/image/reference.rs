//! Image references as people write them, normalised as Docker does. Pure.
//!
//! `nginx` means `docker.io/library/nginx:latest`; the first component is a registry only when it
//! has a dot or a colon or is `localhost`. A digest wins over a tag when both are given.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Longest accepted `registry/repository`, in bytes (the distribution specification's limit).
const MAX_NAME_LEN: usize = 255;
/// Longest accepted tag, in bytes.
const MAX_TAG_LEN: usize = 128;
/// The registry meant when none is written.
pub const DEFAULT_REGISTRY: &str = "docker.io";
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
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "the digest is not sha256: and 64 hex digits")?))
        }
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    check_registry(registry)?;
    check_repository(repository)?;
    let repository = match (registry, repository.contains('/')) {
        (DEFAULT_REGISTRY, false) => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    if registry.len() + 1 + repository.len() > MAX_NAME_LEN {
        return Err("the name is longer than 255 bytes");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageReference { registry: registry.to_owned(), repository, tag, digest })
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "index.docker.io" => (DEFAULT_REGISTRY, rest),
            _ => (first, rest),
        },
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const BAD: &str = "the registry is not a host name or address with an optional port";
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(BAD)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| BAD)?;
            ("ipv6", after.strip_prefix(':').or(after.is_empty().then_some("1")).ok_or(BAD)?)
        }
        None => registry.split_once(':').unwrap_or((registry, "1")),
    };
    if !matches!(port.parse::<u16>(), Ok(1..)) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BAD);
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.split('.').all(label_ok) { Ok(()) } else { Err(BAD) }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository name must be lower case");
    }
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("the repository may hold only lower-case letters, digits and single separators (. _ - /)")
    }
}

/// `[a-z0-9]+` groups joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alnum = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = component.as_bytes();
    if !alnum(bytes.first()) || !alnum(bytes.last()) {
        return false;
    }
    bytes
        .split(u8::is_ascii_alphanumeric)
        .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|byte| *byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    if tag.len() <= MAX_TAG_LEN
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
    {
        Ok(())
    } else {
        Err("the tag must be 1 to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'")
    }
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
