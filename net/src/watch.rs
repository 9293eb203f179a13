//! Notices when somebody else changes what we hold in the kernel: a firewall that is reloaded, a manager of links that
//! deletes routes, a program that switches forwarding off.
//!
//! Owns: two sockets in the kernel's notification groups, and telling our own changes from others'. A notification only
//! wakes an audit, which looks at everything; so lost ones are no loss but count as one. Owns not: when to audit.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use crate::error::NetError;
use crate::present::{ADDRESS_LABEL, ROUTE_PROTOCOL};
use crate::wire::{Message, find, messages};

/// Groups as bits: changes of nftables; IPv4 addresses, routes and settings.
const NFT_GROUPS: u32 = 1 << 6;
const ROUTE_GROUPS: u32 = 1 << 4 | 1 << 6 | 1 << 23;

/// The end of each change of nftables.
const NEW_GENERATION: u16 = 10 << 8 | 15;
const DELETED_ADDRESS: u16 = 21;
const DELETED_ROUTE: u16 = 25;
const NEW_SETTING: u16 = 80;

/// In a notification of a setting: which link it is of, whether packets are forwarded, and the number for "all links".
const SETTING_LINK: u16 = 1;
const SETTING_FORWARDING: u16 = 2;
const ALL_LINKS: i32 = -1;

/// Room for one notification, in bytes; a longer one is cut, and its first messages tell enough.
const DATAGRAM_BYTES: usize = 64 << 10;

/// Notifications that are taken as one, at most.
const TAKEN_AS_ONE: usize = 100_000;

/// Waits for changes by others.
#[derive(Debug)]
pub struct Watch {
    ruleset: AsyncFd<OwnedFd>,
    routes: AsyncFd<OwnedFd>,
    /// The netlink ports of the sockets that our own changes come from.
    ours: [u32; 2],
    buffer: Vec<u8>,
}

/// What was changed by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Tables, chains, rules or sets: ours or theirs.
    Ruleset,
    /// A route or an address of ours is gone, or forwarding is off.
    Routes,
}

impl Watch {
    pub(crate) fn open(ours: [u32; 2]) -> Result<Self, NetError> {
        let ruleset = open(SockProtocol::NetlinkNetFilter, "nfnetlink", NFT_GROUPS)?;
        let routes = open(SockProtocol::NetlinkRoute, "rtnetlink", ROUTE_GROUPS)?;
        Ok(Self { ruleset, routes, ours, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// Waits until somebody else has changed something. What came meanwhile is taken as one change. Nothing is lost when
    /// the wait is broken off.
    pub async fn changed(&mut self) -> Result<Change, NetError> {
        loop {
            let (change, ready) = tokio::select! {
                ready = self.ruleset.readable() => (Change::Ruleset, ready),
                ready = self.routes.readable() => (Change::Routes, ready),
            };
            let mut ready = ready.map_err(failed)?;
            let mut by_others = false;
            for _ in 0..TAKEN_AS_ONE {
                match recv(ready.get_inner().as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        let told = messages(self.buffer.get(..length).unwrap_or_default());
                        by_others |= told.iter().any(|message| concerns_us(message, self.ours));
                    }
                    // Some were lost.
                    Err(Errno::ENOBUFS) => by_others = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(errno) => return Err(failed(errno.into())),
                }
            }
            if by_others {
                return Ok(change);
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way to register an owned descriptor")]
fn open(protocol: SockProtocol, name: &'static str, groups: u32) -> Result<AsyncFd<OwnedFd>, NetError> {
    let failed = |source: io::Error| NetError::Socket { protocol: name, source };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
        .map_err(|errno| failed(errno.into()))?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(|errno| failed(errno.into()))?;
    // SAFETY: the descriptor is owned, so it stays open and the same until the `AsyncFd` is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(|error| failed(error.into()))
}

fn failed(source: io::Error) -> NetError {
    NetError::Exchange { action: "watch for changes by others".to_owned(), source }
}

/// Whether a notification tells of a change by others that an audit may have to repair.
fn concerns_us(message: &Message, ours: [u32; 2]) -> bool {
    // struct ifaddrmsg has 8 bytes; in struct rtmsg the sixth is the protocol.
    let label = || message.payload.get(8..).and_then(|attrs| find(attrs, 3)).map(|label| label.text());
    // struct netconfmsg has one byte, and is padded.
    let setting = |attr| {
        let value = message.payload.get(4..).and_then(|attrs| find(attrs, attr))?.value;
        Some(i32::from_ne_bytes(value.try_into().ok()?))
    };
    let about_us = match message.kind {
        NEW_GENERATION => true,
        DELETED_ROUTE => message.payload.get(5) == Some(&ROUTE_PROTOCOL),
        DELETED_ADDRESS => label().as_deref() == Some(ADDRESS_LABEL),
        // We never switch it off.
        NEW_SETTING => setting(SETTING_LINK) == Some(ALL_LINKS) && setting(SETTING_FORWARDING) == Some(0),
        _ => false,
    };
    about_us && !ours.contains(&message.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Attrs;

    #[test]
    fn only_what_others_did_to_us_counts() {
        let told = |kind, port, payload: &[u8]| {
            concerns_us(&Message { kind, flags: 0, sequence: 0, port, payload: payload.to_vec() }, [7, 8])
        };
        assert!(told(NEW_GENERATION, 9, &[]));
        assert!(told(NEW_GENERATION, 0, &[]));
        assert!(!told(NEW_GENERATION, 7, &[]), "our own change");
        let route = |protocol| [2, 24, 0, 0, 254, protocol, 0, 1, 0, 0, 0, 0];
        assert!(told(DELETED_ROUTE, 9, &route(ROUTE_PROTOCOL)));
        assert!(!told(DELETED_ROUTE, 8, &route(ROUTE_PROTOCOL)));
        assert!(!told(DELETED_ROUTE, 9, &route(3)), "somebody else's route");
        let address =
            |label: &str| [&[2, 32, 0, 0, 1, 0, 0, 0], Attrs::new().text(3, label).as_slice()].concat();
        assert!(told(DELETED_ADDRESS, 9, &address("lo:ck")));
        assert!(!told(DELETED_ADDRESS, 9, &address("lo")));
        assert!(!told(DELETED_ADDRESS, 9, &[]), "cut short");
        let forwarding = |link: i32, on: i32| {
            let attrs = Attrs::new().bytes(SETTING_LINK, &link.to_ne_bytes());
            [&[2, 0, 0, 0], attrs.bytes(SETTING_FORWARDING, &on.to_ne_bytes()).as_slice()].concat()
        };
        assert!(told(NEW_SETTING, 0, &forwarding(ALL_LINKS, 0)));
        assert!(!told(NEW_SETTING, 0, &forwarding(ALL_LINKS, 1)), "as we do it");
        assert!(!told(NEW_SETTING, 0, &forwarding(7, 0)), "one link");
        assert!(!told(NEW_SETTING, 0, &[2]), "cut short");
    }
}
