//! carrack-compose: a Compose file becomes a [`StackSpec`](carrack_api::StackSpec).
//!
//! Owns the Compose specification: YAML, interpolation, `.env`, several files and how they merge, `extends`, `include`,
//! profiles, short and long forms, and what each key means for Carrack. Touches neither network nor clock nor the server;
//! files come through [`FileSource`] and the environment is a map.
//!
//! ```text
//!  yaml  ->  interpolate  ->  canon          ->  merge     ->  stack
//!  text      ${VAR}           short forms        -f files,     StackSpec, notes,
//!  to tree   in values        become long        extends,      positions
//!  with                       ones               include
//!  marks
//! ```
//!
//! Each key ends in one of three ways: exact, mapped (a [`Note`]) or refused (a [`Diagnostic`] with its place and a hint).
//! A load tells all problems at once.

mod canon;
mod dotenv;
mod fields;
mod interpolate;
mod merge;
mod project;
mod report;
mod source;
mod stack;
mod suggest;
mod units;
mod words;
mod yaml;

pub use project::find_default_files;
pub use report::{Diagnostic, DiagnosticKind, Diagnostics, Note, Position};
pub use source::{DiskFiles, FILE_MAX_BYTES, FileSource, MemoryFiles};
pub use units::{bytes as parse_bytes, cpus as parse_cpus};

use std::collections::BTreeMap;
use std::path::PathBuf;

use carrack_api::{ServiceName, StackSpec};
use report::Report;
use stack::Places;

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
    /// Services that no active profile asks for.
    pub inactive: Vec<ServiceName>,
    places: Places,
}

/// Default names of a Compose file, best first.
pub const DEFAULT_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

impl Loaded {
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
    let mut report = Report::default();
    let project = project::read(options, files, &mut report);
    let built = project.as_ref().and_then(|project| stack::build(project, files, &mut report));
    let notes = report.finish()?;
    let (Some(project), Some(built)) = (project, built) else {
        // Each step that gives nothing has told why; were it not so, silence would be the worst answer.
        return Err(Diagnostics(vec![Diagnostic {
            file: String::new(),
            line: 0,
            column: 0,
            path: String::new(),
            message: "the project cannot be loaded".into(),
            hint: None,
            kind: DiagnosticKind::Invalid,
        }]));
    };
    Ok(Loaded {
        stack: built.stack,
        notes,
        files: project.files,
        project_dir: project.dir,
        inactive: built.inactive,
        places: built.places,
    })
}
