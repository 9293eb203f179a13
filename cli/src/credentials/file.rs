//! Docker's configuration file: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`. Owns how it is read and changed: every key
//! that is not ours stays, and the file is replaced whole, for its user alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use carrack_api::RegistryCredentials;
use serde_json::{Map, Value};

use carrack_api::base64;

use super::{key_host, server_key};
use crate::error::CliError;

/// What the file says, whole.
#[derive(Debug, Clone)]
pub(super) struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

/// What `auths` says of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Auth {
    /// Nothing: nobody has logged in.
    Absent,
    /// Somebody has, and a helper keeps the credentials.
    Elsewhere,
    /// These.
    Known(RegistryCredentials),
    /// A token that has to be changed into another one by OAuth 2, which we do not do.
    IdentityToken,
}

impl ConfigFile {
    /// Reads the user's file; a missing one is empty. `None` when the user has no place for one.
    pub(super) fn load() -> Result<Option<Self>, CliError> {
        let Some(path) = path() else { return Ok(None) };
        Self::read(path).map(Some)
    }

    fn read(path: PathBuf) -> Result<Self, CliError> {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let text = format!("{} with the registries' credentials cannot be read", path.display());
                return Err(CliError::new(text).caused_by(&error));
            }
        };
        if text.trim_ascii().is_empty() {
            return Ok(Self { path, content: Map::new() });
        }
        let content = serde_json::from_slice(&text).map_err(|error| {
            CliError::new(format!("{} is not what Docker writes there", path.display())).caused_by(&error)
        })?;
        Ok(Self { path, content })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that is named for this registry alone.
    pub(super) fn own_helper(&self, host: &str) -> Option<&str> {
        let helpers = self.content.get("credHelpers")?.as_object()?;
        let found = helpers.iter().find(|(key, _)| key_host(key) == host)?;
        found.1.as_str().filter(|name| !name.is_empty())
    }

    /// The helper for all registries.
    pub(super) fn store(&self) -> Option<&str> {
        self.content.get("credsStore")?.as_str().filter(|name| !name.is_empty())
    }

    pub(super) fn auth(&self, host: &str) -> Auth {
        let auths = self.content.get("auths").and_then(Value::as_object);
        let found = auths.and_then(|auths| auths.iter().find(|(key, _)| key_host(key) == host));
        let Some((_, entry)) = found else { return Auth::Absent };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if text("identitytoken").is_some() {
            return Auth::IdentityToken;
        }
        if let (Some(username), Some(password)) = (text("username"), text("password")) {
            return known(username, password);
        }
        let decoded = text("auth").and_then(base64::decode).and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => known(username, password.trim_end_matches('\0')),
            None => Auth::Elsewhere,
        }
    }

    /// Writes credentials into `auths`; without any, only that there are some elsewhere.
    pub(super) fn set(&mut self, host: &str, credentials: Option<&RegistryCredentials>) {
        self.remove(host);
        let mut entry = Map::new();
        if let Some(RegistryCredentials { username, password }) = credentials {
            let text = base64::encode(format!("{username}:{password}").as_bytes());
            entry.insert("auth".into(), Value::String(text));
        }
        let auths = self.content.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(server_key(host), Value::Object(entry));
        }
    }

    /// Takes a registry out of `auths`, under each of its names; false when it was not there.
    pub(super) fn remove(&mut self, host: &str) -> bool {
        let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| key_host(key) != host);
        auths.len() < before
    }

    /// Replaces the file by this, for its user alone. A symbolic link stays one.
    pub(super) fn save(&self) -> Result<(), CliError> {
        self.write().map_err(|error| {
            CliError::new(format!("{} cannot be written", self.path.display())).caused_by(&error)
        })
    }

    fn write(&self) -> io::Result<()> {
        let path = match self.path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.path.clone(),
            other => other?,
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let aside = path.with_extension(format!("json.{}", std::process::id()));
        let mut text = serde_json::to_vec_pretty(&self.content)?;
        text.push(b'\n');
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&aside, &path));
        if written.is_err() {
            // What is told is why it could not be written.
            let _ = std::fs::remove_file(&aside);
        }
        written?;
        File::open(directory)?.sync_all()
    }
}

fn known(username: &str, password: &str) -> Auth {
    Auth::Known(RegistryCredentials { username: username.into(), password: password.into() })
}

fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG")
        .or_else(|| set("HOME").map(|home| home.join(".docker")))
        .map(|directory| directory.join("config.json"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(text: &str) -> ConfigFile {
        ConfigFile { path: "/nowhere".into(), content: serde_json::from_str(text).unwrap() }
    }

    fn login(username: &str, password: &str) -> RegistryCredentials {
        RegistryCredentials { username: username.into(), password: password.into() }
    }

    #[test]
    fn each_form_of_an_entry_is_read() {
        let config = config(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}, "reg.test:5000": {"auth": "dTpwOng="},
                "plain.test": {"username": "u", "password": "p"}, "kept.test": {}, "bad.test": {"auth": "!"},
                "https://azure.test": {"auth": "MDAwOg==", "identitytoken": "eyJ"}}}"#,
        );
        assert_eq!(config.auth("docker.io"), Auth::Known(login("a", "b")));
        assert_eq!(config.auth("reg.test:5000"), Auth::Known(login("u", "p:x")));
        assert_eq!(config.auth("plain.test"), Auth::Known(login("u", "p")));
        assert_eq!(config.auth("kept.test"), Auth::Elsewhere);
        assert_eq!(config.auth("bad.test"), Auth::Elsewhere);
        assert_eq!(config.auth("azure.test"), Auth::IdentityToken);
        assert_eq!(config.auth("other.test"), Auth::Absent);
    }

    #[test]
    fn a_login_keeps_every_other_key_and_is_for_its_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/config.json");
        let mut file = ConfigFile::read(path.clone()).unwrap();
        file.content = serde_json::from_str(
            r#"{"psFormat": "x", "auths": {"a.test": {"auth": "YTpi", "email": "m"}}, "plugins": {"k": {"n": 1}}}"#,
        )
        .unwrap();
        file.set("docker.io", Some(&login("ada", "s")));
        file.save().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut file = ConfigFile::read(path.clone()).unwrap();
        let written = serde_json::to_string(&file.content).unwrap();
        assert_eq!(
            written,
            r#"{"auths":{"a.test":{"auth":"YTpi","email":"m"},"https://index.docker.io/v1/":{"auth":"YWRhOnM="}},"plugins":{"k":{"n":1}},"psFormat":"x"}"#
        );
        assert!(file.remove("docker.io") && !file.remove("docker.io"));
        file.save().unwrap();
        assert_eq!(ConfigFile::read(path.clone()).unwrap().auth("docker.io"), Auth::Absent);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_link_to_the_file_stays_a_link_and_a_broken_file_is_told() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real.json"), home.path().join("config.json"));
        std::fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut file = ConfigFile::read(link.clone()).unwrap();
        file.set("a.test", None);
        file.save().unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(ConfigFile::read(real).unwrap().auth("a.test"), Auth::Elsewhere);
        std::fs::write(&link, "{").unwrap();
        let error = ConfigFile::read(link).unwrap_err().render(false);
        assert!(error.contains("is not what Docker writes there"), "{error}");
    }
}
