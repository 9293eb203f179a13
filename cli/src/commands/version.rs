//! `carrack version`: of the command, of the daemon, and of its nodes.

use carrack_api::{Info, human_duration};
use serde_json::json;

use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::terminal::put;
use crate::time;

/// `carrack version`. Without a daemon it tells its own version before it says so. As JSON it is the daemon's word, with the
/// command's version beside it.
pub(crate) async fn run(context: &Context) -> Outcome {
    let own = env!("CARGO_PKG_VERSION");
    let answer = context.client.get::<Info>("/v1/info").await;
    if context.json() {
        let mut value = match &answer {
            Ok(info) => json!(info),
            Err(_) => json!({}),
        };
        if let Some(object) = value.as_object_mut() {
            object.insert("cli_version".into(), own.into());
        }
        context.put_json(&value)?;
        return answer.map(|_| Code::Ok).map_err(Into::into);
    }
    let info = match answer {
        Ok(info) => info,
        Err(error) => {
            put(&format!("carrack  {own}\n"))?;
            return Err(error.into());
        }
    };
    let up = human_duration(std::time::Duration::from_secs(time::now().since(info.started_at).as_secs()));
    let mut text = format!(
        "carrack  {own}\ndaemon   {}, pid {}, up {up}, start {} of its scheduler\ncluster  {}, addresses {}, state in {}\n\n",
        info.version, info.pid, info.epoch, info.cluster, info.cluster_cidr, info.state_dir
    );
    let mut nodes = Table::new(&[
        full("NODE"),
        full("ID"),
        full("READY"),
        full("TASKS"),
        full("CPUS"),
        full("MEMORY"),
        full("ARCH"),
        full("VERSION"),
        cut("LABELS"),
    ]);
    for node in &info.nodes {
        let labels: Vec<String> = node.info.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        nodes.row([
            node.info.hostname.as_str().into(),
            node.info.id.to_string().into(),
            (if node.ready { "yes" } else { "no" }).into(),
            node.tasks.to_string().into(),
            node.info.cpus.to_string().into(),
            node.info.memory.to_string().into(),
            format!("{}/{}", node.info.os, node.info.arch).into(),
            node.info.version.as_str().into(),
            labels.join(" ").into(),
        ]);
    }
    text.push_str(&nodes.render(context.terminal.width(), context.terminal.colour_out()));
    put(&text)?;
    Ok(Code::Ok)
}
