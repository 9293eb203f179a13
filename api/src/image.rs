//! What may be written as the name of an image: checked when a stack is deployed, and taken apart by the nodes. Pure.

/// Longest accepted `registry/repository`, in bytes (the distribution specification's limit).
const NAME_MAX_BYTES: usize = 255;
/// Longest accepted tag, in bytes.
const TAG_MAX_BYTES: usize = 128;
/// Length of the hexadecimal part of a digest, in characters.
const HEX_LEN: usize = 64;
/// The registry meant when none is written.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where the default registry has images of one word.
pub const OFFICIAL: &str = "library";
/// What is said of another digest.
pub const BAD_DIGEST: &str = "the digest is not sha256: and 64 hex digits";

/// The parts of an image's name as they are written; only the registry is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageName<'a> {
    /// Host of the registry, with its port.
    pub registry: &'a str,
    /// Path in the registry.
    pub repository: &'a str,
    /// After the colon.
    pub tag: Option<&'a str>,
    /// After the `@`: `sha256:` and 64 hex digits.
    pub digest: Option<&'a str>,
}

impl<'a> ImageName<'a> {
    /// Takes a name apart; the error says in lower case what is wrong.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err(BAD_DIGEST),
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
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let above = if official { OFFICIAL.len() + 1 } else { 0 };
        if registry.len() + 1 + above + repository.len() > NAME_MAX_BYTES {
            return Err("the name is longer than 255 bytes");
        }
        Ok(Self { registry, repository, tag, digest })
    }
}

fn is_digest(text: &str) -> bool {
    let hex = |hex: &str| hex.len() == HEX_LEN && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(hex)
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
    if tag.len() <= TAG_MAX_BYTES
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
    {
        Ok(())
    } else {
        Err("the tag must be 1 to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart_or_refused_with_a_reason() {
        let hex = "0".repeat(64);
        let text = format!("reg.example:5000/team/web:1@sha256:{hex}");
        let name = ImageName::parse(&text).unwrap();
        assert_eq!((name.registry, name.repository, name.tag), ("reg.example:5000", "team/web", Some("1")));
        assert_eq!(name.digest, Some(&text[text.len() - 71..]));
        assert_eq!(ImageName::parse("UPPER:bad:tag").unwrap_err(), "the repository name must be lower case");
        assert_eq!(ImageName::parse("a@sha256:12").unwrap_err(), BAD_DIGEST);
        // The limit counts what the name is completed with.
        assert!(ImageName::parse(&"a".repeat(237)).is_ok() && ImageName::parse(&"a".repeat(238)).is_err());
    }
}
