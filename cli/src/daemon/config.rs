//! The daemon's configuration: `/etc/carrack/config.toml`, and the proxy from the environment. Owns its form; what a value means is
//! its reader's. An unknown key is an error with its line: a setting that is misspelt must not be left out in silence.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use carrack_api::defaults::CONFIG_FILE;
use carrack_runtime::image::{HostConfig, RegistryConfig};
use serde::Deserialize;

use crate::error::CliError;

/// Longest file that is read, bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Files of certificates that every registry may be signed by.
    ca: Paths,
    /// By the registry's host.
    registry: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Registry {
    mirrors: Vec<String>,
    ca: Paths,
}

/// One path or several.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "OneOrMany")]
struct Paths(Vec<PathBuf>);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Paths {
    fn from(paths: OneOrMany) -> Self {
        Self(match paths {
            OneOrMany::One(path) => vec![path],
            OneOrMany::Many(paths) => paths,
        })
    }
}

/// How registries are reached, from the file and the environment. `path` is what was asked for by name: only that must exist.
pub(super) fn registries(path: Option<&Path>) -> Result<RegistryConfig, CliError> {
    let shown = path.unwrap_or(Path::new(CONFIG_FILE));
    let file = match read(shown) {
        Ok(text) => parse(&text, shown)?,
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => File::default(),
        Err(error) => {
            return Err(CliError::usage(format!("the configuration {} cannot be read", shown.display()))
                .caused_by(&error));
        }
    };
    let config = joined(file, |name| std::env::var(name).ok());
    let hint =
        format!("the configuration is {}; HTTPS_PROXY and NO_PROXY are of the environment", shown.display());
    config.check().map_err(|error| {
        CliError::usage("the configuration of registries cannot be used").caused_by(&error).hint(hint)
    })?;
    for path in config.ca_files.iter().chain(config.hosts.values().flat_map(|host| &host.ca_files)) {
        std::fs::File::open(path).map_err(|error| {
            let text = format!("certificates {} of {} cannot be read", path.display(), shown.display());
            CliError::usage(text).caused_by(&error)
        })?;
    }
    Ok(config)
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)? as u64 > FILE_MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {FILE_MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn parse(text: &str, path: &Path) -> Result<File, CliError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line =
            error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let known = "known are `ca`, and in [registry.\"HOST\"] `mirrors` and `ca`";
        CliError::usage(format!("{}:{line}: {}", path.display(), error.message().trim()))
            .hint(format!("{known}; docs/registries.md shows all of it"))
    })
}

/// The file joined with the environment; upper-case names of variables win, as in most programs but curl.
fn joined(file: File, variable: impl Fn(&str) -> Option<String>) -> RegistryConfig {
    let variable = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .or_else(|| variable(&name.to_lowercase()).filter(|value| !value.is_empty()))
    };
    let hosts = file
        .registry
        .into_iter()
        .map(|(host, registry)| (host, HostConfig { mirrors: registry.mirrors, ca_files: registry.ca.0 }));
    RegistryConfig {
        hosts: hosts.collect(),
        ca_files: file.ca.0,
        https_proxy: variable("HTTPS_PROXY"),
        no_proxy: variable("NO_PROXY").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RegistryConfig, String> {
        let path = Path::new("/etc/carrack/config.toml");
        parse(text, path).map(|file| joined(file, |_| None)).map_err(|error| error.render(false))
    }

    #[test]
    fn registries_have_mirrors_and_certificates() {
        let config = read(
            "ca = \"/etc/all.pem\"\n[registry.\"docker.io\"]\nmirrors = [\"a.test\", \"b.test:5000\"]\n\
             [registry.\"own.test:5000\"]\nca = [\"/a.pem\", \"/b.pem\"]\n",
        )
        .unwrap();
        assert_eq!(config.ca_files, [PathBuf::from("/etc/all.pem")]);
        assert_eq!(config.hosts["docker.io"].mirrors, ["a.test", "b.test:5000"]);
        assert_eq!(config.hosts["own.test:5000"].ca_files.len(), 2);
        assert_eq!(read(""), Ok(RegistryConfig::default()));
    }

    /// The file of the package: `#key = value` is a setting, `# words` explain.
    const PACKAGED: &str = include_str!("../../package/config.toml");

    #[test]
    fn the_packaged_file_sets_nothing_and_each_of_its_examples_is_read() {
        assert_eq!(read(PACKAGED), Ok(RegistryConfig::default()));
        let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let settings: Vec<&str> = PACKAGED.lines().filter(is_setting).map(|line| &line[1..]).collect();
        let config = read(&settings.join("\n")).unwrap();
        config.check().unwrap();
        // Every key there is has an example.
        assert_eq!(config.ca_files.len(), 1);
        assert!(config.hosts.values().any(|host| !host.mirrors.is_empty()));
        assert!(config.hosts.values().any(|host| !host.ca_files.is_empty()));
        // And each of them stands alone: a reader takes the sign away from one, with its section's name.
        for (at, setting) in settings.iter().enumerate().filter(|(_, setting)| setting.contains(" = ")) {
            let section = settings[..at].iter().rev().find(|line| line.starts_with('[')).unwrap_or(&"");
            let alone = read(&format!("{section}\n{setting}\n")).unwrap();
            assert_ne!(alone, RegistryConfig::default(), "{setting}");
        }
    }

    #[test]
    fn what_is_misspelt_is_told_with_its_line() {
        for (text, line, said) in [
            ("ca = \"/x\"\nmirors = 1\n", 2, "mirors"),
            ("[registry.\"docker.io\"]\n\nmiror = [\"a\"]\n", 3, "miror"),
            ("[registry.\"docker.io\"]\nmirrors = \"a\"\n", 2, "mirrors"),
            ("\n\n[registry\n", 3, ""),
            ("\nca = 5\n", 2, ""),
        ] {
            let error = read(text).unwrap_err();
            let place = format!("error: /etc/carrack/config.toml:{line}: ");
            assert!(error.starts_with(&place) && (error.contains(said) || said == "mirrors"), "{error}");
        }
    }

    #[test]
    fn the_proxy_is_of_the_environment() {
        let set =
            [("https_proxy", "low:1"), ("HTTPS_PROXY", "up:2"), ("no_proxy", ".corp"), ("NO_PROXY", "")];
        let find =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = joined(File::default(), find);
        assert_eq!((config.https_proxy.as_deref(), config.no_proxy.as_str()), (Some("up:2"), ".corp"));
    }

    #[test]
    fn only_a_file_that_was_asked_for_must_exist() {
        let missing = tempfile::tempdir().unwrap().path().join("config.toml");
        let error = registries(Some(&missing)).unwrap_err().render(false);
        assert!(error.contains("cannot be read"), "{error}");
        let broken = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(broken.path(), "[registry.\"docker.io\"]\nmirrors = [\"http://plain.test\"]\n")
            .unwrap();
        let error = registries(Some(broken.path())).unwrap_err().render(false);
        assert!(error.contains("http://plain.test"), "{error}");
        std::fs::write(broken.path(), "ca = \"/no/such.pem\"\n").unwrap();
        assert!(registries(Some(broken.path())).unwrap_err().render(false).contains("/no/such.pem"));
    }
}
