//! A task's log: frames written by its supervisors, read by anyone. Format: `docs/supervisor.md`.
//!
//! One directory per task holds the files of all its runs, named `RUN.SEQUENCE.log` so that names sort by age. A file is a
//! header and frames. `write` is the supervisor's side, `read` everybody else's; both survive the other's absence.

mod read;
mod write;

pub use read::{LogLine, LogQuery, LogReader, LogStream};
pub(crate) use write::LogWriter;

/// First bytes of a log file: a name and [`crate::record::FORMAT_VERSION`] as two little-endian bytes.
const MAGIC: [u8; 8] = *b"CRKLOG\x01\x00";
/// Bytes before a frame's payload: length (4), stream (1), zero (3), time (8), all little-endian.
pub(crate) const FRAME_HEADER_BYTES: usize = 16;
/// Largest payload of a frame, in bytes.
pub(crate) const FRAME_MAX_BYTES: usize = 32 << 10;
/// Most files of one task.
const MAX_FILES: usize = 64;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Bytes of stdout (and of a terminal).
    Stdout = 1,
    /// Bytes of stderr.
    Stderr = 2,
    /// A note of the supervisor.
    Note = 3,
    /// The run's last frame; no payload.
    End = 4,
}

impl FrameKind {
    /// The stream of its bytes; `None` for a mark.
    fn stream(self) -> Option<LogStream> {
        match self {
            Self::Stdout => Some(LogStream::Stdout),
            Self::Stderr => Some(LogStream::Stderr),
            Self::Note => Some(LogStream::Supervisor),
            Self::End => None,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Note,
            4 => Self::End,
            _ => return None,
        })
    }
}

fn encode_header(length: usize, kind: FrameKind, time_ns: u64) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    header[4] = kind as u8;
    header[8..].copy_from_slice(&time_ns.to_le_bytes());
    header
}

/// Length, kind and time; `None` for what no supervisor writes.
fn decode_header(header: &[u8; FRAME_HEADER_BYTES]) -> Option<(usize, FrameKind, u64)> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = FrameKind::from_byte(header[4])?;
    let mut time = [0; 8];
    time.copy_from_slice(&header[8..]);
    (length <= FRAME_MAX_BYTES && header[5..8] == [0; 3]).then_some((length, kind, u64::from_le_bytes(time)))
}

fn file_name(run: u32, sequence: u32) -> String {
    format!("{run:010}.{sequence:06}.log")
}

fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (run, sequence) = name.strip_suffix(".log")?.split_once('.')?;
    Some((run.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_written() {
        let header = encode_header(77, FrameKind::Stderr, 123_456_789_000);
        assert_eq!(header[..5], [77, 0, 0, 0, 2]);
        assert_eq!(decode_header(&header), Some((77, FrameKind::Stderr, 123_456_789_000)));
        for (at, byte) in [(3, 1), (4, 9), (6, 1)] {
            let mut bad = header;
            bad[at] = byte;
            assert_eq!(decode_header(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn names_sort_by_age() {
        assert!(file_name(9, 100) < file_name(10, 1));
        assert_eq!(parse_name(&file_name(7, 3)), Some((7, 3)));
        assert_eq!(parse_name("x.log"), None);
    }
}
