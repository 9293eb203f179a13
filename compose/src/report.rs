//! What the loader has to say: positions, problems and notes. Owns their order and how they are printed; finds none itself.

use std::fmt;

/// A place in a file; lines and columns count from 1, and line 0 means the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file as the user would write it.
    pub file: String,
    /// Line from 1; 0 for the file as a whole.
    pub line: u32,
    /// Column from 1, in characters.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that stops the file from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file it is in; empty when it is about no file.
    pub file: String,
    /// Line from 1; 0 for the file as a whole.
    pub line: u32,
    /// Column from 1.
    pub column: u32,
    /// The key it is about, for example `services.web.ports[0]`; may be empty.
    pub path: String,
    /// What is wrong, lower case.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Of what sort it is.
    pub kind: DiagnosticKind,
}

/// Of what sort a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiagnosticKind {
    /// The file cannot be read or is no YAML.
    Syntax,
    /// A key that the specification does not know.
    UnknownKey,
    /// A value that the specification does not allow.
    Invalid,
    /// Right by the specification, but Carrack cannot do it (yet).
    Unsupported,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            let at = Position { file: self.file.clone(), line: self.line, column: self.column };
            write!(f, "{at}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// All problems of a load, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A key that is honoured in another way than Docker Compose would, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where the key stands.
    pub position: Position,
    /// The key, for example `services.web.container_name`.
    pub key: String,
    /// What is done with it, one sentence part in lower case.
    pub text: String,
    /// Only about a default that the file leaves open; shown when asked for details.
    pub detail: bool,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.position, self.key, self.text)
    }
}

/// A place as the tree keeps it: an index into the files of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Collects problems and notes while a load goes on.
#[derive(Debug, Default)]
pub(crate) struct Report {
    files: Vec<String>,
    problems: Vec<(Mark, Diagnostic)>,
    notes: Vec<(Mark, Note)>,
    dropped: usize,
}

/// Problems that are kept; more of them help nobody.
const PROBLEMS_MAX: usize = 200;
/// Notes that are kept.
const NOTES_MAX: usize = 10_000;

impl Report {
    /// Makes a file known and gives the mark that means the file as a whole.
    pub(crate) fn add_file(&mut self, display: &str) -> Mark {
        let index = match self.files.iter().position(|f| f == display) {
            Some(index) => index,
            None => {
                self.files.push(display.to_owned());
                self.files.len() - 1
            }
        };
        Mark { file: u32::try_from(index + 1).unwrap_or(0), line: 0, column: 0 }
    }

    pub(crate) fn position(&self, mark: Mark) -> Position {
        let file = (mark.file as usize).checked_sub(1).and_then(|i| self.files.get(i));
        Position { file: file.cloned().unwrap_or_default(), line: mark.line, column: mark.column }
    }

    pub(crate) fn problem(
        &mut self,
        kind: DiagnosticKind,
        mark: Mark,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.dropped += 1;
            return;
        }
        let Position { file, line, column } = self.position(mark);
        let (path, message) = (path.to_owned(), message.into());
        let problem = Diagnostic { file, line, column, path, message, hint, kind };
        if !self.problems.iter().any(|(_, known)| *known == problem) {
            self.problems.push((mark, problem));
        }
    }

    /// A value that the specification does not allow.
    pub(crate) fn invalid(&mut self, mark: Mark, path: &str, message: impl Into<String>) {
        self.problem(DiagnosticKind::Invalid, mark, path, message, None);
    }

    /// The same with a hint.
    pub(crate) fn invalid_hint(
        &mut self,
        mark: Mark,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problem(DiagnosticKind::Invalid, mark, path, message, Some(hint.into()));
    }

    /// Right by the specification, but not for us.
    pub(crate) fn unsupported(
        &mut self,
        mark: Mark,
        path: &str,
        message: impl Into<String>,
        hint: Option<&str>,
    ) {
        self.problem(DiagnosticKind::Unsupported, mark, path, message, hint.map(str::to_owned));
    }

    /// A key that is honoured in another way than written.
    pub(crate) fn note(&mut self, mark: Mark, key: &str, text: impl Into<String>) {
        self.push_note(mark, key, text.into(), false);
    }

    /// A default that the file leaves open.
    pub(crate) fn detail(&mut self, mark: Mark, key: &str, text: impl Into<String>) {
        self.push_note(mark, key, text.into(), true);
    }

    fn push_note(&mut self, mark: Mark, key: &str, text: String, detail: bool) {
        if self.notes.len() >= NOTES_MAX {
            return;
        }
        let note = Note { position: self.position(mark), key: key.to_owned(), text, detail };
        if !self.notes.iter().any(|(_, known)| *known == note) {
            self.notes.push((mark, note));
        }
    }

    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Number of problems so far; with [`Report::relax_since`] it brackets the decoding of something inactive.
    pub(crate) fn checkpoint(&self) -> (usize, usize) {
        (self.problems.len(), self.notes.len())
    }

    /// Takes back what was said about missing features since the checkpoint, and all notes: nobody asked to run it.
    pub(crate) fn relax_since(&mut self, (problems, notes): (usize, usize)) {
        let mut index = 0;
        self.problems.retain(|(_, p)| {
            index += 1;
            index <= problems || p.kind != DiagnosticKind::Unsupported
        });
        self.notes.truncate(notes);
    }

    /// Ends the load: the problems in the order of the files, or the notes.
    pub(crate) fn finish(mut self) -> Result<Vec<Note>, Diagnostics> {
        let order = |m: &Mark| (m.file, m.line, m.column);
        if self.problems.is_empty() {
            self.notes.sort_by_key(|(mark, _)| order(mark));
            return Ok(self.notes.into_iter().map(|(_, note)| note).collect());
        }
        self.problems.sort_by_key(|(mark, _)| order(mark));
        let mut all: Vec<Diagnostic> = self.problems.into_iter().map(|(_, problem)| problem).collect();
        if self.dropped > 0 {
            all.push(Diagnostic {
                file: String::new(),
                line: 0,
                column: 0,
                path: String::new(),
                message: format!("{} more problems are not shown", self.dropped),
                hint: None,
                kind: DiagnosticKind::Invalid,
            });
        }
        Err(Diagnostics(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_printed_with_place_path_and_hint_in_file_order() {
        let mut report = Report::default();
        let file = report.add_file("compose.yaml");
        let at = |line, column| Mark { line, column, ..file };
        report.invalid(at(9, 1), "services.b", "second");
        let hint = Some("did you mean `ports`?".to_owned());
        report.problem(DiagnosticKind::UnknownKey, at(7, 5), "services.web.prots", "unknown key", hint);
        let text = report.finish().unwrap_err().to_string();
        assert_eq!(
            text,
            "compose.yaml:7:5: services.web.prots: unknown key\n  hint: did you mean `ports`?\n\
             compose.yaml:9:1: services.b: second"
        );
    }

    #[test]
    fn an_inactive_part_may_use_missing_features_but_not_be_wrong() {
        let mut report = Report::default();
        let mark = report.add_file("f");
        report.unsupported(mark, "a", "kept", None);
        let before = report.checkpoint();
        report.unsupported(mark, "b", "taken back", None);
        report.invalid(mark, "b", "wrong");
        report.note(mark, "b", "note");
        report.relax_since(before);
        let left: Vec<String> = report.finish().unwrap_err().0.into_iter().map(|p| p.message).collect();
        assert_eq!(left, ["kept", "wrong"]);
    }
}
