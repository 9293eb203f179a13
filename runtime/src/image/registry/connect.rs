//! Connections: names resolved by our own resolver (the binary is static: no getaddrinfo), TLS by
//! rustls with the host's certificates.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::Empty;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::error::chain;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The HTTP client of one conversation.
pub(super) enum HttpClient {
    Plain(Client<HttpConnector<Resolver>, Empty<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector<Resolver>>, Empty<Bytes>>),
}

impl HttpClient {
    pub(super) async fn request(
        &self,
        request: http::Request<Empty<Bytes>>,
    ) -> Result<http::Response<hyper::body::Incoming>, hyper_util::client::legacy::Error> {
        match self {
            Self::Plain(client) => client.request(request).await,
            Self::Tls(client) => client.request(request).await,
        }
    }
}

/// A client; the host's certificates are only read when they can be needed.
pub(super) fn client(loopback: bool) -> Result<HttpClient, String> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new());
    if loopback {
        return Ok(HttpClient::Plain(builder.build(tcp)));
    }
    let tls = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|error| {
            format!("cannot read this host's CA certificates: {error}; install ca-certificates")
        })?
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(HttpClient::Tls(builder.build(tls)))
}

/// Whether a registry's host, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let address = name.parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Resolves names by `/etc/hosts` and the name servers of `/etc/resolv.conf`, read anew each time.
#[derive(Debug, Clone)]
pub(super) struct Resolver;

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let addresses = lookup(name.as_str()).await?;
            let sockets: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(sockets.into_iter())
        })
    }
}

async fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    if name == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let failed =
        |error: &dyn std::error::Error| io::Error::other(format!("cannot resolve {name}: {}", chain(error)));
    let resolver =
        TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(|error| failed(&error))?;
    let found = resolver.lookup_ip(name).await.map_err(|error| failed(&error))?;
    Ok(found.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["localhost.evil.io", "127.0.0.1.evil.io", "10.0.0.1", "registry.io:5000", "[::2]:1", "127.evil"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
