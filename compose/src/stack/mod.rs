//! The merged tree becomes a `StackSpec`. Owns what each key means for Carrack: exact, mapped with a note, or refused.

mod blkio;
mod borrow;
mod build;
mod container;
mod depends;
mod deploy;
mod environment;
mod health;
mod hooks;
mod limits;
mod local;
mod mounts;
mod network;
mod places;
mod ports;
mod pull;
mod security;
mod service;
mod stored;
mod top;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use carrack_api::validate::validate;
use carrack_api::{ContentFile, ContentKind, NetworkName, ServiceName, StackName, StackSpec, VolumeName};

use crate::fields::{Fields, Item};
use crate::outcomes::{self, Outcome};
use crate::project::Project;
use crate::report::{Mark, Position, Report};
use crate::source::FileSource;
use crate::yaml::Node;
use borrow::Borrowed;
use stored::ContentDef;
use top::{NetworkDef, VolumeDef};

pub use build::{BuildSecret, BuildSecretSource, BuildSpec};
pub(crate) use places::Places;
pub(crate) use stored::{ContentSource, read_all as read_contents};

/// What a tree became.
pub(crate) struct Built {
    pub(crate) stack: StackSpec,
    pub(crate) builds: BTreeMap<ServiceName, BuildSpec>,
    pub(crate) inactive: Vec<ServiceName>,
    pub(crate) contents: Vec<ContentSource>,
    pub(crate) places: Places,
}

/// What the decoding of a service may look at, and what it leaves behind.
struct Build<'a> {
    report: &'a mut Report,
    files: &'a dyn FileSource,
    env: &'a BTreeMap<String, String>,
    /// The whole file.
    root: &'a Node,
    /// The project directory.
    dir: &'a Path,
    /// The stack's name.
    name: String,
    /// What is built, also for services that no profile asks for.
    builds: BTreeMap<ServiceName, BuildSpec>,
    networks: BTreeMap<String, NetworkDef>,
    volumes: BTreeMap<String, VolumeDef>,
    /// Top-level `secrets` and `configs`, by kind and key.
    contents: BTreeMap<(ContentKind, String), ContentDef>,
    /// All services of the file, with whether a profile asks for them.
    services: BTreeMap<String, bool>,
    used_networks: BTreeSet<String>,
    used_volumes: BTreeSet<String>,
    used_contents: BTreeSet<(ContentKind, String)>,
    /// Files of the project that the service which is read now has as configs, and their bytes in all services.
    small_files: Vec<ContentFile>,
    small_bytes: usize,
    /// What the service that is read now has at which path.
    places: Vec<stored::Placed>,
    /// Aliases that a service gives to another: (of whom, for whom, alias).
    links: Vec<(ServiceName, ServiceName, String)>,
    /// Services that mount what others mount.
    borrowed: Vec<Borrowed>,
}

/// Decodes and checks the tree; `None` when problems are in the report.
pub(crate) fn build(project: &Project, files: &dyn FileSource, report: &mut Report) -> Option<Built> {
    let built = decode(project, files, report)?;
    check(&built, report);
    if report.has_problems() { None } else { Some(built) }
}

/// Decodes the tree as far as it can be understood; the rest is in the report.
pub(crate) fn decode(project: &Project, files: &dyn FileSource, report: &mut Report) -> Option<Built> {
    let name = StackName::new(project.name.as_str()).ok()?;
    let mut build = Build {
        report,
        files,
        env: &project.env,
        root: &project.root,
        dir: &project.dir,
        name: project.name.clone(),
        builds: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        contents: BTreeMap::new(),
        services: BTreeMap::new(),
        used_networks: BTreeSet::new(),
        used_volumes: BTreeSet::new(),
        used_contents: BTreeSet::new(),
        small_files: Vec::new(),
        places: Vec::new(),
        small_bytes: 0,
        links: Vec::new(),
        borrowed: Vec::new(),
    };
    let mut stack = StackSpec {
        name,
        services: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
    };
    let inactive = build.root(&project.root, &project.profiles, &mut stack);
    build.link(&mut stack);
    build.lend(&mut stack);
    build.note_dependencies(&stack);
    build.keep_used(&mut stack);
    let contents = build.keep_used_contents(&mut stack);
    let mut builds = std::mem::take(&mut build.builds);
    builds.retain(|name, _| stack.services.contains_key(name));
    let places = Places::new(&project.root, report);
    Some(Built { stack, builds, inactive, contents, places })
}

/// What the server would say against it, unless it is known to be wrong already.
pub(crate) fn check(built: &Built, report: &mut Report) {
    let told: Vec<String> = report.paths().map(str::to_owned).collect();
    for problem in validate(&built.stack) {
        if follows(&problem.path, &told) {
            continue;
        }
        let place = built.places.find(&problem.path);
        let position = place.unwrap_or(Position { file: String::new(), line: 0, column: 0 });
        let mark = report.add_file(&position.file);
        let mark = Mark { line: position.line, column: position.column, ..mark };
        let kind = crate::report::DiagnosticKind::Invalid;
        report.problem(kind, mark, &problem.path, problem.message, problem.hint);
    }
}

/// A problem may only follow from others that are told: of the same field, which was then read in part, or of something that
/// is missing because it is wrong itself. What the file does not have at all was told when it was read.
fn follows(path: &str, told: &[String]) -> bool {
    let missing = path == "services"
        || path.ends_with(".source")
        || [".depends_on.", ".networks."].iter().any(|part| path.contains(part));
    let same = |told: &String| match path.strip_suffix(".image") {
        Some(service) if told == service || is_within(told, &format!("{service}.provider")) => true,
        _ => told.matches('.').count() > 1 && (is_within(path, told) || is_within(told, path)),
    };
    !told.is_empty() && (missing || told.iter().any(same))
}

/// The path is that of the field, of an item beside it, or of something in it.
fn is_within(path: &str, field: &str) -> bool {
    let field = field.split('[').next().unwrap_or_default();
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Build<'_> {
    fn root(&mut self, root: &Node, profiles: &[String], stack: &mut StackSpec) -> Vec<ServiceName> {
        let item = Item { node: root, path: String::new() };
        let Some(mut fields) = Fields::open(&item, self.report) else { return Vec::new() };
        fields.take("name");
        fields.take("include");
        if let Some(version) = fields.take("version")
            && let Some(Outcome::Mapped(text)) = outcomes::find("version", "").map(|row| row.outcome)
        {
            self.report.detail(version.mark(), "version", text);
        }
        self.top_level(&mut fields, stack.name.as_str());
        let services = fields.take("services");
        fields.finish(&outcomes::refused(""), self.report);
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
            let (links, borrowed) = (self.links.len(), self.borrowed.len());
            let (networks, volumes) = (self.used_networks.clone(), self.used_volumes.clone());
            let contents = self.used_contents.clone();
            self.service(&name, &item);
            self.report.relax_since(before);
            self.links.truncate(links);
            self.borrowed.truncate(borrowed);
            (self.used_networks, self.used_volumes) = (networks, volumes);
            self.used_contents = contents;
            inactive.push(name);
        }
        inactive
    }

    /// The section has the name. What could still not be read is wrong itself, which is told there.
    fn is_at_top(&self, section: &str, name: &str) -> bool {
        let section = self.root.as_map().and_then(|root| root.get(section)).and_then(Node::as_map);
        section.is_some_and(|section| section.get(name).is_some())
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
            match (self.used_volumes.contains(key), &def.instead) {
                (true, None) => drop(stack.volumes.insert(VolumeName::clone(&def.name), def.spec.clone())),
                // What is mounted in its place is in the tasks' own mounts.
                (true, Some(_)) => {}
                (false, _) => {
                    let path = format!("volumes.{key}");
                    self.report.detail(def.mark, &path, "is used by no service and not made");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{LoadOptions, MemoryFiles, load};

    fn told(text: &str) -> Vec<String> {
        let files = MemoryFiles::default().with("/app/compose.yaml", text);
        let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
        load(&options, &files).unwrap_err().0.into_iter().map(|p| format!("{}:{}", p.line, p.path)).collect()
    }

    #[test]
    fn a_problem_hides_none_of_another_sort() {
        let text = "
services:
  c: {image: x, container_name: one, scale: 2, mem_limit: 1m, prots: 4}
  d: {image: x, network_mode: host, ports: ['80:80']}
  e:
    image: x
    ports: ['80:80', '80:81']
    deploy: {update_config: {parallelism: 0}, placement: {constraints: 7}}
";
        assert_eq!(
            told(text),
            [
                "3:services.c.container_name",
                "3:services.c.deploy.resources.limits.memory",
                "3:services.c.prots",
                "4:services.d.ports",
                "7:services.e.ports[1]",
                "8:services.e.deploy.update_config.parallelism",
                "8:services.e.deploy.placement.constraints",
            ]
        );
    }

    #[test]
    fn what_only_follows_from_a_problem_is_not_told() {
        let text = "
services:
  a: {image: x, depends_on: [b], networks: [bad], volumes: ['v:/v'], secrets: [s, t], ports: ['x', '80:80', '80:81']}
  b: 7
  c: {networks: [missing]}
  d: {provider: {type: x}}
networks: {bad: 7}
volumes: {v: {name: '/'}}
secrets: {s: {}, t: {name: '/', file: /x}}
";
        assert_eq!(
            told(text),
            [
                "3:services.a.ports[0]",
                "4:services.b",
                "5:services.c",
                "5:services.c.networks.missing",
                "6:services.d.provider",
                "7:networks.bad",
                "8:volumes.v",
                "9:secrets.s",
                "9:secrets.t",
            ]
        );
        assert_eq!(told("services: {a: 7}"), ["1:services.a"]);
    }
}
