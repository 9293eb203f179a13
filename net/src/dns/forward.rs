//! Asking other resolvers on behalf of clients.
//!
//! Owns: the exchange with upstream resolvers (UDP, TCP when truncated, a second server when the first is slow), the
//! cache, and the bound on questions under way. Equal questions at the same time are asked once. Does not own: which
//! resolvers there are (`upstream`), which names come here (`answer`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::server_failure;
use super::cache::{Cache, Key};
use super::response::Response;
use super::upstream::{UpstreamConfig, Upstreams};
use super::wire::{MAX_UDP_BYTES, Query, is_bare_refusal};

/// Most different questions under way at once; further ones get SERVFAIL at once.
const MAX_IN_FLIGHT: usize = 1024;
/// How long a server has to itself before the next one is asked as well.
const HEDGE: Duration = Duration::from_millis(250);
/// How long one server may take over one transport.
const EXCHANGE: Duration = Duration::from_secs(2);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// How long a client waits at most, whatever the number of servers.
const DEADLINE: Duration = Duration::from_secs(4);

/// Resolves names that are not ours.
#[derive(Debug)]
pub struct Forwarder {
    state: Mutex<State>,
    counters: Counters,
}

#[derive(Debug)]
struct State {
    upstreams: Upstreams,
    cache: Cache,
    in_flight: HashMap<Key, watch::Receiver<Option<Outcome>>>,
}

/// What one question led to; `None` inside when no server answered.
type Outcome = Option<Arc<Response>>;

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// What the forwarder did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardStats {
    /// Answers from the cache.
    pub hits: u64,
    /// Questions asked upstream.
    pub asked: u64,
    /// Questions that no resolver answered.
    pub failed: u64,
    /// Questions refused because too many were under way.
    pub refused: u64,
    /// Answers in the cache now.
    pub cached: u64,
}

/// Why one server gave no usable answer.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no random query id")]
    NoRandom,
    #[error("malformed answer")]
    Malformed,
}

impl Forwarder {
    /// A forwarder with an empty cache.
    pub fn new(config: UpstreamConfig) -> Forwarder {
        let state =
            State { upstreams: Upstreams::new(config), cache: Cache::default(), in_flight: HashMap::new() };
        Forwarder { state: Mutex::new(state), counters: Counters::default() }
    }

    /// Counts so far.
    pub fn stats(&self) -> ForwardStats {
        ForwardStats {
            hits: self.counters.hits.load(Ordering::Relaxed),
            asked: self.counters.asked.load(Ordering::Relaxed),
            failed: self.counters.failed.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            cached: self.lock().cache.len() as u64,
        }
    }

    /// The kept reply to a query of at most `limit` bytes, without waiting for anybody.
    pub fn cached(&self, query: &Query, own: &[SocketAddr], limit: usize) -> Option<Vec<u8>> {
        let (response, age) = self.lock().cache.get(&Key::new(query, own), Instant::now())?;
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Some(response.to_client(query, age, limit))
    }

    /// The reply to a query, of at most `limit` bytes; SERVFAIL when nobody answers.
    pub async fn resolve(self: &Arc<Self>, query: &Query, own: &[SocketAddr], limit: usize) -> Vec<u8> {
        if let Some(reply) = self.cached(query, own, limit) {
            return reply;
        }
        let Some(mut answer) = self.join_or_ask(query, own) else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return server_failure(query);
        };
        // An error means that the asking task ended without an outcome, as it does when the runtime shuts down.
        let outcome =
            answer.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone().flatten());
        match outcome {
            Some(response) => response.to_client(query, 0, limit),
            None => server_failure(query),
        }
    }

    /// Joins the asking of an equal question, or starts asking.
    fn join_or_ask(
        self: &Arc<Self>,
        query: &Query,
        own: &[SocketAddr],
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        let key = Key::new(query, own);
        let mut state = self.lock();
        if let Some(under_way) = state.in_flight.get(&key) {
            return Some(under_way.clone());
        }
        if state.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let (tell, told) = watch::channel(None);
        let servers = state.upstreams.select(own, Instant::now());
        state.in_flight.insert(key.clone(), told.clone());
        drop(state);
        self.counters.asked.fetch_add(1, Ordering::Relaxed);
        let (this, query) = (Arc::clone(self), query.clone());
        tokio::spawn(async move {
            let under_way = UnderWay { forwarder: &this, key: &key };
            let outcome = timeout(DEADLINE, this.ask_servers(&query, &servers)).await.ok().flatten();
            match &outcome {
                Some(response) => this.lock().cache.put(key.clone(), response.clone(), Instant::now()),
                None => {
                    this.counters.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(under_way);
            // Nobody may wait any more; that is fine.
            let _ = tell.send(Some(outcome));
        });
        Some(told)
    }

    /// Asks the servers in order, the next one when the one before is slow or failed; the first good answer wins.
    async fn ask_servers(&self, query: &Query, servers: &[SocketAddr]) -> Outcome {
        let mut queue: VecDeque<SocketAddr> =
            servers.iter().cycle().take(servers.len() * ROUNDS).copied().collect();
        let mut exchanges = JoinSet::new();
        let mut second_best = None;
        loop {
            match queue.pop_front() {
                Some(server) => {
                    let query = query.clone();
                    exchanges.spawn(async move { (server, exchange(&query, server).await) });
                }
                None if exchanges.is_empty() => return second_best,
                None => {}
            }
            let patience = if queue.is_empty() { DEADLINE } else { HEDGE };
            while let Ok(Some(joined)) = timeout(patience, exchanges.join_next()).await {
                let Ok((server, result)) = joined else { continue };
                self.lock().upstreams.note(server, result.is_ok(), Instant::now());
                match result {
                    Ok(response) if matches!(response.rcode_bits(), 0 | 3) => return Some(response),
                    Ok(response) => second_best = Some(response),
                    Err(error) => tracing::debug!(%server, %error, "resolver did not answer"),
                }
                if !queue.is_empty() {
                    break;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every update of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the question out of those under way, however its task ends.
struct UnderWay<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.forwarder.lock().in_flight.remove(self.key);
    }
}

/// Asks one server: by UDP, again without EDNS if it knows none, by TCP if the answer is too long.
async fn exchange(query: &Query, server: SocketAddr) -> Result<Arc<Response>, ExchangeError> {
    let mut response = by_udp(query, server, true).await?;
    if response.is_none() {
        response = by_udp(query, server, false).await?;
    }
    let response = response.ok_or(ExchangeError::Malformed)?;
    if !response.is_truncated() {
        return Ok(Arc::new(response));
    }
    Ok(Arc::new(timeout(EXCHANGE, by_tcp(query, server)).await.map_err(|_| ExchangeError::Timeout)??))
}

/// One datagram there and back; `None` when the server does not understand EDNS.
async fn by_udp(query: &Query, server: SocketAddr, edns: bool) -> Result<Option<Response>, ExchangeError> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // A new socket has a random source port, and being connected it hears the server only.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&query.to_upstream(id, edns)).await?;
    let receive = async {
        let mut buffer = [0; MAX_UDP_BYTES + 1024];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let packet = &buffer[..length];
            if edns && is_bare_refusal(packet, id) {
                return Ok(None);
            }
            // What does not fit the question is a forgery or a late answer: the right one may still come.
            if !query.is_answered_by(packet, id) {
                continue;
            }
            let response = Response::parse(packet).ok_or(ExchangeError::Malformed)?;
            return Ok((!edns || !matches!(response.rcode_bits(), 1 | 4)).then_some(response));
        }
    };
    timeout(EXCHANGE, receive).await.map_err(|_| ExchangeError::Timeout)?
}

async fn by_tcp(query: &Query, server: SocketAddr) -> Result<Response, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    let packet = query.to_upstream(id, true);
    let length = u16::try_from(packet.len()).map_err(|_| ExchangeError::Malformed)?;
    stream.write_all(&[&length.to_be_bytes()[..], &packet].concat()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    if !query.is_answered_by(&packet, id) {
        return Err(ExchangeError::Malformed);
    }
    Response::parse(&packet).filter(|response| !response.is_truncated()).ok_or(ExchangeError::Malformed)
}

fn random_id() -> Result<u16, ExchangeError> {
    getrandom::u32().map(|value| value as u16).map_err(|_| ExchangeError::NoRandom)
}
