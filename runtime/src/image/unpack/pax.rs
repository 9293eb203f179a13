//! The PAX extensions that matter here: attributes and times. Pure but for the iteration.

use tar::PaxExtensions;

/// Prefix of an extended attribute in a PAX header.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Prefix of sparse file maps in a PAX header.
const SPARSE: &[u8] = b"GNU.sparse.";

/// What an entry's PAX header says.
#[derive(Debug, Default)]
pub(super) struct Pax {
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, i64)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Reads the extensions of one entry.
    pub(super) fn parse(extensions: Option<PaxExtensions<'_>>) -> Result<Self, String> {
        let mut pax = Self::default();
        for extension in extensions.into_iter().flatten() {
            let extension = extension.map_err(|error| format!("its PAX header is malformed: {error}"))?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            if key == b"mtime" {
                pax.mtime = Some(parse_time(value).ok_or("its PAX time is malformed")?);
            } else if let Some(name) = key.strip_prefix(XATTR) {
                pax.xattrs.push((name.to_vec(), value.to_vec()));
            } else if key.starts_with(SPARSE) {
                return Err("it is a sparse file in PAX form, which is not supported".to_owned());
            }
        }
        Ok(pax)
    }
}

/// Parses `seconds[.fraction]`; fractions count upwards also before the epoch.
fn parse_time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    match (negative, nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_be_before_the_epoch() {
        for (text, time) in [
            ("5", Some((5, 0))),
            ("5.25", Some((5, 250_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), time, "{text}");
        }
    }
}
