//! `carrack secret` and `carrack config create|ls|inspect|rm`: content that stacks use by name.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use carrack_api::client::segment;
use carrack_api::{
    CONTENT_MAX_BYTES, Content, ContentKind, ContentName, ContentStatus, InvalidName, PutContent, Timestamp,
};
use clap::Subcommand;
use http::Method;

use crate::args::parse_label;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::render::task;
use crate::terminal::{put, say};
use crate::time;

/// The verbs of one kind: the same for both, with examples of its own.
macro_rules! verbs {
    ($type:ident, $kind:ident, $word:literal, $file:literal, $shown:literal) => {
        /// What is done with them.
        #[derive(Debug, Subcommand)]
        pub(crate) enum $type {
            #[command(about = concat!("Make a ", $word, " that stacks use with `external: true`"))]
            #[command(after_help = concat!("\
Examples:
  carrack ", $word, " create shop_", $file, " ./", $file, "
  printf %s \"$VALUE\" | carrack ", $word, " create shop_", $file, "
  carrack ", $word, " create --replace shop_", $file, " ./new

At most 500 KiB. The same content again changes nothing. With --replace a name stands for other content from then on; services
that use it take it, one task at a time, with their next deploy. A ", $word, " with `file:`, `environment:` or `content:` in a Compose
file needs no command: each deploy brings it."))]
            Create {
                /// Its name in the whole cluster
                #[arg(value_name = "NAME")]
                name: String,
                /// Where its content is; `-`, the default, is standard input
                #[arg(value_name = "FILE")]
                file: Option<PathBuf>,
                /// A label; can be given several times
                #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
                labels: Vec<(String, String)>,
                /// Take the place of the content that the name stands for
                #[arg(long)]
                replace: bool,
            },
            #[command(about = concat!("List ", $word, "s with who uses them"))]
            #[command(after_help = concat!("\
Examples:
  carrack ", $word, " ls
  carrack ", $word, " ls -o json

Those of stacks are listed, too; they come and go with deploys."))]
            #[command(visible_alias = "list")]
            Ls,
            #[command(about = concat!("Show everything about ", $word, "s, ", $shown, ", as JSON"))]
            #[command(after_help = concat!("\
Examples:
  carrack ", $word, " inspect shop_", $file, "
  carrack ", $word, " inspect shop_", $file, " | jq -r '.[].used_by[]'"))]
            Inspect {
                /// Names
                #[arg(value_name = "NAME", required = true)]
                names: Vec<String>,
            },
            #[command(about = concat!("Remove ", $word, "s that no service uses"))]
            #[command(after_help = concat!("\
Examples:
  carrack ", $word, " rm shop_", $file, "

One that a service uses is refused, and the users are named. Older revisions of a stack that used it keep what they had."))]
            #[command(visible_alias = "remove")]
            Rm {
                /// Names
                #[arg(value_name = "NAME", required = true)]
                names: Vec<String>,
            },
        }

        impl $type {
            /// Does it.
            pub(crate) async fn run(&self, context: &Context) -> Outcome {
                const KIND: ContentKind = ContentKind::$kind;
                match self {
                    Self::Create { name, file, labels, replace } => {
                        let name: ContentName =
                            name.parse().map_err(|error: InvalidName| CliError::usage(error.to_string()))?;
                        let body = PutContent {
                            content: read(KIND, file.as_deref())?,
                            labels: labels.iter().cloned().collect(),
                            replace: *replace,
                        };
                        create(KIND, &name, &body, context).await
                    }
                    Self::Ls => list(KIND, context).await,
                    Self::Inspect { names } => inspect(KIND, names, context).await,
                    Self::Rm { names } => remove(KIND, names, context).await,
                }
            }
        }
    };
}

verbs!(SecretCommand, Secret, "secret", "key", "but their content");
verbs!(ConfigCommand, Config, "config", "conf", "their text too");

fn path(kind: ContentKind, name: &str) -> String {
    format!("/v1/{}/{}", kind.plural(), segment(name))
}

/// The content of a file or of standard input.
fn read(kind: ContentKind, file: Option<&Path>) -> Result<Content, CliError> {
    let standard_input = file.is_none_or(|file| file == Path::new("-"));
    let shown = if standard_input {
        "standard input".into()
    } else {
        file.unwrap_or(Path::new("-")).display().to_string()
    };
    let unreadable = |error: std::io::Error| CliError::new(format!("{shown} cannot be read: {error}"));
    let mut bytes = Vec::with_capacity(CONTENT_MAX_BYTES + 1);
    let most = CONTENT_MAX_BYTES as u64 + 1;
    match file.filter(|_| !standard_input) {
        Some(file) => std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut bytes)),
        None => {
            if std::io::stdin().is_terminal() {
                say(&format!("reading the {kind} from the terminal; Ctrl-D on a new line ends it"));
            }
            std::io::stdin().lock().take(most).read_to_end(&mut bytes)
        }
    }
    .map_err(unreadable)?;
    let content = Content::new(bytes);
    if content.bytes().len() > CONTENT_MAX_BYTES {
        return Err(CliError::new(format!("{shown} has more than the 500 KiB that a {kind} may have"))
            .hint("use a volume for larger files"));
    }
    Ok(content)
}

async fn create(kind: ContentKind, name: &ContentName, body: &PutContent, context: &Context) -> Outcome {
    if body.content.bytes().is_empty() {
        say(&format!("note: the {kind} is empty"));
    }
    let made: ContentStatus =
        context.client.json(Method::PUT, &path(kind, name.as_str()), Some(body), &[]).await?;
    if context.json() {
        context.put_json(&made)?;
        return Ok(Code::Ok);
    }
    put(&format!("{name}\n"))?;
    if body.replace && !made.used_by.is_empty() {
        say("its users take it with their next deploy");
    }
    Ok(Code::Ok)
}

async fn inspect(kind: ContentKind, names: &[String], context: &Context) -> Outcome {
    let mut found: Vec<ContentStatus> = Vec::new();
    for name in names {
        found.push(context.client.get(&path(kind, name)).await?);
    }
    context.put_json(&found)?;
    Ok(Code::Ok)
}

/// All that can be removed are; what stands against the others is told, the last of it as the outcome.
async fn remove(kind: ContentKind, names: &[String], context: &Context) -> Outcome {
    let mut refused: Option<CliError> = None;
    for name in names {
        match context.client.delete(&path(kind, name)).await {
            Ok(_) => say(&format!("{kind} {name} is removed")),
            Err(error) => {
                let error = CliError::from(error);
                let nobody_answers = error.exit_code() == Code::NoDaemon;
                if let Some(before) = refused.replace(error) {
                    say(before.render(context.terminal.colour_err()).trim_end());
                }
                if nobody_answers {
                    break;
                }
            }
        }
    }
    refused.map_or(Ok(Code::Ok), Err)
}

async fn list(kind: ContentKind, context: &Context) -> Outcome {
    let found: Vec<ContentStatus> = context.client.get(&format!("/v1/{}", kind.plural())).await?;
    if context.json() {
        context.put_json(&found)?;
        return Ok(Code::Ok);
    }
    if found.is_empty() {
        say(&format!("no {}; `carrack {kind} create NAME FILE` makes one", kind.plural()));
        return Ok(Code::Ok);
    }
    put(&table(kind, &found, time::now()).render(context.terminal.width(), context.terminal.colour_out()))?;
    Ok(Code::Ok)
}

fn table(kind: ContentKind, found: &[ContentStatus], now: Timestamp) -> Table {
    let title = if kind == ContentKind::Secret { "SECRET" } else { "CONFIG" };
    let mut table = Table::new(&[full(title), full("STACK"), full("SIZE"), full("AGE"), cut("USED BY")]);
    for status in found {
        let users: Vec<String> = status.used_by.iter().map(ToString::to_string).collect();
        table.row([
            status.name.as_str().into(),
            status.stack.as_ref().map(ToString::to_string).unwrap_or_default().into(),
            status.size.to_string().into(),
            task::age(status.created_at, now).into(),
            users.join(" ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_whose_they_are_and_who_uses_them() {
        let status = |name: &str, stack: Option<&str>, users: &[&str]| ContentStatus {
            kind: ContentKind::Secret,
            name: name.parse().unwrap(),
            digest: "hmac-sha256:1".into(),
            size: carrack_api::Bytes(12),
            labels: Default::default(),
            stack: stack.map(|stack| stack.parse().unwrap()),
            created_at: Timestamp(0),
            used_by: users.iter().map(|user| user.parse().unwrap()).collect(),
            text: None,
        };
        let found =
            [status("shared", None, &["a/web", "b/web"]), status("shop_key", Some("shop"), &["shop/db"])];
        let text = table(ContentKind::Secret, &found, Timestamp(60_000)).render(None, false);
        assert_eq!(
            text,
            "SECRET    STACK  SIZE  AGE    USED BY\nshared           12 B  1m00s  a/web b/web\nshop_key  shop   12 B  1m00s  shop/db\n"
        );
    }

    #[test]
    fn content_is_read_whole_and_not_beyond_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, b"x\0y").unwrap();
        assert_eq!(read(ContentKind::Secret, Some(&file)).unwrap().bytes(), b"x\0y");
        std::fs::write(&file, vec![0; CONTENT_MAX_BYTES + 1]).unwrap();
        let large = format!("{:?}", read(ContentKind::Secret, Some(&file)).unwrap_err());
        assert!(large.contains("500 KiB"), "{large}");
        let missing = read(ContentKind::Secret, Some(&directory.path().join("none"))).unwrap_err();
        assert!(format!("{missing:?}").contains("none cannot be read"), "{missing:?}");
    }
}
