//! Connections: names resolved by our own resolver (the binary is static: no getaddrinfo), TLS by
//! rustls, straight or through a proxy's tunnel.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;

use super::config::Proxy;
use super::tls;
use crate::error::chain;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a proxy's answer before its tunnel begins.
const TUNNEL_HEAD_MAX: usize = 8 * 1024;
/// Port of an address with TLS that names none.
const TLS_PORT: u16 = 443;

type Failure = Box<dyn StdError + Send + Sync>;

/// The HTTP client of one conversation: plain HTTP, and TLS once an address asks for it.
pub(super) struct HttpClient {
    plain: Client<Dial, Empty<Bytes>>,
    tls: OnceLock<Client<HttpsConnector<Dial>, Empty<Bytes>>>,
    ca_files: Vec<PathBuf>,
    proxy: Option<Arc<Proxy>>,
}

impl HttpClient {
    pub(super) fn new(ca_files: Vec<PathBuf>, proxy: Option<Proxy>) -> Self {
        // Plain HTTP stays on this host, so it never takes the proxy.
        let plain = builder().build(Dial::new(None));
        Self { plain, tls: OnceLock::new(), ca_files, proxy: proxy.map(Arc::new) }
    }

    /// Sends a request; the error says why, in one line.
    pub(super) async fn request(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
        let answer = if request.uri().scheme_str() == Some("https") {
            self.tls()?.request(request).await
        } else {
            self.plain.request(request).await
        };
        answer.map_err(|error| reason(&error))
    }

    /// The host's certificates are only read when they are needed.
    fn tls(&self) -> Result<&Client<HttpsConnector<Dial>, Empty<Bytes>>, String> {
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(self.ca_files.iter())?)
            .https_only()
            .enable_http1()
            .wrap_connector(Dial::new(self.proxy.clone()));
        Ok(self.tls.get_or_init(|| builder().build(connector)))
    }
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new());
    builder
}

/// What went wrong, without the names of the layers that pass it on.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let cause = StdError::source(error);
    cause.map_or_else(|| chain(error), chain)
}

/// Opens connections: straight, or through the proxy.
#[derive(Clone)]
struct Dial {
    tcp: HttpConnector<Resolver>,
    proxy: Option<Arc<Proxy>>,
}

impl Dial {
    fn new(proxy: Option<Arc<Proxy>>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Self { tcp, proxy }
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let host = target.host().unwrap_or_default().to_owned();
        let port = target.port_u16().unwrap_or(TLS_PORT);
        let Some(proxy) = self.proxy.clone().filter(|proxy| proxy.serves(&host, port)) else {
            let straight = self.tcp.call(target);
            return Box::pin(async move { Ok(straight.await?) });
        };
        let mut tcp = self.tcp.clone();
        Box::pin(async move {
            let via = format!("the proxy {}:{}", proxy.host, proxy.port);
            let authority = match proxy.host.contains(':') {
                true => format!("[{}]:{}", proxy.host, proxy.port),
                false => format!("{}:{}", proxy.host, proxy.port),
            };
            let address: Uri = format!("http://{authority}").parse()?;
            let stream = tcp.call(address).await.map_err(|error| format!("{via}: {}", chain(&error)))?;
            let tunnel = tunnel(stream.into_inner(), &host, port, proxy.authorization.as_deref());
            Ok(TokioIo::new(tunnel.await.map_err(|error| format!("{via}: {error}"))?))
        })
    }
}

/// Asks the proxy at the other end of `stream` for a connection to `host`.
async fn tunnel(
    mut stream: TcpStream,
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> Result<TcpStream, String> {
    let login = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A byte at a time: what follows the head belongs to the tunnel.
        let byte = stream.read_u8().await.map_err(|_| "it closed the connection without an answer")?;
        head.push(byte);
        if head.len() > TUNNEL_HEAD_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    let line = String::from_utf8_lossy(&head);
    match line.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=299) => Ok(stream),
        Some(407) if authorization.is_some() => Err("it refuses its user and password".to_owned()),
        Some(407) => Err("it asks for a user and password; write them into its URL".to_owned()),
        Some(status) => Err(format!("it answered {status} to the wish for a tunnel")),
        None => Err("it does not answer as an HTTP proxy does".to_owned()),
    }
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

impl Service<Name> for Resolver {
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
    let failed = |error: &dyn StdError| io::Error::other(format!("cannot resolve {name}: {}", chain(error)));
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
