//! What names are here: the snapshot that the data plane answers from, asked as a task, a network or the host would.

use std::net::SocketAddr;
use std::time::Duration;

use carrack_api::stream::Frame;
use carrack_api::{DnsAnswer, DnsSource, DnsViewer, Problem, ServiceKey, TaskId};
use carrack_net::dns::{DnsAsker, DnsSnapshot, DnsView, Explained, Origin, Target, Zone, ask};
use carrack_net::model::DNS_ADDRESS;

use super::{Desk, View, done, internal, no_task};

/// How long a resolver is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(6);
/// Longest name that is asked for, bytes.
const NAME_MAX: usize = 253;
/// The port of resolvers.
const DNS_PORT: u16 = 53;

impl Desk {
    pub(super) async fn dns_lookup(
        &self,
        name: String,
        from: Option<TaskId>,
        view: View,
    ) -> Result<Frame, Problem> {
        let bad = name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_whitespace);
        if bad || name.split('.').any(|label| label.len() > 63) {
            return Err(Problem::new(422, "invalid-name", format!("{name:?} is no name to look up"))
                .hint("for example `carrack dns web` or `carrack dns web.STACK`"));
        }
        let tables = self.fabric.published().ok_or_else(|| {
            Problem::new(503, "no-dns", "the data plane has no names yet").hint("try it again in a moment")
        })?;
        let snapshot = tables.names.clone();
        let askers = match from {
            Some(task) => vec![as_task(task, &view, &snapshot)?],
            None => everybody(&snapshot),
        };
        let zone = Zone::new(snapshot, 0).map_err(|error| internal(&error))?;
        let mut answers = Vec::new();
        let alone = askers.len() == 1;
        for (viewer, asker) in askers {
            let told = zone.explain(&asker, &name);
            // A network that knows nothing of the name says nothing that the host does not say already.
            let says = !matches!(told.origin, Origin::Unknown | Origin::Forwarded(_));
            if alone || says || viewer == DnsViewer::Host {
                answers.push(answer(viewer, &asker, told, zone.snapshot()).await);
            }
        }
        done(&answers)
    }
}

/// A task, by its first address; one on the host's network sees what the host sees.
fn as_task(task: TaskId, view: &View, snapshot: &DnsSnapshot) -> Result<(DnsViewer, DnsAsker), Problem> {
    let assigned = view.assigned(task).ok_or_else(|| no_task(task))?;
    let viewer = DnsViewer::Task { task, name: view.name(task) };
    let asker = match assigned.addresses.first() {
        None => DnsAsker::Host,
        Some(address) => match snapshot.views.get(address) {
            Some(view) => DnsAsker::View(view.clone()),
            None => {
                let text = format!("{} has no names yet", view.name(task));
                return Err(Problem::new(409, "not-wired", text).hint("`carrack ps` shows what it waits for"));
            }
        },
    };
    Ok((viewer, asker))
}

/// The host, and each network as a task of the stack would see it that is on it.
fn everybody(snapshot: &DnsSnapshot) -> Vec<(DnsViewer, DnsAsker)> {
    let mut all = vec![(DnsViewer::Host, DnsAsker::Host)];
    for network in snapshot.networks.keys() {
        let stack = snapshot.views.values().find(|view| view.networks.contains(network));
        let view = DnsView {
            stack: stack.map(|view| view.stack.clone()).unwrap_or_default(),
            networks: vec![network.clone()],
            ..DnsView::default()
        };
        all.push((DnsViewer::Network { name: network.clone() }, DnsAsker::View(view)));
    }
    all
}

async fn answer(viewer: DnsViewer, asker: &DnsAsker, told: Explained, snapshot: &DnsSnapshot) -> DnsAnswer {
    let service = |target: &Target| {
        let found = snapshot.services.get(target.service as usize)?;
        let key = format!("{}/{}", found.stack, found.service).parse::<ServiceKey>().ok()?;
        Some((key, !found.vips.is_empty()))
    };
    let services = |targets: &[Target]| {
        targets.iter().filter_map(|target| service(target).map(|(key, _)| key)).collect::<Vec<_>>()
    };
    let names = |targets: &[Target]| {
        let name = |target: &Target| {
            let (key, _) = service(target)?;
            Some(target.slot.map_or_else(|| key.to_string(), |slot| format!("{key}.{slot}")))
        };
        targets.iter().filter_map(name).collect::<Vec<_>>()
    };
    let virtual_address = |targets: &[Target]| {
        targets.iter().all(|target| target.slot.is_none() && service(target).is_some_and(|(_, vip)| vip))
    };
    let (mut addresses, mut ttl) = (told.addresses, told.ttl);
    let source = match told.origin {
        Origin::Service(targets) => {
            DnsSource::Service { services: services(&targets), virtual_address: virtual_address(&targets) }
        }
        Origin::Alias(targets) => {
            DnsSource::Alias { targets: names(&targets), virtual_address: virtual_address(&targets) }
        }
        Origin::Tasks(targets) => DnsSource::Tasks { services: services(&targets) },
        Origin::Slot(targets) => DnsSource::Slot { targets: names(&targets) },
        Origin::Extra => DnsSource::Extra,
        Origin::Reverse => DnsSource::Reverse,
        Origin::Unknown => DnsSource::Unknown,
        Origin::Forwarded(resolvers) => {
            let (result, found, kept) = forwarded(asker, &told.name).await;
            (addresses, ttl) = (found, kept);
            DnsSource::Forwarded { resolvers, result }
        }
    };
    DnsAnswer { viewer, name: told.name, source, addresses, names: told.names, ttl }
}

/// Asks for a name that is none of ours: the data plane, which forwards it, or the resolvers that a task has of its own.
async fn forwarded(asker: &DnsAsker, name: &str) -> (String, Vec<std::net::IpAddr>, u32) {
    let own = match asker {
        DnsAsker::View(view) => view.upstreams.first().copied(),
        DnsAsker::Host => None,
    };
    let server = own.unwrap_or(SocketAddr::new(DNS_ADDRESS.into(), DNS_PORT));
    match ask(server, name, ANSWER_MAX).await {
        Ok(said) => (said.result, said.addresses, said.ttl),
        Err(error) => (format!("{server}: {error}"), Vec::new(), 0),
    }
}
