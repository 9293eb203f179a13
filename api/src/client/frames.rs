//! Reading and writing [`Frame`]s on async byte streams.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::stream::Frame;

/// Bytes asked of a stream at a time.
const READ_CHUNK_BYTES: usize = 64 << 10;

/// Reads frames off a byte stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next frame; `None` at the end of the stream. A stream that ends within a frame, or that carries something else, is
    /// an error. Safe to drop before it is ready: what arrived is kept for the next call.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_CHUNK_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => {
                        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended within a frame"))
                    }
                };
            }
        }
    }
}

/// Writes one frame and flushes it.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    stream.write_all(&frame.encode()).await?;
    stream.flush().await
}
