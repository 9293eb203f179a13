//! `carrack version`: of the command, of the daemon, and of its nodes.

use carrack_api::{Info, human_duration};
use carrack_runtime::cgroup::{CgroupMode, Cgroups};
use serde_json::json;

use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::terminal::{put, say};
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
            object.insert("host".into(), json!({ "kernel": kernel(), "cgroups": cgroups() }));
        }
        context.put_json(&value)?;
        return answer.map(|_| Code::Ok).map_err(Into::into);
    }
    let info = match answer {
        Ok(info) => info,
        Err(error) => {
            put(&format!("carrack  {own}\n{}", host()))?;
            return Err(error.into());
        }
    };
    let up = human_duration(std::time::Duration::from_secs(time::now().since(info.started_at).as_secs()));
    let mut text = format!(
        "carrack  {own}\ndaemon   {}, pid {}, up {up}, start {} of its scheduler\ncluster  {}, addresses {}, state in {}\n{}\n",
        info.version,
        info.pid,
        info.epoch,
        info.cluster,
        info.cluster_cidr,
        info.state_dir,
        host()
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
    if info.version != own {
        say(&skew(own, &info.version));
    }
    Ok(Code::Ok)
}

/// The host that both run on: the daemon is reached by a unix socket.
fn host() -> String {
    format!("host     Linux {}, {}\n", kernel(), cgroups())
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn cgroups() -> String {
    match Cgroups::detect("version").map(|cgroups| cgroups.mode().clone()) {
        Ok(CgroupMode::V2) => "cgroup v2".into(),
        Ok(CgroupMode::V1 { hybrid: true }) => "cgroup v1 (hybrid)".into(),
        Ok(CgroupMode::V1 { hybrid: false }) => "cgroup v1".into(),
        Err(error) => error.to_string(),
    }
}

fn skew(own: &str, daemon: &str) -> String {
    format!(
        "the daemon is {daemon}, this command {own}: `sudo carrack daemon --stop && sudo carrack daemon -d` makes them one; \
         containers run on meanwhile"
    )
}
