//! From options to one merged tree: which files, whose environment, what extends and includes what. Owns the order of the
//! pipeline; the meaning of the tree is `stack`'s.

mod env;
mod extends;
mod include;
mod name;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carrack_api::validate::SERVICES_MAX;

use crate::canon::{self, Canon, PORTS_MAX};
use crate::check;
use crate::interpolate::interpolate_tree;
use crate::merge::{merge, settle, unify};
use crate::report::{DiagnosticKind, Mark, Report};
use crate::source::{FILE_MAX_BYTES, FileSource, display, resolve};
use crate::variables::{self, Variables};
use crate::yaml::{Node, Value, parse_all};
use crate::{DEFAULT_FILES, LoadOptions};

/// Compose files of one load at most, with all that extend and include.
const FILES_MAX: usize = 256;
/// Bytes of all files of one load at most.
const TOTAL_MAX_BYTES: usize = 32 << 20;
/// Values of all files of one load at most, each file counted as often as it is used.
const TOTAL_MAX_NODES: usize = 500_000;
/// Default names of an override file.
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// A project as one tree.
pub(crate) struct Project {
    pub(crate) root: Node,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) profiles: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
    /// Services that are asked for by name.
    pub(crate) services: Vec<String>,
    pub(crate) variables: Variables,
}

/// What reading files needs and counts.
pub(crate) struct Loader<'a> {
    pub(crate) files: &'a dyn FileSource,
    pub(crate) report: &'a mut Report,
    pub(crate) working_dir: PathBuf,
    read: usize,
    /// Bytes and values of the files so far.
    bytes: usize,
    nodes: usize,
    /// Values of services that extend others.
    extended: usize,
    seen: Vec<PathBuf>,
    variables: Variables,
}

/// Reads and merges all files of a project; `None` when a problem leaves nothing to go on with.
pub(crate) fn read(options: &LoadOptions, files: &dyn FileSource, report: &mut Report) -> Option<Project> {
    let working_dir = resolve(Path::new("/"), &options.working_dir.to_string_lossy());
    let mut loader = Loader {
        files,
        report,
        working_dir,
        read: 0,
        bytes: 0,
        nodes: 0,
        extended: 0,
        seen: Vec::new(),
        variables: Variables::new(),
    };
    let paths = loader.main_files(options)?;
    let first_dir = match paths.first() {
        Some(first) if first != Path::new("-") => first.parent().map(Path::to_path_buf),
        Some(_) | None => None,
    };
    let dir = match &options.project_dir {
        Some(dir) => resolve(&loader.working_dir, &dir.to_string_lossy()),
        None => first_dir.unwrap_or_else(|| loader.working_dir.clone()),
    };
    let env_files = loader.env_files(options);
    let mut env = loader.environment(&options.env, &dir, &env_files, None);
    let mut trees = Vec::new();
    for path in &paths {
        trees.extend(loader.parse(path)?.into_iter().map(|tree| (path.clone(), tree)));
    }
    loader.not_empty(&paths, &trees)?;
    let name = loader.project_name(options, &env, &trees, &dir)?;
    env.insert("COMPOSE_PROJECT_NAME".into(), name.clone());
    let mut root: Option<Node> = None;
    for (path, tree) in trees {
        let mut tree = loader.finish_file(&path, tree, &dir, &env, &mut Vec::new());
        root = Some(match root {
            None => {
                settle(&mut tree);
                tree
            }
            Some(base) => merge(base, tree),
        });
    }
    if let Some(root) = &mut root {
        unify(root);
        canon::contexts(root, &dir);
        check::merged(root, loader.report);
    }
    let profiles = match options.profiles.as_slice() {
        [] => env.get("COMPOSE_PROFILES").map(|p| p.split(',').map(|p| p.trim().to_owned()).collect()),
        given => Some(given.to_vec()),
    };
    let (files, variables, services) = (loader.seen, loader.variables, options.services.clone());
    let profiles = profiles.unwrap_or_default();
    Some(Project { root: root?, name, dir, env, profiles, files, services, variables })
}

/// Number of values in a tree.
fn size(node: &Node) -> usize {
    match &node.value {
        Value::Map(map) => 1 + map.entries.iter().map(|e| size(&e.value)).sum::<usize>(),
        Value::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Null | Value::Scalar { .. } => 1,
    }
}

impl Loader<'_> {
    /// The files that make the project, as absolute paths.
    fn main_files(&mut self, options: &LoadOptions) -> Option<Vec<PathBuf>> {
        let env = self.first_environment(options);
        let from_env = env.get("COMPOSE_FILE").filter(|v| !v.is_empty());
        let given: Vec<String> = match (options.files.as_slice(), from_env) {
            ([], Some(list)) => {
                let separator = env.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
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

    /// The environment that is known before it is known where the project is: also `.env` may name its files.
    fn first_environment(&mut self, options: &LoadOptions) -> BTreeMap<String, String> {
        if !options.files.is_empty() || options.env.contains_key("COMPOSE_FILE") {
            return options.env.clone();
        }
        let given = self.env_files(options);
        let dir = match &options.project_dir {
            Some(dir) => resolve(&self.working_dir, &dir.to_string_lossy()),
            None => self.working_dir.clone(),
        };
        // What is wrong with it is told when it is read for good.
        let before = self.report.checkpoint();
        let env = self.environment(&options.env, &dir, &given, None);
        self.report.forget_since(before);
        env
    }

    /// `--env-file`, else `COMPOSE_ENV_FILES`.
    fn env_files(&self, options: &LoadOptions) -> Vec<PathBuf> {
        if options.env_files.is_empty() {
            let listed = options.env.get("COMPOSE_ENV_FILES").map(String::as_str).unwrap_or_default();
            let files = listed.split(',').map(str::trim).filter(|f| !f.is_empty());
            return files.map(|f| resolve(&self.working_dir, f)).collect();
        }
        options.env_files.iter().map(|f| resolve(&self.working_dir, &f.to_string_lossy())).collect()
    }

    /// At least one file says something.
    fn not_empty(&mut self, paths: &[PathBuf], trees: &[(PathBuf, Node)]) -> Option<()> {
        if trees.iter().any(|(_, tree)| tree.as_map().is_some_and(|m| !m.entries.is_empty())) {
            return Some(());
        }
        let shown = paths.first().map(|path| display(path, &self.working_dir)).unwrap_or_default();
        let mark = Mark { line: 1, column: 1, ..self.report.add_file(&shown) };
        let hint = Some("it needs at least `services:`".to_owned());
        self.report.problem(DiagnosticKind::Syntax, mark, "", "the file is empty", hint);
        None
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
        self.bytes += content.len();
        if self.bytes > TOTAL_MAX_BYTES {
            problem(self.report, format!("the project's files have more than {TOTAL_MAX_BYTES} bytes"), None);
            return None;
        }
        match String::from_utf8(content) {
            Ok(text) => Some((text, self.report.add_file(&shown))),
            Err(_) => {
                problem(self.report, format!("{shown} is not UTF-8 text"), None);
                None
            }
        }
    }

    fn parse(&mut self, path: &Path) -> Option<Vec<Node>> {
        self.parse_at(path, None)
    }

    /// Reads and parses the documents of a Compose file; each stands on top of those before it.
    pub(crate) fn parse_at(&mut self, path: &Path, at: Option<(Mark, &str)>) -> Option<Vec<Node>> {
        let (text, mark) = self.text(path, at)?;
        if !self.seen.iter().any(|p| p == path) {
            self.seen.push(path.to_path_buf());
        }
        let documents = parse_all(&text, mark, self.report);
        self.report.keep_text(mark, text);
        let documents = documents?;
        documents.iter().try_for_each(|root| self.acceptable(root))?;
        Some(documents)
    }

    /// A document is a mapping, and none of its size is too much.
    fn acceptable(&mut self, root: &Node) -> Option<()> {
        self.nodes += size(root);
        if self.nodes > TOTAL_MAX_NODES {
            let message = format!("the project's files have more than {TOTAL_MAX_NODES} values");
            self.report.problem(DiagnosticKind::Syntax, root.mark, "", message, None);
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
        Some(())
    }

    /// Fills in the variables, unless they are to stay.
    pub(crate) fn interpolate(&mut self, tree: &mut Node, env: &BTreeMap<String, String>) {
        variables::collect(tree, &mut self.variables);
        if !self.report.keeps_variables() {
            interpolate_tree(tree, "", env, self.report);
        }
    }

    /// Interpolates, brings into long form, and follows include and extends. `stack` holds the files that are being
    /// included, to tell circles.
    pub(crate) fn finish_file(
        &mut self,
        path: &Path,
        mut tree: Node,
        base: &Path,
        env: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Node {
        self.interpolate(&mut tree, env);
        check::file(&tree, self.report);
        Canon { base, env, report: self.report, ports_left: PORTS_MAX }.file(&mut tree);
        // What is included may be extended.
        self.include(path, &mut tree, base, env, stack);
        self.extend_services(path, &mut tree, env);
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
