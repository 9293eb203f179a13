//! Which resolvers to ask, and in what order.
//!
//! Owns: reading the host's resolv.conf (again when it changes), leaving ourselves out, asking resolvers that failed
//! lately last. Does not own: the asking (`forward`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most resolvers used, as in the C library.
const MAX_UPSTREAMS: usize = 3;
/// How often the file is looked at, at most.
const RECHECK: Duration = Duration::from_secs(1);
/// How long a resolver that failed is asked after the others.
const PENALTY: Duration = Duration::from_secs(30);
/// Most failures remembered (resolvers of views included).
const MAX_FAILURES: usize = 256;
/// Largest resolv.conf read, in bytes.
const MAX_FILE_BYTES: usize = 64 << 10;

/// Where the resolvers come from.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The host's resolver file.
    pub resolv_conf: PathBuf,
    /// Our own address: never asked, so that no query goes in circles.
    pub own: SocketAddr,
}

/// The resolvers of the node.
#[derive(Debug)]
pub(crate) struct Upstreams {
    config: UpstreamConfig,
    servers: Vec<SocketAddr>,
    stamp: Option<Stamp>,
    checked: Option<Instant>,
    failed: HashMap<SocketAddr, Instant>,
}

/// Tells one content of the file from the next: device, inode, modification time, size.
type Stamp = (u64, u64, i64, i64, u64);

impl Upstreams {
    pub(crate) fn new(config: UpstreamConfig) -> Upstreams {
        Upstreams { config, servers: Vec::new(), stamp: None, checked: None, failed: HashMap::new() }
    }

    /// The resolvers to ask, the likeliest to answer first. `own` replaces those of the host when it names any.
    pub(crate) fn select(&mut self, own: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut servers = if own.is_empty() {
            self.refresh(now);
            self.servers.clone()
        } else {
            own.to_vec()
        };
        servers.retain(|server| *server != self.config.own);
        servers.truncate(MAX_UPSTREAMS);
        servers.sort_by_key(|server| self.failed_lately(server, now));
        servers
    }

    /// Remembers how a resolver did.
    pub(crate) fn note(&mut self, server: SocketAddr, answered: bool, now: Instant) {
        if answered {
            self.failed.remove(&server);
            return;
        }
        if self.failed.len() >= MAX_FAILURES {
            self.failed.retain(|_, at| now.saturating_duration_since(*at) < PENALTY);
        }
        if self.failed.len() < MAX_FAILURES {
            self.failed.insert(server, now);
        }
    }

    fn failed_lately(&self, server: &SocketAddr, now: Instant) -> bool {
        self.failed.get(server).is_some_and(|at| now.saturating_duration_since(*at) < PENALTY)
    }

    fn refresh(&mut self, now: Instant) {
        if self.checked.is_some_and(|at| now.saturating_duration_since(at) < RECHECK) {
            return;
        }
        self.checked = Some(now);
        let path = &self.config.resolv_conf;
        let stamp = fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
            .ok();
        if stamp == self.stamp && stamp.is_some() {
            return;
        }
        match fs::read(path) {
            Ok(bytes) => {
                let bytes = &bytes[..bytes.len().min(MAX_FILE_BYTES)];
                self.servers = parse_resolv_conf(&String::from_utf8_lossy(bytes));
                self.stamp = stamp;
            }
            // As the C library does: without the file the resolver is this host.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.servers = parse_resolv_conf("nameserver 127.0.0.1");
            }
            // A file that cannot be read now is read at the next look; until then its last content holds.
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read resolver file"),
        }
    }
}

/// The resolvers named in the text of a resolv.conf.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A link-local resolver carries its interface (fe80::1%eth0): only std's own parser of scoped addresses
        // would know it, and only by number, so it is left out.
        if let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) {
            let server = SocketAddr::new(address, 53);
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_the_c_library_reads() {
        let text = "# comment\n; other\nsearch x\nnameserver 10.0.0.1\n nameserver\t10.0.0.2 # tail\n\
                    nameserver 2001:db8::1\nnameserver bad\nnameserver\nnameserver 10.0.0.1\n";
        assert_eq!(
            parse_resolv_conf(text),
            [server("10.0.0.1:53"), server("10.0.0.2:53"), server("[2001:db8::1]:53")]
        );
    }

    #[test]
    fn leaves_ourselves_out_and_follows_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 169.254.1.53\nnameserver 10.0.0.2\n").unwrap();
        let config = UpstreamConfig { resolv_conf: path.clone(), own: server("169.254.1.53:53") };
        let (mut upstreams, now) = (Upstreams::new(config), Instant::now());
        assert_eq!(upstreams.select(&[], now), [server("10.0.0.2:53")]);
        fs::write(dir.path().join("new"), "nameserver 10.0.0.3\n").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(upstreams.select(&[], now + RECHECK), [server("10.0.0.3:53")]);
        fs::remove_file(&path).unwrap();
        assert_eq!(upstreams.select(&[], now + 2 * RECHECK), [server("127.0.0.1:53")]);
    }

    #[test]
    fn a_resolver_that_failed_is_asked_last_for_a_while() {
        let config = UpstreamConfig { resolv_conf: "/nonexistent".into(), own: server("169.254.1.53:53") };
        let (mut upstreams, now) = (Upstreams::new(config), Instant::now());
        let own = [server("10.0.0.1:53"), server("10.0.0.2:53")];
        upstreams.note(own[0], false, now);
        assert_eq!(upstreams.select(&own, now), [own[1], own[0]]);
        assert_eq!(upstreams.select(&own, now + PENALTY), own);
        upstreams.note(own[0], true, now);
        assert_eq!(upstreams.select(&own, now), own);
    }
}
