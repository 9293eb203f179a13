//! carrack-compose: a Compose file becomes a [`StackSpec`](carrack_api::StackSpec).
//!
//! Owns the Compose specification: YAML, interpolation, `.env`, several files and how they merge, `extends`, `include`,
//! profiles, short and long forms, and what each key means for Carrack. Touches neither network nor clock nor the server;
//! files come through [`FileSource`] and the environment is a map.
//!
//! ```text
//!  yaml  ->  interpolate  ->  check        ->  canon         ->  merge     ->  stack: StackSpec, notes, positions
//!  text      ${VAR}           against the      short forms       -f files,
//!  to tree   in values        table of keys    become long       include,  ->  model: what `docker compose config` prints
//!  with                       (`keys`)         ones              extends
//!  marks
//! ```
//!
//! Each key ends in one of three ways: exact, mapped (a [`Note`]) or refused (a [`Diagnostic`] with its place and a hint).
//! A load tells all problems at once.

mod canon;
mod check;
mod dotenv;
mod fields;
mod graduate;
mod interpolate;
mod keys;
mod merge;
mod model;
pub mod outcomes;
mod project;
mod report;
mod source;
mod stack;
mod suggest;
mod units;
mod variables;
mod words;
mod yaml;

pub use graduate::{Finding, Graduation, Verdict, graduate};
pub use model::Config;
pub use project::find_default_files;
pub use report::{Diagnostic, DiagnosticKind, Diagnostics, Note, Position};
pub use source::{DiskFiles, FILE_MAX_BYTES, FileSource, MemoryFiles};
pub use stack::{BuildSecret, BuildSecretSource, BuildSpec};
pub use units::{bytes as parse_bytes, cpus as parse_cpus};
pub use variables::{Variable, Variables};

use std::collections::BTreeMap;
use std::path::PathBuf;

use carrack_api::{Contents, ServiceName, StackSpec};
use report::Report;
use stack::{ContentSource, Places};

/// What a load starts from.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `-f`, in order; relative to `working_dir`; `-` is standard input. Empty: `COMPOSE_FILE`, else the default names are
    /// looked for in `working_dir` and its parents, with their override file.
    pub files: Vec<PathBuf>,
    /// Where the user is; absolute.
    pub working_dir: PathBuf,
    /// `--project-directory`; else the directory of the first file.
    pub project_dir: Option<PathBuf>,
    /// `-p`; else `COMPOSE_PROJECT_NAME`, the file's `name:`, the name of the project directory.
    pub project_name: Option<String>,
    /// The environment of the user; it wins over `.env`.
    pub env: BTreeMap<String, String>,
    /// `--env-file`, in order; else `.env` of the project directory when it is there.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; else `COMPOSE_PROFILES`; `*` is all.
    pub profiles: Vec<String>,
    /// Services that are asked for by name, whatever profile they are in; with what they depend on they are all there is of
    /// a model. Empty: all.
    pub services: Vec<String>,
    /// Variables stay as they are written, and what they mean for each other is not looked at. For models only.
    pub keep_variables: bool,
    /// `--strict`: what would be done in another way than Docker Compose does is refused.
    pub strict: bool,
    /// `--lenient`: what is refused and does not matter for the application is left out with a note.
    pub lenient: bool,
}

/// A file that was understood.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is wanted.
    pub stack: StackSpec,
    /// What is honoured in another way than Docker Compose would.
    pub notes: Vec<Note>,
    /// Compose files that were read, in order.
    pub files: Vec<PathBuf>,
    /// The project directory.
    pub project_dir: PathBuf,
    /// How the images of services are built; those are in `stack` under the name that a build gives them.
    pub builds: BTreeMap<ServiceName, BuildSpec>,
    /// Services that no active profile asks for.
    pub inactive: Vec<ServiceName>,
    contents: Vec<ContentSource>,
    places: Places,
}

/// Default names of a Compose file, best first.
pub const DEFAULT_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

impl Loaded {
    /// Reads the content of the stack's own secrets and configs from the files and variables that they name. A load reads
    /// none of it, so that a file can be checked without its secrets.
    pub fn contents(&self, files: &dyn FileSource) -> Result<Contents, Diagnostics> {
        stack::read_contents(&self.contents, files)
    }

    /// Where a value stands, by the path of a spec or of a file: `services.web.ports[0].published`; the nearest place above
    /// it when it stands nowhere itself.
    pub fn position_of(&self, path: &str) -> Option<Position> {
        self.places.find(path)
    }
}

/// Loads a project.
///
/// ```
/// use carrack_compose::{LoadOptions, MemoryFiles, load};
///
/// let files = MemoryFiles::default().with("/app/compose.yaml", "services: {web: {image: nginx, prots: []}}");
/// let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
/// let problems = load(&options, &files).unwrap_err();
/// assert_eq!(
///     problems.to_string(),
///     "compose.yaml:1:32: services.web.prots: unknown key\n  hint: did you mean `ports`?"
/// );
/// ```
pub fn load(options: &LoadOptions, files: &dyn FileSource) -> Result<Loaded, Diagnostics> {
    let mut report = Report::new(options.strict, options.lenient);
    let mut project = project::read(options, files, &mut report);
    if let Some(project) = &mut project {
        canon::undrive(&mut project.root);
    }
    let built = project.as_ref().and_then(|project| stack::build(project, files, &mut report));
    if let Some(project) = &project {
        report.only_other_fields();
        model::check(project, &mut report);
    }
    let notes = report.finish()?;
    let (Some(project), Some(built)) = (project, built) else { return Err(silence()) };
    Ok(Loaded {
        stack: built.stack,
        notes,
        files: project.files,
        project_dir: project.dir,
        builds: built.builds,
        inactive: built.inactive,
        contents: built.contents,
        places: built.places,
    })
}

/// The canonical model of a project: what `docker compose config` prints.
///
/// ```
/// use carrack_compose::{LoadOptions, MemoryFiles, config};
///
/// let files = MemoryFiles::default().with("/app/compose.yaml", "services: {web: {image: nginx, ports: ['8080:80']}}");
/// let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
/// let config = config(&options, &files).unwrap();
/// assert_eq!(config.model["services"]["web"]["ports"][0]["published"], "8080");
/// ```
pub fn config(options: &LoadOptions, files: &dyn FileSource) -> Result<Config, Diagnostics> {
    let mut report = Report::default();
    report.keep_variables(options.keep_variables);
    let project = project::read(options, files, &mut report);
    let built = project.as_ref().map(|project| model::build(project, files, &mut report));
    let notes = report.finish()?;
    let (Some(project), Some(built)) = (project, built) else { return Err(silence()) };
    Ok(Config::new(built, project, notes))
}

/// Each step that gives nothing has told why; were it not so, silence would be the worst answer.
fn silence() -> Diagnostics {
    Diagnostics(vec![Diagnostic {
        file: String::new(),
        line: 0,
        column: 0,
        path: String::new(),
        message: "the project cannot be loaded".into(),
        hint: None,
        kind: DiagnosticKind::Invalid,
        source: None,
    }])
}
