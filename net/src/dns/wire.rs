//! The DNS wire format, as far as a small server and forwarder need it: reading a query, walking
//! records, writing a reply.
//!
//! Owns: bytes. Does not own: what a name means (`answer`) or where a query goes (`forward`). Nothing here trusts its
//! input: every read is checked, and every loop is bounded by the length of the packet.

use std::net::IpAddr;

/// Bytes of a DNS header.
pub(crate) const HEADER_BYTES: usize = 12;
/// Longest name on the wire (RFC 1035 section 2.3.4), in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest label, in bytes.
const MAX_LABEL_BYTES: usize = 63;
/// Datagram size that a client without EDNS accepts, in bytes.
pub(crate) const PLAIN_UDP_BYTES: usize = 512;
/// Largest datagram we send or ask for, in bytes: fits every path without fragments (DNS flag day 2020).
pub(crate) const MAX_UDP_BYTES: usize = 1232;
/// Largest message over TCP, in bytes.
pub(crate) const MAX_TCP_BYTES: usize = 65_535;

pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_AAAA: u16 = 28;
pub(crate) const TYPE_OPT: u16 = 41;
pub(crate) const TYPE_IXFR: u16 = 251;
pub(crate) const TYPE_AXFR: u16 = 252;
pub(crate) const TYPE_ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;

const FLAG_RESPONSE: u16 = 0x8000;
pub(crate) const FLAG_AUTHORITATIVE: u16 = 0x0400;
pub(crate) const FLAG_TRUNCATED: u16 = 0x0200;
pub(crate) const FLAG_RECURSION_DESIRED: u16 = 0x0100;
pub(crate) const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const OPCODE_MASK: u16 = 0x7800;
const DNSSEC_OK: u32 = 0x8000;

/// Outcome code of a response (RFC 1035 section 4.1.1; 16 is the EDNS "bad version").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The query could not be read.
    FormErr = 1,
    /// The server failed.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The operation is not implemented.
    NotImp = 4,
    /// The server will not answer this client or question.
    Refused = 5,
    /// EDNS version not supported.
    BadVers = 16,
}

/// A name: wire form without compression, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// The dotted form without a final dot, if every label is printable and without dots of its own.
    pub(crate) fn text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while let Some((&len, tail)) = rest.split_first() {
            if len == 0 {
                return Some(text);
            }
            let label = tail.get(..usize::from(len))?;
            if !label.iter().all(|b| b.is_ascii_graphic() && *b != b'.' && *b != b'\\') {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(label).ok()?);
            rest = tail.get(usize::from(len)..)?;
        }
        None
    }

    /// Number of labels.
    pub(crate) fn labels(&self) -> usize {
        let (mut count, mut at) = (0, 0);
        while let Some(&len) = self.0.get(at).filter(|len| **len != 0) {
            count += 1;
            at += usize::from(len) + 1;
        }
        count
    }
}

/// What an EDNS client told about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) udp_bytes: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// A query with exactly one question.
#[derive(Debug, Clone)]
pub struct Query {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) name: Name,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) edns: Option<Edns>,
    /// The question as the client wrote it (its letter case is echoed), type and class included.
    pub(crate) question: Vec<u8>,
}

/// Why a packet is not a query to answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not even a header, or a response: silence is the only safe reply.
    Drop,
    /// The client gets this packet.
    Reply(Vec<u8>),
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(packet: &[u8]) -> Result<Query, Unreadable> {
        let id = u16_at(packet, 0).ok_or(Unreadable::Drop)?;
        let flags = u16_at(packet, 2).ok_or(Unreadable::Drop)?;
        if packet.len() < HEADER_BYTES || flags & FLAG_RESPONSE != 0 {
            return Err(Unreadable::Drop);
        }
        let refuse = |rcode| Unreadable::Reply(bare_reply(id, flags, rcode));
        if flags & OPCODE_MASK != 0 {
            return Err(refuse(Rcode::NotImp));
        }
        if u16_at(packet, 4) != Some(1) {
            return Err(refuse(Rcode::FormErr));
        }
        let (name, qtype, qclass, end) =
            read_question(packet, HEADER_BYTES).ok_or_else(|| refuse(Rcode::FormErr))?;
        let edns = read_edns(packet, end).ok_or_else(|| refuse(Rcode::FormErr))?;
        let question = packet[HEADER_BYTES..end].to_vec();
        Ok(Query { id, flags, name, qtype, qclass, edns, question })
    }

    /// Whether the client asked for answers without DNSSEC validation.
    pub(crate) fn checking_disabled(&self) -> bool {
        self.flags & FLAG_CHECKING_DISABLED != 0
    }

    /// Whether the client wants DNSSEC records.
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Largest reply this client takes over UDP, in bytes.
    pub(crate) fn udp_limit(&self) -> usize {
        let asked = self.edns.map_or(PLAIN_UDP_BYTES, |edns| usize::from(edns.udp_bytes));
        asked.clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES)
    }

    /// The packet that asks an upstream resolver the same question.
    pub(crate) fn to_upstream(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = FLAG_RECURSION_DESIRED | (self.flags & FLAG_CHECKING_DISABLED);
        let mut packet = header(id, flags, [1, 0, 0, u16::from(with_edns)]);
        packet.extend_from_slice(&self.question);
        if with_edns {
            push_opt(&mut packet, 0, self.dnssec_ok());
        }
        packet
    }

    /// Whether `packet` is the response to this question under `id`.
    pub(crate) fn is_answered_by(&self, packet: &[u8], id: u16) -> bool {
        u16_at(packet, 0) == Some(id)
            && u16_at(packet, 2).is_some_and(|flags| flags & FLAG_RESPONSE != 0)
            && u16_at(packet, 4) == Some(1)
            && read_question(packet, HEADER_BYTES).is_some_and(|(name, qtype, qclass, _)| {
                name == self.name && qtype == self.qtype && qclass == self.qclass
            })
    }
}

/// Whether a response to `id` says, without repeating the question, that EDNS was not understood (old servers do).
pub(crate) fn is_bare_refusal(packet: &[u8], id: u16) -> bool {
    u16_at(packet, 0) == Some(id)
        && u16_at(packet, 4) == Some(0)
        && u16_at(packet, 2).is_some_and(|flags| flags & FLAG_RESPONSE != 0 && matches!(flags & 0xf, 1 | 4))
}

/// A reply under construction; never grows beyond its limit.
pub(crate) struct Reply {
    packet: Vec<u8>,
    limit: usize,
    counts: [u16; 4],
    flags: u16,
    edns: Option<Rcode>,
}

impl Reply {
    /// A reply of at most `limit` bytes that repeats the question.
    pub(crate) fn new(query: &Query, rcode: Rcode, limit: usize) -> Reply {
        let echoed = query.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED);
        let flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | echoed | (rcode as u16 & 0xf);
        let mut packet = header(query.id, flags, [1, 0, 0, 0]);
        packet.extend_from_slice(&query.question);
        let edns = query.edns.map(|_| rcode);
        let reserved = if edns.is_some() { OPT_BYTES } else { 0 };
        Reply { packet, limit: limit - reserved, counts: [1, 0, 0, 0], flags, edns }
    }

    /// Marks the answer as ours.
    pub(crate) fn authoritative(mut self) -> Reply {
        self.flags |= FLAG_AUTHORITATIVE;
        self
    }

    /// Adds an address record for the asked name; false when it no longer fits.
    pub(crate) fn push_address(&mut self, address: IpAddr, ttl: u32) -> bool {
        match address {
            IpAddr::V4(v4) => self.push_answer(TYPE_A, ttl, &v4.octets()),
            IpAddr::V6(v6) => self.push_answer(TYPE_AAAA, ttl, &v6.octets()),
        }
    }

    /// Adds a record for the asked name; false (and the truncated flag) when it no longer fits.
    pub(crate) fn push_answer(&mut self, rtype: u16, ttl: u32, data: &[u8]) -> bool {
        // 0xc00c points at the name in the question.
        let fits = self.push_record(&[0xc0, 0x0c], rtype, ttl, data);
        if fits {
            self.counts[1] += 1;
        } else {
            self.flags |= FLAG_TRUNCATED;
        }
        fits
    }

    /// Adds the SOA record that lets resolvers keep a negative answer for `ttl` seconds.
    pub(crate) fn push_soa(&mut self, zone: &str, serial: u32, ttl: u32) {
        let owner = encode_name(zone);
        let mut data = encode_name("ns.carrack");
        data.extend(encode_name("hostmaster.carrack"));
        for value in [serial, 3600, 600, 86_400, ttl] {
            data.extend_from_slice(&value.to_be_bytes());
        }
        if self.push_record(&owner, TYPE_SOA, ttl, &data) {
            self.counts[2] += 1;
        }
    }

    fn push_record(&mut self, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) -> bool {
        let Ok(data_len) = u16::try_from(data.len()) else { return false };
        if self.packet.len() + owner.len() + 10 + data.len() > self.limit {
            return false;
        }
        self.packet.extend_from_slice(owner);
        self.packet.extend_from_slice(&rtype.to_be_bytes());
        self.packet.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.packet.extend_from_slice(&ttl.to_be_bytes());
        self.packet.extend_from_slice(&data_len.to_be_bytes());
        self.packet.extend_from_slice(data);
        true
    }

    /// The finished packet.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if let Some(rcode) = self.edns {
            push_opt(&mut self.packet, (rcode as u16 >> 4) as u8, false);
            self.counts[3] += 1;
        }
        self.packet[2..4].copy_from_slice(&self.flags.to_be_bytes());
        for (index, count) in self.counts.iter().enumerate() {
            self.packet[4 + 2 * index..6 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
        self.packet
    }
}

/// Bytes of the OPT record that we write.
pub(crate) const OPT_BYTES: usize = 11;

pub(crate) fn push_opt(packet: &mut Vec<u8>, extended_rcode: u8, dnssec_ok: bool) {
    packet.push(0);
    packet.extend_from_slice(&TYPE_OPT.to_be_bytes());
    packet.extend_from_slice(&(MAX_UDP_BYTES as u16).to_be_bytes());
    let ttl = u32::from(extended_rcode) << 24 | if dnssec_ok { DNSSEC_OK } else { 0 };
    packet.extend_from_slice(&ttl.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(PLAIN_UDP_BYTES);
    for value in [id, flags].into_iter().chain(counts) {
        packet.extend_from_slice(&value.to_be_bytes());
    }
    packet
}

fn bare_reply(id: u16, flags: u16, rcode: Rcode) -> Vec<u8> {
    let echoed = flags & (OPCODE_MASK | FLAG_RECURSION_DESIRED);
    header(id, FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | echoed | rcode as u16, [0; 4])
}

/// A dotted name in wire form; labels that do not fit are left out, which our own names never have.
pub(crate) fn encode_name(text: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.').filter(|label| !label.is_empty() && label.len() <= MAX_LABEL_BYTES) {
        if wire.len() + label.len() + 2 > MAX_NAME_BYTES {
            break;
        }
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Where a record stands, and what every record has.
pub(crate) struct Record {
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) ttl_at: usize,
    pub(crate) end: usize,
}

impl Record {
    pub(crate) fn read(packet: &[u8], at: usize) -> Option<Record> {
        let fixed = skip_name(packet, at)?;
        let end = fixed + 10 + usize::from(u16_at(packet, fixed + 8)?);
        (end <= packet.len()).then_some(())?;
        // RFC 2181 section 8: a TTL with the top bit set counts as zero.
        let ttl = u32_at(packet, fixed + 4).filter(|ttl| *ttl <= i32::MAX as u32).unwrap_or(0);
        Some(Record { rtype: u16_at(packet, fixed)?, ttl, ttl_at: fixed + 4, end })
    }
}

/// Reads the question at `at`: name, type, class, and where it ends. A compressed name is an error here.
fn read_question(packet: &[u8], at: usize) -> Option<(Name, u16, u16, usize)> {
    let mut end = at;
    loop {
        let len = usize::from(*packet.get(end)?);
        (len <= MAX_LABEL_BYTES).then_some(())?;
        end += len + 1;
        (end - at <= MAX_NAME_BYTES).then_some(())?;
        if len == 0 {
            break;
        }
    }
    // Length bytes are below 'A', so lower-casing the whole touches letters only.
    let name = Name(packet.get(at..end)?.to_ascii_lowercase());
    Some((name, u16_at(packet, end)?, u16_at(packet, end + 2)?, end + 4))
}

/// Reads the OPT record of a query; `None` when the packet is malformed.
#[expect(clippy::option_option, reason = "malformed, no EDNS and EDNS are three answers")]
fn read_edns(packet: &[u8], mut at: usize) -> Option<Option<Edns>> {
    let before = u32::from(u16_at(packet, 6)?) + u32::from(u16_at(packet, 8)?);
    let total = before + u32::from(u16_at(packet, 10)?);
    let mut edns = None;
    for index in 0..total {
        let fixed = skip_name(packet, at)?;
        let record = Record::read(packet, at)?;
        if record.rtype == TYPE_OPT {
            if index < before || edns.is_some() {
                return None;
            }
            let ttl = u32_at(packet, fixed + 4)?;
            edns = Some(Edns {
                udp_bytes: u16_at(packet, fixed + 2)?,
                version: (ttl >> 16) as u8,
                dnssec_ok: ttl & DNSSEC_OK != 0,
            });
        }
        at = record.end;
    }
    Some(edns)
}

/// Where the name at `at` ends; pointers are not followed.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return packet.get(at + 1).map(|_| at + 2),
            len if len & 0xc0 == 0 => at += usize::from(len) + 1,
            _ => return None,
        }
    }
}

pub(crate) fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(packet.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
