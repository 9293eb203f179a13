//! What the loader has to say: positions, problems and notes. Owns their order and how they are printed; finds none itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use crate::variables::is_template;
use crate::yaml::Node;

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
    /// The line it is on, as it stands in the file.
    pub source: Option<String>,
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
            write!(f, "{}: ", Printable(&self.path))?;
        }
        write!(f, "{}", Printable(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", Printable(hint))?;
        }
        Ok(())
    }
}

/// A text of a file as a terminal may have it: control characters, line breaks excepted, are shown and not sent.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' => f.write_char(c),
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

impl Diagnostic {
    /// The problem with the line that it is on and a caret below the place, for people.
    pub fn explain(&self) -> String {
        let text = self.to_string();
        let Some(source) = &self.source else { return text };
        let shown = excerpt(source, self.line, self.column);
        match text.split_once("\n  hint: ") {
            Some((message, hint)) => format!("{message}\n{shown}\n  hint: {hint}"),
            None => format!("{text}\n{shown}"),
        }
    }
}

/// Columns of a line that are shown; of a longer one, those around the place.
const SHOWN_MAX_COLUMNS: usize = 100;
/// Columns before the place that are shown of a long line.
const BEFORE_COLUMNS: usize = 40;

/// A line of a file and a caret below the word that begins at `column`.
fn excerpt(source: &str, line: u32, column: u32) -> String {
    let chars: Vec<char> = source.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let at = (column.saturating_sub(1) as usize).min(chars.len());
    let from = if chars.len() > SHOWN_MAX_COLUMNS { at.saturating_sub(BEFORE_COLUMNS) } else { 0 };
    let to = chars.len().min(from + SHOWN_MAX_COLUMNS);
    let rest = &chars[at..to];
    let width = match rest.first() {
        Some(quote @ ('"' | '\'')) => rest.iter().skip(1).position(|c| c == quote).map(|end| end + 2),
        _ => rest.iter().position(|c| c.is_whitespace() || ",]}".contains(*c)),
    };
    let mut carets = width.unwrap_or(rest.len()).max(1);
    if rest.get(carets - 1) == Some(&':') && carets > 1 {
        carets -= 1;
    }
    let number = line.to_string();
    let edge = " ".repeat(number.len());
    let (begin, end) = (if from > 0 { "..." } else { "" }, if to < chars.len() { "..." } else { "" });
    let shown: String = chars[from..to].iter().collect();
    let blank = " ".repeat(begin.len() + at - from);
    format!("  {number} | {begin}{}{end}\n  {edge} | {blank}{}", shown.trim_end(), "^".repeat(carets))
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
        write!(f, "{}: {}: {}", self.position, Printable(&self.key), Printable(&self.text))
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
    /// Texts of the files, by their number.
    texts: BTreeMap<u32, String>,
    problems: Vec<(Mark, Diagnostic)>,
    notes: Vec<(Mark, Note)>,
    dropped: usize,
    /// Lines of files, with the fields about which nothing more is told there.
    told: BTreeSet<(u32, u32, String)>,
    /// Cosmetic refusals are notes.
    lenient: bool,
    /// Notes about what is mapped are problems.
    strict: bool,
    /// Variables stay in values.
    variables: bool,
}

/// Problems that are kept; more of them help nobody.
const PROBLEMS_MAX: usize = 200;
/// Notes that are kept.
const NOTES_MAX: usize = 10_000;

/// The key of a service, or of another part of a section, that a path is in: `services.web.ports` of `services.web.ports[0]`.
fn field(path: &str) -> String {
    let plain = path.split('[').next().unwrap_or_default();
    plain.split('.').take(3).collect::<Vec<_>>().join(".")
}

impl Report {
    pub(crate) fn new(strict: bool, lenient: bool) -> Self {
        Self { strict, lenient, ..Self::default() }
    }

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

    /// Keeps the text of a file, to show lines of it.
    pub(crate) fn keep_text(&mut self, file: Mark, text: String) {
        self.texts.insert(file.file, text);
    }

    fn line_of(&self, mark: Mark) -> Option<String> {
        let line = (mark.line as usize).checked_sub(1)?;
        self.texts.get(&mark.file)?.lines().nth(line).map(str::to_owned)
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
        if self.told.contains(&(mark.file, mark.line, field(path))) {
            return;
        }
        if self.problems.len() >= PROBLEMS_MAX {
            self.dropped += 1;
            return;
        }
        let Position { file, line, column } = self.position(mark);
        let (path, message) = (path.to_owned(), message.into());
        let problem = Diagnostic { file, line, column, path, message, hint, kind, source: None };
        // Two steps may see the same; whoever saw it first has told it.
        let told = |known: &Diagnostic| known.path == problem.path && known.kind == problem.kind;
        let same = |(at, known): &(Mark, Diagnostic)| *at == mark && (*known == problem || told(known));
        if mark.line == 0 || !self.problems.iter().any(same) {
            self.problems.push((mark, problem));
        }
    }

    /// Variables stay in values from here on.
    pub(crate) fn keep_variables(&mut self, keep: bool) {
        self.variables = keep;
    }

    /// Variables stay in values.
    pub(crate) fn keeps_variables(&self) -> bool {
        self.variables
    }

    /// Nobody can say what the value is before its variables are filled in.
    pub(crate) fn opaque(&self, node: &Node) -> bool {
        self.variables && node.as_text().is_some_and(is_template)
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

    /// A key that is refused by the list of keys; what is cosmetic may be left out instead.
    pub(crate) fn refuse(&mut self, mark: Mark, path: &str, why: &str, hint: Option<&str>, cosmetic: bool) {
        match (cosmetic, self.lenient) {
            (true, true) => self.note(mark, path, format!("left out: {why}")),
            (true, false) => {
                let hint = hint.map(|hint| format!("{hint}; --lenient leaves it out"));
                self.problem(DiagnosticKind::Unsupported, mark, path, why, hint);
            }
            (false, _) => self.unsupported(mark, path, why, hint),
        }
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

    /// From here on, a field that a problem was told about is left in peace on its line: a look from another side at the same
    /// mistake would tell it twice.
    pub(crate) fn only_other_fields(&mut self) {
        let at = |(mark, problem): &(Mark, Diagnostic)| (mark.file, mark.line, field(&problem.path));
        self.told = self.problems.iter().map(at).collect();
    }

    /// What the problems so far are about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|(_, problem)| problem.path.as_str())
    }

    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Number of problems so far; with [`Report::relax_since`] it brackets the decoding of something inactive.
    pub(crate) fn checkpoint(&self) -> (usize, usize) {
        (self.problems.len(), self.notes.len())
    }

    /// Takes back all that was said since the checkpoint.
    pub(crate) fn forget_since(&mut self, (problems, notes): (usize, usize)) {
        self.problems.truncate(problems);
        self.notes.truncate(notes);
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

    /// With `--strict` what is done in another way is refused, except defaults that the file leaves open.
    fn refuse_mapped(&mut self) {
        // A note is no second look at a problem of its line.
        self.told.clear();
        for (mark, note) in std::mem::take(&mut self.notes) {
            if note.detail {
                self.notes.push((mark, note));
                continue;
            }
            let hint = Some("without --strict it is a note".to_owned());
            self.problem(DiagnosticKind::Unsupported, mark, &note.key, note.text, hint);
        }
    }

    /// Ends the load: the problems in the order of the files, or the notes.
    pub(crate) fn finish(self) -> Result<Vec<Note>, Diagnostics> {
        let (problems, notes) = self.finish_both();
        if problems.0.is_empty() { Ok(notes) } else { Err(problems) }
    }

    /// Ends the load: the problems and the notes, both in the order of the files.
    pub(crate) fn finish_both(mut self) -> (Diagnostics, Vec<Note>) {
        let order = |m: &Mark| (m.file, m.line, m.column);
        if self.strict {
            self.refuse_mapped();
        }
        self.notes.sort_by_key(|(mark, _)| order(mark));
        let notes = std::mem::take(&mut self.notes).into_iter().map(|(_, note)| note).collect();
        self.problems.sort_by_key(|(mark, _)| order(mark));
        let lines: Vec<_> = self.problems.iter().map(|(mark, _)| self.line_of(*mark)).collect();
        let problems = self.problems.into_iter().zip(lines);
        let mut all: Vec<Diagnostic> =
            problems.map(|((_, problem), source)| Diagnostic { source, ..problem }).collect();
        if self.dropped > 0 {
            all.push(Diagnostic {
                file: String::new(),
                line: 0,
                column: 0,
                path: String::new(),
                message: format!("{} more problems are not shown", self.dropped),
                hint: None,
                kind: DiagnosticKind::Invalid,
                source: None,
            });
        }
        (Diagnostics(all), notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sends_nothing_to_the_terminal() {
        let mut report = Report::default();
        let mark = Mark { line: 1, column: 1, ..report.add_file("compose.yaml") };
        report.invalid_hint(mark, "a.\u{1b}[31m", "no \u{7}", "\u{9b}1m");
        let text = report.finish().unwrap_err().to_string();
        assert_eq!(text, "compose.yaml:1:1: a.\\u{1b}[31m: no \\u{7}\n  hint: \\u{9b}1m");
    }

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
    fn a_problem_shows_its_line_with_a_caret() {
        let mut report = Report::default();
        let file = report.add_file("f");
        report.keep_text(file, "a:\n  prots: [x]\r\n  b: ['x y', 1]\n".into());
        let at = |line, column| Mark { line, column, ..file };
        report.invalid_hint(at(2, 3), "a.prots", "unknown key", "look");
        report.invalid(at(3, 7), "a.b[0]", "no");
        let problems = report.finish().unwrap_err();
        assert_eq!(
            problems.0[0].explain(),
            "f:2:3: a.prots: unknown key\n  2 |   prots: [x]\n    |   ^^^^^\n  hint: look"
        );
        assert!(problems.0[1].explain().ends_with("\n  3 |   b: ['x y', 1]\n    |       ^^^^^"));
        let long = format!("{}here{}", "x".repeat(200), "y ".repeat(200));
        let shown = excerpt(&long, 12, 201);
        assert!(shown.lines().all(|l| l.chars().count() < 120), "{shown}");
        assert_eq!(excerpt("", 1, 9), "  1 | \n    | ^");
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
