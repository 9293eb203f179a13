//! A snapshot with the indexes that lookups need, and the rules of who may see which name. Pure.
//!
//! Owns: name -> addresses for a viewer, address -> name. Does not own: packets (`answer`).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::model::{DnsSnapshot, DnsView, ServiceNames, SnapshotError, Target, normal_name};

/// A snapshot ready to be asked.
#[derive(Debug)]
pub struct Zone {
    snapshot: DnsSnapshot,
    /// `name.stack` -> what it stands for, over all networks.
    qualified: HashMap<String, Vec<Target>>,
    /// Services per network, for reverse lookups.
    members: HashMap<String, BTreeSet<u32>>,
    reverse: HashMap<IpAddr, Target>,
    serial: u32,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Viewer<'a> {
    Container(&'a DnsView),
    Host,
}

/// What is known about a name or an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    /// The name exists for this viewer (with no addresses: it has none now).
    Here(T),
    /// It does not exist, for this viewer or at all, and nobody else is to be asked.
    Absent,
    /// Not ours.
    Elsewhere,
}

impl Zone {
    /// Checks and indexes a snapshot; `serial` is its generation, shown in SOA records.
    pub fn new(snapshot: DnsSnapshot, serial: u64) -> Result<Zone, SnapshotError> {
        snapshot.validate()?;
        let mut zone = Zone {
            qualified: HashMap::new(),
            members: HashMap::new(),
            reverse: HashMap::new(),
            serial: (serial & u64::from(u32::MAX)) as u32,
            snapshot,
        };
        zone.index();
        Ok(zone)
    }

    /// The snapshot behind this zone.
    pub fn snapshot(&self) -> &DnsSnapshot {
        &self.snapshot
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    pub(crate) fn domain(&self) -> &str {
        &self.snapshot.domain
    }

    fn index(&mut self) {
        for (network, names) in &self.snapshot.networks {
            let members = self.members.entry(network.clone()).or_default();
            for (name, targets) in &names.names {
                for &target in targets {
                    members.insert(target.service);
                    if let Some(service) = self.snapshot.services.get(target.service as usize) {
                        let qualified = format!("{name}.{}", normal_name(&service.stack));
                        let known = self.qualified.entry(qualified).or_default();
                        if !known.contains(&target) {
                            known.push(target);
                        }
                    }
                }
            }
        }
        for (position, service) in self.snapshot.services.iter().enumerate() {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            for &vip in &service.vips {
                self.reverse.insert(vip, Target { service: position, slot: None });
            }
            for (&number, slot) in &service.slots {
                for &address in &slot.addresses {
                    self.reverse.insert(address, Target { service: position, slot: Some(number) });
                }
            }
        }
    }

    /// The view of a source address; `None` for a stranger.
    pub(crate) fn viewer(&self, from: IpAddr) -> Option<Viewer<'_>> {
        if let Some(view) = self.snapshot.views.get(&from) {
            return Some(Viewer::Container(view));
        }
        let host = from.is_loopback()
            || from == IpAddr::V4(crate::model::DNS_ADDRESS)
            || self.snapshot.host_addresses.contains(&from);
        host.then_some(Viewer::Host)
    }

    /// What a name (lower case, no final dot) stands for.
    pub(crate) fn lookup(&self, viewer: Viewer<'_>, name: &str) -> Found<Vec<IpAddr>> {
        if let Some(addresses) = self.extra(viewer, name) {
            return Found::Here(addresses);
        }
        let domain = self.domain();
        if name == domain {
            return Found::Here(Vec::new());
        }
        if let Some(inside) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) {
            // The search domain itself exists, without records: "no such domain" would cover all names below it.
            let is_stack = match viewer {
                Viewer::Container(view) => view.stack == inside,
                Viewer::Host => self.snapshot.services.iter().any(|service| service.stack == inside),
            };
            let bare = if is_stack { Found::Here(Vec::new()) } else { Found::Absent };
            return self.qualified_name(viewer, inside).unwrap_or(bare);
        }
        if let Viewer::Container(view) = viewer
            && let Some(found) = self.named(viewer, name, Some(view), None)
        {
            return found;
        }
        if let Some(found) = self.qualified_name(viewer, name) {
            return found;
        }
        if !name.contains('.') || self.is_known_somewhere(name) { Found::Absent } else { Found::Elsewhere }
    }

    pub(super) fn extra(&self, viewer: Viewer<'_>, name: &str) -> Option<Vec<IpAddr>> {
        let own = match viewer {
            Viewer::Container(view) => view.extra.get(name),
            Viewer::Host => None,
        };
        own.or_else(|| self.snapshot.extra.get(name)).cloned()
    }

    /// `<name>.<stack>`; `None` when it is no name this viewer sees.
    fn qualified_name(&self, viewer: Viewer<'_>, text: &str) -> Option<Found<Vec<IpAddr>>> {
        let (name, stack) = text.rsplit_once('.')?;
        let view = match viewer {
            Viewer::Container(view) => Some(view),
            Viewer::Host => None,
        };
        self.named(viewer, name, view, Some(stack))
    }

    /// `name`, `tasks.<service>` or `<n>.<service>`.
    fn named(
        &self,
        viewer: Viewer<'_>,
        name: &str,
        view: Option<&DnsView>,
        stack: Option<&str>,
    ) -> Option<Found<Vec<IpAddr>>> {
        let targets = self.targets(viewer, name, view, stack);
        if !targets.is_empty() {
            return Some(Found::Here(unique(targets.iter().flat_map(|target| self.addresses(*target)))));
        }
        let (first, service) = name.split_once('.')?;
        let number = first.parse::<u32>().ok();
        if first != "tasks" && number.is_none() {
            return None;
        }
        let mut services = self.targets(viewer, service, view, stack);
        services.retain(|target| target.slot.is_none());
        let services: Vec<_> = services.iter().filter_map(|target| self.service(*target)).collect();
        if services.is_empty() {
            return None;
        }
        let Some(number) = number else {
            return Some(Found::Here(unique(services.iter().flat_map(|service| service.passing()))));
        };
        let slots: Vec<_> = services.iter().filter_map(|service| service.slots.get(&number)).collect();
        if slots.is_empty() {
            return Some(Found::Absent);
        }
        Some(Found::Here(unique(slots.iter().flat_map(|slot| slot.addresses.iter().copied()))))
    }

    /// What a name stands for on the networks of the viewer, those of its own stack before others'.
    pub(super) fn targets(
        &self,
        viewer: Viewer<'_>,
        name: &str,
        view: Option<&DnsView>,
        stack: Option<&str>,
    ) -> Vec<Target> {
        let Some(view) = view else {
            return match (viewer, stack) {
                (Viewer::Host, Some(stack)) => {
                    self.qualified.get(&format!("{name}.{stack}")).cloned().unwrap_or_default()
                }
                (Viewer::Host, None) | (Viewer::Container(_), _) => Vec::new(),
            };
        };
        let networks = view.networks.iter().filter_map(|network| self.snapshot.networks.get(network));
        let mut targets: Vec<Target> =
            networks.filter_map(|network| network.names.get(name)).flatten().copied().collect();
        targets.sort_unstable();
        targets.dedup();
        let of_stack = |target: &Target, stack: &str| {
            self.service(*target).is_some_and(|service| service.stack == stack)
        };
        match stack {
            Some(stack) => targets.retain(|target| of_stack(target, stack)),
            None if targets.iter().any(|target| of_stack(target, &view.stack)) => {
                targets.retain(|target| of_stack(target, &view.stack));
            }
            None => {}
        }
        targets
    }

    pub(super) fn service(&self, target: Target) -> Option<&ServiceNames> {
        self.snapshot.services.get(target.service as usize)
    }

    fn addresses(&self, target: Target) -> Vec<IpAddr> {
        let Some(service) = self.service(target) else { return Vec::new() };
        match target.slot {
            None => service.addresses(),
            Some(slot) => service.slots.get(&slot).map(|slot| slot.addresses.clone()).unwrap_or_default(),
        }
    }

    /// Whether any viewer sees this qualified name: then it must not leave the node for those who do not.
    fn is_known_somewhere(&self, name: &str) -> bool {
        let service = match name.split_once('.') {
            Some((first, rest)) if first == "tasks" || first.parse::<u32>().is_ok() => Some(rest),
            Some(_) | None => None,
        };
        self.qualified.contains_key(name)
            || service.is_some_and(|service| self.qualified.contains_key(service))
    }

    /// The full name of an address.
    pub(crate) fn reverse(&self, viewer: Viewer<'_>, address: IpAddr) -> Found<String> {
        let Some(target) = self.reverse.get(&address) else {
            let ours = self.snapshot.ranges.iter().any(|range| range.contains(address));
            return if ours { Found::Absent } else { Found::Elsewhere };
        };
        let visible = match viewer {
            Viewer::Host => true,
            Viewer::Container(view) => view
                .networks
                .iter()
                .filter_map(|network| self.members.get(network))
                .any(|members| members.contains(&target.service)),
        };
        match self.service(*target) {
            Some(service) if visible => {
                let slot = target.slot.map(|slot| format!("{slot}.")).unwrap_or_default();
                Found::Here(format!("{slot}{}.{}.{}", service.service, service.stack, self.domain()))
            }
            Some(_) | None => Found::Absent,
        }
    }
}

fn unique(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    addresses.collect::<BTreeSet<_>>().into_iter().collect()
}
