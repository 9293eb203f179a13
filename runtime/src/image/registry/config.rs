//! What a node's owner says about registries: mirrors, certificates, proxy. Values only: whoever
//! opens the store reads them from files and the environment; nothing here does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use super::super::credentials::Credentials;
use super::super::error::{Error, Result};
use super::super::reference::DEFAULT_REGISTRY;

/// Most mirrors of one registry.
pub const MAX_MIRRORS: usize = 8;
/// Port of a proxy that names none.
const PROXY_PORT: u16 = 80;

/// How registries are reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// By the registry's host as names have it: `docker.io`, `registry.example:5000`.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Files of PEM certificates that every registry may be signed by, beside the host's own.
    pub ca_files: Vec<PathBuf>,
    /// The proxy for TLS connections, as `https_proxy` has it: `http://[user:password@]host:port`.
    /// There is none for plain HTTP, which is only spoken to loopback and never leaves the host.
    pub https_proxy: Option<String>,
    /// What is reached without the proxy, as `no_proxy` has it: hosts, domains, addresses, networks,
    /// or `*`, separated by commas. Loopback never takes it.
    pub no_proxy: String,
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Hosts asked first, in this order: `mirror.example[:port]`, with or without `https://`. They
    /// get no credentials; what a mirror lacks or fails at comes from the next, then from the
    /// registry itself.
    pub mirrors: Vec<String>,
    /// Files of PEM certificates that this registry and its mirrors may be signed by, beside the
    /// host's own. A registry on loopback that has one is spoken to with TLS.
    pub ca_files: Vec<PathBuf>,
}

impl fmt::Debug for RegistryConfig {
    /// Without the proxy, whose address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, ca_files, https_proxy, no_proxy } = self;
        f.debug_struct("RegistryConfig")
            .field("hosts", hosts)
            .field("ca_files", ca_files)
            .field("has_proxy", &https_proxy.is_some())
            .field("no_proxy", no_proxy)
            .finish()
    }
}

impl RegistryConfig {
    /// Checks what can be checked without files and network; the error names the setting.
    pub fn check(&self) -> Result<()> {
        self.proxy()?;
        for (host, config) in &self.hosts {
            authority(host).ok_or_else(|| invalid(format!("'{host}' is not a registry's host[:port]")))?;
            if config.mirrors.len() > MAX_MIRRORS {
                return Err(invalid(format!("{host} has more than {MAX_MIRRORS} mirrors")));
            }
            self.mirrors(host)?;
        }
        Ok(())
    }

    /// The mirrors of a registry, as hosts with or without a port.
    pub(super) fn mirrors(&self, registry: &str) -> Result<Vec<String>> {
        let listed = self.hosts.get(registry).map(|host| &host.mirrors[..]).unwrap_or_default();
        let parse = |text: &String| {
            let host = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
            authority(host).map(|()| host.to_owned()).ok_or_else(|| {
                invalid(format!("mirror '{text}' of {registry} is not host[:port]; mirrors need TLS"))
            })
        };
        listed.iter().map(parse).collect()
    }

    /// The certificate files for a registry and its mirrors.
    pub(super) fn ca_files(&self, registry: &str) -> impl Iterator<Item = &PathBuf> {
        let own = self.hosts.get(registry).map(|host| &host.ca_files[..]).unwrap_or_default();
        self.ca_files.iter().chain(own)
    }

    /// Whether a registry on loopback is spoken to with TLS.
    pub(super) fn has_own_ca(&self, registry: &str) -> bool {
        self.hosts.get(registry).is_some_and(|host| !host.ca_files.is_empty())
    }

    /// The proxy, if one is set.
    pub(super) fn proxy(&self) -> Result<Option<Proxy>> {
        let Some(text) = self.https_proxy.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        Proxy::parse(text, &self.no_proxy).map(Some).map_err(|reason| {
            // Never the text itself: it may hold a password.
            invalid(format!("the proxy for https {reason}; write http://[user:password@]host:port"))
        })
    }
}

fn invalid(reason: String) -> Error {
    Error::RegistryConfig { reason }
}

/// Whether `text` is a host with or without a port, and nothing else.
fn authority(text: &str) -> Option<()> {
    let authority: http::uri::Authority = text.parse().ok()?;
    (authority.as_str() == text && !text.contains('@') && !authority.host().is_empty()).then_some(())
}

/// A proxy, and what goes past it.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
    direct: Vec<Direct>,
}

impl Proxy {
    fn parse(text: &str, no_proxy: &str) -> Result<Self, &'static str> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err("is not an HTTP proxy");
        }
        let authority = uri.authority().ok_or("names no host")?;
        let login = authority.as_str().rsplit_once('@').map(|(login, _)| login);
        let authorization = login.map(|login| {
            let (username, password) = login.split_once(':').unwrap_or((login, ""));
            let plain = |text: &str| unescape(text).ok_or("has a malformed user or password");
            Ok::<_, &'static str>(
                Credentials::Basic { username: plain(username)?, password: plain(password)? }.authorization(),
            )
        });
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(PROXY_PORT),
            authorization: authorization.transpose()?,
            direct: no_proxy.split(',').filter_map(Direct::parse).collect(),
        })
    }

    /// Whether a connection to `host` goes through the proxy.
    pub(super) fn serves(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        !loopback && !self.direct.iter().any(|direct| direct.matches(&host, address, port))
    }
}

/// One item of `no_proxy`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Direct {
    Everything,
    /// This name and all below it.
    Domain(String, Option<u16>),
    Network(IpAddr, u32),
}

impl Direct {
    fn parse(item: &str) -> Option<Self> {
        let item = item.trim().to_ascii_lowercase();
        if item.is_empty() {
            return None;
        }
        if item == "*" {
            return Some(Self::Everything);
        }
        let (base, length) = match item.split_once('/') {
            Some((base, length)) => (base, Some(length.parse().ok()?)),
            None => (&item[..], None),
        };
        if let Ok(address) = base.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Network(address, length.unwrap_or(bits(address).1)));
        }
        let (name, port) = match item.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (&item[..], None),
        };
        Some(Self::Domain(name.trim_start_matches("*.").trim_matches('.').to_owned(), port))
    }

    fn matches(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Domain(name, only) => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (host == name || below) && only.is_none_or(|only| only == port)
            }
            Self::Network(network, length) => address.is_some_and(|address| {
                let ((a, width), (b, other)) = (bits(address), bits(*network));
                let ignored = width.saturating_sub(*length);
                width == other && (ignored == 128 || a >> ignored == b >> ignored)
            }),
        }
    }
}

/// An address as a number, and its width in bits.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// Undoes percent escapes.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Where `docker.io` really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// The host that serves a registry's API.
pub(super) fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str, no_proxy: &str) -> Proxy {
        Proxy::parse(text, no_proxy).unwrap()
    }

    #[test]
    fn a_proxy_is_a_url_or_a_host_and_may_ask_for_a_password() {
        let found = proxy("proxy.example:3128", "");
        assert_eq!((&found.host[..], found.port, found.authorization), ("proxy.example", 3128, None));
        let found = proxy("http://us%40er:p%3Aw@[::1]:81/", "");
        assert_eq!((&found.host[..], found.port), ("::1", 81));
        let expected = Credentials::Basic { username: "us@er".into(), password: "p:w".into() };
        assert_eq!(found.authorization, Some(expected.authorization()));
        for bad in ["https://x:1", "socks5://x:1", "http://", "http://a:b%zz@x", "::"] {
            let config = RegistryConfig { https_proxy: Some(bad.into()), ..Default::default() };
            let text = config.check().unwrap_err().to_string();
            assert!(text.contains("http://[user:password@]host:port") && !text.contains("b%zz"), "{text}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_and_networks() {
        let proxy = proxy("p:1", "example.com, .corp:5000,10.0.0.0/8,192.0.2.7,fd00::/8,bad/x");
        for direct in ["example.com", "a.example.com", "EXAMPLE.com.", "10.1.2.3", "192.0.2.7", "[fd12::1]"] {
            assert!(!proxy.serves(direct, 443), "{direct}");
        }
        for through in ["notexample.com", "11.0.0.1", "192.0.2.8", "fe00::1", "reg.corp", "example.com.evil"]
        {
            assert!(proxy.serves(through, 443), "{through}");
        }
        assert!(!proxy.serves("reg.corp", 5000));
        for local in ["localhost", "127.0.0.9", "[::1]"] {
            assert!(!proxy.serves(local, 5000), "{local}");
        }
        assert!(!self::proxy("p:1", "*").serves("example.com", 443));
        assert!(!self::proxy("p:1", "0.0.0.0/0,::/0").serves("::2", 443));
    }

    #[test]
    fn mirrors_and_hosts_are_names_with_an_optional_port() {
        let config = |host: &str, mirror: &str| {
            let entry = HostConfig { mirrors: vec![mirror.into()], ..Default::default() };
            RegistryConfig { hosts: [(host.into(), entry)].into(), ..Default::default() }
        };
        let good = config("docker.io", "https://mirror.example:5000/");
        assert_eq!(good.mirrors("docker.io").unwrap(), ["mirror.example:5000"]);
        good.check().unwrap();
        assert!(good.mirrors("quay.io").unwrap().is_empty());
        for (host, mirror) in [
            ("docker.io", "http://mirror.example"),
            ("docker.io", "mirror.example/path"),
            ("docker.io", "user@mirror.example"),
            ("docker.io", ""),
            ("https://docker.io", "mirror.example"),
        ] {
            let error = config(host, mirror).check().unwrap_err();
            assert!(matches!(error, Error::RegistryConfig { .. }), "{host} {mirror}: {error}");
        }
    }
}
