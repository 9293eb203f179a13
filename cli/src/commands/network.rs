//! `carrack network`: networks that belong to no stack, and a look at all of them.

use carrack_api::client::segment;
use carrack_api::{CreateNetwork, InvalidName, NetworkName, NetworkStatus, PruneNetworks, Timestamp};
use http::Method;

use super::confirm::confirm;
use crate::args::NetworkCommand;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::render::task;
use crate::terminal::{put, say};
use crate::time;

/// `carrack network`.
pub(crate) async fn run(command: &NetworkCommand, context: &Context) -> Outcome {
    match command {
        NetworkCommand::Create { internal, labels, names } => create(*internal, labels, names, context).await,
        NetworkCommand::Ls => list(context).await,
        NetworkCommand::Inspect { names } => {
            let mut found: Vec<NetworkStatus> = Vec::new();
            for name in names {
                found.push(context.client.get(&format!("/v1/networks/{}", segment(name))).await?);
            }
            context.put_json(&found)?;
            Ok(Code::Ok)
        }
        NetworkCommand::Rm { names } => {
            for name in names {
                context.client.delete(&format!("/v1/networks/{}", segment(name))).await?;
                say(&format!("network {name} is removed"));
            }
            Ok(Code::Ok)
        }
        NetworkCommand::Prune { force } => prune(*force, context).await,
    }
}

async fn create(internal: bool, labels: &[(String, String)], names: &[String], context: &Context) -> Outcome {
    let valid = |name: &String| name.parse().map_err(|error: InvalidName| CliError::usage(error.to_string()));
    let names: Vec<NetworkName> = names.iter().map(valid).collect::<Result<_, _>>()?;
    let mut made: Vec<NetworkStatus> = Vec::new();
    for name in names {
        let body = CreateNetwork { name, internal, labels: labels.iter().cloned().collect() };
        made.push(context.client.json(Method::POST, "/v1/networks", Some(&body), &[]).await?);
        if !context.json() {
            put(&format!("{}\n", body.name))?;
        }
    }
    if context.json() {
        context.put_json(&made)?;
    }
    Ok(Code::Ok)
}

async fn prune(force: bool, context: &Context) -> Outcome {
    let ask = async |dry_run: bool| -> Result<Vec<NetworkStatus>, CliError> {
        let body = PruneNetworks { dry_run };
        Ok(context.client.json(Method::POST, "/v1/networks/prune", Some(&body), &[]).await?)
    };
    if !force {
        let found = ask(true).await?;
        if found.is_empty() {
            say("no network can go");
            return if context.json() { context.put_json(&found).map(|()| Code::Ok) } else { Ok(Code::Ok) };
        }
        for network in &found {
            say(&format!("  {}", network.name));
        }
        if !confirm("Remove them?", context)? {
            return Err(CliError::new("nothing was removed"));
        }
    }
    let pruned = ask(false).await?;
    if context.json() {
        context.put_json(&pruned)?;
        return Ok(Code::Ok);
    }
    for network in &pruned {
        put(&format!("removed {}\n", network.name))?;
    }
    Ok(Code::Ok)
}

async fn list(context: &Context) -> Outcome {
    let networks: Vec<NetworkStatus> = context.client.get("/v1/networks").await?;
    if context.json() {
        context.put_json(&networks)?;
        return Ok(Code::Ok);
    }
    if networks.is_empty() {
        say("no networks; `carrack network create NAME` makes one that stacks can share");
        return Ok(Code::Ok);
    }
    put(&table(&networks, time::now()).render(context.terminal.width(), context.terminal.colour_out()))?;
    Ok(Code::Ok)
}

fn table(networks: &[NetworkStatus], now: Timestamp) -> Table {
    let mut table =
        Table::new(&[full("NETWORK"), full("STACK"), full("REACH"), full("AGE"), cut("SERVICES")]);
    for network in networks {
        let services: Vec<String> = network.services.iter().map(ToString::to_string).collect();
        table.row([
            network.name.as_str().into(),
            network.stack.as_ref().map(ToString::to_string).unwrap_or_default().into(),
            if network.internal { "internal".into() } else { "".into() },
            network.created_at.map(|at| task::age(at, now)).unwrap_or_default().into(),
            services.join(" ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_listed_with_the_services_on_them() {
        let network = |name: &str, stack: Option<&str>, services: &[&str]| NetworkStatus {
            name: name.parse().unwrap(),
            internal: stack.is_none(),
            labels: Default::default(),
            stack: stack.map(|s| s.parse().unwrap()),
            created_at: stack.is_none().then_some(Timestamp(0)),
            services: services.iter().map(|s| s.parse().unwrap()).collect(),
        };
        let networks =
            [network("edge", None, &["a/web", "b/web"]), network("a_default", Some("a"), &["a/db"])];
        assert_eq!(
            table(&networks, Timestamp(61_000)).render(None, false),
            "NETWORK    STACK  REACH     AGE    SERVICES\n\
             edge              internal  1m01s  a/web b/web\n\
             a_default  a                       a/db\n"
        );
    }
}
