//! The merged tree becomes a `StackSpec`. Owns what each key means for Carrack: exact, mapped with a note, or refused.

mod container;
mod deploy;
mod environment;
mod health;
mod limits;
mod mounts;
mod network;
mod places;
mod ports;
mod pull;
mod refused;
mod security;
mod service;
mod top;

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::validate::validate;
use carrack_api::{NetworkName, ServiceName, StackName, StackSpec, VolumeName};

use crate::fields::{Fields, Item};
use crate::project::Project;
use crate::report::{Mark, Position, Report};
use crate::source::FileSource;
use crate::yaml::Node;
use top::{NetworkDef, VolumeDef};

pub(crate) use places::Places;

/// What a tree became.
pub(crate) struct Built {
    pub(crate) stack: StackSpec,
    pub(crate) inactive: Vec<ServiceName>,
    pub(crate) places: Places,
}

/// What the decoding of a service may look at, and what it leaves behind.
struct Build<'a> {
    report: &'a mut Report,
    files: &'a dyn FileSource,
    env: &'a BTreeMap<String, String>,
    networks: BTreeMap<String, NetworkDef>,
    volumes: BTreeMap<String, VolumeDef>,
    /// Keys of the top-level `secrets` and `configs`.
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
    /// All services of the file, with whether a profile asks for them.
    services: BTreeMap<String, bool>,
    used_networks: BTreeSet<String>,
    used_volumes: BTreeSet<String>,
    /// Aliases that a service gives to another: (of whom, for whom, alias).
    links: Vec<(ServiceName, ServiceName, String)>,
}

/// Decodes the tree; `None` when problems are in the report.
pub(crate) fn build(project: &Project, files: &dyn FileSource, report: &mut Report) -> Option<Built> {
    let name = StackName::new(project.name.as_str()).ok()?;
    let mut build = Build {
        report,
        files,
        env: &project.env,
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeSet::new(),
        configs: BTreeSet::new(),
        services: BTreeMap::new(),
        used_networks: BTreeSet::new(),
        used_volumes: BTreeSet::new(),
        links: Vec::new(),
    };
    let mut stack =
        StackSpec { name, services: BTreeMap::new(), networks: BTreeMap::new(), volumes: BTreeMap::new() };
    let inactive = build.root(&project.root, &project.profiles, &mut stack);
    build.link(&mut stack);
    build.keep_used(&mut stack);
    let places = Places::new(&project.root, report);
    if report.has_problems() {
        return None;
    }
    for problem in validate(&stack) {
        let position =
            places.find(&problem.path).unwrap_or(Position { file: String::new(), line: 0, column: 0 });
        let mark = report.add_file(&position.file);
        let mark = Mark { line: position.line, column: position.column, ..mark };
        report.problem(
            crate::report::DiagnosticKind::Invalid,
            mark,
            &problem.path,
            problem.message,
            problem.hint,
        );
    }
    if report.has_problems() { None } else { Some(Built { stack, inactive, places }) }
}

impl Build<'_> {
    fn root(&mut self, root: &Node, profiles: &[String], stack: &mut StackSpec) -> Vec<ServiceName> {
        let item = Item { node: root, path: String::new() };
        let Some(mut fields) = Fields::open(&item, self.report) else { return Vec::new() };
        fields.take("name");
        fields.take("include");
        if let Some(version) = fields.take("version") {
            self.report.detail(version.mark(), "version", "means nothing any more");
        }
        self.top_level(&mut fields, stack.name.as_str());
        let services = fields.take("services");
        fields.finish(refused::ROOT, self.report);
        let Some(services) = services else {
            self.report.invalid_hint(root.mark, "services", "the file has no services", "add `services:`");
            return Vec::new();
        };
        let mut inactive = Vec::new();
        let entries = services.entries(self.report);
        for (key, item) in &entries {
            let active = self.is_active(item, profiles);
            self.services.insert((*key).to_owned(), active);
        }
        for (key, item) in entries {
            let name = match ServiceName::new(key) {
                Ok(name) => name,
                Err(error) => {
                    item.invalid(error.to_string(), self.report);
                    continue;
                }
            };
            if self.services.get(key).copied().unwrap_or(true) {
                if let Some(service) = self.service(&name, &item) {
                    stack.services.insert(name, service);
                }
                continue;
            }
            let before = self.report.checkpoint();
            let links = self.links.len();
            let (networks, volumes) = (self.used_networks.clone(), self.used_volumes.clone());
            self.service(&name, &item);
            self.report.relax_since(before);
            self.links.truncate(links);
            (self.used_networks, self.used_volumes) = (networks, volumes);
            inactive.push(name);
        }
        inactive
    }

    fn is_active(&mut self, service: &Item<'_>, profiles: &[String]) -> bool {
        let Some(list) = service.node.as_map().and_then(|m| m.get("profiles")).and_then(Node::as_list) else {
            return true;
        };
        list.is_empty()
            || profiles.iter().any(|p| p == "*")
            || list.iter().filter_map(Node::as_text).any(|p| profiles.iter().any(|active| active == p))
    }

    /// Aliases from `links`: they belong to the service that is linked to, on the networks that both are on.
    fn link(&mut self, stack: &mut StackSpec) {
        use carrack_api::TaskNetwork;
        for (target, user, alias) in &self.links {
            let shared: Vec<NetworkName> = match stack.services.get(user).map(|s| &s.task.network) {
                Some(TaskNetwork::Networks(networks)) => networks.keys().cloned().collect(),
                Some(TaskNetwork::Host | TaskNetwork::None) | None => continue,
            };
            let Some(service) = stack.services.get_mut(target) else { continue };
            let TaskNetwork::Networks(networks) = &mut service.task.network else { continue };
            for (_, attachment) in networks.iter_mut().filter(|(name, _)| shared.contains(name)) {
                if !attachment.aliases.contains(alias) {
                    attachment.aliases.push(alias.clone());
                }
            }
        }
    }

    /// Networks and volumes that no active service uses are not made, as in Compose.
    fn keep_used(&mut self, stack: &mut StackSpec) {
        for (key, def) in &self.networks {
            if self.used_networks.contains(key) {
                if let Ok(name) = NetworkName::new(key.as_str()) {
                    stack.networks.insert(name, def.spec.clone());
                }
            } else if def.mark != Mark::default() {
                let path = format!("networks.{key}");
                self.report.detail(def.mark, &path, "is used by no service and not made");
            }
        }
        for (key, def) in &self.volumes {
            if self.used_volumes.contains(key) {
                stack.volumes.insert(VolumeName::clone(&def.name), def.spec.clone());
            } else {
                let path = format!("volumes.{key}");
                self.report.detail(def.mark, &path, "is used by no service and not made");
            }
        }
    }
}
