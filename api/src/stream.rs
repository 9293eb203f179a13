//! Frames: how output, input and results share one byte stream, for exec, logs, image transfer and node requests.
//!
//! A frame is one byte of kind, four bytes of payload length (big endian), and the payload. This module is the codec, without IO.

use serde::Serialize;

use crate::http::{Problem, WindowSize};

/// Longest payload of a frame, bytes.
pub const FRAME_MAX_BYTES: usize = 1 << 20;
/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 5;

/// One piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Input of the asker, or standard output of the answer. An empty one from the asker is the end of its input.
    Data(Vec<u8>),
    /// Standard error of the answer.
    Error(Vec<u8>),
    /// A JSON value in the course of the answer.
    Message(Vec<u8>),
    /// The asker's terminal has a new size.
    Resize(WindowSize),
    /// The asker sends a signal to the program.
    Signal(i32),
    /// The end: the result as JSON.
    Done(Vec<u8>),
    /// The end: what went wrong.
    Problem(Problem),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An unknown kind.
    #[error("stream frame of unknown kind {0}")]
    Kind(u8),
    /// Longer than [`FRAME_MAX_BYTES`].
    #[error("stream frame of {0} bytes; at most {FRAME_MAX_BYTES} are allowed")]
    Length(usize),
    /// The payload is not what the kind says.
    #[error("stream frame of kind {kind} has a payload that cannot be read: {reason}")]
    Payload {
        /// The kind.
        kind: u8,
        /// What is wrong.
        reason: String,
    },
}

impl Frame {
    /// A `Message` of a JSON value.
    pub fn message(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self::Message)
    }

    /// A `Done` of a JSON value.
    pub fn done(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self::Done)
    }

    /// The frame as bytes. Payloads over [`FRAME_MAX_BYTES`] are an error of the caller and come out as a `Problem` frame.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, std::borrow::Cow<'_, [u8]>) = match self {
            Self::Data(bytes) => (0, bytes.into()),
            Self::Error(bytes) => (1, bytes.into()),
            Self::Message(bytes) => (2, bytes.into()),
            Self::Resize(size) => {
                let mut bytes = size.rows.to_be_bytes().to_vec();
                bytes.extend(size.columns.to_be_bytes());
                (3, bytes.into())
            }
            Self::Signal(number) => (4, number.to_be_bytes().to_vec().into()),
            Self::Done(bytes) => (5, bytes.into()),
            Self::Problem(problem) => (6, serde_json::to_vec(problem).unwrap_or_default().into()),
        };
        if payload.len() > FRAME_MAX_BYTES {
            let problem = Problem::internal(format!(
                "an answer of {} bytes does not fit a stream frame",
                payload.len()
            ));
            return Self::Problem(problem).encode();
        }
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        bytes.push(kind);
        bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Takes the first frame off `buffer`, or `None` when it is not all there yet.
    pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Self>, FrameError> {
        let Some(header) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if kind > 6 {
            return Err(FrameError::Kind(kind));
        }
        if length > FRAME_MAX_BYTES {
            return Err(FrameError::Length(length));
        }
        if buffer.len() < FRAME_HEADER_BYTES + length {
            return Ok(None);
        }
        let payload: Vec<u8> = buffer.drain(..FRAME_HEADER_BYTES + length).skip(FRAME_HEADER_BYTES).collect();
        Self::from_parts(kind, payload).map(Some)
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        let bad = |reason: &str| FrameError::Payload { kind, reason: reason.into() };
        Ok(match kind {
            0 => Self::Data(payload),
            1 => Self::Error(payload),
            2 => Self::Message(payload),
            3 => match payload.as_slice() {
                [a, b, c, d] => Self::Resize(WindowSize {
                    rows: u16::from_be_bytes([*a, *b]),
                    columns: u16::from_be_bytes([*c, *d]),
                }),
                _ => return Err(bad("four bytes expected")),
            },
            4 => {
                Self::Signal(i32::from_be_bytes(payload.try_into().map_err(|_| bad("four bytes expected"))?))
            }
            5 => Self::Done(payload),
            6 => Self::Problem(serde_json::from_slice(&payload).map_err(|e| bad(&e.to_string()))?),
            _ => return Err(FrameError::Kind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        vec![
            Frame::Data(b"hello".to_vec()),
            Frame::Data(Vec::new()),
            Frame::Error(vec![0xff]),
            Frame::Message(b"{}".to_vec()),
            Frame::Resize(WindowSize { rows: 24, columns: 80 }),
            Frame::Signal(15),
            Frame::Done(b"null".to_vec()),
            Frame::Problem(Problem::new(404, "no-task", "no task t9").hint("carrack ps")),
        ]
    }

    #[test]
    fn frames_are_read_back_whole_however_the_bytes_arrive() {
        let bytes: Vec<u8> = all().iter().flat_map(Frame::encode).collect();
        for step in [1, 3, 7, bytes.len()] {
            let mut buffer = Vec::new();
            let mut read = Vec::new();
            for chunk in bytes.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, all(), "step {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        assert_eq!(Frame::decode(&mut vec![9, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
        assert_eq!(Frame::decode(&mut vec![0, 255, 0, 0, 0]), Err(FrameError::Length(0xff00_0000)));
        assert!(matches!(Frame::decode(&mut vec![3, 0, 0, 0, 1, 7]), Err(FrameError::Payload { .. })));
    }

    #[test]
    fn an_answer_too_long_for_a_frame_becomes_a_problem() {
        let mut bytes = Frame::Done(vec![b' '; FRAME_MAX_BYTES + 1]).encode();
        assert!(matches!(Frame::decode(&mut bytes), Ok(Some(Frame::Problem(_)))));
    }
}
