//! Flows through this node, over ctnetlink.
//!
//! Owns: counting and forgetting the flows that end at an endpoint. A flow ends at an endpoint if its answers come
//! from there, whether the client asked for a VIP, a published port or the endpoint itself.
//! Owns not: when (a drain is the node's decision).

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::error::NetError;
use crate::model::Protocol;
use crate::nft::batch::FAMILY_IP;
use crate::nft::dump::body;
use crate::socket::{Family, Socket};
use crate::wire::{Attr, Attrs, find, nfgen};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// TCP states from which a connection does not come back.
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

/// Open flows that end at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// TCP connections that are neither closed nor in TIME_WAIT.
    pub tcp: usize,
    /// UDP flows that conntrack remembers.
    pub udp: usize,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: Ipv4Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Destination port.
    pub destination_port: u16,
}

/// A TCP or UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// As the client sent it.
    pub original: Tuple,
    /// As the endpoint answers.
    pub reply: Tuple,
    /// Whether it can still carry data.
    pub open: bool,
    id: u32,
}

/// Waits until every packet that met the tables before this call is in the flow table, or gone.
///
/// A packet meets the NAT rules first and its flow is entered only when it leaves the stack. What was decided by tables that
/// have been replaced since is in between, for as long as its CPU is held up: a count taken then misses a connection that
/// will reach the endpoint. All of it happens in one RCU read section, and `MEMBARRIER_CMD_GLOBAL` is the system call
/// that waits for those to end (`synchronize_rcu`, some 10 ms).
#[expect(unsafe_code, reason = "no crate of the tree wraps this system call")]
pub(crate) fn wait_for_packets() -> Result<(), NetError> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    match result {
        0 => Ok(()),
        _ => match std::io::Error::last_os_error() {
            // Kernels booted with nohz_full have no such command, others no such call, and a sandbox around the daemon may refuse
            // it; without it the wait is only likely, not certain, but no task must fail to stop for that.
            error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)) => {
                Ok(())
            }
            source => Err(NetError::Barrier { source }),
        },
    }
}

/// All IPv4 TCP and UDP flows of the namespace.
pub(crate) fn flows(socket: &mut Socket) -> Result<Vec<Flow>, NetError> {
    let answers = socket.dump("dump the flows", GET, &nfgen(FAMILY_IP, 0, &[]))?;
    Ok(answers.iter().filter_map(|answer| read_flow(body(answer))).collect())
}

/// The flow table, read once for all who ask at about the same time.
///
/// The kernel finds flows by walking its whole hash table, some 10 ms on a host of 24 GiB however few there are. A hundred tasks that
/// stop together would walk it three hundred times.
#[derive(Debug)]
pub(crate) struct FlowTable {
    /// How many have asked and not been served.
    waiting: AtomicUsize,
    reader: Mutex<Reader>,
}

#[derive(Debug)]
struct Reader {
    socket: Socket,
    /// The last reading and when it began, kept only while others wait.
    last: Option<(Instant, Vec<Flow>)>,
}

impl FlowTable {
    /// Of the network namespace of this thread.
    pub(crate) fn open() -> Result<Self, NetError> {
        let reader = Reader { socket: Socket::open(Family::Netfilter)?, last: None };
        Ok(Self { waiting: AtomicUsize::new(0), reader: Mutex::new(reader) })
    }

    /// All flows.
    pub(crate) fn flows(&self) -> Result<Vec<Flow>, NetError> {
        self.read(|_, flows| Ok(flows.to_vec()))
    }

    /// Counts the open flows that end at an endpoint.
    pub(crate) fn count(&self, endpoint: Ipv4Addr) -> Result<FlowCount, NetError> {
        self.read(|_, flows| Ok(count(flows, endpoint)))
    }

    /// Forgets the flows of a protocol that end at an endpoint; returns how many there were.
    pub(crate) fn delete(&self, endpoint: Ipv4Addr, protocol: Protocol) -> Result<usize, NetError> {
        self.read(|socket, flows| delete(socket, flows, endpoint, protocol))
    }

    /// Works with a reading that began after this call did.
    fn read<T>(&self, work: impl FnOnce(&mut Socket, &[Flow]) -> Result<T, NetError>) -> Result<T, NetError> {
        let asked = Instant::now();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let last_one = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
        let Reader { socket, last } = &mut *reader;
        let reading = match last.take() {
            Some(known) if known.0 >= asked => known,
            Some(_) | None => (Instant::now(), flows(socket)?),
        };
        let done = work(socket, &reading.1);
        // Nobody else asked before it began: there may be a million flows, which are not kept for nothing.
        *last = (!last_one).then_some(reading);
        done
    }
}

fn count(flows: &[Flow], endpoint: Ipv4Addr) -> FlowCount {
    let mut count = FlowCount::default();
    for flow in flows.iter().filter(|flow| flow.reply.source == endpoint && flow.open) {
        match flow.protocol {
            Protocol::Tcp => count.tcp += 1,
            Protocol::Udp => count.udp += 1,
        }
    }
    count
}

fn delete(
    socket: &mut Socket,
    flows: &[Flow],
    endpoint: Ipv4Addr,
    protocol: Protocol,
) -> Result<usize, NetError> {
    let doomed = flows.iter().filter(|flow| flow.reply.source == endpoint && flow.protocol == protocol);
    let mut deleted = 0;
    for flow in doomed {
        let tuple = write_tuple(flow.protocol, flow.original);
        let attrs = Attrs::new().nest(CTA_TUPLE_ORIG, tuple).be32(CTA_ID, flow.id);
        let action = format!("forget a {protocol} flow to {endpoint}");
        match socket.request(&action, DELETE, 0, &nfgen(FAMILY_IP, 0, attrs.as_slice())) {
            Ok(_) => deleted += 1,
            // It ended by itself in the meantime.
            Err(error) if error.refusal() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

fn read_flow(body: &[u8]) -> Option<Flow> {
    let (protocol, original) = read_tuple(find(body, CTA_TUPLE_ORIG)?)?;
    let (_, reply) = read_tuple(find(body, CTA_TUPLE_REPLY)?)?;
    let state = find(body, CTA_PROTOINFO)
        .and_then(|info| info.find(CTA_PROTOINFO_TCP))
        .and_then(|tcp| tcp.find(CTA_PROTOINFO_TCP_STATE))
        .and_then(|state| state.value.first().copied());
    let open = !matches!(state, Some(TIME_WAIT | CLOSE));
    Some(Flow { protocol, original, reply, open, id: find(body, CTA_ID)?.be32()? })
}

fn read_tuple(tuple: Attr<'_>) -> Option<(Protocol, Tuple)> {
    let ip = tuple.find(CTA_TUPLE_IP)?;
    let proto = tuple.find(CTA_TUPLE_PROTO)?;
    let address = |kind| Some(Ipv4Addr::from_bits(ip.find(kind)?.be32()?));
    let protocol = Protocol::from_number(*proto.find(CTA_PROTO_NUM)?.value.first()?)?;
    let tuple = Tuple {
        source: address(CTA_IP_V4_SRC)?,
        source_port: proto.find(CTA_PROTO_SRC_PORT)?.be16()?,
        destination: address(CTA_IP_V4_DST)?,
        destination_port: proto.find(CTA_PROTO_DST_PORT)?.be16()?,
    };
    Some((protocol, tuple))
}

fn write_tuple(protocol: Protocol, tuple: Tuple) -> Attrs {
    let ip = Attrs::new()
        .bytes(CTA_IP_V4_SRC, &tuple.source.octets())
        .bytes(CTA_IP_V4_DST, &tuple.destination.octets());
    let proto = Attrs::new()
        .u8(CTA_PROTO_NUM, protocol.number())
        .bytes(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes())
        .bytes(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes());
    Attrs::new().nest(CTA_TUPLE_IP, ip).nest(CTA_TUPLE_PROTO, proto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_read_as_the_kernel_writes_it() {
        let tuple = |n: u8| Tuple {
            source: Ipv4Addr::new(10, 192, 0, n),
            source_port: 1000 + u16::from(n),
            destination: Ipv4Addr::new(10, 252, 0, n),
            destination_port: 80,
        };
        let state =
            |state| Attrs::new().nest(CTA_PROTOINFO_TCP, Attrs::new().u8(CTA_PROTOINFO_TCP_STATE, state));
        let flow = |number| {
            let attrs = Attrs::new()
                .nest(CTA_TUPLE_ORIG, write_tuple(Protocol::Tcp, tuple(1)))
                .nest(CTA_TUPLE_REPLY, write_tuple(Protocol::Tcp, tuple(2)))
                .nest(CTA_PROTOINFO, state(number))
                .be32(CTA_ID, 7);
            read_flow(attrs.as_slice()).unwrap()
        };
        assert_eq!(
            flow(3),
            Flow { protocol: Protocol::Tcp, original: tuple(1), reply: tuple(2), open: true, id: 7 }
        );
        assert!(!flow(TIME_WAIT).open && !flow(CLOSE).open);
        assert_eq!(read_flow(&[]), None);
    }
}
