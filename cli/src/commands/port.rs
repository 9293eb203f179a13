//! `carrack port web 80`: where a published port is reached, as `docker port` prints it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use carrack_api::{Protocol, PublishedPort, ServiceKey};

use super::stacks;
use crate::args::PortArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::project;
use crate::target::{self, Target};
use crate::terminal::put;

/// `carrack port`.
pub(crate) async fn run(args: &PortArgs, context: &Context) -> Outcome {
    let wanted = args.port.as_deref().map(parse).transpose()?;
    let all = stacks(context).await?;
    let key: ServiceKey = match target::resolve(&args.target, project::here().as_ref(), &all)? {
        Target::Service(key) => key,
        Target::Slot(slot) => slot.service,
        Target::Stack(stack) => {
            return Err(CliError::usage(format!("{stack} is a stack; ports are published by services"))
                .hint(format!("`carrack ls {stack}` lists all of them")));
        }
        Target::Task(task) => {
            return Err(CliError::usage(format!("{task} is a task; ports are published by services"))
                .hint("name its service, for example carrack port web 80"));
        }
    };
    let services = all.iter().flat_map(|s| &s.services).filter(|s| s.service == key).map(|s| &s.ports);
    let runs = all.iter().flat_map(|s| &s.runs).filter(|r| r.run == key).map(|r| &r.ports);
    let ports: Vec<&PublishedPort> = services.chain(runs).flatten().collect();
    let fits = |port: &&&PublishedPort| {
        wanted.is_none_or(|(number, protocol)| port.target == number && port.protocol == protocol)
    };
    let shown: Vec<&PublishedPort> = ports.iter().filter(fits).copied().collect();
    if shown.is_empty() {
        return Err(nothing(&key, wanted, &ports));
    }
    if context.json() {
        context.put_json(&shown)?;
        return Ok(Code::Ok);
    }
    for port in shown.iter().filter_map(|port| Some((port, address(port)?))) {
        match (wanted, port) {
            (Some(_), (_, address)) => put(&format!("{address}\n"))?,
            (None, (port, address)) => put(&format!("{}/{} -> {address}\n", port.target, port.protocol))?,
        }
    }
    Ok(Code::Ok)
}

fn address(port: &PublishedPort) -> Option<SocketAddr> {
    Some(SocketAddr::new(port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port.published?))
}

fn parse(text: &str) -> Result<(u16, Protocol), CliError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    };
    let parsed = number.parse().ok().filter(|n| *n > 0).zip(protocol);
    parsed.ok_or_else(|| {
        CliError::usage(format!("{text:?} is no port of a container")).hint("for example 80 or 53/udp")
    })
}

fn nothing(key: &ServiceKey, wanted: Option<(u16, Protocol)>, ports: &[&PublishedPort]) -> CliError {
    let Some((number, protocol)) = wanted.filter(|_| !ports.is_empty()) else {
        return CliError::new(format!("{key} publishes no port"))
            .hint("publish one with `ports:` in the Compose file and deploy it");
    };
    let others: Vec<String> = ports.iter().map(|p| format!("{}/{}", p.target, p.protocol)).collect();
    CliError::new(format!("{key} does not publish port {number}/{protocol}"))
        .hint(format!("it publishes {}", others.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_and_a_protocol() {
        assert_eq!(parse("80").ok(), Some((80, Protocol::Tcp)));
        assert_eq!(parse("53/udp").ok(), Some((53, Protocol::Udp)));
        for bad in ["", "0", "x", "80/sctp", "65536", "80/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
