//! From options to one merged tree: which files, whose environment, what extends and includes what. Owns the order of the
//! pipeline; the meaning of the tree is `stack`'s.

mod env;
mod extends;
mod include;
mod name;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carrack_api::validate::SERVICES_MAX;

use crate::canon::{Canon, PORTS_MAX};
use crate::interpolate::interpolate_tree;
use crate::merge::{merge, settle};
use crate::report::{DiagnosticKind, Mark, Report};
use crate::source::{FILE_MAX_BYTES, FileSource, display, resolve};
use crate::yaml::{Node, parse};
use crate::{DEFAULT_FILES, LoadOptions};

/// Compose files of one load at most, with all that extend and include.
const FILES_MAX: usize = 256;
/// Default names of an override file.
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];

/// A project as one tree.
pub(crate) struct Project {
    pub(crate) root: Node,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) profiles: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
}

/// What reading files needs and counts.
pub(crate) struct Loader<'a> {
    pub(crate) files: &'a dyn FileSource,
    pub(crate) report: &'a mut Report,
    pub(crate) working_dir: PathBuf,
    read: usize,
    /// Values of services that extend others.
    extended: usize,
    seen: Vec<PathBuf>,
}

/// Reads and merges all files of a project; `None` when a problem leaves nothing to go on with.
pub(crate) fn read(options: &LoadOptions, files: &dyn FileSource, report: &mut Report) -> Option<Project> {
    let working_dir = resolve(Path::new("/"), &options.working_dir.to_string_lossy());
    let mut loader = Loader { files, report, working_dir, read: 0, extended: 0, seen: Vec::new() };
    let paths = loader.main_files(options)?;
    let first_dir = match paths.first() {
        Some(first) if first != Path::new("-") => first.parent().map(Path::to_path_buf),
        Some(_) | None => None,
    };
    let dir = match &options.project_dir {
        Some(dir) => resolve(&loader.working_dir, &dir.to_string_lossy()),
        None => first_dir.unwrap_or_else(|| loader.working_dir.clone()),
    };
    let env_files: Vec<PathBuf> =
        options.env_files.iter().map(|f| resolve(&loader.working_dir, &f.to_string_lossy())).collect();
    let mut env = loader.environment(&options.env, &dir, &env_files);
    let mut trees = Vec::new();
    for path in &paths {
        trees.push((path.clone(), loader.parse(path)?));
    }
    let name = loader.project_name(options, &env, &trees, &dir)?;
    env.insert("COMPOSE_PROJECT_NAME".into(), name.clone());
    let mut root: Option<Node> = None;
    for (path, tree) in trees {
        let tree = loader.finish_file(&path, tree, &dir, &env, &mut Vec::new());
        root = Some(match root {
            None => settled(tree),
            Some(base) => merge(base, tree),
        });
    }
    let profiles = match options.profiles.as_slice() {
        [] => env.get("COMPOSE_PROFILES").map(|p| p.split(',').map(str::to_owned).collect()),
        given => Some(given.to_vec()),
    };
    let files = loader.seen;
    Some(Project { root: root?, name, dir, env, profiles: profiles.unwrap_or_default(), files })
}

fn settled(mut tree: Node) -> Node {
    settle(&mut tree);
    tree
}

impl Loader<'_> {
    /// The files that make the project, as absolute paths.
    fn main_files(&mut self, options: &LoadOptions) -> Option<Vec<PathBuf>> {
        let from_env = options.env.get("COMPOSE_FILE").filter(|v| !v.is_empty());
        let given: Vec<String> = match (options.files.as_slice(), from_env) {
            ([], Some(list)) => {
                let separator = options.env.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
                list.split(separator).filter(|f| !f.is_empty()).map(str::to_owned).collect()
            }
            (files, _) => files.iter().map(|f| f.to_string_lossy().into_owned()).collect(),
        };
        if !given.is_empty() {
            let path = |f: &String| if f == "-" { f.into() } else { resolve(&self.working_dir, f) };
            return Some(given.iter().map(path).collect());
        }
        let start = match &options.project_dir {
            Some(dir) => resolve(&self.working_dir, &dir.to_string_lossy()),
            None => self.working_dir.clone(),
        };
        let found = find_default_files(&start, self.files);
        if found.is_empty() {
            let mark = Mark::default();
            let message = format!("no Compose file in {} or a directory above it", start.display());
            let hint = Some("name one with -f, or make a compose.yaml".to_owned());
            self.report.problem(DiagnosticKind::Syntax, mark, "", message, hint);
            return None;
        }
        Some(found)
    }

    /// Reads one file as text, within bounds; what goes wrong is told at `at`, or at the file itself.
    pub(crate) fn text(&mut self, path: &Path, at: Option<(Mark, &str)>) -> Option<(String, Mark)> {
        let shown = if path == Path::new("-") { "stdin".into() } else { display(path, &self.working_dir) };
        let problem = |report: &mut Report, message: String, hint: Option<&str>| {
            let (mark, key) = match at {
                Some(at) => at,
                None => (report.add_file(&shown), ""),
            };
            report.problem(DiagnosticKind::Syntax, mark, key, message, hint.map(str::to_owned));
        };
        self.read += 1;
        if self.read > FILES_MAX {
            problem(self.report, format!("more than {FILES_MAX} files are read for this project"), None);
            return None;
        }
        let content = match self.files.read(path) {
            Ok(content) if content.len() <= FILE_MAX_BYTES => content,
            Ok(_) => {
                problem(self.report, format!("{shown} is larger than {FILE_MAX_BYTES} bytes"), None);
                return None;
            }
            Err(error) => {
                let hint = (error.kind() == std::io::ErrorKind::NotFound)
                    .then_some("check the name and the directory it is looked for in");
                let message = match error.kind() {
                    std::io::ErrorKind::NotFound => format!("file {shown} is not found"),
                    _ => format!("file {shown} cannot be read: {error}"),
                };
                problem(self.report, message, hint);
                return None;
            }
        };
        match String::from_utf8(content) {
            Ok(text) => Some((text, self.report.add_file(&shown))),
            Err(_) => {
                problem(self.report, format!("{shown} is not UTF-8 text"), None);
                None
            }
        }
    }

    fn parse(&mut self, path: &Path) -> Option<Node> {
        self.parse_at(path, None)
    }

    /// Reads and parses a Compose file.
    pub(crate) fn parse_at(&mut self, path: &Path, at: Option<(Mark, &str)>) -> Option<Node> {
        let (text, mark) = self.text(path, at)?;
        if !self.seen.iter().any(|p| p == path) {
            self.seen.push(path.to_path_buf());
        }
        let root = parse(&text, mark, self.report)?;
        if root.is_null() {
            let hint = Some("it needs at least `services:`".to_owned());
            self.report.problem(DiagnosticKind::Syntax, mark, "", "the file is empty", hint);
            return None;
        }
        if root.as_map().is_none() {
            let message = format!("a Compose file is a mapping with `services:`; this is {}", root.kind());
            self.report.problem(DiagnosticKind::Syntax, root.mark, "", message, None);
            return None;
        }
        let services = root.as_map().and_then(|m| m.get("services")).and_then(Node::as_map);
        if let Some(extra) = services.and_then(|s| s.entries.get(SERVICES_MAX)) {
            let message = format!("more than {SERVICES_MAX} services");
            self.report.problem(DiagnosticKind::Invalid, extra.mark, "services", message, None);
            return None;
        }
        Some(root)
    }

    /// Interpolates, brings into long form, and follows extends and include. `stack` holds the files that are being
    /// included, to tell circles.
    pub(crate) fn finish_file(
        &mut self,
        path: &Path,
        mut tree: Node,
        base: &Path,
        env: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Node {
        interpolate_tree(&mut tree, "", env, self.report);
        Canon { base, env, report: self.report, ports_left: PORTS_MAX }.file(&mut tree);
        self.extend_services(path, &mut tree, env);
        self.include(path, &mut tree, base, env, stack);
        tree
    }
}

/// The Compose file in `start` or the nearest directory above it that has one, and its override file.
pub fn find_default_files(start: &Path, files: &dyn FileSource) -> Vec<PathBuf> {
    for dir in start.ancestors() {
        let first = |names: &[&str]| names.iter().map(|n| dir.join(n)).find(|p| files.is_file(p));
        if let Some(main) = first(&DEFAULT_FILES) {
            return std::iter::once(main).chain(first(&OVERRIDE_FILES)).collect();
        }
    }
    Vec::new()
}
