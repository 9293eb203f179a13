//! Registry credentials of the user, in Docker's configuration: read for the registries that a command needs and no others, written
//! by login and logout.
//!
//! Owns where credentials are looked for: a helper named for the registry (`credHelpers`), the helper for all (`credsStore`), the
//! file itself. Owns no check of them: that is the registry's.

mod file;
mod helper;

use std::collections::BTreeMap;

use carrack_api::RegistryCredentials;

use crate::error::CliError;
use crate::terminal::say;
use file::{Auth, ConfigFile};
use helper::{Entry, Helper, HelperError};

/// The registry of names without one.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// What Docker calls its registry in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user that helpers name for an identity token.
const TOKEN_USER: &str = "<token>";

/// Credentials by registry host, for the registries of these images.
pub(crate) fn for_images<'a>(
    images: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, RegistryCredentials>, CliError> {
    let mut found = BTreeMap::new();
    let Some(config) = ConfigFile::load()? else { return Ok(found) };
    let hosts: std::collections::BTreeSet<&str> = images.map(registry_host).collect();
    for host in hosts {
        if let Some(credentials) = look_up(&config, host)? {
            found.insert(host.to_owned(), credentials);
        }
    }
    Ok(found)
}

/// Where credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// By a helper.
    Helper(String),
    /// In a file, readable.
    File(String),
}

/// Keeps credentials that the registry has accepted.
pub(crate) fn keep(host: &str, credentials: &RegistryCredentials) -> Result<Kept, CliError> {
    let mut config = ConfigFile::load()?.ok_or_else(no_home)?;
    let own = config.own_helper(host).map(str::to_owned);
    let Some(name) = own.clone().or_else(|| config.store().map(str::to_owned)) else {
        config.set(host, Some(credentials));
        config.save()?;
        return Ok(Kept::File(config.path().display().to_string()));
    };
    let RegistryCredentials { username, password } = credentials.clone();
    Helper::new(&name).store(&Entry { server_url: server_key(host), username, secret: password })?;
    if own.is_none() {
        // As Docker does: an empty entry says that the helper for all knows this registry.
        config.set(host, None);
        config.save()?;
    }
    Ok(Kept::Helper(format!("docker-credential-{name}")))
}

/// Forgets credentials; false when there were none.
pub(crate) fn forget(host: &str) -> Result<bool, CliError> {
    let mut config = ConfigFile::load()?.ok_or_else(no_home)?;
    let mut known = false;
    if let Some(name) = config.own_helper(host).or(config.store()) {
        let helper = Helper::new(name);
        known = helper.get(&server_key(host))?.is_some();
        helper.erase(&server_key(host))?;
    }
    if config.remove(host) {
        config.save()?;
        known = true;
    }
    Ok(known)
}

fn no_home() -> CliError {
    CliError::new("there is no place for credentials: neither DOCKER_CONFIG nor HOME is set")
}

/// The credentials that the configuration leads to.
fn look_up(config: &ConfigFile, host: &str) -> Result<Option<RegistryCredentials>, CliError> {
    let auth = config.auth(host);
    let own = config.own_helper(host);
    if let Some(name) = own.or(config.store()) {
        match Helper::new(name).get(&server_key(host)) {
            Ok(Some(entry)) if entry.username == TOKEN_USER => return Err(identity_token(host)),
            Ok(Some(Entry { username, secret, .. })) => {
                return Ok(Some(RegistryCredentials { username, password: secret }));
            }
            Ok(None) => {}
            // Nobody has logged in there: most images need no credentials.
            Err(HelperError::Missing(program)) if own.is_none() && auth == Auth::Absent => {
                say(&format!("note: {program} is not installed; {host} is asked without credentials"));
            }
            Err(HelperError::Missing(_)) if own.is_none() && matches!(auth, Auth::Known(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match auth {
        Auth::Known(credentials) => Ok(Some(credentials)),
        Auth::IdentityToken => Err(identity_token(host)),
        Auth::Absent | Auth::Elsewhere => Ok(None),
    }
}

fn identity_token(host: &str) -> CliError {
    CliError::new(format!("the credentials for {host} are an identity token, which carrack cannot use"))
        .hint(format!("log in with a password or an access token: carrack login {host}"))
}

/// The registry that a user means by what was typed: a host, or a URL that Docker has for it.
pub(crate) fn registry_of(text: &str) -> Result<String, CliError> {
    let host = key_host(text.trim());
    let named = format!("{host}/x");
    if host.is_empty() || registry_host(&named) != host || host.contains(['@', '?', '#', ' ']) {
        return Err(CliError::usage(format!("{text:?} is no registry"))
            .hint("give its host, with a port if it needs one: ghcr.io, registry.example:5000"));
    }
    Ok(host.to_owned())
}

/// The registry of an image's name, as Docker reads it.
pub(crate) fn registry_host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => key_host(host),
        _ => DOCKER_HUB,
    }
}

/// The registry that a key of Docker's configuration means.
fn key_host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// The key that Docker has for a registry.
fn server_key(host: &str) -> String {
    if host == DOCKER_HUB { DOCKER_HUB_KEY.to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_a_path() {
        for (image, host) in [
            ("nginx", "docker.io"),
            ("library/nginx", "docker.io"),
            ("index.docker.io/library/nginx", "docker.io"),
            ("localhost/x", "localhost"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000"),
            ("ghcr.io/a/b:1", "ghcr.io"),
        ] {
            assert_eq!(registry_host(image), host, "{image}");
        }
    }

    #[test]
    fn a_registry_is_a_host_or_what_docker_calls_it() {
        let of = |text| registry_of(text).map_err(|error| error.render(false));
        assert_eq!(of("https://index.docker.io/v1/"), Ok("docker.io".into()));
        assert_eq!(of("docker.io"), Ok("docker.io".into()));
        assert_eq!(of("https://ghcr.io"), Ok("ghcr.io".into()));
        assert_eq!(of("127.0.0.1:5000"), Ok("127.0.0.1:5000".into()));
        for bad in ["", "name", "a@b.c", "a b.c", "https://"] {
            assert!(of(bad).unwrap_err().contains("is no registry"), "{bad}");
        }
    }
}
