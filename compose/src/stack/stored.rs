//! `secrets` and `configs`, at the top and in services: what they are called, where their content comes from and which files
//! containers see. Content is not read here but when it is asked for, so that checking a file opens no secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carrack_api::content::SECRETS_DIR;
use carrack_api::validate::{Place, clashes};
use carrack_api::{
    CONTENT_FILE_MODE, CONTENT_MAX_BYTES, Content, ContentFile, ContentKind, ContentName, ContentSpec,
    Contents, StackSpec,
};

use super::Build;
use crate::fields::{Fields, Item};
use crate::report::{Diagnostic, DiagnosticKind, Diagnostics, Mark, Position, Report};
use crate::source::FileSource;

/// Files of the project that become configs, bytes in all.
const SMALL_FILES_MAX_BYTES: usize = 1 << 20;
/// Permission bits of such a file: it may be a script.
const SMALL_FILE_MODE: u32 = 0o555;

/// A secret or config of the file.
pub(super) struct ContentDef {
    name: ContentName,
    spec: ContentSpec,
    source: Option<ContentSource>,
    mark: Mark,
}

/// Something that stands at a path of a container, with the entry that says so.
pub(super) struct Placed {
    path: String,
    mark: Mark,
    target: String,
    file: bool,
}

/// Where the content of a secret or config comes from.
#[derive(Debug, Clone)]
pub(crate) struct ContentSource {
    kind: ContentKind,
    name: ContentName,
    /// The key that names the source, and where it stands.
    path: String,
    position: Position,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
    File(PathBuf),
    /// A text of the file or of the environment.
    Text(Content),
    /// A variable that is not set.
    Unset(String),
}

impl ContentSource {
    fn read(&self, files: &dyn FileSource) -> Result<Content, (String, Option<String>)> {
        let content = match &self.origin {
            Origin::Text(content) => content.clone(),
            Origin::File(path) => Content::new(files.read(path).map_err(|error| unreadable(path, &error))?),
            Origin::Unset(variable) => return Err(unset(variable)),
        };
        let bytes = content.bytes().len();
        if bytes > CONTENT_MAX_BYTES {
            let message = format!("{bytes} bytes; a {} has at most {CONTENT_MAX_BYTES}", self.kind);
            return Err((message, Some("use a volume for larger files".to_owned())));
        }
        Ok(content)
    }

    /// What a deploy would say, as far as it can be said without reading the content.
    pub(crate) fn missing(&self, files: &dyn FileSource) -> Option<Diagnostic> {
        use std::io::ErrorKind;
        let problem = match &self.origin {
            Origin::File(path) if !files.exists(path) => unreadable(path, &ErrorKind::NotFound.into()),
            Origin::File(path) if files.is_dir(path) => unreadable(path, &ErrorKind::IsADirectory.into()),
            Origin::Unset(variable) => unset(variable),
            Origin::File(_) | Origin::Text(_) => return None,
        };
        Some(self.told(problem))
    }

    fn told(&self, (message, hint): (String, Option<String>)) -> Diagnostic {
        let Position { file, line, column } = self.position.clone();
        let (path, kind) = (self.path.clone(), DiagnosticKind::Invalid);
        Diagnostic { file, line, column, path, message, hint, kind, source: None }
    }
}

fn unset(variable: &str) -> (String, Option<String>) {
    let hint = format!("set it, for example with `export {variable}=...` or in `.env`");
    (format!("the environment variable {variable} is not set"), Some(hint))
}

fn unreadable(path: &Path, error: &std::io::Error) -> (String, Option<String>) {
    use std::io::ErrorKind;
    let hint = match error.kind() {
        ErrorKind::NotFound => "create it, or correct the path",
        ErrorKind::IsADirectory => "name one file; a directory can be a volume",
        ErrorKind::PermissionDenied => "deploy as a user who may read it",
        ErrorKind::FileTooLarge => "use a volume for larger files",
        _ => return (format!("{} cannot be read: {error}", path.display()), None),
    };
    (format!("{} cannot be read: {error}", path.display()), Some(hint.to_owned()))
}

/// Reads the content of all sources; every one that cannot be read is told.
pub(crate) fn read_all(sources: &[ContentSource], files: &dyn FileSource) -> Result<Contents, Diagnostics> {
    let (mut contents, mut problems) = (Contents::default(), Vec::new());
    for source in sources {
        match source.read(files) {
            Ok(content) => {
                contents.of_mut(source.kind).insert(source.name.clone(), content);
            }
            Err(problem) => problems.push(source.told(problem)),
        }
    }
    if problems.is_empty() { Ok(contents) } else { Err(Diagnostics(problems)) }
}

impl Build<'_> {
    /// Top-level `secrets` and `configs`.
    pub(super) fn contents(&mut self, root: &mut Fields<'_>, stack: &str) {
        for (kind, key) in [(ContentKind::Secret, "secrets"), (ContentKind::Config, "configs")] {
            for (key, item) in root.take(key).map(|i| i.entries(self.report)).unwrap_or_default() {
                if let Some(def) = self.content(kind, key, &item, stack) {
                    self.contents.insert((kind, key.to_owned()), def);
                }
            }
        }
    }

    fn content(&mut self, kind: ContentKind, key: &str, item: &Item<'_>, stack: &str) -> Option<ContentDef> {
        let mut fields = Fields::open(item, self.report)?;
        let written = fields.take("name").and_then(|i| i.text(self.report));
        let (external, old) = self.external(&mut fields);
        let full = Self::full_name((written, old), external, key, stack);
        let labels = fields.take("labels").map(|i| i.labels(self.report)).unwrap_or_default();
        for key in ["driver", "template_driver"] {
            if let Some(item) = fields.take(key)
                && !item.node.as_text().is_some_and(str::is_empty)
            {
                let hint = Some("take it away; content is stored as it is");
                item.unsupported(format!("drivers of {}s are not built yet", kind), hint, self.report);
            }
        }
        fields.note("driver_opts", "options of a driver mean nothing without one", self.report);
        let name = match ContentName::new(full) {
            Ok(name) => Some(name),
            Err(error) => {
                item.invalid(error.to_string(), self.report);
                None
            }
        };
        let origins = self.origins(&mut fields);
        fields.finish(&[], self.report);
        let (name, mark) = (name?, item.mark());
        let spec = ContentSpec { external, labels };
        let mut source = None;
        match (external, origins.as_slice()) {
            (true, []) => {}
            (true, [(path, mark, _), ..]) => {
                let text = "an external one is made elsewhere and has no content here";
                self.report.invalid_hint(*mark, path, text, "take one of the two away");
            }
            (false, [(path, mark, origin)]) => {
                let (path, position) = (path.clone(), self.report.position(*mark));
                source =
                    Some(ContentSource { kind, name: name.clone(), path, position, origin: origin.clone() });
            }
            (false, []) => {
                let hint = "give it `file:`, `environment:` or `content:`, or `external: true`";
                item.invalid_hint(format!("the {kind} has no content"), hint, self.report);
            }
            (false, [_, (path, mark, _), ..]) => {
                self.report.invalid_hint(*mark, path, "its content has a source already", "keep one of them");
            }
        }
        Some(ContentDef { name, spec, source, mark })
    }

    /// What the keys `file`, `environment` and `content` say.
    fn origins(&mut self, fields: &mut Fields<'_>) -> Vec<(String, Mark, Origin)> {
        let mut found = Vec::new();
        for key in ["file", "environment", "content"] {
            let Some(item) = fields.take(key) else { continue };
            let Some(text) = item.text(self.report) else { continue };
            let origin = match key {
                "file" => Origin::File(PathBuf::from(text)),
                "environment" => match self.env.get(&text) {
                    Some(value) => Origin::Text(Content::new(value.clone().into_bytes())),
                    None => Origin::Unset(text),
                },
                _ => Origin::Text(Content::new(text.into_bytes())),
            };
            found.push((item.path.clone(), item.mark(), origin));
        }
        found
    }

    /// `secrets` and `configs` of a service.
    pub(super) fn content_files(&mut self, fields: &mut Fields<'_>) -> Vec<ContentFile> {
        let mut files = Vec::new();
        for (kind, key) in [(ContentKind::Secret, "secrets"), (ContentKind::Config, "configs")] {
            for item in fields.take(key).map(|i| i.items(self.report)).unwrap_or_default() {
                files.extend(self.content_file(kind, &item));
            }
        }
        files
    }

    fn content_file(&mut self, kind: ContentKind, item: &Item<'_>) -> Option<ContentFile> {
        let mut fields = Fields::open(item, self.report)?;
        let source = fields.take("source").and_then(|i| i.text(self.report));
        let target = fields.take("target").and_then(|i| i.text(self.report)).filter(|t| !t.is_empty());
        let uid = fields.take("uid").map_or(Some(0), |i| owner(&i, self.report));
        let gid = fields.take("gid").map_or(Some(0), |i| owner(&i, self.report));
        let mode = fields.take("mode").map_or(Some(CONTENT_FILE_MODE), |i| mode(&i, self.report));
        fields.finish(&[], self.report);
        let Some(source) = source.filter(|source| !source.is_empty()) else {
            item.invalid_hint(
                "names no source",
                "add `source:` with a name of the top of the file",
                self.report,
            );
            return None;
        };
        let Some(def) = self.contents.get(&(kind, source.clone())) else {
            if self.is_at_top(kind.plural(), &source) {
                return None;
            }
            let known = self.contents.keys().filter(|(of, _)| *of == kind).map(|(_, key)| key.as_str());
            let hint = match crate::suggest::nearest(&source, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("name it under `{}` at the top of the file", kind.plural()),
            };
            item.invalid_hint(
                format!("there is no {kind} {source:?} at the top of the file"),
                &hint,
                self.report,
            );
            return None;
        };
        let name = def.name.clone();
        let target = place(kind, target.as_deref().unwrap_or(&source));
        self.used_contents.insert((kind, source));
        self.placed(item, &target, true);
        Some(ContentFile { kind, name, target, uid: uid?, gid: gid?, mode: mode?, digest: None })
    }

    /// A file of the project that is only read and is no larger than a config may be is one: every node then has it. What does
    /// not fit stays a path of one node.
    pub(super) fn small_file(&mut self, item: &Item<'_>, path: &str, target: &str) -> Option<ContentFile> {
        let file = Path::new(path);
        let below = file.strip_prefix(self.dir).ok()?.to_str()?;
        if below.is_empty() || self.small_bytes >= SMALL_FILES_MAX_BYTES || !self.files.is_file(file) {
            return None;
        }
        let key = (ContentKind::Config, format!("./{below}"));
        let strange = |c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c);
        let name = ContentName::new(format!("{}_{}", self.name, below.replace(strange, "-"))).ok()?;
        match self.contents.get(&key) {
            Some(_) => {}
            // Two paths that look the same as a name.
            None if self.contents.values().any(|def| def.name == name) => return None,
            None => {
                let bytes = self.files.read(file).ok()?.len();
                if bytes > CONTENT_MAX_BYTES || self.small_bytes + bytes > SMALL_FILES_MAX_BYTES {
                    return None;
                }
                self.small_bytes += bytes;
                let source = ContentSource {
                    kind: ContentKind::Config,
                    name: name.clone(),
                    path: item.path.clone(),
                    position: self.report.position(item.mark()),
                    origin: Origin::File(file.to_path_buf()),
                };
                let spec = ContentSpec::default();
                let def = ContentDef { name: name.clone(), spec, source: Some(source), mark: item.mark() };
                self.contents.insert(key.clone(), def);
            }
        }
        self.used_contents.insert(key);
        let form = "of a bind mount of a small file of the project, read-only";
        item.listed_as("services.volumes.source", form, &format!("./{below}"), self.report);
        self.placed(item, target, true);
        let (kind, target) = (ContentKind::Config, target.to_owned());
        Some(ContentFile { kind, name, target, uid: 0, gid: 0, mode: SMALL_FILE_MODE, digest: None })
    }

    /// Something of the service that is read now stands at a path of its container.
    pub(super) fn placed(&mut self, item: &Item<'_>, target: &str, file: bool) {
        self.places.push(Placed {
            path: item.path.clone(),
            mark: item.mark(),
            target: target.to_owned(),
            file,
        });
    }

    /// No secret or config of the service may hide behind a mount or another file, nor hide one.
    pub(super) fn check_places(&mut self) {
        let placed = std::mem::take(&mut self.places);
        let places: Vec<Place<'_>> = placed
            .iter()
            .map(|Placed { path, target, file, .. }| Place { path: path.clone(), target, file: *file })
            .collect();
        for clash in clashes(&places) {
            let (place, other) = (&placed[clash.place], &placed[clash.other]);
            let there = self.report.position(other.mark);
            let text = match clash.below {
                false => format!("{:?} is the place of {} already ({there})", place.target, other.path),
                true => format!("{:?} is below {} ({there}), which is a file", place.target, other.path),
            };
            self.report.invalid_hint(place.mark, &place.path, text, "give one of them another `target:`");
        }
    }

    /// Secrets and configs that no active service uses are not made and not read, as networks and volumes.
    pub(super) fn keep_used_contents(&mut self, stack: &mut StackSpec) -> Vec<ContentSource> {
        let mut sources = Vec::new();
        for ((kind, key), def) in std::mem::take(&mut self.contents) {
            if !self.used_contents.contains(&(kind, key.clone())) {
                let path = format!("{}.{key}", kind.plural());
                self.report.detail(def.mark, &path, "is used by no service and not made");
                continue;
            }
            let specs: &mut BTreeMap<_, _> = match kind {
                ContentKind::Secret => &mut stack.secrets,
                ContentKind::Config => &mut stack.configs,
            };
            let external = def.spec.external;
            // Two keys may lead to one that was made elsewhere.
            let before = specs.insert(def.name.clone(), def.spec);
            if before.is_some_and(|before| !(external && before.external)) {
                let (path, text) =
                    (format!("{}.{key}", kind.plural()), format!("{} is named twice", def.name));
                self.report.invalid_hint(def.mark, &path, text, "give one of them another `name:`");
            }
            sources.extend(def.source);
        }
        sources
    }
}

/// The place in the container: a name alone is one below `/run/secrets`, and one below `/` for a config, as in Compose.
fn place(kind: ContentKind, target: &str) -> String {
    match (target.starts_with('/'), kind) {
        (true, _) => target.to_owned(),
        (false, ContentKind::Secret) => format!("{SECRETS_DIR}/{target}"),
        (false, ContentKind::Config) => format!("/{target}"),
    }
}

/// A numeric id; names would be those of an image that is not here.
fn owner(item: &Item<'_>, report: &mut Report) -> Option<u32> {
    let text = item.text(report)?;
    let id = text.parse().ok();
    if id.is_none() {
        item.invalid_hint(
            format!("{text:?} is no number"),
            "ids of users and groups are numbers here",
            report,
        );
    }
    id
}

/// `0440`, `0o440` and, as a text in quotes, `"440"`; a number without a zero in front is decimal, as in YAML.
fn mode(item: &Item<'_>, report: &mut Report) -> Option<u32> {
    let quoted = item.node.as_text().filter(|_| item.is_quoted());
    let bits = match quoted {
        Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        None => item.int(report).and_then(|bits| u32::try_from(bits).ok()),
    };
    if bits.is_none_or(|bits| bits > 0o777) {
        item.invalid_hint("expected permission bits", "for example 0440", report);
        return None;
    }
    bits
}
