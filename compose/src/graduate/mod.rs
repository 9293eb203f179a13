//! What running a project on many hosts would change or break, told from its files alone. Owns the verdicts; what a key
//! becomes on any number of hosts is `stack`'s.

mod rules;

use carrack_api::StackName;

use crate::report::{Diagnostic, DiagnosticKind, Diagnostics, Note, Position, Report};
use crate::{FileSource, LoadOptions, model, project, stack};

/// What is to be known before a project moves to many hosts.
#[derive(Debug, Clone)]
pub struct Graduation {
    /// The stack, when the files say so much.
    pub stack: Option<StackName>,
    /// Services that would run.
    pub services: usize,
    /// All that was found, in the order of the files.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub verdict: Verdict,
    /// Where it stands.
    pub position: Position,
    /// The key, for example `services.web.volumes[0]`.
    pub key: String,
    /// What happens, one sentence part in lower case.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

/// How much a finding matters, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The file is wrong.
    Invalid,
    /// Carrack cannot do it, on one host or on many.
    Refused,
    /// It works on one host and does not on another, or not with several replicas.
    Breaks,
    /// It works on many hosts, and otherwise than on one.
    Changes,
    /// It is honoured in another way than Docker Compose does, on any number of hosts.
    Mapped,
}

impl Verdict {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Breaks => "breaks",
            Self::Changes => "changes",
            Self::Mapped => "mapped",
        }
    }

    /// The project cannot move as it is.
    pub fn stops(self) -> bool {
        match self {
            Self::Invalid | Self::Refused | Self::Breaks => true,
            Self::Changes | Self::Mapped => false,
        }
    }
}

impl Graduation {
    /// The worst of all findings.
    pub fn worst(&self) -> Option<Verdict> {
        self.findings.iter().map(|finding| finding.verdict).min()
    }
}

/// Checks what many hosts would change for a project. Nothing but the files is asked.
///
/// ```
/// use carrack_compose::{LoadOptions, MemoryFiles, Verdict, graduate};
///
/// let text = "services: {web: {image: nginx, network_mode: host}}";
/// let files = MemoryFiles::default().with("/app/compose.yaml", text);
/// let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
/// let found = graduate(&options, &files);
/// assert_eq!(found.worst(), Some(Verdict::Changes));
/// ```
pub fn graduate(options: &LoadOptions, files: &dyn FileSource) -> Graduation {
    let mut report = Report::new(options.strict, options.lenient);
    let mut out = Graduation { stack: None, services: 0, findings: Vec::new() };
    let Some(mut project) = project::read(options, files, &mut report) else {
        let (problems, _) = report.finish_both();
        out.findings.extend(problems.0.into_iter().map(Finding::of_problem));
        return out;
    };
    crate::canon::undrive(&mut project.root);
    let decoded = stack::decode(&project, files, &mut report);
    if let Some(decoded) = &decoded {
        out.stack = Some(decoded.stack.name.clone());
        out.services = decoded.stack.services.len();
        stack::check(decoded, &mut report);
    }
    report.only_other_fields();
    model::check(&project, &mut report);
    let sources = decoded.iter().flat_map(|decoded| &decoded.contents);
    let missing: Vec<Diagnostic> = sources.filter_map(|source| source.missing(files)).collect();
    let found = decoded.map(|decoded| rules::all(&project, &decoded, files)).unwrap_or_default();
    let found: Vec<Finding> = found.into_iter().map(|found| found.placed(&report)).collect();
    let (Diagnostics(problems), notes) = report.finish_both();
    out.findings = problems.into_iter().chain(missing).map(Finding::of_problem).collect();
    // What is found about a key says more than the note about it.
    let noted = notes.into_iter().filter(|note| !note.detail && !found.iter().any(|f| f.key == note.key));
    out.findings.extend(noted.map(Finding::of_note));
    out.findings.extend(found);
    out.findings.sort_by(|a, b| (&a.position, a.verdict, &a.key).cmp(&(&b.position, b.verdict, &b.key)));
    out
}

impl Finding {
    fn of_problem(problem: Diagnostic) -> Self {
        let verdict = match problem.kind {
            DiagnosticKind::Unsupported => Verdict::Refused,
            DiagnosticKind::Syntax | DiagnosticKind::UnknownKey | DiagnosticKind::Invalid => Verdict::Invalid,
        };
        let position = Position { file: problem.file, line: problem.line, column: problem.column };
        Self { verdict, position, key: problem.path, text: problem.message, hint: problem.hint }
    }

    fn of_note(note: Note) -> Self {
        let Note { position, key, text, .. } = note;
        Self { verdict: Verdict::Mapped, position, key, text, hint: None }
    }
}

#[cfg(test)]
mod tests;
