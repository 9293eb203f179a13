//! Registry credentials of the user, from Docker's configuration, for the registries that a deploy needs and no others.
//!
//! Reads `auths` of `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`. A credential helper is not run: that it is needed
//! is said by the registry's refusal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use carrack_api::RegistryCredentials;
use serde::Deserialize;

use crate::error::CliError;

/// The registry of names without one.
const DOCKER_HUB: &str = "docker.io";
/// What Docker calls its registry in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    /// Base64 of `user:password`.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// Credentials by registry host, for the registries of these images.
pub(crate) fn for_images<'a>(
    images: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, RegistryCredentials>, CliError> {
    let Some(path) = config_path() else { return Ok(BTreeMap::new()) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => {
            return Err(CliError::new(format!(
                "{} with the registries' credentials cannot be read",
                path.display()
            ))
            .caused_by(&error));
        }
    };
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| {
        CliError::new(format!("{} is not what Docker writes there", path.display())).caused_by(&error)
    })?;
    Ok(select(&config, images))
}

fn config_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG")
        .or_else(|| set("HOME").map(|home| home.join(".docker")))
        .map(|directory| directory.join("config.json"))
}

fn select<'a>(
    config: &DockerConfig,
    images: impl Iterator<Item = &'a str>,
) -> BTreeMap<String, RegistryCredentials> {
    let mut found = BTreeMap::new();
    for image in images {
        let host = registry_host(image);
        let auth = config.auths.iter().find(|(key, _)| key_host(key) == host).map(|(_, auth)| auth);
        if let Some(credentials) = auth.and_then(credentials) {
            found.insert(host.to_owned(), credentials);
        }
    }
    found
}

/// The registry of an image's name, as Docker reads it.
pub(crate) fn registry_host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

fn key_host(key: &str) -> &str {
    if key == DOCKER_HUB_KEY {
        return DOCKER_HUB;
    }
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or(key);
    if host == "index.docker.io" { DOCKER_HUB } else { host }
}

fn credentials(auth: &Auth) -> Option<RegistryCredentials> {
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Some(RegistryCredentials { username: username.clone(), password: password.clone() });
    }
    let text = String::from_utf8(decode_base64(auth.auth.as_deref()?)?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(RegistryCredentials { username: username.into(), password: password.trim_end_matches('\0').into() })
}

/// Standard base64; `None` for anything else.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registries_of_the_images_are_sent() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}, "reg.test:5000": {"auth": "dTpwOng="},
               "other.test": {"auth": "eDp5"}}, "credsStore": "desktop"}"#,
        )
        .unwrap();
        let found = select(&config, ["nginx:1", "reg.test:5000/a/b@sha256:0"].into_iter());
        let shown: Vec<(&str, &str, &str)> =
            found.iter().map(|(h, c)| (h.as_str(), c.username.as_str(), c.password.as_str())).collect();
        assert_eq!(shown, [("docker.io", "a", "b"), ("reg.test:5000", "u", "p:x")]);
    }

    #[test]
    fn a_host_is_told_from_a_path() {
        for (image, host) in [
            ("nginx", "docker.io"),
            ("library/nginx", "docker.io"),
            ("localhost/x", "localhost"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000"),
            ("ghcr.io/a/b:1", "ghcr.io"),
        ] {
            assert_eq!(registry_host(image), host, "{image}");
        }
    }

    #[test]
    fn base64_that_is_none_is_no_credential() {
        assert_eq!(decode_base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("a b"), None);
    }
}
