//! `carrack image`: what the nodes hold.

use std::path::Path;

use bytes::Bytes as Chunk;
use carrack_api::client::{Body, Frames, full, segment};
use carrack_api::stream::Frame;
use carrack_api::{
    Bytes, HeldImage, ImageDetails, LoadedImages, PruneImages, PrunedImages, PullImage, PullProgress,
    TagImage, Timestamp,
};
use futures_util::stream;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::confirm::confirm;
use crate::args::ImageCommand;
use crate::context::Context;
use crate::credentials;
use crate::error::{CliError, Code, Outcome};
use crate::render::meter::Meter;
use crate::render::table::{Table, cut, full as column};
use crate::render::task;
use crate::terminal::{put, say};
use crate::time;

/// Bytes of an archive that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// `carrack image`.
pub(crate) async fn run(command: &ImageCommand, context: &Context) -> Outcome {
    match command {
        ImageCommand::Load { files, input } => {
            let mut files: Vec<&Path> = files.iter().chain(input).map(AsRef::as_ref).collect();
            if files.is_empty() {
                if context.terminal.stdin {
                    return Err(CliError::usage("no archive")
                        .hint("name a file, or pipe one in: docker save web:1 | carrack image load"));
                }
                files.push(Path::new("-"));
            }
            for file in files {
                load(file, context).await?;
            }
            Ok(Code::Ok)
        }
        ImageCommand::Pull { references } => {
            for reference in references {
                pull(reference, context).await?;
            }
            Ok(Code::Ok)
        }
        ImageCommand::Ls => list(context).await,
        ImageCommand::Inspect { references } => inspect(references, context).await,
        ImageCommand::Tag { source, target } => {
            let tag = TagImage { source: source.clone(), target: target.clone() };
            let image: HeldImage =
                context.client.json(Method::POST, "/v1/images/tag", Some(&tag), &[]).await?;
            if context.json() {
                context.put_json(&image)?;
            } else {
                say(&format!("{} is {}", image.name, short_digest(&image.digest)));
            }
            Ok(Code::Ok)
        }
        ImageCommand::Save { file, references } => save(file.as_deref(), references, context).await,
        ImageCommand::Prune { all, force } => prune(*all, *force, context).await,
        ImageCommand::Rm { references } => {
            for reference in references {
                context.client.delete(&format!("/v1/images/{}", segment(reference))).await?;
                say(&format!("{reference} is removed"));
            }
            Ok(Code::Ok)
        }
    }
}

async fn inspect(references: &[String], context: &Context) -> Outcome {
    let mut found: Vec<ImageDetails> = Vec::new();
    for reference in references {
        let path = format!("/v1/images/inspect?reference={}", segment(reference));
        found.push(context.client.get(&path).await?);
    }
    context.put_json(&found)?;
    Ok(Code::Ok)
}

/// Writes an archive beside its place and gives it its name at the end: a save that breaks off leaves nothing.
async fn save(file: Option<&Path>, references: &[String], context: &Context) -> Outcome {
    if file.is_none() && context.terminal.stdout {
        return Err(CliError::usage("an archive is not shown on a terminal")
            .hint("name a file: carrack image save -o web.tar web:1"));
    }
    let body = full(serde_json::to_vec(references)?);
    let headers = [("content-type", "application/json")];
    let mut frames = context.client.frames(Method::POST, "/v1/images/save", body, &headers).await?;
    let Some(file) = file else {
        receive(&mut frames, &mut std::io::stdout().lock()).await?;
        return Ok(Code::Ok);
    };
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = file.with_file_name(name);
    let cannot = |error: std::io::Error| {
        CliError::new(format!("{} cannot be written", file.display())).caused_by(&error)
    };
    let mut out = std::fs::File::options().write(true).create_new(true).open(&part).map_err(cannot)?;
    let written = match receive(&mut frames, &mut out).await {
        Ok(bytes) => std::fs::rename(&part, file).map_err(cannot).map(|()| bytes),
        Err(error) => Err(error),
    };
    match written {
        Ok(bytes) => {
            say(&format!("saved {} to {} ({})", references.join(", "), file.display(), Bytes(bytes)));
            Ok(Code::Ok)
        }
        Err(error) => {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&part);
            Err(error)
        }
    }
}

/// Writes the data of an answer; how much it was.
async fn receive(frames: &mut Frames, out: &mut impl std::io::Write) -> Result<u64, CliError> {
    let mut bytes = 0;
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::Data(data) => {
                out.write_all(&data)?;
                bytes += data.len() as u64;
            }
            Frame::Done(_) => {
                out.flush()?;
                return Ok(bytes);
            }
            _ => {}
        }
    }
    Err(CliError::new("the daemon ended the archive before its end")
        .hint("`carrack version` shows whether it still runs"))
}

async fn prune(all: bool, force: bool, context: &Context) -> Outcome {
    let ask = async |dry_run: bool| -> Result<PrunedImages, CliError> {
        let body = PruneImages { all, dry_run };
        Ok(context.client.json(Method::POST, "/v1/images/prune", Some(&body), &[]).await?)
    };
    if !force {
        let found = ask(true).await?;
        if found.images.is_empty() {
            say("no image can go");
            return if context.json() { context.put_json(&found).map(|()| Code::Ok) } else { Ok(Code::Ok) };
        }
        for image in &found.images {
            say(&format!("  {} {} ({})", image.name, short_digest(&image.digest), image.size));
        }
        if !confirm(&format!("Remove them and free about {}?", found.freed), context)? {
            return Err(CliError::new("nothing was removed"));
        }
    }
    let pruned = ask(false).await?;
    if context.json() {
        context.put_json(&pruned)?;
        return Ok(Code::Ok);
    }
    for image in &pruned.images {
        put(&format!("removed {} {}\n", image.name, short_digest(&image.digest)))?;
    }
    say(&format!("freed {}", pruned.freed));
    Ok(Code::Ok)
}

async fn load(file: &Path, context: &Context) -> Result<(), CliError> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let cannot = |error: std::io::Error| CliError::new(format!("{name} cannot be read")).caused_by(&error);
    let (body, size) = if stdin {
        (stream_body(tokio::io::stdin()), None)
    } else {
        let archive = tokio::fs::File::open(file).await.map_err(cannot)?;
        let metadata = archive.metadata().await.map_err(cannot)?;
        if metadata.is_dir() {
            return Err(CliError::usage(format!("{name} is a directory, not an archive"))
                .hint(format!("an OCI layout is loaded as `tar -C {name} -c . | carrack image load`")));
        }
        (stream_body(archive), Some(metadata.len()))
    };
    let loaded = send(body, size, &name, context).await?;
    if context.json() {
        return context.put_json(&loaded);
    }
    for image in &loaded.images {
        put(&format!("loaded {} {} ({})\n", image.name, short_digest(&image.digest), image.size))?;
    }
    if loaded.images.is_empty() {
        say(&format!("{name} holds no image with a name"));
    }
    Ok(())
}

/// Sends an archive to the daemon; the images that it brought.
pub(super) async fn send(
    body: Body,
    size: Option<u64>,
    name: &str,
    context: &Context,
) -> Result<LoadedImages, CliError> {
    let mut headers = vec![("content-type", "application/x-tar")];
    let length = size.map(|size| size.to_string());
    headers.extend(length.as_deref().map(|length| ("carrack-archive-bytes", length)));
    let frames = context.client.frames(Method::POST, "/v1/images/load", body, &headers).await?;
    answer(frames, context, &format!("loading {name}"), size).await
}

async fn pull(reference: &str, context: &Context) -> Result<(), CliError> {
    let credentials = credentials::for_images([reference].into_iter())?.into_values().next();
    let body = serde_json::to_vec(&PullImage { reference: reference.to_owned(), credentials })?;
    let headers = [("content-type", "application/json")];
    let frames = context.client.frames(Method::POST, "/v1/images/pull", full(body), &headers).await?;
    let image: HeldImage = answer(frames, context, &format!("pulling {reference}"), None).await?;
    if context.json() {
        return context.put_json(&image);
    }
    put(&format!("pulled {} {} ({})\n", image.name, short_digest(&image.digest), image.size))
}

/// Shows progress until the answer comes.
async fn answer<T: DeserializeOwned>(
    mut frames: Frames,
    context: &Context,
    subject: &str,
    total: Option<u64>,
) -> Result<T, CliError> {
    let mut meter = Meter::new(&context.terminal, subject);
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::Message(json) => {
                let mut progress: PullProgress = serde_json::from_slice(&json)?;
                if progress.total == Bytes(0) {
                    progress.total = Bytes(total.unwrap_or(0));
                }
                meter.show(&progress);
            }
            Frame::Done(json) => return Ok(serde_json::from_slice(&json)?),
            _ => {}
        }
    }
    Err(CliError::new("the daemon ended the transfer without an answer")
        .hint("`carrack version` shows whether it still runs"))
}

/// A request's body that is read as it is sent.
pub(super) fn stream_body(source: impl AsyncRead + Unpin + Send + 'static) -> Body {
    let chunks = stream::unfold(source, |mut source| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        match source.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(hyper::body::Frame::data(Chunk::from(chunk))), source))
            }
            Err(error) => Some((Err(error), source)),
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

async fn list(context: &Context) -> Outcome {
    let mut images: Vec<HeldImage> = context.client.get("/v1/images").await?;
    images.sort();
    images.dedup();
    if context.json() {
        context.put_json(&images)?;
        return Ok(Code::Ok);
    }
    if images.is_empty() {
        say("no images; `carrack image load FILE` or `carrack image pull NAME` brings some");
        return Ok(Code::Ok);
    }
    put(&table(&images, time::now()).render(context.terminal.width(), context.terminal.colour_out()))?;
    Ok(Code::Ok)
}

fn table(images: &[HeldImage], now: Timestamp) -> Table {
    let mut table = Table::new(&[cut("IMAGE"), column("DIGEST"), column("SIZE"), column("AGE")]);
    for image in images {
        table.row([
            image.name.as_str().into(),
            short_digest(&image.digest).into(),
            image.size.to_string().into(),
            task::age(image.created_at, now).into(),
        ]);
    }
    table
}

/// As many characters of a digest as people compare.
const DIGEST_CHARS: usize = 12;

pub(super) fn short_digest(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(DIGEST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_with_short_digests() {
        let image = HeldImage {
            name: "docker.io/library/web:1".into(),
            digest: format!("sha256:{}", "ab".repeat(32)),
            size: Bytes(3 << 20),
            created_at: Timestamp(0),
        };
        assert_eq!(
            table(&[image], Timestamp(61_000)).render(None, false),
            "IMAGE                    DIGEST        SIZE   AGE\n\
             docker.io/library/web:1  abababababab  3 MiB  1m01s\n"
        );
    }
}
