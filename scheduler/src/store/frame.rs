//! Frames of the store's files: length, CRC-32 and JSON. Pure: bytes in, frames out. Owns what a torn tail is.
//!
//! ```text
//!   u32 LE payload length | u32 LE crc32 of payload | payload: one JSON object
//! ```
//! One frame is one group commit, so that a crash leaves a group whole or not at all.

/// Longest payload, bytes.
pub(crate) const FRAME_MAX_BYTES: usize = 64 << 20;
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 8;

/// The payload as a frame.
pub(crate) fn encode(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// What is at an offset of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A whole frame, and where the one after it starts.
    Frame(&'a [u8], usize),
    /// Exactly the end.
    End,
    /// Bytes that are no frame, with nothing readable after them: a write that a crash cut off.
    Torn,
    /// Bytes that are no frame, with a readable frame after them: damage.
    Corrupt,
}

/// Reads the frame at `offset`.
pub(crate) fn next(bytes: &[u8], offset: usize) -> Next<'_> {
    if offset >= bytes.len() {
        return Next::End;
    }
    match frame_at(bytes, offset) {
        Some((payload, end)) => Next::Frame(payload, end),
        None if (offset + 1..bytes.len()).any(|at| frame_at(bytes, at).is_some()) => Next::Corrupt,
        None => Next::Torn,
    }
}

fn frame_at(bytes: &[u8], offset: usize) -> Option<(&[u8], usize)> {
    let header = bytes[offset..].first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if length == 0 || length > FRAME_MAX_BYTES {
        return None;
    }
    let start = offset + HEADER_BYTES;
    let payload = bytes.get(start..start.checked_add(length)?)?;
    (payload[0] == b'{' && crc32fast::hash(payload) == crc).then_some((payload, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        [&b"{\"a\":1}"[..], b"{\"bb\":22}", b"{\"ccc\":333}"].iter().flat_map(|p| encode(p)).collect()
    }

    fn read(bytes: &[u8]) -> (usize, bool, bool) {
        let (mut at, mut count) = (0, 0);
        loop {
            match next(bytes, at) {
                Next::Frame(_, end) => (at, count) = (end, count + 1),
                Next::End => return (count, false, false),
                Next::Torn => return (count, true, false),
                Next::Corrupt => return (count, false, true),
            }
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_all_whole_frames() {
        let bytes = three();
        let ends = [15, 15 + 17, bytes.len()];
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let torn = cut != 0 && !ends.contains(&cut);
            assert_eq!(read(&bytes[..cut]), (whole, torn, false), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_middle_is_damage_and_at_the_end_a_torn_write() {
        let bytes = three();
        let last = 15 + 17;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let (_, torn, corrupt) = read(&damaged);
            assert_eq!((torn, corrupt), (at >= last, at < last), "bit at {at}");
        }
    }

    #[test]
    fn a_tail_of_zeros_is_a_torn_write() {
        let mut bytes = three();
        bytes.extend([0; 4096]);
        assert_eq!(read(&bytes), (3, true, false));
    }
}
