//! Turning an archive's files into blobs of the store, in one pass and in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tar::{Archive, Entry};

use super::super::blob::Expected;
use super::super::digest::Digest;
use super::super::error::{Error, Result, io_error};
use super::super::manifest::MAX_MANIFEST_BYTES;
use super::super::progress::Meter;
use super::super::session::Session;
use super::super::unpack::{Limits, decompress::Decompressor, name};

/// Most entries of an image archive.
const MAX_ENTRIES: usize = 100_000;
/// Most bytes of one file of an image archive.
const MAX_BLOB_BYTES: u64 = 64 << 30;
/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;
/// Documents that say what the archive holds; kept in memory.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];
/// Where an OCI layout keeps its blobs.
const BLOBS: &str = "blobs/sha256/";

/// What an archive held.
#[derive(Debug, Default)]
pub(super) struct Staged {
    documents: BTreeMap<&'static str, Vec<u8>>,
    files: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
}

impl Staged {
    /// One of the documents at the top.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(Vec::as_slice)
    }

    /// The blob of a file, followed through at most one link.
    pub(super) fn file(&self, path: &str) -> Option<&(Digest, u64)> {
        let path = path.strip_prefix("./").unwrap_or(path);
        self.files.get(path).or_else(|| self.files.get(self.links.get(path)?))
    }

    /// The size of a blob that the archive held.
    pub(super) fn blob(&self, digest: &Digest) -> Option<u64> {
        self.files.get(&format!("{BLOBS}{}", digest.hex())).map(|(_, size)| *size)
    }
}

/// Stages an archive, compressed or not.
pub(super) fn archive(session: &Session, input: impl Read, meter: &Meter) -> Result<Staged> {
    let read = |source: io::Error| Error::ArchiveRead { source };
    let input = Metered { inner: input, meter };
    let mut archive = Archive::new(Decompressor::new(input).map_err(read)?);
    let mut staged = Staged::default();
    let mut count = 0;
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        count += 1;
        if count > MAX_ENTRIES {
            let what = "the number of files in the image archive".to_owned();
            return Err(Error::TooLarge { what, limit: format!("{MAX_ENTRIES} files") });
        }
        staged.entry(session, &mut entry)?;
    }
    // To the end of the stream, so that a truncated one is noticed and a pipe is not broken.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read)?;
    if count == 0 {
        return Err(Error::Archive { reason: "it is empty or no tar archive".to_owned() });
    }
    Ok(staged)
}

impl Staged {
    fn entry<R: Read>(&mut self, session: &Session, entry: &mut Entry<'_, R>) -> Result<()> {
        let raw = entry.path_bytes().into_owned();
        let refuse = |reason: String| Error::Archive {
            reason: format!("entry '{}': {reason}", name::printable(&raw)),
        };
        let path = name::clean(&raw, &Limits::default()).map_err(refuse)?;
        let Ok(path) = String::from_utf8(path) else { return Ok(()) };
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            if let Ok(target) = String::from_utf8(target) {
                let base =
                    if kind.is_symlink() { path.rsplit_once('/').map_or("", |(base, _)| base) } else { "" };
                self.links.insert(path.clone(), resolve(base, &target));
            }
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        let size = entry.size();
        if let Some(document) = DOCUMENTS.iter().find(|document| **document == path) {
            self.documents.insert(document, read_document(entry, document)?);
        } else if let Some(hex) = path.strip_prefix(BLOBS) {
            let digest: Digest = format!("sha256:{hex}").parse()?;
            store(session, entry, Some(Expected { digest: digest.clone(), size: Some(size) }))?;
            self.files.insert(path, (digest, size));
        } else if path.ends_with(".tar") || path.ends_with(".json") {
            let stored = store(session, entry, None)?;
            self.files.insert(path, stored);
        }
        Ok(())
    }
}

/// Stages the directory of an OCI layout.
pub(super) fn directory(session: &Session, dir: &Path, meter: &Meter) -> Result<Staged> {
    let mut staged = Staged::default();
    for document in DOCUMENTS {
        let path = dir.join(document);
        match open(&path) {
            Ok(file) => drop(staged.documents.insert(document, read_document(file, document)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("open", &path)(error)),
        }
    }
    if staged.documents.is_empty() {
        return Err(Error::Archive {
            reason: format!("{} is no OCI layout: it has no index.json", dir.display()),
        });
    }
    let blobs = dir.join(BLOBS);
    let entries = std::fs::read_dir(&blobs).map_err(io_error("list", &blobs))?;
    for entry in entries {
        let path = entry.map_err(io_error("list", &blobs))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
        let file = open(&path).map_err(io_error("open", &path))?;
        let size = file.metadata().map_err(io_error("inspect", &path))?.len();
        store(
            session,
            Metered { inner: file, meter },
            Some(Expected { digest: digest.clone(), size: Some(size) }),
        )?;
        staged.files.insert(format!("{BLOBS}{name}"), (digest, size));
    }
    Ok(staged)
}

/// Opens a regular file that is no symlink.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

fn read_document(reader: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    reader
        .take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|source| Error::ArchiveRead { source })?;
    if content.len() as u64 > MAX_MANIFEST_BYTES {
        let limit = format!("{MAX_MANIFEST_BYTES} bytes");
        return Err(Error::TooLarge { what: format!("{name} of the image archive"), limit });
    }
    Ok(content)
}

fn store(session: &Session, mut reader: impl Read, expected: Option<Expected>) -> Result<(Digest, u64)> {
    let mut writer = match expected {
        Some(expected) => session.write_blob(expected, MAX_BLOB_BYTES)?,
        None => session.write_unknown_blob(MAX_BLOB_BYTES)?,
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).map_err(|source| Error::ArchiveRead { source })?;
        if count == 0 {
            return session.commit_blob(writer);
        }
        writer.write(&buffer[..count])?;
    }
}

/// A link's target as a path from the top of the archive; what leaves it names nothing.
fn resolve(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// Reports bytes as they are read.
struct Metered<'a, R> {
    inner: R,
    meter: &'a Meter,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.meter.received(count as u64);
        Ok(count)
    }
}
