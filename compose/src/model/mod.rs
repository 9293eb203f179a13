//! The canonical model of a project, as `docker compose config` prints it: every short form long, every default written,
//! every path absolute, every name given. Owns normalising, the checks of what names and values mean for each other, and how
//! the model is written; which files make the tree is `project`'s.
//!
//! ```text
//!  project  ->  normalise  ->  consistency  ->  resolve     ->  write
//!  one tree     names and      do the names     env_file,       JSON or YAML
//!               defaults       fit together     label_file
//! ```

mod consistency;
mod cycles;
mod normalize;
mod resolve;
mod select;
mod write;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map as JsonMap, Value as Json};

use crate::keys::{ROOT, Shape};
use crate::project::Project;
use crate::report::{Note, Report};
use crate::source::FileSource;
use crate::variables::Variables;
use crate::yaml::{Map, Node};
use write::{Style, Writer};

/// The canonical model of a project.
#[derive(Debug, Clone)]
pub struct Config {
    /// The model as Docker Compose writes it in JSON: the keys of each mapping in order, and what says nothing left out.
    pub model: Json,
    /// The same as a Compose file that can be loaded again.
    file: Json,
    /// What was understood in another way than it may have been meant.
    pub notes: Vec<Note>,
    /// Compose files that were read, in order.
    pub files: Vec<PathBuf>,
    /// The project directory.
    pub project_dir: PathBuf,
    /// All profiles that services of the files name.
    pub profiles: BTreeSet<String>,
    /// The variables that the files name.
    pub variables: Variables,
    /// What variables are filled in from: the user's environment and the files of variables.
    pub environment: BTreeMap<String, String>,
}

impl Config {
    pub(crate) fn new(built: Built, project: Project, notes: Vec<Note>) -> Self {
        let Built { model, file, profiles } = built;
        let Project { files, dir: project_dir, variables, env: environment, .. } = project;
        Self { model, file, notes, files, project_dir, profiles, variables, environment }
    }

    /// The model as JSON, with two blanks for each level and without a newline at the end.
    pub fn to_json(&self) -> String {
        format!("{:#}", self.model)
    }

    /// The model as a Compose file: a `$` is written `$$`, so that a load of it gives the same model.
    pub fn to_yaml(&self) -> String {
        yaml::document(&self.file)
    }

    /// The names in a section, for example `services`.
    pub fn names(&self, section: &str) -> Vec<&str> {
        let section = self.file.get(section).and_then(Json::as_object);
        section.into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// The images of the services; a service that only builds has the name that its image would get.
    pub fn images(&self) -> BTreeSet<String> {
        let name = self.model.get("name").and_then(Json::as_str).unwrap_or_default();
        let services = self.model.get("services").and_then(Json::as_object);
        let image = |(key, service): (&String, &Json)| match service.get("image").and_then(Json::as_str) {
            Some(image) => Some(image.to_owned()),
            None if service.get("provider").is_some() => None,
            None => Some(format!("{name}-{key}")),
        };
        services.into_iter().flatten().filter_map(image).collect()
    }
}

/// A model as JSON twice, for Docker Compose's reader and for ours.
pub(crate) struct Built {
    pub(crate) model: Json,
    pub(crate) file: Json,
    pub(crate) profiles: BTreeSet<String>,
}

/// Builds the model of a project; what is wrong is in the report.
pub(crate) fn build(project: &Project, files: &dyn FileSource, report: &mut Report) -> Built {
    let (mut root, profiles) = normal(project);
    if !report.keeps_variables() {
        consistency::check(&root, report);
    }
    select::asked(&root, &project.services, report);
    split_profiles(&mut root);
    select::only(&mut root, &project.services);
    if !report.keeps_variables() {
        resolve::files(&mut root, &project.env, files, report);
    }
    let model = write(&root, Style::Reference, report);
    let file = write(&root, Style::File, report);
    Built { model, file, profiles }
}

/// Tells what does not fit together, for those who do not want the model.
pub(crate) fn check(project: &Project, report: &mut Report) {
    let (root, _) = normal(project);
    consistency::check(&root, report);
}

/// Where services that no profile asks for wait; no name of a service has a blank in it.
const INACTIVE: &str = "inactive services";

fn normal(project: &Project) -> (Map, BTreeSet<String>) {
    let mut root = project.root.as_map().cloned().unwrap_or_default();
    let profiles = set_aside(&mut root, &project.profiles, &project.services);
    normalize::project(&mut root, &project.name, &project.env);
    (root, profiles)
}

/// Moves the services that no profile asks for to a section of their own, and gives all profiles of the file.
fn set_aside(root: &mut Map, active: &[String], named: &[String]) -> BTreeSet<String> {
    let mut profiles = BTreeSet::new();
    let active = [active, &select::profiles(root, named)].concat();
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return profiles };
    let mut inactive = Map::default();
    for entry in std::mem::take(&mut services.entries) {
        let list = entry.value.as_map().and_then(|s| s.get("profiles")).and_then(Node::as_list);
        let own: Vec<&str> = list.into_iter().flatten().filter_map(Node::as_text).collect();
        profiles.extend(own.iter().map(|p| (*p).to_owned()));
        let asked = own.is_empty()
            || named.contains(&entry.key)
            || active.iter().any(|a| a == "*" || own.contains(&a.as_str()));
        let target = if asked { &mut services.entries } else { &mut inactive.entries };
        target.push(entry);
    }
    let mark = crate::report::Mark::default();
    root.set(INACTIVE, mark, Node::map(inactive.entries, mark));
    profiles
}

fn split_profiles(root: &mut Map) {
    root.remove(INACTIVE);
}

fn write(root: &Map, style: Style, report: &mut Report) -> Json {
    let mut writer = Writer { style, report };
    let node = Node::map(root.entries.clone(), crate::report::Mark::default());
    let Json::Object(mut model) = writer.value(&node, &Shape::Map(ROOT), "") else { return Json::Null };
    // What is always there, and what only tells where the rest comes from.
    model.remove("version");
    model.remove("include");
    model.entry("services").or_insert_with(|| Json::Object(JsonMap::new()));
    Json::Object(model)
}

/// Values of an environment by name.
pub(crate) type Environment = BTreeMap<String, String>;
