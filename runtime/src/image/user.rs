//! Users and groups by name or number, read from an image's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's: reads are bounded, symlinks resolve within the root, and a number
//! out of range is an error and never root.

use std::collections::HashSet;

use super::error::{Error, Result};
use super::tree::RootTree;

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most supplementary groups: the kernel's limit.
const MAX_GROUPS: usize = 65536;

/// The identity that a `user` field means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// Supplementary group ids, in order.
    pub additional_gids: Vec<u32>,
    /// The home directory; `/` when unknown.
    pub home: String,
}

/// Resolves `user[:group]`, each a name or a number, within `root`. Empty means root. Without a
/// group the user's own groups apply, as in Docker.
pub fn resolve_user(root: &RootTree, user: &str) -> Result<ResolvedUser> {
    let read = |path| root.read_file(path, MAX_FILE_BYTES).map(|content| content.unwrap_or_default());
    resolve(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Resolves what `data` holds between zero bytes: a user, a passwd and a group file. For fuzzing.
#[cfg(feature = "fuzzing")]
pub(super) fn read_all(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    if let Ok(found) = resolve(&user, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        assert!(found.uid != u32::MAX && found.gid != u32::MAX, "nobody is not somebody");
    }
}

/// One half of a `user` field.
enum Part<'a> {
    Name(&'a str),
    Number(u32),
}

fn resolve(text: &str, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser> {
    let (user_text, group_text) = text.split_once(':').unwrap_or((text, ""));
    let user = part(text, user_text)?;
    let found = find_user(text, &user, passwd)?;
    let (uid, mut gid, home) = match (&user, &found) {
        (_, Some(entry)) => (entry.uid, entry.gid, entry.home),
        (Part::Number(uid), None) => (*uid, 0, "/"),
        (Part::Name(name), None) => return Err(Error::NoSuchUser { user: (*name).to_owned() }),
    };
    let mut additional_gids = Vec::new();
    if group_text.is_empty() {
        if let Some(entry) = &found {
            additional_gids = groups_of(text, entry.name, gid, group)?;
        }
    } else {
        gid = find_group(text, group_text, group)?;
    }
    Ok(ResolvedUser { uid, gid, additional_gids, home: home.to_owned() })
}

/// Tells a number from a name. What begins like a number must be one: it never becomes a name.
fn part<'a>(whole: &str, text: &'a str) -> Result<Part<'a>> {
    if text.is_empty() {
        return Ok(Part::Number(0));
    }
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit());
    if numeric {
        return id(whole, text).map(Part::Number);
    }
    if text.starts_with(['-', '+']) || text.contains(['\0', '\n', '/']) {
        return Err(Error::InvalidUser { user: whole.to_owned(), reason: "it is no user name".to_owned() });
    }
    Ok(Part::Name(text))
}

/// A user or group id; the highest value means "none" to the kernel.
fn id(whole: &str, text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse::<u32>().ok().filter(|value| digits && *value != u32::MAX);
    value.ok_or_else(|| Error::InvalidUser {
        user: whole.to_owned(),
        reason: format!("'{}' is no id between 0 and {}", text.escape_debug(), u32::MAX - 1),
    })
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn lines(content: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    content
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(|line| line.trim_end_matches('\r').split(':').collect())
}

fn find_user<'a>(whole: &str, user: &Part<'_>, passwd: &'a [u8]) -> Result<Option<PasswdEntry<'a>>> {
    for fields in lines(passwd) {
        let [name, _, uid, gid, _, home, ..] = fields[..] else { continue };
        let matches = match user {
            Part::Name(wanted) => name == *wanted,
            Part::Number(wanted) => uid.parse() == Ok(*wanted),
        };
        if matches && !name.is_empty() {
            let home = if home.starts_with('/') { home } else { "/" };
            return Ok(Some(PasswdEntry { name, uid: id(whole, uid)?, gid: id(whole, gid)?, home }));
        }
    }
    Ok(None)
}

fn find_group(whole: &str, text: &str, group: &[u8]) -> Result<u32> {
    let name = match part(whole, text)? {
        Part::Number(gid) => return Ok(gid),
        Part::Name(name) => name,
    };
    for fields in lines(group) {
        if let [found, _, gid, ..] = fields[..]
            && found == name
        {
            return id(whole, gid);
        }
    }
    Err(Error::NoSuchGroup { group: name.to_owned() })
}

/// Groups that list `user` as a member, without the primary one.
fn groups_of(whole: &str, user: &str, primary: u32, group: &[u8]) -> Result<Vec<u32>> {
    let mut gids = Vec::new();
    let mut seen = HashSet::from([primary]);
    for fields in lines(group) {
        let [_, _, gid, members, ..] = fields[..] else { continue };
        if members.split(',').any(|member| member == user) {
            let gid = id(whole, gid)?;
            if seen.insert(gid) {
                gids.push(gid);
            }
            if gids.len() > MAX_GROUPS {
                return Err(Error::TooLarge {
                    what: format!("the number of groups of user '{whole}'"),
                    limit: format!("{MAX_GROUPS} groups"),
                });
            }
        }
    }
    Ok(gids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:101:102::/srv:/bin/false\r\nrel:x:5:5::home:\nbig:x:4294967296:0::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nweb:x:102:\nstaff:x:50:web,other\nlog:x:4:other,web\nbig:x:99999999999:nobody\n";

    fn ids(text: &str) -> Result<(u32, u32, Vec<u32>)> {
        resolve(text, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn names_and_numbers_resolve_as_in_docker() {
        for (text, expected) in [
            ("", (0, 0, vec![])),
            ("root", (0, 0, vec![])),
            ("web", (101, 102, vec![50, 4])),
            ("101", (101, 102, vec![50, 4])),
            ("web:staff", (101, 50, vec![])),
            ("web:7", (101, 7, vec![])),
            ("4000", (4000, 0, vec![])),
            ("4000:4001", (4000, 4001, vec![])),
            (":staff", (0, 50, vec![])),
            ("4294967294", (4_294_967_294, 0, vec![])),
        ] {
            assert_eq!(ids(text).unwrap(), expected, "{text}");
        }
        assert_eq!(resolve("web", PASSWD, GROUP).unwrap().home, "/srv");
        assert_eq!(resolve("rel", PASSWD, GROUP).unwrap().home, "/", "a relative home is no home");
    }

    #[test]
    fn numbers_out_of_range_are_errors_and_never_root() {
        for text in [
            "4294967295",
            "4294967296",
            "-1",
            "+0",
            "99999999999999999999",
            "web:-1",
            "web:4294967296",
            "big",
        ] {
            assert!(matches!(ids(text), Err(Error::InvalidUser { .. })), "{text}: {:?}", ids(text));
        }
        for text in ["0x0", "nobody", "web:nobody", "0 ", "broken"] {
            assert!(matches!(ids(text), Err(Error::NoSuchUser { .. } | Error::NoSuchGroup { .. })), "{text}");
        }
        assert_eq!(ids("nobody").unwrap_err().to_string(), "user 'nobody' does not exist in the image");
    }
}
