//! Why a name is what it is to somebody: the answer of the zone with where it comes from. Pure.
//!
//! Owns the words for it. The addresses are those of `zone`'s own lookup: nothing is decided anew here.

use std::net::{IpAddr, SocketAddr};

use super::model::{DnsView, Target, normal_name};
use super::zone::{Found, Viewer, Zone};
use super::{ANSWER_TTL_SECONDS, NEGATIVE_TTL_SECONDS};

/// Who asks.
#[derive(Debug, Clone)]
pub enum DnsAsker {
    /// The node itself.
    Host,
    /// A container with this view.
    View(DnsView),
}

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Names of services; the addresses are virtual ones, or those of passing tasks.
    Service(Vec<Target>),
    /// Further names of services or of single tasks.
    Alias(Vec<Target>),
    /// `tasks.SERVICE`.
    Tasks(Vec<Target>),
    /// `2.SERVICE`.
    Slot(Vec<Target>),
    /// A name that was given an address.
    Extra,
    /// An address that was asked for.
    Reverse,
    /// None of ours: these resolvers are asked, those of the host when there are none.
    Forwarded(Vec<SocketAddr>),
    /// It does not exist for this asker.
    Unknown,
}

/// A name explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The name as it was looked up.
    pub name: String,
    /// Where the answer comes from.
    pub origin: Origin,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The name of an address.
    pub names: Vec<String>,
    /// Seconds for which it may be kept.
    pub ttl: u32,
}

impl Zone {
    /// What a name or an address is to somebody.
    pub fn explain(&self, asker: &DnsAsker, text: &str) -> Explained {
        let name = normal_name(text);
        let viewer = match asker {
            DnsAsker::Host => Viewer::Host,
            DnsAsker::View(view) => Viewer::Container(view),
        };
        let upstreams = match asker {
            DnsAsker::View(view) if !view.upstreams.is_empty() => view.upstreams.clone(),
            DnsAsker::View(_) | DnsAsker::Host => self.snapshot().upstreams.clone(),
        };
        let found = |origin, addresses: Vec<IpAddr>, names: Vec<String>| {
            let ttl = match addresses.is_empty() && names.is_empty() {
                true => NEGATIVE_TTL_SECONDS,
                false => ANSWER_TTL_SECONDS,
            };
            Explained { name: name.clone(), origin, addresses, names, ttl }
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            return match self.reverse(viewer, address) {
                Found::Here(host) => found(Origin::Reverse, Vec::new(), vec![host]),
                Found::Absent => found(Origin::Unknown, Vec::new(), Vec::new()),
                Found::Elsewhere => found(Origin::Forwarded(upstreams), Vec::new(), Vec::new()),
            };
        }
        match self.lookup(viewer, &name) {
            Found::Here(addresses) => found(self.origin(viewer, &name), addresses, Vec::new()),
            Found::Absent => found(Origin::Unknown, Vec::new(), Vec::new()),
            Found::Elsewhere => found(Origin::Forwarded(upstreams), Vec::new(), Vec::new()),
        }
    }

    /// Where the answer for a name that exists comes from, by the same rules as the lookup's.
    fn origin(&self, viewer: Viewer<'_>, name: &str) -> Origin {
        if self.extra(viewer, name).is_some() {
            return Origin::Extra;
        }
        let inside = name.strip_suffix(self.domain()).and_then(|rest| rest.strip_suffix('.'));
        let view = match viewer {
            Viewer::Container(view) => Some(view),
            Viewer::Host => None,
        };
        let qualified = |text: &str| {
            let (name, stack) = text.rsplit_once('.')?;
            self.origin_of(viewer, name, view, Some(stack))
        };
        match inside {
            Some(inside) => qualified(inside),
            None => view
                .and_then(|view| self.origin_of(viewer, name, Some(view), None))
                .or_else(|| qualified(name)),
        }
        // The search domain itself: it exists, without addresses.
        .unwrap_or(Origin::Unknown)
    }

    fn origin_of(
        &self,
        viewer: Viewer<'_>,
        name: &str,
        view: Option<&DnsView>,
        stack: Option<&str>,
    ) -> Option<Origin> {
        let targets = self.targets(viewer, name, view, stack);
        if !targets.is_empty() {
            let own = |target: &Target| {
                target.slot.is_none()
                    && self.service(*target).is_some_and(|service| normal_name(&service.service) == name)
            };
            return Some(match targets.iter().all(own) {
                true => Origin::Service(targets),
                false => Origin::Alias(targets),
            });
        }
        let (first, service) = name.split_once('.')?;
        let mut targets = self.targets(viewer, service, view, stack);
        targets.retain(|target| target.slot.is_none());
        if targets.is_empty() {
            return None;
        }
        match first.parse::<u32>() {
            Ok(slot) => {
                targets.iter_mut().for_each(|target| target.slot = Some(slot));
                Some(Origin::Slot(targets))
            }
            Err(_) if first == "tasks" => Some(Origin::Tasks(targets)),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{DnsSnapshot, ServiceNames, SlotNames};

    fn zone() -> (Zone, DnsView) {
        let mut names = DnsSnapshot::default();
        let slot = |address: &str| SlotNames { addresses: vec![address.parse().unwrap()], passing: true };
        let web = names.add_service(ServiceNames {
            stack: "demo".into(),
            service: "web".into(),
            vips: vec!["10.255.0.1".parse().unwrap()],
            slots: [(1, slot("10.192.0.2")), (2, slot("10.192.0.3"))].into(),
        });
        names.name_service("demo_default", "web", web);
        names.name_service("demo_default", "www", web);
        names.name_slot("demo_default", "first", web, 1);
        names.extra.insert("host.docker.internal".into(), vec!["192.0.2.1".parse().unwrap()]);
        names.upstreams.push("192.0.2.53:53".parse().unwrap());
        let view =
            DnsView { stack: "demo".into(), networks: vec!["demo_default".into()], ..DnsView::default() };
        (Zone::new(names, 1).unwrap(), view)
    }

    #[test]
    fn every_kind_of_name_says_where_it_comes_from() {
        let (zone, view) = zone();
        let ask = |name: &str| zone.explain(&DnsAsker::View(view.clone()), name);
        let target = |slot| Target { service: 0, slot };
        let web = ask("Web.");
        assert_eq!((web.name.as_str(), web.ttl), ("web", ANSWER_TTL_SECONDS));
        assert_eq!(web.origin, Origin::Service(vec![target(None)]));
        assert_eq!(web.addresses, ["10.255.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(ask("web.demo").origin, web.origin);
        assert_eq!(ask("web.demo.carrack").origin, web.origin);
        assert_eq!(ask("www").origin, Origin::Alias(vec![target(None)]));
        assert_eq!(ask("first").origin, Origin::Alias(vec![target(Some(1))]));
        assert_eq!(ask("tasks.web").origin, Origin::Tasks(vec![target(None)]));
        assert_eq!(ask("tasks.web").addresses.len(), 2);
        assert_eq!(ask("2.web").origin, Origin::Slot(vec![target(Some(2))]));
        assert_eq!(ask("host.docker.internal").origin, Origin::Extra);
        assert_eq!(ask("10.192.0.3").names, ["2.web.demo.carrack"]);
        assert_eq!((ask("nothing").origin, ask("nothing").ttl), (Origin::Unknown, NEGATIVE_TTL_SECONDS));
        assert_eq!(ask("example.org").origin, Origin::Forwarded(vec!["192.0.2.53:53".parse().unwrap()]));
        assert_eq!(ask("demo.carrack").origin, Origin::Unknown, "a search domain has no addresses");
    }

    #[test]
    fn the_host_sees_qualified_names_and_a_stranger_none() {
        let (zone, _) = zone();
        assert_eq!(zone.explain(&DnsAsker::Host, "web").origin, Origin::Unknown);
        assert!(matches!(zone.explain(&DnsAsker::Host, "web.demo").origin, Origin::Service(_)));
        let stranger = DnsAsker::View(DnsView { stack: "other".into(), ..DnsView::default() });
        assert_eq!(zone.explain(&stranger, "web.demo").origin, Origin::Unknown);
        assert_eq!(zone.explain(&stranger, "10.192.0.3").origin, Origin::Unknown);
    }
}
