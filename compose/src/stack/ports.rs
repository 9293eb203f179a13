//! `ports` and `expose`.

use std::net::IpAddr;

use carrack_api::{ExposedPort, PortMode, Protocol, PublishedPort};

use super::Build;
use crate::canon::port_range;
use crate::fields::{Fields, Item};

/// Exposed ports of a service at most, ranges written out.
const EXPOSED_MAX: usize = 5000;

/// One port, or several to choose from; neither is any that is free.
type Published = (Option<u16>, Option<(u16, u16)>);

impl Build<'_> {
    pub(super) fn published(&mut self, fields: &mut Fields<'_>) -> Vec<PublishedPort> {
        let items = fields.take("ports").map(|i| i.items(self.report)).unwrap_or_default();
        items.iter().filter_map(|item| self.port(item)).collect()
    }

    fn port(&mut self, item: &Item<'_>) -> Option<PublishedPort> {
        let mut fields = Fields::open(item, self.report)?;
        let target = fields.take("target");
        let published = fields.take("published");
        let host_ip = fields.take("host_ip").and_then(|i| self.host_ip(&i));
        let protocol = match fields.take("protocol") {
            Some(item) => {
                let word = item.text(self.report)?;
                self.protocol(&item, &word)?
            }
            None => Protocol::Tcp,
        };
        let words = [("ingress", PortMode::Ingress), ("host", PortMode::Host)];
        let mode = fields.take("mode").and_then(|i| i.choice(&words, self.report)).unwrap_or_default();
        fields.take("name");
        fields.listed("app_protocol", "services.ports.app_protocol", self.report);
        fields.finish(&[], self.report);
        let Some(target) = target else {
            item.invalid_hint("the port has no target", "name the port of the container", self.report);
            return None;
        };
        let target = target.number::<u16>(self.report)?;
        let (published, range) = match published {
            Some(item) => self.published_port(&item)?,
            None => (None, None),
        };
        Some(PublishedPort { target, published, range, host_ip, protocol, mode })
    }

    /// One port, or several to choose from.
    fn published_port(&mut self, item: &Item<'_>) -> Option<Published> {
        let text = item.text(self.report)?;
        match text.as_str() {
            "" | "0" => return Some((None, None)),
            _ => {}
        }
        match port_range(&text) {
            Ok(range) if range.start() == range.end() => Some((Some(*range.start()), None)),
            Ok(range) => Some((None, Some((*range.start(), *range.end())))),
            Err(why) => {
                item.invalid(why, self.report);
                None
            }
        }
    }

    fn host_ip(&mut self, item: &Item<'_>) -> Option<IpAddr> {
        let text = item.text(self.report)?;
        if text.is_empty() {
            return None;
        }
        let ip = text.parse().ok();
        if ip.is_none() {
            item.invalid(format!("{text:?} is not an IP address"), self.report);
        }
        ip
    }

    fn protocol(&mut self, item: &Item<'_>, word: &str) -> Option<Protocol> {
        match word.to_ascii_lowercase().as_str() {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => {
                item.listed("services.ports.protocol", "sctp", self.report);
                None
            }
            other => {
                item.invalid_hint(format!("there is no protocol {other:?}"), "use tcp or udp", self.report);
                None
            }
        }
    }

    pub(super) fn exposed(&mut self, fields: &mut Fields<'_>) -> Vec<ExposedPort> {
        let mut out: Vec<ExposedPort> = Vec::new();
        for item in fields.take("expose").map(|i| i.items(self.report)).unwrap_or_default() {
            let Some(text) = item.text(self.report) else { continue };
            if out.len() > EXPOSED_MAX {
                item.invalid(format!("more than {EXPOSED_MAX} ports are exposed"), self.report);
                break;
            }
            let (ports, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
            let Some(protocol) = self.protocol(&item, protocol) else { continue };
            match port_range(ports) {
                Ok(range) => out.extend(range.map(|port| ExposedPort { port, protocol })),
                Err(why) => item.invalid(why, self.report),
            }
        }
        out
    }
}
