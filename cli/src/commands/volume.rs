//! `carrack volume`: data that outlives tasks.

use carrack_api::client::segment;
use carrack_api::{PruneVolumes, PrunedVolumes, TaskId, TaskStatus, Timestamp, VolumeDetails, VolumeStatus};
use http::Method;

use super::confirm::confirm;
use super::tasks_of;
use crate::args::VolumeCommand;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::render::task;
use crate::terminal::{put, say};
use crate::time;

/// `carrack volume`.
pub(crate) async fn run(command: &VolumeCommand, context: &Context) -> Outcome {
    match command {
        VolumeCommand::Ls => list(context).await,
        VolumeCommand::Inspect { names } => {
            let mut found: Vec<VolumeDetails> = Vec::new();
            for name in names {
                found.push(context.client.get(&format!("/v1/volumes/{}", segment(name))).await?);
            }
            context.put_json(&found)?;
            Ok(Code::Ok)
        }
        VolumeCommand::Prune { all, force } => prune(*all, *force, context).await,
        VolumeCommand::Rm { names } => {
            for name in names {
                context.client.delete(&format!("/v1/volumes/{}", segment(name))).await?;
                say(&format!("volume {name} is removed"));
            }
            Ok(Code::Ok)
        }
    }
}

async fn prune(all: bool, force: bool, context: &Context) -> Outcome {
    let ask = async |dry_run: bool| -> Result<PrunedVolumes, CliError> {
        let body = PruneVolumes { all, dry_run };
        Ok(context.client.json(Method::POST, "/v1/volumes/prune", Some(&body), &[]).await?)
    };
    if !force {
        let found = ask(true).await?;
        if found.volumes.is_empty() {
            say("no volume can go");
            return if context.json() { context.put_json(&found).map(|()| Code::Ok) } else { Ok(Code::Ok) };
        }
        for volume in &found.volumes {
            say(&format!("  {} ({})", volume.name, volume.size));
        }
        if !confirm(&format!("Remove them? {} of data are lost.", found.freed), context)? {
            return Err(CliError::new("nothing was removed"));
        }
    }
    let pruned = ask(false).await?;
    if context.json() {
        context.put_json(&pruned)?;
        return Ok(Code::Ok);
    }
    for volume in &pruned.volumes {
        put(&format!("removed {}\n", volume.name))?;
    }
    say(&format!("freed {}", pruned.freed));
    Ok(Code::Ok)
}

async fn list(context: &Context) -> Outcome {
    let mut volumes: Vec<VolumeStatus> = context.client.get("/v1/volumes").await?;
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    if context.json() {
        context.put_json(&volumes)?;
        return Ok(Code::Ok);
    }
    if volumes.is_empty() {
        say("no volumes");
        return Ok(Code::Ok);
    }
    let tasks = tasks_of(context, None, true).await?;
    put(
        &table(&volumes, &tasks, time::now()).render(context.terminal.width(), context.terminal.colour_out())
    )?;
    Ok(Code::Ok)
}

fn table(volumes: &[VolumeStatus], tasks: &[TaskStatus], now: Timestamp) -> Table {
    let name = |user: &TaskId| match tasks.iter().find(|known| known.id == *user) {
        Some(known) => task::name(known),
        None => user.to_string(),
    };
    let mut table =
        Table::new(&[full("VOLUME"), full("SIZE"), full("AGE"), cut("USED BY"), full("NODE"), cut("PATH")]);
    for volume in volumes {
        let users: Vec<String> = volume.used_by.iter().map(name).collect();
        table.row([
            volume.name.as_str().into(),
            volume.size.to_string().into(),
            task::age(volume.created_at, now).into(),
            users.join(" ").into(),
            volume.node.as_ref().map(ToString::to_string).unwrap_or_default().into(),
            volume.path.as_str().into(),
        ]);
    }
    table
}
