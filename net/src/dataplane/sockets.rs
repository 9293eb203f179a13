//! The two sockets of the data plane: bound, inherited as standard input and output, or received over a unix socket.
//!
//! Owns: their options and their travels. Does not own: what is read from them (`dns`).
#![allow(unsafe_code, reason = "descriptors received with a message are raw numbers that somebody must own")]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use super::control::{Response, to_line};

/// Connections that wait to be accepted.
const TCP_BACKLOG: i32 = 256;
/// Bytes of queries that wait to be read: about a thousand, so that a restart of the process loses none.
const UDP_RECEIVE_BYTES: usize = 1 << 20;
/// Longest message that comes with descriptors, in bytes.
const MAX_LINE_BYTES: usize = 256;

/// A bound datagram socket and a listening stream socket on the same address.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) udp: OwnedFd,
    pub(crate) tcp: OwnedFd,
}

impl Sockets {
    /// Binds both; the address need not exist yet.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let udp = open(address, SockType::Datagram)?;
        // More than the system's limit needs a privilege; the limit itself will do without.
        if setsockopt(&udp, sockopt::RcvBufForce, &UDP_RECEIVE_BYTES).is_err() {
            setsockopt(&udp, sockopt::RcvBuf, &UDP_RECEIVE_BYTES)?;
        }
        bind(udp.as_raw_fd(), &SockaddrStorage::from(address))?;
        let tcp = open(address, SockType::Stream)?;
        setsockopt(&tcp, sockopt::ReuseAddr, &true)?;
        bind(tcp.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&tcp, Backlog::new(TCP_BACKLOG)?)?;
        Ok(Sockets { udp, tcp })
    }

    /// The sockets that a parent passed as standard input and output.
    pub(crate) fn inherited() -> io::Result<Sockets> {
        let udp = io::stdin().as_fd().try_clone_to_owned()?;
        let tcp = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Sockets { udp, tcp })
    }

    /// The same sockets under other descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Sockets> {
        Ok(Sockets { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }

    /// The address they are bound to, which must be one.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        let udp = UdpSocket::from(self.udp.try_clone()?).local_addr()?;
        let tcp = TcpListener::from(self.tcp.try_clone()?).local_addr()?;
        if udp == tcp { Ok(udp) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Sends the answer to a `Sockets` request, the descriptors with it.
    pub(crate) fn send(&self, stream: RawFd) -> io::Result<()> {
        let line = to_line(&Response::Sockets);
        let descriptors = [self.udp.as_raw_fd(), self.tcp.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(stream, &[IoSlice::new(line.as_bytes())], &message, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Receives the answer to a `Sockets` request: the sockets, if it brought them, and its text.
    pub(crate) fn receive(stream: &UnixStream) -> io::Result<(Option<Sockets>, String)> {
        let mut line = [0; MAX_LINE_BYTES];
        let mut space = nix::cmsg_space!([RawFd; 2]);
        let mut buffer = [IoSliceMut::new(&mut line)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
        let mut received = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = part {
                // SAFETY: the kernel has just opened these descriptors for this message and nothing else knows them,
                // so each gets exactly one owner here.
                received.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = message.bytes;
        let text = String::from_utf8_lossy(&line[..length]).into_owned();
        let mut received = received.into_iter();
        Ok(match (received.next(), received.next()) {
            (Some(udp), Some(tcp)) => (Some(Sockets { udp, tcp }), text),
            (Some(_) | None, _) => (None, text),
        })
    }
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    Ok(fd)
}
