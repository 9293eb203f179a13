//! `carrack dns`: what a name resolves to, for whom, and why.

use carrack_api::client::segment;
use carrack_api::{DnsAnswer, DnsSource, DnsViewer, ServiceKey};

use super::exec::running_task;
use crate::args::DnsArgs;
use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::table::{Table, cut, full};
use crate::terminal::{put, say};

/// `carrack dns`.
pub(crate) async fn run(args: &DnsArgs, context: &Context) -> Outcome {
    let mut path = format!("/v1/dns?name={}", segment(&args.name));
    if let Some(target) = &args.from {
        let task = running_task(context, target).await?;
        path.push_str(&format!("&from={task}"));
    }
    let answers: Vec<DnsAnswer> = context.client.get(&path).await?;
    let known = answers.iter().any(|answer| !answer.addresses.is_empty() || !answer.names.is_empty());
    if context.json() {
        context.put_json(&answers)?;
    } else {
        put(&table(&answers).render(context.terminal.width(), context.terminal.colour_out()))?;
        if !known && args.from.is_none() {
            say("tasks see more than the host does: --from TARGET asks as one of them");
        }
    }
    Ok(if known { Code::Ok } else { Code::Error })
}

fn table(answers: &[DnsAnswer]) -> Table {
    let mut table = Table::new(&[full("FOR"), full("ANSWER"), full("TTL"), cut("FROM")]);
    for answer in answers {
        let found: Vec<String> =
            answer.addresses.iter().map(ToString::to_string).chain(answer.names.iter().cloned()).collect();
        table.row([
            viewer(&answer.viewer).into(),
            if found.is_empty() { nothing(&answer.source) } else { found.join(" ") }.into(),
            format!("{}s", answer.ttl).into(),
            source(&answer.source).into(),
        ]);
    }
    table
}

/// The word for an answer without records.
fn nothing(source: &DnsSource) -> String {
    match source {
        DnsSource::Unknown => "NXDOMAIN".into(),
        DnsSource::Forwarded { result, .. } if result != "NOERROR" => result.clone(),
        _ => "NODATA".into(),
    }
}

fn viewer(viewer: &DnsViewer) -> String {
    match viewer {
        DnsViewer::Host => "the host".into(),
        DnsViewer::Task { name, .. } => name.clone(),
        DnsViewer::Network { name } => format!("network {name}"),
    }
}

fn source(source: &DnsSource) -> String {
    let list =
        |services: &[ServiceKey]| services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let kind = |virtual_address: bool| if virtual_address { "virtual address" } else { "passing tasks" };
    match source {
        DnsSource::Service { services, virtual_address } => {
            format!("{} of {}", kind(*virtual_address), list(services))
        }
        DnsSource::Alias { targets, virtual_address: true } => {
            format!("alias, virtual address of {}", targets.join(", "))
        }
        DnsSource::Alias { targets, .. } => format!("alias of {}", targets.join(", ")),
        DnsSource::Tasks { services } => format!("passing tasks of {}", list(services)),
        DnsSource::Slot { targets } => format!("task {}", targets.join(", ")),
        DnsSource::Extra => "extra_hosts".into(),
        DnsSource::Reverse => "address of a service or task".into(),
        DnsSource::Forwarded { resolvers, .. } if resolvers.is_empty() => {
            "forwarded to the host's resolvers".into()
        }
        DnsSource::Forwarded { resolvers, .. } => {
            let resolvers: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
            format!("forwarded to {}", resolvers.join(", "))
        }
        DnsSource::Unknown => "no such name here".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_for_whom_it_is_and_where_it_comes_from() {
        let answer = |viewer, source, address: Option<&str>, ttl| DnsAnswer {
            viewer,
            name: "web".into(),
            source,
            addresses: address.map(|text| text.parse().unwrap()).into_iter().collect(),
            names: vec![],
            ttl,
        };
        let web: ServiceKey = "hello/web".parse().unwrap();
        let service = DnsSource::Service { services: vec![web.clone()], virtual_address: true };
        let answers = [
            answer(DnsViewer::Host, DnsSource::Unknown, None, 1),
            answer(DnsViewer::Network { name: "hello_default".into() }, service, Some("10.255.0.1"), 5),
            answer(
                DnsViewer::Task { task: carrack_api::TaskId(3), name: "hello/db.1".into() },
                DnsSource::Tasks { services: vec![web] },
                None,
                1,
            ),
        ];
        assert_eq!(
            table(&answers).render(None, false),
            "FOR                    ANSWER      TTL  FROM\n\
             the host               NXDOMAIN    1s   no such name here\n\
             network hello_default  10.255.0.1  5s   virtual address of hello/web\n\
             hello/db.1             NODATA      1s   passing tasks of hello/web\n"
        );
    }
}
