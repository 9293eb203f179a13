//! Published ports are held by bound sockets that never listen.
//!
//! Owns: taking and giving back ports of the host, and saying who holds a port that is taken. While we hold a port
//! no other program of the host can have it, so its traffic is never stolen unnoticed.
//! Owns not: where the traffic goes (nftables rewrites it before any socket sees it).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use crate::listen::{STATE_CLOSE, STATE_LISTEN, read_table};
use crate::model::{PortKey, Protocol};

/// A program that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// Its program name.
    pub program: String,
}

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Another program has it.
    #[error("port {key} is in use by {} (pid {})", holder.program, holder.pid)]
    Taken {
        /// The port.
        key: PortKey,
        /// Who has it.
        holder: Holder,
    },
    /// Another program has it, but it cannot be found (it is in another pid namespace, or has just gone).
    #[error("port {key} is in use by a program that cannot be seen from here")]
    TakenByUnknown {
        /// The port.
        key: PortKey,
    },
    /// No link of the host has the address.
    #[error("port {key} cannot be published: {host_ip} is not an address of this host")]
    NotOurAddress {
        /// The port.
        key: PortKey,
        /// Its address.
        host_ip: Ipv4Addr,
    },
    /// Anything else.
    #[error("cannot reserve port {key}")]
    Failed {
        /// The port.
        key: PortKey,
        /// Why.
        source: io::Error,
    },
}

/// The ports we hold.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    held: BTreeMap<PortKey, OwnedFd>,
}

impl Reservations {
    /// Gives back what is not wanted any more, takes what is missing, returns what could not be had.
    pub(crate) fn sync(&mut self, wanted: &BTreeSet<PortKey>) -> BTreeMap<PortKey, ReserveError> {
        self.held.retain(|key, _| wanted.contains(key));
        let mut failed = BTreeMap::new();
        for key in wanted {
            if self.held.contains_key(key) {
                continue;
            }
            match reserve(*key) {
                Ok(socket) => drop(self.held.insert(*key, socket)),
                Err(error) => drop(failed.insert(*key, error)),
            }
        }
        failed
    }
}

/// A bound socket for the port. Without SO_REUSEADDR, so that nobody else may bind beside us; with it only when
/// nothing but connections in TIME_WAIT are in the way.
fn reserve(key: PortKey) -> Result<OwnedFd, ReserveError> {
    let failed = |errno: Errno| ReserveError::Failed { key, source: errno.into() };
    match bound_socket(key, false) {
        Ok(socket) => Ok(socket),
        Err(Errno::EADDRNOTAVAIL) => {
            let host_ip = key.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            Err(ReserveError::NotOurAddress { key, host_ip })
        }
        Err(Errno::EADDRINUSE) => match find_holder(key) {
            Some(HolderTrace::Process(holder)) => Err(ReserveError::Taken { key, holder }),
            Some(HolderTrace::Unseen) => Err(ReserveError::TakenByUnknown { key }),
            None => match bound_socket(key, true) {
                Err(Errno::EADDRINUSE) => Err(ReserveError::TakenByUnknown { key }),
                other => other.map_err(failed),
            },
        },
        Err(errno) => Err(failed(errno)),
    }
}

fn bound_socket(key: PortKey, reuse: bool) -> Result<OwnedFd, Errno> {
    let (kind, protocol) = match key.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    if reuse {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    let address = SocketAddrV4::new(key.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), key.port);
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}

enum HolderTrace {
    Process(Holder),
    Unseen,
}

/// The program whose socket is in the way: listening for TCP, bound for UDP.
fn find_holder(key: PortKey) -> Option<HolderTrace> {
    let (files, state) = match key.protocol {
        Protocol::Tcp => (["tcp", "tcp6"], STATE_LISTEN),
        Protocol::Udp => (["udp", "udp6"], STATE_CLOSE),
    };
    let wanted = key.host_ip.map(Ipv4Addr::to_bits);
    let inode = files
        .iter()
        .filter_map(|file| read_table(&format!("/proc/thread-self/net/{file}")).ok())
        .flatten()
        .find(|line| {
            let address_clashes = line.unspecified || wanted.is_none_or(|v4| line.v4 == Some(v4));
            line.port == key.port && line.state == state && address_clashes
        })?
        .inode;
    Some(process_with_socket(inode).map_or(HolderTrace::Unseen, HolderTrace::Process))
}

fn process_with_socket(inode: u64) -> Option<Holder> {
    let link = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let has_it = descriptors
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == link.as_str()));
        if has_it {
            let program = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Holder { pid, program: program.trim_end().to_owned() });
        }
    }
    None
}
