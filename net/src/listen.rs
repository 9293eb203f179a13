//! Which ports a namespace listens on, for readiness.
//!
//! Owns: reading /proc/net/{tcp,tcp6,udp,udp6} of a namespace or process. Owns not: what is done with it.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::error::NetError;
use crate::model::Protocol;
use crate::ns::Netns;

/// Ports something listens on (TCP) or is bound to without a peer (UDP).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// TCP ports that an address other than loopback reaches.
    pub tcp: BTreeSet<u16>,
    /// UDP ports that an address other than loopback reaches.
    pub udp: BTreeSet<u16>,
    /// TCP ports that are listened on only at a loopback address: nobody outside the namespace reaches them.
    pub tcp_loopback_only: BTreeSet<u16>,
}

impl Listening {
    /// Whether a port is reachable.
    pub fn has(&self, protocol: Protocol, port: u16) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp.contains(&port),
            Protocol::Udp => self.udp.contains(&port),
        }
    }
}

/// The ports a namespace listens on.
pub fn listening_ports(netns: &Netns) -> Result<Listening, NetError> {
    netns
        .run(|| read_tables("/proc/thread-self/net"))
        .map_err(|source| NetError::Netns { what: "a container".to_owned(), source })?
}

/// The ports that the namespace of a process listens on; needs no thread.
pub fn listening_ports_of(pid: i32) -> Result<Listening, NetError> {
    read_tables(&format!("/proc/{pid}/net"))
}

/// One line of a socket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketLine {
    /// IPv4 address in host order; `None` for IPv6.
    pub(crate) v4: Option<u32>,
    pub(crate) loopback: bool,
    pub(crate) unspecified: bool,
    pub(crate) port: u16,
    pub(crate) state: u8,
    pub(crate) inode: u64,
}

/// Kernel socket states in /proc/net.
pub(crate) const STATE_CLOSE: u8 = 7;
pub(crate) const STATE_LISTEN: u8 = 10;

/// Reads one table; IPv6 switched off means an absent file, which is an empty table.
pub(crate) fn read_table(path: &str) -> Result<Vec<SocketLine>, NetError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => return Ok(Vec::new()),
        Err(source) => return Err(NetError::Proc { path: path.to_owned(), source }),
    };
    Ok(text.lines().skip(1).filter_map(parse_line).collect())
}

fn read_tables(folder: &str) -> Result<Listening, NetError> {
    let mut listening = Listening::default();
    for file in ["tcp", "tcp6"] {
        for line in read_table(&format!("{folder}/{file}"))? {
            if line.state == STATE_LISTEN && line.loopback {
                listening.tcp_loopback_only.insert(line.port);
            } else if line.state == STATE_LISTEN {
                listening.tcp.insert(line.port);
            }
        }
    }
    for file in ["udp", "udp6"] {
        let lines = read_table(&format!("{folder}/{file}"))?;
        listening.udp.extend(lines.iter().filter(|l| l.state == STATE_CLOSE && !l.loopback).map(|l| l.port));
    }
    let reachable = &listening.tcp;
    listening.tcp_loopback_only.retain(|port| !reachable.contains(port));
    Ok(listening)
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn parse_line(line: &str) -> Option<SocketLine> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each 32-bit word is printed in host order.
    let words: Vec<u32> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::from_be))
        .map(|word| word.map(|w| if cfg!(target_endian = "little") { w } else { w.swap_bytes() }))
        .collect::<Option<_>>()?;
    let v4 = match words[..] {
        [v4] => Some(v4),
        [0, 0, 0xffff, v4] => Some(v4),
        _ => None,
    };
    let loopback = v4.is_some_and(|v4| v4 >> 24 == 127) || words == [0, 0, 0, 1];
    let unspecified = words.iter().all(|word| *word == 0) || v4 == Some(0);
    Some(SocketLine { v4, loopback, unspecified, port, state, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: &str, state: &str) -> SocketLine {
        let text = format!(
            "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 4711 1"
        );
        parse_line(&text).unwrap()
    }

    #[test]
    fn a_socket_table_line_is_read() {
        let any = line("00000000:1F90", "0A");
        assert_eq!((any.port, any.state, any.inode), (8080, STATE_LISTEN, 4711));
        assert!(any.unspecified && !any.loopback);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn loopback_is_told_from_reachable_in_both_families() {
        assert!(line("0100007F:0050", "0A").loopback);
        assert!(line("00000000000000000000000001000000:0050", "0A").loopback);
        assert!(line("0000000000000000FFFF00000100007F:0050", "0A").loopback);
        assert!(!line("00000000000000000000000000000000:0050", "0A").loopback);
        assert_eq!(line("0101C00A:0050", "0A").v4, Some(0x0ac0_0101));
    }

    #[test]
    fn a_header_or_a_torn_line_is_no_socket() {
        assert_eq!(parse_line("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(parse_line(""), None);
    }
}
