//! Responses of upstream resolvers: checked once, kept, and told to clients again.
//!
//! Owns: which bytes of a response may be kept, for how long, and how they become a reply to one client. Does not own:
//! the cache (`cache`), the exchange (`forward`).

use super::wire::{
    FLAG_AUTHORITATIVE, FLAG_RECURSION_AVAILABLE, FLAG_RECURSION_DESIRED, FLAG_TRUNCATED, HEADER_BYTES,
    OPT_BYTES, Query, Record, TYPE_OPT, TYPE_SOA, push_opt, skip_name, u16_at, u32_at,
};

/// A response of an upstream, checked record by record, without its OPT record and ready to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    packet: Vec<u8>,
    /// Where each TTL stands.
    ttl_offsets: Vec<usize>,
    /// How long the response may be kept, in seconds; `None` when it must not be kept.
    pub(crate) keep_seconds: Option<u32>,
}

impl Response {
    /// Reads a response packet; `None` when it is malformed.
    pub(crate) fn parse(packet: &[u8]) -> Option<Response> {
        let mut at = HEADER_BYTES;
        for _ in 0..u16_at(packet, 4)? {
            at = skip_name(packet, at)?.checked_add(4)?;
        }
        let [answers, authorities, additionals] =
            [u16_at(packet, 6)?, u16_at(packet, 8)?, u16_at(packet, 10)?];
        let (mut ttl_offsets, mut answer_ttl, mut negative_ttl) = (Vec::new(), None::<u32>, None::<u32>);
        let mut end = packet.len();
        let mut kept_additionals = additionals;
        let total = u32::from(answers) + u32::from(authorities) + u32::from(additionals);
        for index in 0..total {
            let record = Record::read(packet, at)?;
            if record.rtype == TYPE_OPT {
                // Whatever follows an OPT record goes with it: it is optional data by definition.
                end = at;
                kept_additionals = u16::try_from(index - u32::from(answers) - u32::from(authorities)).ok()?;
                break;
            }
            ttl_offsets.push(record.ttl_at);
            if index < u32::from(answers) {
                answer_ttl = Some(answer_ttl.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
            } else if index < u32::from(answers) + u32::from(authorities) && record.rtype == TYPE_SOA {
                let minimum = u32_at(packet, record.end.checked_sub(4)?)?;
                negative_ttl = Some(record.ttl.min(minimum));
            }
            at = record.end;
            end = at;
        }
        let mut packet = packet.get(..end)?.to_vec();
        packet[10..12].copy_from_slice(&kept_additionals.to_be_bytes());
        let mut response = Response { packet, ttl_offsets, keep_seconds: None };
        response.keep_seconds = match response.rcode_bits() {
            0 if answers > 0 => answer_ttl,
            0 | 3 => negative_ttl,
            _ => None,
        };
        if response.is_truncated() {
            response.keep_seconds = None;
        }
        Some(response)
    }

    /// The four outcome bits.
    pub(crate) fn rcode_bits(&self) -> u16 {
        u16_at(&self.packet, 2).unwrap_or(0) & 0xf
    }

    /// Whether it says that a name or record does not exist.
    pub(crate) fn is_negative(&self) -> bool {
        self.rcode_bits() != 0 || u16_at(&self.packet, 6) == Some(0)
    }

    /// Whether the server had more to say than fits in a datagram.
    pub(crate) fn is_truncated(&self) -> bool {
        u16_at(&self.packet, 2).unwrap_or(0) & FLAG_TRUNCATED != 0
    }

    /// Bytes of memory this response holds.
    pub(crate) fn size(&self) -> usize {
        self.packet.len() + self.ttl_offsets.len() * size_of::<usize>()
    }

    /// The packet for `query` (the same question), `age` seconds after it was received, of at most `limit` bytes.
    pub(crate) fn to_client(&self, query: &Query, age: u32, limit: usize) -> Vec<u8> {
        let opt_bytes = if query.edns.is_some() { OPT_BYTES } else { 0 };
        let question_end = HEADER_BYTES + query.question.len();
        let mut packet = self.packet.clone();
        if packet.len() + opt_bytes > limit {
            packet.truncate(question_end);
            packet[6..12].fill(0);
            packet[2] |= (FLAG_TRUNCATED >> 8) as u8;
        } else {
            for &at in &self.ttl_offsets {
                let left = u32_at(&packet, at).unwrap_or(0).saturating_sub(age);
                packet[at..at + 4].copy_from_slice(&left.to_be_bytes());
            }
        }
        packet[..2].copy_from_slice(&query.id.to_be_bytes());
        packet[HEADER_BYTES..question_end].copy_from_slice(&query.question);
        // Neither the authority of the upstream nor its validation (we hold no keys) is ours to claim; RD is echoed.
        packet[2] = (packet[2] & !(((FLAG_AUTHORITATIVE | FLAG_RECURSION_DESIRED) >> 8) as u8))
            | ((query.flags & FLAG_RECURSION_DESIRED) >> 8) as u8;
        packet[3] |= FLAG_RECURSION_AVAILABLE as u8;
        if query.edns.is_some() {
            push_opt(&mut packet, 0, query.dnssec_ok());
            let additionals = u16_at(&packet, 10).unwrap_or(0) + 1;
            packet[10..12].copy_from_slice(&additionals.to_be_bytes());
        }
        packet
    }
}
