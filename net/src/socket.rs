//! One synchronous netlink socket: requests, dumps and batches, with the errors of the kernel read properly.
//!
//! Owns: sequence numbers, buffer sizes, EINTR, interrupted dumps, lost messages. Owns not: what messages mean.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvfrom,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::NetError;
use crate::wire::{
    Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_HEADER, messages, put_message,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// How long the kernel may take to answer, in seconds. It answers from the same call; this only bounds a hang.
const ANSWER_TIMEOUT_S: i64 = 30;

/// Receive buffer, in bytes: dumps come in datagrams of at most 32 KiB, acknowledgements of failed batches are many.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Room for one received datagram, in bytes.
const DATAGRAM_BYTES: usize = 256 << 10;

/// How often a dump that the kernel calls inconsistent, or whose answers were lost, is started again.
const DUMP_ATTEMPTS: usize = 10;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// A netlink socket, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    send_buffer: usize,
}

/// One message of a batch, with what to call it when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) action: String,
}

impl Socket {
    pub(crate) fn open(family: Family) -> Result<Self, NetError> {
        let (protocol, name) = match family {
            Family::Route => (SockProtocol::NetlinkRoute, "rtnetlink"),
            Family::Netfilter => (SockProtocol::NetlinkNetFilter, "nfnetlink"),
        };
        let failed = |errno: Errno| NetError::Socket { protocol: name, source: errno.into() };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_S)).map_err(failed)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES).map_err(failed)?;
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; DATAGRAM_BYTES], send_buffer: 0 })
    }

    /// The port by which the kernel names this socket in notifications of what it changed.
    pub(crate) fn port(&self) -> Result<u32, NetError> {
        let address: NetlinkAddr = getsockname(self.fd.as_raw_fd())
            .map_err(|errno| NetError::Socket { protocol: "netlink", source: errno.into() })?;
        Ok(address.pid())
    }

    /// Sends one request and waits for its acknowledgement; returns the messages that came before it.
    pub(crate) fn request(
        &mut self,
        action: &str,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<Message>, NetError> {
        let sequence = self.send_one(action, kind, flags | NLM_F_ACK, payload)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive(action)? {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    return accepted(&message, action).map(|()| answers);
                }
                answers.push(message);
            }
        }
    }

    /// All messages of a dump. A dump that the kernel marks as inconsistent is taken again.
    pub(crate) fn dump(&mut self, action: &str, kind: u16, payload: &[u8]) -> Result<Vec<Message>, NetError> {
        let mut attempt = 1;
        loop {
            match self.dump_once(action, kind, payload) {
                Ok(answers) if answers.iter().all(|answer| answer.flags & NLM_F_DUMP_INTR == 0) => {
                    return Ok(answers);
                }
                Ok(_) if attempt < DUMP_ATTEMPTS => attempt += 1,
                Ok(_) => {
                    let detail = format!("it changed during each of {DUMP_ATTEMPTS} dumps");
                    return Err(NetError::Answer { action: action.to_owned(), detail });
                }
                Err(NetError::Exchange { source, .. })
                    if source.raw_os_error() == Some(libc::ENOBUFS) && attempt < DUMP_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the messages in one datagram between `begin` and `end`, and waits until the last is acknowledged. The
    /// kernel makes all of them or none. The error is that of the first message that failed.
    pub(crate) fn batch(
        &mut self,
        begin: &Request,
        requests: &[Request],
        end: &Request,
    ) -> Result<(), NetError> {
        let Some(last) = requests.len().checked_sub(1) else { return Ok(()) };
        let first_sequence = self.next_sequence();
        let mut datagram = Vec::new();
        put_message(&mut datagram, begin.kind, NLM_F_REQUEST, first_sequence, &begin.payload);
        let mut last_sequence = first_sequence;
        for (index, request) in requests.iter().enumerate() {
            last_sequence = self.next_sequence();
            let ack = if index == last { NLM_F_ACK } else { 0 };
            let flags = request.flags | NLM_F_REQUEST | ack;
            put_message(&mut datagram, request.kind, flags, last_sequence, &request.payload);
        }
        let end_sequence = self.next_sequence();
        put_message(&mut datagram, end.kind, NLM_F_REQUEST, end_sequence, &end.payload);
        self.send(&begin.action, &datagram)?;
        self.await_batch(begin, requests, first_sequence, last_sequence)
    }

    fn await_batch(
        &mut self,
        begin: &Request,
        requests: &[Request],
        first: u32,
        last: u32,
    ) -> Result<(), NetError> {
        let mut failure = None;
        loop {
            for message in self.receive(&begin.action)? {
                let offset = message.sequence.wrapping_sub(first);
                if message.kind != NLMSG_ERROR || offset > last.wrapping_sub(first).wrapping_add(1) {
                    continue;
                }
                let request =
                    usize::try_from(offset).ok().and_then(|o| o.checked_sub(1)).and_then(|o| requests.get(o));
                let action = request.map_or(begin.action.as_str(), |request| request.action.as_str());
                if let Err(error) = accepted(&message, action) {
                    failure.get_or_insert(error);
                }
                // The whole batch is judged: its last message is acknowledged, or the batch itself is refused.
                let judged = message.sequence == last || request.is_none();
                if judged {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn dump_once(&mut self, action: &str, kind: u16, payload: &[u8]) -> Result<Vec<Message>, NetError> {
        let sequence = self.send_one(action, kind, NLM_F_DUMP, payload)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive(action)? {
                if message.sequence != sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => {
                        accepted(&message, action)?;
                        return Ok(answers);
                    }
                    NLMSG_ERROR => return accepted(&message, action).map(|()| answers),
                    _ => answers.push(message),
                }
            }
        }
    }

    fn send_one(&mut self, action: &str, kind: u16, flags: u16, payload: &[u8]) -> Result<u32, NetError> {
        let sequence = self.next_sequence();
        let mut datagram = Vec::with_capacity(NLMSG_HEADER + payload.len());
        put_message(&mut datagram, kind, flags | NLM_F_REQUEST, sequence, payload);
        self.send(action, &datagram)?;
        Ok(sequence)
    }

    fn send(&mut self, action: &str, datagram: &[u8]) -> Result<(), NetError> {
        let failed = |errno: Errno| exchange(action, errno.into());
        // The kernel counts its own overhead against the buffer: ask for twice the size.
        let wanted = datagram.len().saturating_mul(2);
        if wanted > self.send_buffer {
            if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
                setsockopt(&self.fd, sockopt::SndBuf, &wanted).map_err(failed)?;
            }
            self.send_buffer = wanted;
        }
        loop {
            match send(self.fd.as_raw_fd(), datagram, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    fn receive(&mut self, action: &str) -> Result<Vec<Message>, NetError> {
        loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                // Only the kernel has port 0; another process may have sent us something.
                Ok((length, Some(sender))) if sender.pid() == 0 => {
                    return Ok(messages(self.buffer.get(..length).unwrap_or_default()));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(exchange(action, errno.into())),
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

fn exchange(action: &str, source: io::Error) -> NetError {
    NetError::Exchange { action: action.to_owned(), source }
}

/// The verdict in an error or done message: zero is an acknowledgement, else a negative error number.
fn accepted(message: &Message, action: &str) -> Result<(), NetError> {
    let code = message.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_abs());
    Err(NetError::Refused { action: action.to_owned(), source })
}
