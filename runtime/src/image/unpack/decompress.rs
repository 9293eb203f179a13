//! Telling compressions apart by content and undoing them, in process and in bounded memory.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Read-ahead on the compressed side, in bytes.
const BUFFER: usize = 256 * 1024;
/// First bytes looked at to tell compressions apart.
const MAGIC_LEN: usize = 4;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a zstd frame, in bytes: what `zstd --ultra -22` needs.
const ZSTD_WINDOW: u64 = 128 * 1024 * 1024;

/// The input with its first bytes put back.
type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A reader of the uncompressed content of `R`.
pub(crate) enum Decompressor<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<ZstdReader<Source<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes of `input` and chooses; what is not compressed passes unchanged.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC_LEN);
        input.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut magic)?;
        let gzip = magic.starts_with(&GZIP);
        let zstd = magic == ZSTD || is_skippable(&magic);
        let source = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input));
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if zstd {
            Self::Zstd(Box::new(ZstdReader::new(source)))
        } else {
            Self::Plain(source)
        })
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buf),
            Self::Gzip(reader) => reader.read(buf),
            Self::Zstd(reader) => reader.read(buf),
        }
    }
}

/// Decodes a sequence of zstd frames, skipping skippable ones.
pub(crate) struct ZstdReader<R: BufRead> {
    state: Option<State<R>>,
}

enum State<R: BufRead> {
    Between(R, Box<FrameDecoder>),
    Frame(StreamingDecoder<Chain<Cursor<Vec<u8>>, R>, Box<FrameDecoder>>),
    End,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { state: Some(State::Between(source, Box::new(decoder))) }
    }

    /// Moves to the next frame or to the end.
    fn advance(mut source: R, decoder: Box<FrameDecoder>) -> io::Result<State<R>> {
        if source.fill_buf()?.is_empty() {
            return Ok(State::End);
        }
        let mut magic = vec![0; MAGIC_LEN];
        source.read_exact(&mut magic)?;
        if is_skippable(&magic) {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut source.by_ref().take(length), &mut io::sink())? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(State::Between(source, decoder));
        }
        let source = Cursor::new(magic).chain(source);
        StreamingDecoder::new_with_decoder(source, decoder).map(State::Frame).map_err(io::Error::other)
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // After an error the state stays empty, and every further read fails as well.
            let state = self.state.take().ok_or_else(|| io::Error::other("the zstd stream is broken"))?;
            self.state = Some(match state {
                State::Between(source, decoder) => Self::advance(source, decoder)?,
                State::Frame(mut frame) => {
                    let count = frame.read(buf)?;
                    if count > 0 || buf.is_empty() {
                        self.state = Some(State::Frame(frame));
                        return Ok(count);
                    }
                    let (source, decoder) = frame.into_parts();
                    State::Between(source.into_inner().1, decoder)
                }
                State::End => {
                    self.state = Some(State::End);
                    return Ok(0);
                }
            });
        }
    }
}

/// Whether `magic` starts a skippable zstd frame.
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn decompress(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompressor::new(data)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        compress_to_vec(data, CompressionLevel::Fastest)
    }

    #[test]
    fn content_decides_the_compression() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|number| number.to_le_bytes()).collect();
        for packed in [data.clone(), gzip(&data), zstd(&data)] {
            assert_eq!(decompress(&packed).unwrap(), data);
        }
        assert_eq!(decompress(b"").unwrap(), b"");
        assert_eq!(decompress(b"ab").unwrap(), b"ab");
    }

    #[test]
    fn several_members_and_frames_are_one_content() {
        assert_eq!(decompress(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        assert_eq!(decompress(&[zstd(b"one "), skippable, zstd(b"two")].concat()).unwrap(), b"one two");
    }

    #[test]
    fn truncated_streams_are_errors() {
        let data = vec![7; 100_000];
        for packed in [gzip(&data), zstd(&data)] {
            assert!(decompress(&packed[..packed.len() - 5]).is_err());
        }
        assert!(decompress(&[0x5a, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1]).is_err());
    }
}
