//! `carrack ls`: stacks with their services, replicas and URLs.

use carrack_api::{Rollout, StackStatus};

use super::deploy::rollout_cell;
use super::stacks;
use crate::args::LsArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::style::Style;
use crate::render::table::{Cell, Table, cut, full};
use crate::render::url;
use crate::terminal::{put, say};

/// Published ports of a service that are listed; a range would fill the screen.
const URLS_MAX: usize = 3;

/// `carrack ls`.
pub(crate) async fn run(args: &LsArgs, context: &Context) -> Outcome {
    let mut all = stacks(context).await?;
    if let Some(name) = &args.stack {
        all.retain(|stack| stack.name.as_str() == name);
        if all.is_empty() {
            return Err(CliError::new(format!("no stack {name:?}")).hint("`carrack ls` lists them"));
        }
    }
    if context.json() {
        context.put_json(&all)?;
        return Ok(Code::Ok);
    }
    if all.is_empty() {
        say("no stack is deployed; `carrack deploy` deploys the Compose file that is here");
        return Ok(Code::Ok);
    }
    put(&table(&all).render(context.terminal.width(), context.terminal.colour_out()))?;
    Ok(Code::Ok)
}

fn table(stacks: &[StackStatus]) -> Table {
    let mut table = Table::new(&[
        full("STACK"),
        full("REV"),
        full("SERVICE"),
        full("REPLICAS"),
        cut("STATUS"),
        cut("IMAGE"),
        full("VIP"),
        cut("URL"),
    ]);
    for stack in stacks {
        if stack.services.is_empty() {
            let status = if stack.removing { "removing" } else { "" };
            let (name, revision) = (stack.name.to_string(), stack.revision.to_string());
            table.row([name.into(), revision.into(), "".into(), "".into(), status.into()]);
        }
        for (index, service) in stack.services.iter().enumerate() {
            let first = index == 0;
            let status = match stack.removing {
                true => Cell::styled("removing", Style::Busy),
                false => status_cell(service),
            };
            let scaled = if service.scaled { " (scaled)" } else { "" };
            table.row([
                if first { Cell::styled(stack.name.as_str(), Style::Bold) } else { Cell::default() },
                if first { stack.revision.to_string().into() } else { Cell::default() },
                service.service.service.as_str().into(),
                format!("{}/{}{scaled}", service.passing, service.replicas).into(),
                status,
                service.image.as_str().into(),
                service.vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into(),
                urls(service).into(),
            ]);
        }
    }
    table
}

/// What it is at rest or done with, else how far its rollout is.
fn status_cell(service: &carrack_api::ServiceStatus) -> Cell {
    match &service.rollout {
        Rollout::Converged if service.stopped => Cell::styled("stopped", Style::Busy),
        Rollout::Converged if service.completed > 0 && service.completed == service.replicas => {
            Cell::styled("completed", Style::Good)
        }
        other => rollout_cell(other),
    }
}

fn urls(service: &carrack_api::ServiceStatus) -> String {
    let all: Vec<String> = service.ports.iter().filter_map(url).collect();
    let mut text = all.iter().take(URLS_MAX).cloned().collect::<Vec<_>>().join(" ");
    if all.len() > URLS_MAX {
        text.push_str(&format!(" and {} more", all.len() - URLS_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::{PublishedPort, ServiceStatus, Timestamp};

    fn service(name: &str, ports: Vec<PublishedPort>, rollout: Rollout) -> ServiceStatus {
        ServiceStatus {
            service: name.parse().unwrap(),
            image: "web:1".into(),
            replicas: 3,
            scaled: false,
            running: 3,
            passing: 2,
            current: 2,
            vips: vec!["10.252.0.1".parse().unwrap()],
            ports,
            rollout,
            stopped: false,
            completed: 0,
        }
    }

    #[test]
    fn a_stack_is_listed_with_its_services_and_urls() {
        let port = PublishedPort {
            target: 80,
            published: Some(8080),
            range: None,
            host_ip: None,
            protocol: Default::default(),
            mode: Default::default(),
        };
        let stack = StackStatus {
            name: "hello".parse().unwrap(),
            revision: 4,
            deployed_at: Timestamp(0),
            removing: false,
            runs: vec![],
            services: vec![
                service("hello/redis", vec![], Rollout::Converged),
                service(
                    "hello/web",
                    vec![port],
                    Rollout::Progressing { reason: "1 of 3 is starting".into() },
                ),
            ],
        };
        assert_eq!(
            table(&[stack]).render(None, false),
            "STACK  REV  SERVICE  REPLICAS  STATUS              IMAGE  VIP         URL\n\
             hello  4    redis    2/3       ok                  web:1  10.252.0.1\n            \
             web      2/3       1 of 3 is starting  web:1  10.252.0.1  http://localhost:8080\n"
        );
    }
}
