//! Names of a layer's entries: cleaning, refusing, and telling whiteouts from files. Pure.

use super::limits::Limits;

/// Prefix of a whiteout.
const WHITEOUT: &[u8] = b".wh.";
/// Name of the entry that hides all that lower layers hold in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of bookkeeping entries of old storage drivers.
const BOOKKEEPING: &[u8] = b".wh..wh.";
/// Longest single component, in bytes: the kernel's limit.
const MAX_COMPONENT: usize = 255;
/// Most characters of a name in a message.
const MAX_PRINTED: usize = 200;

/// What an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// The root of the layer.
    Root,
    /// A file, directory or link.
    Plain { parent: &'a [u8], name: &'a [u8] },
    /// Hides `name` of lower layers.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// Hides all that lower layers hold in `parent`.
    Opaque { parent: &'a [u8] },
    /// Bookkeeping that means nothing here.
    Ignored,
}

/// Drops `.` components and slashes at the end; refuses every name that could leave the root.
pub(in crate::image) fn clean(raw: &[u8], limits: &Limits) -> Result<Vec<u8>, String> {
    if raw.len() > limits.path {
        return Err(format!("its name is longer than {} bytes", limits.path));
    }
    if raw.is_empty() {
        return Err("its name is empty".to_owned());
    }
    if raw.contains(&0) {
        return Err("its name holds a zero byte".to_owned());
    }
    if raw.starts_with(b"/") {
        return Err("its name is absolute".to_owned());
    }
    let components: Vec<&[u8]> = raw
        .split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
        .collect();
    if components.contains(&&b".."[..]) {
        return Err("its name leaves the root by '..'".to_owned());
    }
    if components.iter().any(|component| component.len() > MAX_COMPONENT) {
        return Err(format!("a component of its name is longer than {MAX_COMPONENT} bytes"));
    }
    if components.len() > limits.depth {
        return Err(format!("it is more than {} directories deep", limits.depth));
    }
    Ok(components.join(&b'/'))
}

/// Tells what a cleaned name asks for.
pub(super) fn classify(path: &[u8]) -> Result<Name<'_>, String> {
    let Some((parent, name)) = split(path) else { return Ok(Name::Root) };
    let hides = |component: &[u8]| component.starts_with(WHITEOUT);
    if parent.split(|byte| *byte == b'/').any(hides) {
        return if parent.split(|byte| *byte == b'/').any(|component| component.starts_with(BOOKKEEPING)) {
            Ok(Name::Ignored)
        } else {
            Err("a parent of it is a whiteout".to_owned())
        };
    }
    if name == OPAQUE {
        return Ok(Name::Opaque { parent });
    }
    if name.starts_with(BOOKKEEPING) {
        return Ok(Name::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Name::Plain { parent, name }),
        Some(b"" | b"." | b"..") => Err("it is a whiteout of nothing".to_owned()),
        Some(name) => Ok(Name::Whiteout { parent, name }),
    }
}

/// Parent and last component; `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

/// The path of `name` in `parent`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Whether an image may set this attribute. `trusted.*` and `*.overlay.*` would steer overlayfs,
/// other `security.*` belong to the host's security modules.
pub(super) fn is_allowed_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// A name for a message: escaped and shortened.
pub(in crate::image) fn printable(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).escape_debug().collect();
    match text.char_indices().nth(MAX_PRINTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(raw: &str) -> Result<String, String> {
        clean(raw.as_bytes(), &Limits::default()).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn dots_and_slashes_are_dropped() {
        for (raw, path) in [("./a/b/", "a/b"), ("a//./b", "a/b"), ("./", ""), (".", ""), ("...", "...")] {
            assert_eq!(cleaned(raw).as_deref(), Ok(path));
        }
    }

    #[test]
    fn names_that_leave_the_root_are_refused() {
        let deep = "a/".repeat(300);
        let long = "a".repeat(300);
        for raw in ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./..", "a\0b", &deep, &long] {
            assert!(cleaned(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn whiteouts_are_told_from_files() {
        assert_eq!(classify(b""), Ok(Name::Root));
        assert_eq!(classify(b"a"), Ok(Name::Plain { parent: b"", name: b"a" }));
        assert_eq!(classify(b"d/.wh.x"), Ok(Name::Whiteout { parent: b"d", name: b"x" }));
        assert_eq!(classify(b"d/e/.wh..wh..opq"), Ok(Name::Opaque { parent: b"d/e" }));
        assert_eq!(classify(b".wh..wh.plnk"), Ok(Name::Ignored));
        assert_eq!(classify(b".wh..wh.plnk/1.2"), Ok(Name::Ignored));
        for bad in [&b".wh."[..], b".wh..", b"d/.wh...", b".wh.a/b"] {
            assert!(classify(bad).is_err(), "{}", printable(bad));
        }
    }

    #[test]
    fn attributes_that_steer_the_host_are_not_allowed() {
        for good in ["user.x", "security.capability", "system.posix_acl_access"] {
            assert!(is_allowed_xattr(good.as_bytes()));
        }
        for bad in ["trusted.overlay.opaque", "user.overlay.redirect", "security.selinux", "system.x", ""] {
            assert!(!is_allowed_xattr(bad.as_bytes()));
        }
    }

    #[test]
    fn messages_escape_and_shorten_names() {
        assert_eq!(printable(b"a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert!(printable(&[b'x'; 5000]).len() < 250);
    }
}
