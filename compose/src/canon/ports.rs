//! `[[HOST_IP:]PUBLISHED:]TARGET[/PROTOCOL]` becomes the long form, ranges one entry a port.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{Canon, PORTS_MAX};
use crate::report::Mark;
use crate::yaml::{Entry, Map, Node, Value};

/// Largest range of ports in one entry; more are a mistake.
const RANGE_MAX_PORTS: usize = 4096;

/// A short port, read.
#[derive(Debug, PartialEq)]
struct Short<'a> {
    host_ip: Option<&'a str>,
    published: Option<&'a str>,
    target: &'a str,
    protocol: &'a str,
}

/// An inclusive range of ports that may be written out.
pub(crate) fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = span(text)?;
    if range.len() > RANGE_MAX_PORTS {
        return Err(format!("the range {text} has more than {RANGE_MAX_PORTS} ports"));
    }
    Ok(range)
}

/// An inclusive range of ports, of any length.
pub(crate) fn span(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |part: &str| {
        part.parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| format!("{part:?} is no port; ports are 1 to 65535"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    if range.is_empty() {
        return Err(format!("the range {text} runs backwards"));
    }
    Ok(range)
}

impl Canon<'_> {
    pub(super) fn ports(&mut self, service: &mut Map, path: &str) {
        let Some(Value::List(list)) = service.get_mut("ports").map(|n| &mut n.value) else { return };
        let mut out = Vec::with_capacity(list.len());
        for (index, node) in list.drain(..).enumerate() {
            let Some(text) = node.as_text().filter(|_| !self.report.opaque(&node)) else {
                out.push(node);
                continue;
            };
            let read = short(text).and_then(|s| expand(&s, node.mark));
            if let Ok(long) = &read {
                let Some(left) = self.ports_left.checked_sub(long.len()) else {
                    let message = format!("the file publishes more than {PORTS_MAX} ports");
                    self.report.invalid(node.mark, &format!("{path}.ports[{index}]"), message);
                    break;
                };
                self.ports_left = left;
            }
            match read {
                Ok(long) => out.extend(long.into_iter().map(|n| Node { tag: node.tag, ..n })),
                Err(why) => self.report.invalid_hint(
                    node.mark,
                    &format!("{path}.ports[{index}]"),
                    why,
                    "write \"HOST:CONTAINER\", for example \"8080:80\"",
                ),
            }
        }
        *list = out;
    }
}

fn short(text: &str) -> Result<Short<'_>, String> {
    let (body, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (front, target) = match body.rsplit_once(':') {
        Some((front, target)) => (Some(front), target),
        None => (None, body),
    };
    let (ip, published) = match front {
        None => (None, None),
        Some(front) if front.starts_with('[') && front.ends_with(']') => (Some(front), None),
        Some(front) => match front.rsplit_once(':') {
            Some((ip, published)) => (Some(ip), Some(published)),
            None => (None, Some(front)),
        },
    };
    let host_ip = match ip.map(|ip| ip.trim_start_matches('[').trim_end_matches(']')) {
        None | Some("") => None,
        Some(ip) if ip.parse::<IpAddr>().is_ok() => Some(ip),
        Some(ip) => return Err(format!("{ip:?} is no address of a host")),
    };
    if !["tcp", "udp", "sctp"].contains(&protocol.to_lowercase().as_str()) {
        return Err(format!("{protocol:?} is no protocol of a port; use tcp, udp or sctp"));
    }
    if target.is_empty() {
        return Err(format!("{text:?} names no port of the container"));
    }
    Ok(Short { host_ip, published: published.filter(|p| !p.is_empty()), target, protocol })
}

fn expand(short: &Short<'_>, mark: Mark) -> Result<Vec<Node>, String> {
    let targets = range(short.target)?;
    let published: Vec<Option<String>> = match short.published {
        // Any port that is free.
        Some("0") if targets.len() == 1 => vec![Some("0".into())],
        None => vec![None; targets.len()],
        Some(text) => {
            let ports = span(text)?;
            match (ports.len(), targets.len()) {
                (p, t) if p == t => ports.map(|p| Some(p.to_string())).collect(),
                (_, 1) => vec![Some(text.to_owned())],
                (p, t) => return Err(format!("{p} ports of the host cannot lead to {t} of the container")),
            }
        }
    };
    let text = |text: String| Node::text(text, mark);
    let mut pairs: Vec<(u16, Option<String>)> = targets.zip(published).collect();
    // Docker Compose orders the ports of a range as texts.
    pairs.sort_by_key(|(target, _)| target.to_string());
    let long = |(target, published): (u16, Option<String>)| {
        let mut entries = vec![
            Entry::new("mode", text("ingress".into())),
            Entry::new("target", Node::plain(target.to_string(), mark)),
            Entry::new("protocol", text(short.protocol.to_lowercase())),
        ];
        entries.extend(short.host_ip.map(|ip| Entry::new("host_ip", text(ip.to_owned()))));
        entries.extend(published.map(|p| Entry::new("published", text(p))));
        Node::map(entries, mark)
    };
    Ok(pairs.into_iter().map(long).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let nodes = expand(&short(text)?, Mark::default())?;
        let field = |node: &Node, key: &str| {
            node.as_map().unwrap().get(key).and_then(Node::as_text).unwrap_or("-").to_owned()
        };
        let line =
            |n: &Node| ["host_ip", "published", "target", "protocol"].map(|key| field(n, key)).join(" ");
        Ok(nodes.iter().map(line).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn every_short_form_is_read() {
        let cases = [
            ("3000", "- - 3000 tcp"),
            ("3000-3001", "- - 3000 tcp, - - 3001 tcp"),
            ("8080:80", "- 8080 80 tcp"),
            ("9090-9091:8080-8081", "- 9090 8080 tcp, - 9091 8081 tcp"),
            ("8000-9000:80", "- 8000-9000 80 tcp"),
            ("127.0.0.1:8001:8001", "127.0.0.1 8001 8001 tcp"),
            ("127.0.0.1::80", "127.0.0.1 - 80 tcp"),
            ("::1:6000:6000", "::1 6000 6000 tcp"),
            ("[::1]:6001:6001/UDP", "::1 6001 6001 udp"),
            ("0.0.0.0::80", "0.0.0.0 - 80 tcp"),
            ("0:80", "- 0 80 tcp"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "x", "70000:80", "80:", "80:0", "5-4", "1-3:1-2", "host:80:80", "1-65535"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
