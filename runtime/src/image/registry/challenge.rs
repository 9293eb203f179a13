//! What a registry's answers mean: authentication challenges, tokens, redirects, errors. Pure.

use http::Uri;
use serde::Deserialize;

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The challenge to answer: a bearer token if that is offered.
    pub(super) fn choose(headers: &[&str]) -> Option<Self> {
        let parsed: Vec<Self> = headers.iter().filter_map(|header| Self::parse(header)).collect();
        parsed.iter().find(|challenge| **challenge != Self::Basic).or(parsed.first()).cloned()
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let find =
            |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        Some(Self::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") })
    }
}

/// `key="value", key=value` pairs; commas may stand within quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((value, after)) => (value, after),
                None => break,
            },
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        found.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

/// The token in a token service's answer.
pub(super) fn parse_token(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

/// The first error message of a registry's answer, with a leading colon, shortened and escaped.
pub(super) fn error_message(body: &[u8], limit: usize) -> String {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        message: String,
    }
    let message =
        serde_json::from_slice::<Answer>(body).ok().and_then(|answer| answer.errors.into_iter().next());
    match message {
        Some(Message { message }) if !message.is_empty() => {
            format!(": {}", message.chars().take(limit).flat_map(char::escape_debug).collect::<String>())
        }
        _ => String::new(),
    }
}

/// Escapes a value for a query.
pub(super) fn query_escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Where a `Location` leads, seen from `base`.
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("//") {
        return format!("{}:{location}", base.scheme_str()?).parse().ok();
    }
    if location.starts_with('/') {
        return format!("{}://{}{location}", base.scheme_str()?, base.authority()?).parse().ok();
    }
    location.parse().ok().filter(|uri: &Uri| uri.scheme().is_some() && uri.authority().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_challenges_are_read_and_preferred() {
        let header =
            r#"Bearer realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.io/token".into(),
            service: Some("reg.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(Challenge::choose(&["Basic realm=x", header]), Some(bearer));
        assert_eq!(Challenge::choose(&[r#"basic realm="x""#]), Some(Challenge::Basic));
        for bad in ["", "Negotiate", "Bearer", r#"Bearer realm="open"#, "Bearer service=x"] {
            assert_eq!(Challenge::choose(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn tokens_errors_and_queries() {
        assert_eq!(parse_token(br#"{"token":"t"}"#).as_deref(), Some("t"));
        assert_eq!(parse_token(br#"{"access_token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(parse_token(br#"{"token":""}"#), None);
        assert_eq!(error_message(br#"{"errors":[{"code":"X","message":"too\nmany"}]}"#, 5), ": too\\nm");
        assert_eq!(error_message(b"<html>", 5), "");
        assert_eq!(query_escape("repository:a/b:pull x&y"), "repository:a/b:pull%20x%26y");
    }

    #[test]
    fn redirects_may_be_relative_but_need_a_host() {
        let base: Uri = "https://reg.io/v2/x".parse().unwrap();
        for (location, uri) in [
            ("/y?z=1", "https://reg.io/y?z=1"),
            ("//cdn.io/y", "https://cdn.io/y"),
            ("http://cdn.io/y", "http://cdn.io/y"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), uri);
        }
        assert!(join(&base, "y").is_none());
        assert!(join(&base, "").is_none());
    }
}
