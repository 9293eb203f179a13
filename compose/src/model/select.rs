//! Services that are asked for by name: they, what they depend on, and what these use. Owns the choice; what is not chosen is
//! not in the model.

use std::collections::BTreeSet;

use super::INACTIVE;
use crate::report::{Mark, Report};
use crate::suggest;
use crate::yaml::{Map, Node};

/// Sections whose names services use.
const USED: [&str; 5] = ["networks", "volumes", "secrets", "configs", "models"];

/// The profiles of the services that are asked for; these are active with them.
pub(super) fn profiles(root: &Map, named: &[String]) -> Vec<String> {
    let services = root.get("services").and_then(Node::as_map);
    let services = named.iter().filter_map(|name| services?.get(name)?.as_map());
    let lists = services.filter_map(|service| service.get("profiles")?.as_list());
    lists.flatten().filter_map(Node::as_text).map(str::to_owned).collect()
}

/// Tells of names that no service has.
pub(super) fn asked(root: &Map, named: &[String], report: &mut Report) {
    let names = |section: &str| {
        let services = root.get(section).and_then(Node::as_map);
        services.into_iter().flat_map(|s| &s.entries).map(|e| e.key.as_str()).collect::<Vec<_>>()
    };
    let known = [names("services"), names(INACTIVE)].concat();
    for name in named.iter().filter(|name| !known.contains(&name.as_str())) {
        let message = format!("there is no service {name} in this project");
        match suggest::nearest(name, known.iter().copied()) {
            Some(meant) => {
                report.invalid_hint(Mark::default(), "", message, format!("did you mean `{meant}`?"));
            }
            None => report.invalid(Mark::default(), "", message),
        }
    }
}

/// Takes away what the named services do not need; without a name all stays.
pub(super) fn only(root: &mut Map, named: &[String]) {
    if named.is_empty() {
        return;
    }
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return };
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open = named.to_vec();
    while let Some(name) = open.pop() {
        let depends = services.get(&name).and_then(Node::as_map).and_then(|s| s.get("depends_on"));
        let depends = depends.and_then(Node::as_map).into_iter().flat_map(|m| &m.entries);
        open.extend(depends.map(|e| e.key.clone()).filter(|key| *key != name && !wanted.contains(key)));
        wanted.insert(name);
    }
    services.entries.retain(|entry| wanted.contains(&entry.key));
    let used = USED.map(|section| {
        let services = services.entries.iter().filter_map(|entry| entry.value.as_map());
        services.flat_map(|service| names(service, section)).collect::<BTreeSet<_>>()
    });
    for (section, used) in USED.into_iter().zip(used) {
        if let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) {
            map.entries.retain(|entry| used.contains(&entry.key));
        }
        if root.get(section).and_then(Node::as_map).is_some_and(|m| m.entries.is_empty()) {
            root.remove(section);
        }
    }
}

/// The names of a section that a service uses.
fn names(service: &Map, section: &str) -> Vec<String> {
    let build = service.get("build").and_then(Node::as_map).filter(|_| section == "secrets");
    let lists = [Some(service), build].into_iter().flatten().filter_map(|map| map.get(section));
    let mut found = Vec::new();
    for node in lists {
        found.extend(node.as_map().into_iter().flat_map(|m| &m.entries).map(|e| e.key.clone()));
        let sources = node.as_list().into_iter().flatten().filter_map(|n| n.as_map()?.get("source"));
        found.extend(sources.filter_map(Node::as_text).map(str::to_owned));
    }
    found
}
