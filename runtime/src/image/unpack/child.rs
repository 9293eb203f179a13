//! The unpack child: confines itself, then reads the layer from its standard input.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};

use super::confine;
use super::decompress::Decompressor;
use super::extract::{Extractor, Failure};
use super::limits::Limits;
use super::report::{Done, Report, Setup};
use crate::image::digest::HashingReader;

/// Read-ahead on the uncompressed side, in bytes.
const BUFFER: usize = 128 * 1024;

/// The child's main: called by the re-exec dispatch with the arguments after [`super::CHILD`].
pub fn child_main(arguments: &[OsString]) -> ExitCode {
    let report = match run(arguments) {
        Ok(done) => Report::Done(done),
        Err(Failure::Refused { entry, reason }) => Report::Refused { entry, reason },
        Err(Failure::NoSpace) => Report::NoSpace,
        Err(Failure::Failed(reason)) => Report::Failed { reason },
    };
    let mut stdout = io::stdout().lock();
    match serde_json::to_writer(&mut stdout, &report).map_err(io::Error::from).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &[OsString]) -> Result<Done, Failure> {
    let [setup] = arguments else {
        return Err(Failure::Failed("the unpack child takes exactly one argument".to_owned()));
    };
    let setup: Setup = serde_json::from_slice(setup.as_bytes())
        .map_err(|error| Failure::Failed(format!("the unpack child's argument is malformed: {error}")))?;
    carrack_api::fail::point("unpack.1-confine").map_err(|error| Failure::Failed(error.to_string()))?;
    confine::confine(&setup).map_err(Failure::Failed)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failure::Failed(io::Error::from(error).to_string()))?;
    rustix::process::umask(Mode::empty());
    unpack(io::stdin().lock(), root, setup.limits)
}

/// Unpacks the layer that `input` yields below `root`.
pub(super) fn unpack(input: impl Read, root: OwnedFd, limits: Limits) -> Result<Done, Failure> {
    let failed = |error: io::Error| Failure::Failed(error.to_string());
    let mut extractor = Extractor::new(root, limits.clone());

    let compressed = Rc::new(Cell::new(0));
    let source = Counted { inner: input, count: Rc::clone(&compressed) };
    let bounded =
        Bounded { inner: Decompressor::new(source).map_err(failed)?, compressed, uncompressed: 0, limits };
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, HashingReader::new(bounded)));
    for entry in archive.entries().map_err(failed)? {
        extractor.entry(&mut entry.map_err(failed)?)?;
    }
    extractor.finish()?;
    // The digest covers the padding too.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(failed)?;
    Ok(Done {
        diff_id: rest.into_inner().finish(),
        entries: extractor.entries,
        bytes: extractor.bytes,
        opaque: extractor.opaque.into_iter().collect(),
        skipped: extractor.skipped,
        skipped_count: extractor.skipped_count,
    })
}

/// Counts the compressed bytes.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Stops a stream that grows beyond its limits.
struct Bounded<R> {
    inner: R,
    compressed: Rc<Cell<u64>>,
    uncompressed: u64,
    limits: Limits,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.uncompressed += count as u64;
        let limits = &self.limits;
        if self.uncompressed > limits.bytes {
            return Err(io::Error::other(format!("it holds more than {} bytes", limits.bytes)));
        }
        let bomb = self.uncompressed / limits.ratio > self.compressed.get();
        if self.uncompressed > limits.ratio_floor && bomb {
            return Err(io::Error::other(format!(
                "it grows more than {}-fold when decompressed, beyond {} bytes",
                limits.ratio, limits.ratio_floor
            )));
        }
        Ok(count)
    }
}
