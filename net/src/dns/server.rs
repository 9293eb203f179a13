//! Sockets of the DNS server: datagrams and streams in, replies out.
//!
//! Owns: reading and writing queries, the bounds on connections and on forwarded queries, ending without losing a query
//! that was read. Does not own: what is replied (`answer`, `forward`), where the sockets come from (`dataplane`).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::{Answer, Transport, answer, limit_of};
use super::forward::{ForwardStats, Forwarder};
use super::zone::Zone;

/// Most forwarded queries and TCP connections being served for one client at once; more are dropped, so that one
/// container cannot take the resolver from the others.
const MAX_PER_CLIENT: usize = 128;
/// Most forwarded queries and TCP connections being served at once.
const MAX_SERVED: usize = 2048;
/// A server that stops lets a connection that it has accepted still send its first query: nobody else can answer it.
const TCP_FIRST_QUERY: Duration = Duration::from_secs(1);
/// How long a connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to accept a reply.
const TCP_WRITE: Duration = Duration::from_secs(5);
/// Largest query read from a datagram, in bytes; queries are far smaller.
const MAX_QUERY_BYTES: usize = 4096;
/// Longest wait after a socket error such as "too many open files", before trying again.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Serves one address from the current zone.
#[derive(Debug)]
pub struct DnsServer {
    zone: RwLock<Arc<Zone>>,
    forwarder: Arc<Forwarder>,
    served: Mutex<HashMap<IpAddr, usize>>,
    served_count: watch::Sender<usize>,
    counters: Counters,
    seed: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    queries: AtomicU64,
    dropped: AtomicU64,
}

/// What the server did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Queries read.
    pub queries: u64,
    /// Queries and connections dropped because too many were being served.
    pub dropped: u64,
    /// Forwarded queries and connections being served now.
    pub serving: u64,
    /// The forwarder's part.
    pub forward: ForwardStats,
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The UDP socket cannot be read any more.
    #[error("cannot receive dns queries")]
    Receive(#[source] io::Error),
}

impl DnsServer {
    /// A server that answers from `zone`; `seed` orders addresses, differently for every query.
    pub fn new(zone: Zone, forwarder: Forwarder, seed: u64) -> DnsServer {
        DnsServer {
            zone: RwLock::new(Arc::new(zone)),
            forwarder: Arc::new(forwarder),
            served: Mutex::new(HashMap::new()),
            served_count: watch::Sender::new(0),
            counters: Counters::default(),
            seed: AtomicU64::new(seed),
        }
    }

    /// Answers from another zone from now on.
    pub fn replace_zone(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    /// Counts so far.
    pub fn stats(&self) -> ServerStats {
        ServerStats {
            queries: self.counters.queries.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
            serving: *self.served_count.borrow() as u64,
            forward: self.forwarder.stats(),
        }
    }

    /// Serves both sockets until `stop` turns true, then waits for the replies under way. Queries that were not read
    /// stay in the sockets for whoever else holds them.
    pub async fn serve(
        self: Arc<Self>,
        udp: Arc<UdpSocket>,
        tcp: TcpListener,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        let ended = {
            let datagrams = self.serve_udp(&udp);
            let streams = self.serve_tcp(&tcp, stop.clone());
            tokio::select! {
                result = datagrams => result,
                () = streams => Ok(()),
                // The sender is gone: nobody can ask for more either.
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        };
        let mut count = self.served_count.subscribe();
        // The sender lives in self, so this waits for zero.
        let _ = count.wait_for(|count| *count == 0).await;
        ended
    }

    async fn serve_udp(self: &Arc<Self>, udp: &Arc<UdpSocket>) -> Result<(), ServerError> {
        let mut buffer = vec![0; MAX_QUERY_BYTES];
        loop {
            let (length, from) = match udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(ServerError::Receive(error)),
            };
            self.datagram(udp, &buffer[..length], from);
        }
    }

    /// Answers what can be answered at once; what must be asked elsewhere gets a task.
    fn datagram(self: &Arc<Self>, udp: &Arc<UdpSocket>, packet: &[u8], from: SocketAddr) {
        let reply = match self.decide(packet, from.ip(), Transport::Udp) {
            Answer::Reply(reply) => reply,
            Answer::Drop => return,
            Answer::Forward(query, upstreams) => {
                let limit = limit_of(&query, Transport::Udp);
                match self.forwarder.cached(&query, &upstreams, limit) {
                    Some(reply) => reply,
                    None => {
                        let Some(serving) = self.admit(from.ip()) else { return };
                        let (forwarder, udp) = (self.forwarder.clone(), udp.clone());
                        tokio::spawn(async move {
                            let reply = forwarder.resolve(&query, &upstreams, limit).await;
                            send(&udp, &reply, from);
                            drop(serving);
                        });
                        return;
                    }
                }
            }
        };
        send(udp, &reply, from);
    }

    async fn serve_tcp(self: &Arc<Self>, tcp: &TcpListener, stop: watch::Receiver<bool>) {
        loop {
            match tcp.accept().await {
                Ok((stream, from)) => {
                    let Some(serving) = self.admit(from.ip()) else { continue };
                    let (this, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        if let Err(error) = this.connection(stream, from.ip(), stop).await {
                            tracing::debug!(%from, %error, "dns connection ended");
                        }
                        drop(serving);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a dns connection");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection, query by query, until it ends, is silent for too long or the server stops.
    async fn connection(
        self: &Arc<Self>,
        mut stream: TcpStream,
        from: IpAddr,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut first = true;
        loop {
            let stopped = async {
                // The sender is gone: nobody can ask for more either.
                let _ = stop.wait_for(|stop| *stop).await;
                if first {
                    tokio::time::sleep(TCP_FIRST_QUERY).await;
                }
            };
            let length = tokio::select! {
                biased;
                length = timeout(TCP_IDLE, stream.read_u16()) => usize::from(length??),
                () = stopped => return Ok(()),
            };
            first = false;
            let mut packet = vec![0; length];
            timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
            let reply = match self.decide(&packet, from, Transport::Tcp) {
                Answer::Reply(reply) => reply,
                Answer::Drop => return Ok(()),
                Answer::Forward(query, upstreams) => {
                    let limit = limit_of(&query, Transport::Tcp);
                    self.forwarder.resolve(&query, &upstreams, limit).await
                }
            };
            let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
            timeout(TCP_WRITE, stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())).await??;
        }
    }

    fn decide(&self, packet: &[u8], from: IpAddr, transport: Transport) -> Answer {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner).clone();
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        answer(packet, from, &zone, transport, seed)
    }

    /// Leave to serve one more query or connection of a client.
    fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Serving> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let own = served.get(&client).copied().unwrap_or(0);
        if own >= MAX_PER_CLIENT || *self.served_count.borrow() >= MAX_SERVED {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        served.insert(client, own + 1);
        self.served_count.send_modify(|count| *count += 1);
        Some(Serving { server: self.clone(), client })
    }
}

/// One query or connection being served.
struct Serving {
    server: Arc<DnsServer>,
    client: IpAddr,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut served = self.server.served.lock().unwrap_or_else(PoisonError::into_inner);
        match served.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                served.remove(&self.client);
            }
        }
        self.server.served_count.send_modify(|count| *count -= 1);
    }
}

/// Sends a datagram; what the socket does not take at once is lost, as datagrams may be.
fn send(udp: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = udp.try_send_to(reply, to) {
        tracing::debug!(%to, %error, "dns reply not sent");
    }
}

/// Errors that earlier replies left in the socket (their client is gone) or that say "again".
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}
