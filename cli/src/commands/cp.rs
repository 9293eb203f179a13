//! `carrack cp`: files between here and a running task, with the meaning of paths that Docker gave them.
//!
//! Packing and placing here is the runtime's own code: nothing of an archive leaves the directory it is placed in, and no
//! symlink of it is followed. What a path in the container means is decided there, where it cannot change meanwhile.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use bytes::Bytes as Chunk;
use carrack_api::client::{Body, Frames, empty, segment};
use carrack_api::stream::Frame;
use carrack_api::{Bytes, Copied, CopiedFile, CopiedKind, CopyIn, CopySource, TaskId};
use carrack_runtime::archive::{self, CopyError, Layout, Place, Source};
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use rustix::fs::ResolveFlags;
use tokio::sync::mpsc;

use super::exec::{ascii_json, running_task};
use super::image::stream_body;
use crate::args::CpArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::terminal::{put_bytes, say};

/// Pieces of an archive that wait.
const PIECES_MAX: usize = 16;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// In a task.
    Task { target: String, path: String },
    /// Here.
    Local(String),
    /// An archive on standard input or output.
    Stream,
}

/// As Docker reads it: what begins with a dot or a slash is here, `TARGET:PATH` is in a task.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        _ if text == "-" => Side::Stream,
        Some((target, path)) if !text.starts_with(['.', '/']) && !target.is_empty() => {
            Side::Task { target: target.into(), path: path.into() }
        }
        _ => Side::Local(text.into()),
    }
}

/// `carrack cp`.
pub(crate) async fn run(args: &CpArgs, context: &Context) -> Outcome {
    let example = "for example `carrack cp web.1:/etc/hosts .` or `carrack cp app.conf web:/etc/`";
    match (side(&args.source), side(&args.destination)) {
        (Side::Task { .. }, Side::Task { .. }) => Err(CliError::usage("files are not copied between tasks")
            .hint(
                "copy them here first, or pipe: \
                 `carrack cp a:/data - | carrack cp - b:/`",
            )),
        (Side::Task { target, path }, destination) => {
            let path = checked(&path)?;
            let task = running_task(context, &target).await?;
            out(args, context, task, path, &destination).await
        }
        (source, Side::Task { target, path }) => {
            let path = checked(&path)?;
            let (source, body) = local(&source, args.follow_link, context)?;
            let task = running_task(context, &target).await?;
            into(args, context, task, CopyIn { path: path.into(), source, keep_owner: args.archive }, body)
                .await
        }
        _ => Err(CliError::usage("neither side is in a task")
            .hint(format!("write TARGET:PATH on one side, {example}"))),
    }
}

fn checked(path: &str) -> Result<&str, CliError> {
    match path {
        "" => Err(CliError::usage("the path in the task is missing")
            .hint("write TARGET:PATH, for example web:/etc/hosts")),
        path => Ok(path),
    }
}

/// What goes into a task, and the body that brings it.
fn local(side: &Side, follow: bool, context: &Context) -> Result<(CopySource, Body), CliError> {
    let Side::Local(path) = side else {
        if context.terminal.stdin {
            return Err(CliError::usage("no archive on standard input")
                .hint("pipe one in: tar -c files | carrack cp - web:/srv"));
        }
        return Ok((CopySource::Archive, stream_body(tokio::io::stdin())));
    };
    let source = Source::open(rustix::fs::CWD, path, ResolveFlags::empty(), follow).map_err(here)?;
    let name = source.file.name.clone();
    let (source_kind, name_inside) = match source.file.kind {
        CopiedKind::Directory if name == "." => (CopySource::Directory { name: None }, ".".to_owned()),
        CopiedKind::Directory => (CopySource::Directory { name: Some(name) }, ".".to_owned()),
        CopiedKind::File | CopiedKind::Symlink => (CopySource::File { name: name.clone() }, name),
    };
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let writer = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        if let Err(error) = archive::pack(&source, &name_inside, writer) {
            // The request breaks off with it; one that has ended already has said why.
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece.map(hyper::body::Frame::data), receiver))
    });
    Ok((source_kind, StreamBody::new(chunks).boxed_unsync()))
}

/// An error with a file here.
fn here(error: CopyError) -> CliError {
    CliError::new(error.to_string())
}

/// Where the packer writes.
struct Pieces(mpsc::Sender<io::Result<Chunk>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Chunk::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn into(args: &CpArgs, context: &Context, task: TaskId, copy: CopyIn, body: Body) -> Outcome {
    let header = ascii_json(&serde_json::to_string(&copy)?);
    let headers = [("carrack-copy", header.as_str()), ("content-type", "application/x-tar")];
    let path = format!("/v1/tasks/{task}/archive");
    let mut frames = context.client.frames(Method::PUT, &path, body, &headers).await?;
    while let Some(frame) = frames.next().await? {
        if let Frame::Done(json) = frame {
            return told(args, context, serde_json::from_slice(&json)?);
        }
    }
    Err(unanswered())
}

fn told(args: &CpArgs, context: &Context, copied: Copied) -> Outcome {
    if copied.skipped > 0 {
        say(&format!("{} sockets, pipes or devices were left out", copied.skipped));
    }
    if context.json() {
        context.put_json(&copied)?;
    } else if !args.quiet {
        let files = if copied.entries == 1 { "file" } else { "files" };
        say(&format!("copied {} {files}, {}, to {}", copied.entries, Bytes(copied.bytes), args.destination));
    }
    Ok(Code::Ok)
}

fn unanswered() -> CliError {
    CliError::new("the daemon ended the transfer without an answer")
        .hint("`carrack version` shows whether it still runs")
}

async fn out(args: &CpArgs, context: &Context, task: TaskId, path: &str, destination: &Side) -> Outcome {
    if *destination == Side::Stream && context.terminal.stdout {
        return Err(CliError::usage("an archive is not shown on a terminal")
            .hint("send it somewhere: carrack cp web:/etc - | tar -t"));
    }
    let url = format!("/v1/tasks/{task}/archive?path={}&follow={}", segment(path), args.follow_link);
    let mut frames = context.client.frames(Method::GET, &url, empty(), &[]).await?;
    let file: CopiedFile = loop {
        match frames.next().await? {
            Some(Frame::Message(json)) => break serde_json::from_slice(&json)?,
            Some(_) => {}
            None => return Err(unanswered()),
        }
    };
    let Side::Local(local) = destination else {
        let copied = receive(&mut frames, async |bytes| put_bytes(&bytes)).await?;
        // Data is on standard output already.
        if copied.skipped > 0 {
            say(&format!("{} sockets, pipes or devices were left out", copied.skipped));
        }
        return Ok(Code::Ok);
    };
    let landing = landing(local, &file)?;
    let keep_owner = args.archive;
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let placing = tokio::task::spawn_blocking(move || landing.place(keep_owner, Received::new(receiver)));
    let mut sender = Some(sender);
    let received = receive(&mut frames, async |bytes| {
        // One that takes no more has failed: its error is told at the end.
        if let Some(open) = &sender
            && open.send(bytes).await.is_err()
        {
            sender = None;
        }
        Ok(())
    })
    .await;
    drop(sender);
    let placed = placing.await.map_err(|error| CliError::new("the copy ended early").caused_by(&error))?;
    // An archive that breaks off is an error here, too, but there is why.
    let mut copied = received.map(|sent| sent.skipped).and_then(|skipped| {
        placed.map_err(here).map(|placed| Copied { skipped: placed.skipped + skipped, ..placed })
    })?;
    copied.entries = copied.entries.max(1);
    told(args, context, copied)
}

/// Hands data on until the answer's end.
async fn receive(
    frames: &mut Frames,
    mut take: impl AsyncFnMut(Vec<u8>) -> Result<(), CliError>,
) -> Result<Copied, CliError> {
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::Data(bytes) => take(bytes).await?,
            Frame::Done(json) => return Ok(serde_json::from_slice(&json)?),
            _ => {}
        }
    }
    Err(unanswered())
}

/// Where an archive goes here.
#[derive(Debug, PartialEq, Eq)]
struct Landing {
    directory: PathBuf,
    path: String,
    layout: Layout,
}

impl Landing {
    fn place(&self, keep_owner: bool, archive: impl Read) -> Result<Copied, CopyError> {
        let fail = |error: io::Error| CopyError::System {
            step: format!("open {}", self.directory.display()),
            why: error.to_string(),
        };
        let root = fs::File::open(&self.directory).map_err(fail)?;
        // A symlink that an archive brings, or that is there already, leads nowhere.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let at = Place {
            root: root.as_fd(),
            resolve,
            path: self.path.clone(),
            layout: self.layout.clone(),
            keep_owner,
        };
        archive::place(&at, archive)
    }
}

/// What a path here means for what is copied, as in Docker.
fn landing(path: &str, file: &CopiedFile) -> Result<Landing, CliError> {
    let slash = path.ends_with('/') || path.ends_with("/.");
    let strip = file.name != ".";
    let is_directory = file.kind == CopiedKind::Directory;
    let below = |directory: PathBuf, path: &str| Landing {
        directory,
        path: path.into(),
        layout: Layout::Below { strip },
    };
    let real = match fs::canonicalize(path) {
        Ok(real) => Some(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(CliError::new(format!("{path} cannot be used")).caused_by(&error)),
    };
    match real {
        Some(real) if real.is_dir() && is_directory => Ok(below(real, if strip { &file.name } else { "" })),
        Some(real) if real.is_dir() => {
            Ok(Landing { directory: real, path: String::new(), layout: Layout::Only(file.name.clone()) })
        }
        Some(_) if is_directory => {
            Err(CliError::new(format!("{path} exists and is no directory; {} is one", file.name)))
        }
        Some(_) if slash => Err(CliError::new(format!("{path} is not a directory"))),
        None if slash && !is_directory => Err(CliError::new(format!("{path}: no such directory"))
            .hint("make it first, or leave the slash at the end out to name the copy")),
        real => {
            let whole =
                real.unwrap_or_else(|| PathBuf::from(path.trim_end_matches("/.").trim_end_matches('/')));
            let name = whole.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| CliError::new(format!("{path} is no name of a file")))?;
            let parent = whole.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            let directory = fs::canonicalize(parent).map_err(|error| {
                CliError::new(format!("{}: no such directory", parent.display())).caused_by(&error)
            })?;
            match is_directory {
                true => Ok(below(directory, name)),
                false => {
                    Ok(Landing { directory, path: String::new(), layout: Layout::Only(name.to_owned()) })
                }
            }
        }
    }
}

/// An archive that arrives in pieces.
struct Received {
    pieces: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    offset: usize,
}

impl Received {
    fn new(pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { pieces, current: Vec::new(), offset: 0 }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.offset == self.current.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.current, self.offset) = (piece, 0),
                None => return Ok(0),
            }
        }
        let read = (&self.current[self.offset..]).read(buffer)?;
        self.offset += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_read_as_in_docker() {
        let task = |target: &str, path: &str| Side::Task { target: target.into(), path: path.into() };
        assert_eq!(side("web:/etc"), task("web", "/etc"));
        assert_eq!(side("hello/web.2:a:b"), task("hello/web.2", "a:b"));
        assert_eq!(side("-"), Side::Stream);
        for local in ["file", "./a:b", "/a:b", "../x", ":x"] {
            assert_eq!(side(local), Side::Local(local.into()), "{local}");
        }
    }

    #[test]
    fn where_a_copy_lands_is_as_in_docker() {
        let here = tempfile::tempdir().unwrap();
        let root = here.path().canonicalize().unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        let at = |name: &str| format!("{}/{name}", root.display());
        let file = CopiedFile { name: "hosts".into(), kind: CopiedKind::File, size: 3 };
        let dir = CopiedFile { name: "etc".into(), kind: CopiedKind::Directory, size: 0 };
        let content = CopiedFile { name: ".".into(), ..dir.clone() };
        let only = |directory: PathBuf, name: &str| Landing {
            directory,
            path: String::new(),
            layout: Layout::Only(name.into()),
        };
        let below = |directory: PathBuf, path: &str, strip| Landing {
            directory,
            path: path.into(),
            layout: Layout::Below { strip },
        };
        assert_eq!(landing(&at("dir"), &file).unwrap(), only(root.join("dir"), "hosts"));
        assert_eq!(landing(&at("file"), &file).unwrap(), only(root.clone(), "file"));
        assert_eq!(landing(&at("new"), &file).unwrap(), only(root.clone(), "new"));
        assert!(landing(&at("new/"), &file).unwrap_err().render(false).contains("no such directory"));
        assert!(landing(&at("file/"), &file).is_err());
        assert!(landing(&at("no/new"), &file).is_err());
        assert_eq!(landing(&at("dir"), &dir).unwrap(), below(root.join("dir"), "etc", true));
        assert_eq!(landing(&at("new"), &dir).unwrap(), below(root.clone(), "new", true));
        assert_eq!(landing(&at("new/"), &dir).unwrap(), below(root.clone(), "new", true));
        assert_eq!(landing(&at("dir"), &content).unwrap(), below(root.join("dir"), "", false));
        assert_eq!(landing(&at("new"), &content).unwrap(), below(root.clone(), "new", false));
        assert!(landing(&at("file"), &dir).unwrap_err().render(false).contains("no directory"));
    }
}
