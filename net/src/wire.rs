//! Netlink attributes and messages as bytes.
//!
//! Owns: writing and reading attributes (`nlattr`), nfnetlink headers, and the sequence of messages in one buffer.
//! Owns not: what the attributes mean, and the socket.

/// Attribute kind bits that are flags.
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Length of a netlink message header and of an attribute header.
pub(crate) const NLMSG_HEADER: usize = 16;
const NLA_HEADER: usize = 4;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// A growing list of attributes. The writer keeps each below 64 KiB: the callers chunk their lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attrs {
    bytes: Vec<u8>,
}

impl Attrs {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// A text with its closing zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// nfnetlink numbers travel in network order.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn be64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(self, kind: u16, inner: Attrs) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.bytes)
    }

    pub(crate) fn append(mut self, other: Attrs) -> Self {
        self.bytes.extend_from_slice(&other.bytes);
        self
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + NLA_HEADER).unwrap_or(u16::MAX);
        debug_assert!(
            value.len() + NLA_HEADER <= usize::from(u16::MAX),
            "attribute {kind} is longer than 64 KiB"
        );
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
    }
}

/// One attribute that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
    /// Whether the writer marked it as holding attributes. Old kernels do not mark theirs.
    marked_nested: bool,
}

impl<'a> Attr<'a> {
    pub(crate) fn text(self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }

    pub(crate) fn be32(self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    pub(crate) fn be64(self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    pub(crate) fn be16(self) -> Option<u16> {
        Some(u16::from_be_bytes(self.value.try_into().ok()?))
    }

    pub(crate) fn nested(self) -> impl Iterator<Item = Attr<'a>> {
        attrs(self.value)
    }

    /// The first inner attribute of a kind.
    pub(crate) fn find(self, kind: u16) -> Option<Attr<'a>> {
        find(self.value, kind)
    }
}

/// The attributes of a buffer; ends at the first that does not fit.
pub(crate) fn attrs(bytes: &[u8]) -> impl Iterator<Item = Attr<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(NLA_HEADER..length)?;
        rest = rest.get(aligned(length)..).unwrap_or(&[]);
        Some(Attr { kind: kind & NLA_TYPE_MASK, value, marked_nested: kind & NLA_F_NESTED != 0 })
    })
}

/// The first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<Attr<'_>> {
    attrs(bytes).find(|attr| attr.kind == kind)
}

/// Whether a dump holds everything that was sent: each sent attribute is there, the same or (nested) including it.
/// The kernel adds attributes of its own; repeated ones are compared in order and must be equally many.
pub(crate) fn includes(dumped: &[u8], sent: &[u8]) -> bool {
    let of_kind = |bytes, kind| attrs(bytes).filter(move |attr| attr.kind == kind);
    attrs(sent).all(|attr| {
        let position = attrs(sent)
            .filter(|other| other.kind == attr.kind)
            .position(|other| std::ptr::eq(other.value.as_ptr(), attr.value.as_ptr()));
        let same_count = of_kind(dumped, attr.kind).count() == of_kind(sent, attr.kind).count();
        let there = position.and_then(|index| of_kind(dumped, attr.kind).nth(index));
        same_count
            && there.is_some_and(|found| {
                if attr.marked_nested { includes(found.value, attr.value) } else { found.value == attr.value }
            })
    })
}

/// The 4-byte header of nfnetlink messages, then attributes.
pub(crate) fn nfgen(family: u8, resource: u16, attrs: &[u8]) -> Vec<u8> {
    let mut payload = vec![family, 0];
    payload.extend_from_slice(&resource.to_be_bytes());
    payload.extend_from_slice(attrs);
    payload
}

/// Appends one message to a buffer.
pub(crate) fn put_message(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = u32::try_from(NLMSG_HEADER + payload.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0u32.to_ne_bytes());
    buffer.extend_from_slice(payload);
    pad(buffer);
}

/// One message that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The netlink port that the message is for or, of a notification, whose request it tells of.
    pub(crate) port: u32,
    pub(crate) payload: Vec<u8>,
}

/// The messages of a datagram; ends at the first that does not fit.
pub(crate) fn messages(datagram: &[u8]) -> Vec<Message> {
    let mut rest = datagram;
    let mut found = Vec::new();
    while let Some(message) = first_message(rest) {
        rest = rest.get(aligned(NLMSG_HEADER + message.payload.len())..).unwrap_or(&[]);
        found.push(message);
    }
    found
}

fn first_message(bytes: &[u8]) -> Option<Message> {
    let number = |range: std::ops::Range<usize>| Some(u32::from_ne_bytes(bytes.get(range)?.try_into().ok()?));
    let short = |range: std::ops::Range<usize>| Some(u16::from_ne_bytes(bytes.get(range)?.try_into().ok()?));
    let length = usize::try_from(number(0..4)?).ok()?;
    let payload = bytes.get(NLMSG_HEADER..length)?.to_vec();
    let (kind, flags, sequence, port) = (short(4..6)?, short(6..8)?, number(8..12)?, number(12..16)?);
    Some(Message { kind, flags, sequence, port, payload })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(aligned(bytes.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Attrs::new().be32(7, 0x0102_0304).u8(8, 9);
        let written = Attrs::new().text(1, "abc").nest(2, inner).be64(3, 5);
        let read: Vec<Attr<'_>> = attrs(written.as_slice()).collect();
        assert_eq!(read.iter().map(|a| a.kind).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(read[0].text(), "abc");
        assert_eq!(read[1].find(7).unwrap().be32(), Some(0x0102_0304));
        assert_eq!(read[1].find(8).unwrap().value, [9]);
        assert_eq!(read[2].be64(), Some(5));
    }

    #[test]
    fn a_dump_includes_what_was_sent_when_nothing_is_changed_or_missing() {
        let list = |values: &[u32]| values.iter().fold(Attrs::new(), |attrs, value| attrs.be32(1, *value));
        let sent = Attrs::new().nest(4, list(&[1, 2])).text(5, "x");
        let dumped = |values: &[u32]| Attrs::new().be64(9, 9).nest(4, list(values)).text(5, "x");
        assert!(includes(dumped(&[1, 2]).as_slice(), sent.as_slice()));
        assert!(!includes(dumped(&[2, 1]).as_slice(), sent.as_slice()));
        assert!(!includes(dumped(&[1, 2, 3]).as_slice(), sent.as_slice()));
        assert!(!includes(dumped(&[1]).as_slice(), sent.as_slice()));
        assert!(!includes(Attrs::new().text(5, "x").as_slice(), sent.as_slice()));
    }

    #[test]
    fn torn_input_ends_the_list_and_never_panics() {
        let written = Attrs::new().text(1, "abcdef").be32(2, 1);
        for end in 0..written.as_slice().len() {
            assert!(attrs(&written.as_slice()[..end]).count() <= 2);
        }
        assert_eq!(attrs(&[0, 0, 0, 0, 1, 1]).count(), 0);
        let mut buffer = Vec::new();
        put_message(&mut buffer, 3, 4, 5, b"xyz");
        for end in 0..buffer.len() {
            assert!(messages(&buffer[..end]).len() <= 1);
        }
        assert_eq!(
            messages(&buffer)[0],
            Message { kind: 3, flags: 4, sequence: 5, port: 0, payload: b"xyz".to_vec() }
        );
    }
}
