//! One question to one resolver, for people who want to know. Owns no cache and asks once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::wire::{
    CLASS_IN, FLAG_RECURSION_DESIRED, HEADER_BYTES, MAX_UDP_BYTES, Record, TYPE_A, TYPE_AAAA, encode_name,
    skip_name, u16_at,
};

/// Bits of a header that hold the outcome.
const RCODE_MASK: u16 = 0x000f;

/// What a resolver said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Outcome in the words of DNS.
    pub result: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Seconds for which they may be kept.
    pub ttl: u32,
}

/// Asks a resolver for the IPv4 addresses of a name.
pub async fn ask(server: SocketAddr, name: &str, patience: Duration) -> io::Result<Said> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut packet = id.to_vec();
    packet.extend(FLAG_RECURSION_DESIRED.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(encode_name(name));
    packet.extend(TYPE_A.to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&packet).await?;
    let mut answer = vec![0; MAX_UDP_BYTES];
    loop {
        let read = timeout(patience, socket.recv(&mut answer))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))??;
        // Anything else is late or not meant for us.
        if answer[..read].starts_with(&id) && read >= HEADER_BYTES {
            return read_answer(&answer[..read])
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer that cannot be read"));
        }
    }
}

fn read_answer(packet: &[u8]) -> Option<Said> {
    let rcode = u16_at(packet, 2)? & RCODE_MASK;
    let result = match rcode {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("RCODE{other}"),
    };
    let mut at = HEADER_BYTES;
    for _ in 0..u16_at(packet, 4)? {
        at = skip_name(packet, at)? + 4;
    }
    let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
    for _ in 0..u16_at(packet, 6)? {
        let record = Record::read(packet, at)?;
        let data = packet.get(record.ttl_at + 6..record.end)?;
        let address = match (record.rtype, data.len()) {
            (TYPE_A, 4) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (TYPE_AAAA, 16) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        if let Some(address) = address {
            addresses.push(address);
        }
        ttl = ttl.min(record.ttl);
        at = record.end;
    }
    Some(Said { result, ttl: if addresses.is_empty() { 0 } else { ttl }, addresses })
}
