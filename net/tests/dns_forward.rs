//! Forwarding against resolvers that the test makes on loopback: dead ones, slow ones, old ones, truncating ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod dns_common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use carrack_net::dns::{Answer, DnsServer, Forwarder, Query, Transport, UpstreamConfig, Zone, answer};
use dns_common::*;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// How a resolver of the test behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Good,
    /// Reads queries and says nothing.
    Silent,
    /// Fails every query.
    Failing,
    /// Says FORMERR to EDNS, in a bare header.
    Old,
    /// Sends forgeries (wrong id, wrong question) before the answer.
    Forged,
    /// Answers garbage.
    Garbage,
    /// Is good after this time.
    Slow(Duration),
}

/// Rounds until one is as wanted.
const ROUNDS: usize = 20;

/// Asks a new round until its counts are as wanted. A machine that stands still for a quarter of a second makes a forwarder ask
/// once more, as it should; one that always asks once more fails.
async fn counts<T: PartialEq + std::fmt::Debug>(wanted: T, round: impl AsyncFn() -> T) {
    let mut seen = Vec::new();
    while seen.len() < ROUNDS {
        match round().await {
            counts if counts == wanted => return,
            counts => seen.push(counts),
        }
    }
    panic!("never {wanted:?}, but {seen:?}");
}

/// The same free port for both; another test may have one of them for the other protocol.
async fn bind_both() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..ROUNDS {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp, address);
        }
    }
    panic!("no port is free for both");
}

struct Resolver {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    tcp_asked: Arc<AtomicUsize>,
}

impl Resolver {
    /// `long.*` is truncated over UDP, `no.*` does not exist, all else is 192.0.2.1 for a minute.
    async fn start(manner: Manner) -> Resolver {
        let (udp, tcp, address) = bind_both().await;
        let (asked, tcp_asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (asked_there, tcp_asked_there) = (asked.clone(), tcp_asked.clone());
        tokio::spawn(async move {
            let udp = Arc::new(udp);
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                asked_there.fetch_add(1, Ordering::Relaxed);
                let (packet, udp) = (buffer[..length].to_vec(), udp.clone());
                tokio::spawn(async move {
                    if let Manner::Slow(time) = manner {
                        tokio::time::sleep(time).await;
                    }
                    for reply in udp_replies(&packet, manner) {
                        udp.send_to(&reply, from).await.unwrap();
                    }
                });
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                tcp_asked_there.fetch_add(1, Ordering::Relaxed);
                let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut packet).await.unwrap();
                let reply = good_reply(&packet, false).to_vec().unwrap();
                stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        Resolver { address, asked, tcp_asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn udp_replies(packet: &[u8], manner: Manner) -> Vec<Vec<u8>> {
    let good = good_reply(packet, true);
    let bytes = good.to_vec().unwrap();
    match manner {
        Manner::Silent => vec![],
        Manner::Good | Manner::Slow(_) => vec![bytes],
        Manner::Garbage => {
            // Right id and question, and a record that runs past the end.
            let mut garbage = bytes;
            garbage.truncate(garbage.len() - 20);
            vec![garbage]
        }
        Manner::Failing => {
            let mut failure = good;
            failure.answers.clear();
            failure.metadata.response_code = ResponseCode::ServFail;
            vec![failure.to_vec().unwrap()]
        }
        Manner::Old if good.edns.is_some() => vec![[&packet[..2], &[0x81, 0x81], &[0; 8]].concat()],
        Manner::Old => vec![bytes],
        Manner::Forged => {
            let mut other_id = bytes.clone();
            other_id[0] ^= 1;
            let mut other_name = bytes.clone();
            other_name[14] ^= 1;
            vec![vec![1, 2, 3], other_id, other_name, packet.to_vec(), bytes]
        }
    }
}

fn good_reply(packet: &[u8], udp: bool) -> Message {
    let mut message = Message::from_vec(packet).unwrap();
    let name = message.queries[0].name().clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let first = name.to_ascii().to_ascii_lowercase();
    if first.starts_with("no.") {
        message.metadata.response_code = ResponseCode::NXDomain;
        let zone = Name::from_ascii("example.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
        message.add_authority(Record::from_rdata(zone, 30, RData::SOA(soa)));
    } else if first.starts_with("long.") && udp {
        message.metadata.truncation = true;
    } else {
        let count = if first.starts_with("long.") { 200 } else { 1 };
        for number in 1..=count {
            message.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, number))));
        }
    }
    message
}

/// A forwarder over these resolvers, asked as a container would.
struct Asker {
    forwarder: Arc<Forwarder>,
    servers: Vec<SocketAddr>,
}

impl Asker {
    fn new(resolvers: &[&Resolver]) -> Asker {
        let own = "169.254.1.53:53".parse().unwrap();
        let config = UpstreamConfig { resolv_conf: PathBuf::from("/nonexistent"), own };
        let servers = resolvers.iter().map(|resolver| resolver.address).collect();
        Asker { forwarder: Arc::new(Forwarder::new(config)), servers }
    }

    async fn ask(&self, name: &str) -> Message {
        self.ask_packet(&query(name, RecordType::A), 512).await
    }

    async fn ask_packet(&self, packet: &[u8], limit: usize) -> Message {
        let reply = self.forwarder.resolve(&parsed(packet), &self.servers, limit).await;
        assert!(reply.len() <= limit);
        Message::from_vec(&reply).unwrap()
    }
}

fn parsed(packet: &[u8]) -> Query {
    match answer(packet, ip("127.0.0.1"), &zone(), Transport::Udp, 1) {
        Answer::Forward(query, _) => query,
        other => panic!("not to be forwarded: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_relayed_once_and_kept() {
    counts(1, async || {
        let resolver = Resolver::start(Manner::Good).await;
        let asker = Asker::new(&[&resolver]);
        for name in ["a.example.", "A.eXample."] {
            let reply = asker.ask(name).await;
            assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NoError));
            assert_eq!(reply.queries[0].name().to_ascii(), name);
            assert_eq!(records(&reply), ["192.0.2.1"]);
            assert!(reply.edns.is_none(), "the exchange with the resolver used EDNS, the client did not");
        }
        let stats = asker.forwarder.stats();
        assert_eq!((stats.asked, stats.hits, stats.cached, stats.failed), (1, 1, 1, 0));
        let reply = asker.ask_packet(&query_edns("a.example", RecordType::A, 1232), 1232).await;
        assert!(reply.edns.is_some() && reply.answers[0].ttl <= 60);
        resolver.asked()
    })
    .await;
}

#[tokio::test]
async fn a_missing_name_is_kept_too() {
    counts(1, async || {
        let resolver = Resolver::start(Manner::Good).await;
        let asker = Asker::new(&[&resolver]);
        for _ in 0..3 {
            let reply = asker.ask("no.example").await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(reply.authorities.len(), 1);
        }
        resolver.asked()
    })
    .await;
}

#[tokio::test]
async fn a_dead_first_resolver_costs_little_and_then_nothing() {
    counts((1, 1), async || {
        let (dead, good) = (Resolver::start(Manner::Silent).await, Resolver::start(Manner::Good).await);
        let asker = Asker::new(&[&dead, &good]);
        assert_eq!(records(&asker.ask("a.example").await), ["192.0.2.1"]);
        (dead.asked(), good.asked())
    })
    .await;
}

#[tokio::test]
async fn a_closed_port_is_noticed_and_asked_last_from_then_on() {
    // A socket that hears one peer only: nobody else gets the port, and who asks there is refused.
    let held = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    held.connect("127.0.0.1:9").await.unwrap();
    let address = held.local_addr().unwrap();
    counts(20, async || {
        let closed = Resolver { address, asked: Arc::default(), tcp_asked: Arc::default() };
        let good = Resolver::start(Manner::Good).await;
        let asker = Asker::new(&[&closed, &good]);
        for number in 0..20 {
            assert_eq!(records(&asker.ask(&format!("a{number}.example")).await), ["192.0.2.1"]);
        }
        good.asked()
    })
    .await;
}

#[tokio::test]
async fn a_failing_resolver_does_not_hide_a_good_one() {
    let (failing, good) = (Resolver::start(Manner::Failing).await, Resolver::start(Manner::Good).await);
    assert_eq!(records(&Asker::new(&[&failing, &good]).ask("a.example").await), ["192.0.2.1"]);
    let alone = Asker::new(&[&failing]);
    assert_eq!(alone.ask("a.example").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(alone.forwarder.stats().cached, 0, "a failure is not kept");
}

#[tokio::test]
async fn nobody_answering_is_a_server_failure() {
    let silent = Resolver::start(Manner::Silent).await;
    let asker = Asker::new(&[&silent]);
    assert_eq!(asker.ask("a.example").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(asker.forwarder.stats().failed, 1);
    let own: SocketAddr = "169.254.1.53:53".parse().unwrap();
    let circle = Asker { servers: vec![own], ..Asker::new(&[]) };
    assert_eq!(circle.ask("a.example").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn old_and_forged_and_broken_answers() {
    // With EDNS, then without.
    counts(2, async || {
        let old = Resolver::start(Manner::Old).await;
        assert_eq!(records(&Asker::new(&[&old]).ask("a.example").await), ["192.0.2.1"]);
        old.asked()
    })
    .await;
    let forged = Resolver::start(Manner::Forged).await;
    assert_eq!(records(&Asker::new(&[&forged]).ask("a.example").await), ["192.0.2.1"]);
    let garbage = Resolver::start(Manner::Garbage).await;
    let good = Resolver::start(Manner::Good).await;
    assert_eq!(records(&Asker::new(&[&garbage, &good]).ask("a.example").await), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_by_tcp() {
    counts((1, 1), async || {
        let resolver = Resolver::start(Manner::Good).await;
        let asker = Asker::new(&[&resolver]);
        let short = asker.ask("long.example").await;
        assert!(short.metadata.truncation && short.answers.is_empty(), "the client is sent to TCP");
        let whole = asker.ask_packet(&query("long.example", RecordType::A), 65_535).await;
        assert!(!whole.metadata.truncation && whole.answers.len() == 200, "and finds it kept");
        (resolver.asked(), resolver.tcp_asked.load(Ordering::Relaxed))
    })
    .await;
}

#[tokio::test]
async fn equal_questions_at_once_are_one() {
    counts(1, async || {
        let resolver = Resolver::start(Manner::Slow(Duration::from_millis(100))).await;
        let asker = Arc::new(Asker::new(&[&resolver]));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let asker = asker.clone();
            clients.spawn(async move { records(&asker.ask("a.example").await) });
        }
        while let Some(reply) = clients.join_next().await {
            assert_eq!(reply.unwrap(), ["192.0.2.1"]);
        }
        resolver.asked()
    })
    .await;
}

#[tokio::test]
async fn the_server_ends_only_after_its_replies() {
    let slow = Resolver::start(Manner::Slow(Duration::from_millis(300))).await;
    let mut world = world();
    world.upstreams = vec![slow.address];
    let config =
        UpstreamConfig { resolv_conf: "/nonexistent".into(), own: "169.254.1.53:53".parse().unwrap() };
    let server = Arc::new(DnsServer::new(Zone::new(world, 1).unwrap(), Forwarder::new(config), 1));
    let (udp, tcp, address) = bind_both().await;
    let udp = Arc::new(udp);
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server.clone().serve(udp, tcp, stopped));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    client.send(&query("a.example", RecordType::A)).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let packet = query("b.example", RecordType::A);
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    while server.stats().queries < 2 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).await.unwrap();
    assert_eq!(records(&Message::from_vec(&buffer[..length]).unwrap()), ["192.0.2.1"]);
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(records(&Message::from_vec(&reply).unwrap()), ["192.0.2.1"]);
    serving.await.unwrap().unwrap();
    assert_eq!(server.stats().serving, 0);
}
