//! Secrets and configs: which content each name stands for, what a deploy brings, and what nobody needs any more.
//!
//! Content is kept by what it is: a record a content, under its digest, beside the revisions that name it. So a change of content
//! is a change of the spec and rolls its users, unchanged content changes nothing, and a revision that comes back finds its own.
//! A record goes with the last revision, one-off task or name that leads to it; the plan sees to that (`plan/history`).
//!
//! Owns these rules as changes for a transaction; how content is sealed is `rest`'s, who may ask is the server's.

mod rest;

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::{
    CONTENT_MAX_BYTES, CONTENTS_MAX_BYTES, Content, ContentFile, ContentKind, ContentName, Contents,
    FieldProblem, Problem, ServiceKey, ServiceSpec, StackName, StackSpec, Timestamp,
};

pub(crate) use rest::{OpenContents, digest, forget, keep, opens, read};

use crate::credentials::{SealError, Vault};
use crate::store::{Key, Op, Snapshot, StackPhase};

/// What a deploy changes beside its stack, and what must not have changed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) expect: Vec<(Key, Option<u64>)>,
    pub(crate) ops: Vec<Op>,
}

/// Why a deploy's secrets and configs cannot be had.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Fields of the spec lead to nothing.
    Fields(Vec<FieldProblem>),
    /// A name belongs to somebody else, or there is too much.
    Whole(Problem),
    /// They could not be encrypted.
    Seal(SealError),
}

/// What a name stands for, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) digest: String,
    /// The stack that brought it; `None` for one made by command.
    pub(crate) stack: Option<StackName>,
    pub(crate) labels: BTreeMap<String, String>,
}

type Digests = BTreeMap<(ContentKind, ContentName), String>;

/// Writes into every file of the spec what its name stands for: the content that was given, else the one that the revision in
/// force has; of an external one what its name stands for now. Answers the changes that keep what was given.
pub(crate) fn settle(
    vault: &Vault,
    snapshot: &Snapshot,
    spec: &mut StackSpec,
    given: &Contents,
    now: Timestamp,
) -> Result<Brought, Refused> {
    check_sizes(given).map_err(Refused::Whole)?;
    let in_force = active_spec(snapshot, &spec.name).map(digests_of).unwrap_or_default();
    let mut digests = Digests::new();
    for kind in [ContentKind::Secret, ContentKind::Config] {
        for (name, content) in spec.contents(kind) {
            let found = find(snapshot, kind, name);
            let digest = match (content.external, given.of(kind).get(name)) {
                (true, _) => found.map(|found| found.digest),
                (false, _) if found.as_ref().is_some_and(|f| f.stack.as_ref() != Some(&spec.name)) => {
                    return Err(Refused::Whole(taken(kind, name, found.and_then(|found| found.stack))));
                }
                (false, Some(content)) => Some(digest(vault, kind, name, content)),
                (false, None) => in_force.get(&(kind, name.clone())).cloned(),
            };
            digests.extend(digest.map(|digest| ((kind, name.clone()), digest)));
        }
    }
    let problems = fill(spec, &digests);
    if !problems.is_empty() {
        return Err(Refused::Fields(problems));
    }
    bring(vault, snapshot, spec, given, now).map_err(Refused::Seal)
}

/// Writes the digests into the files; answers those without one.
fn fill(spec: &mut StackSpec, digests: &Digests) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let (secrets, configs) = (spec.secrets.clone(), spec.configs.clone());
    for (service, spec) in &mut spec.services {
        let mut seen: BTreeMap<ContentKind, usize> = BTreeMap::new();
        for file in &mut spec.task.container.files {
            let index = seen.entry(file.kind).or_default();
            let path = format!("services.{service}.{}[{index}]", file.kind.plural());
            *index += 1;
            file.digest = digests.get(&(file.kind, file.name.clone())).cloned();
            if file.digest.is_none() {
                let declared = if file.kind == ContentKind::Secret { &secrets } else { &configs };
                problems.push(missing(file, path, declared.get(&file.name).is_some_and(|c| c.external)));
            }
        }
    }
    problems
}

fn missing(file: &ContentFile, path: String, external: bool) -> FieldProblem {
    let (kind, name) = (file.kind, &file.name);
    let (message, hint) = if external {
        (
            format!("external {kind} {name} does not exist"),
            format!("`carrack {kind} create {name} FILE` makes it"),
        )
    } else {
        let hint = "send it with the deploy, as `carrack deploy` does";
        (format!("the content of {kind} {name} was not sent, and none is kept"), hint.to_owned())
    };
    FieldProblem { path, message, hint: Some(hint) }
}

fn taken(kind: ContentKind, name: &ContentName, owner: Option<StackName>) -> Problem {
    let owner = owner.map_or("was made by command".to_owned(), |stack| format!("belongs to stack {stack}"));
    Problem::new(409, "name-taken", format!("{kind} {name} {owner}"))
        .hint("use it with `external: true`, or give yours another `name:`")
}

fn check_sizes(given: &Contents) -> Result<(), Problem> {
    let mut total = 0;
    for kind in [ContentKind::Secret, ContentKind::Config] {
        for (name, content) in given.of(kind) {
            check_size(kind, name, content)?;
            total += content.bytes().len();
        }
    }
    if total <= CONTENTS_MAX_BYTES {
        return Ok(());
    }
    let text = format!("{total} bytes of secrets and configs; a stack brings at most {CONTENTS_MAX_BYTES}");
    Err(Problem::new(413, "too-large", text)
        .hint("create some with `carrack config create` and name them `external`"))
}

/// A content is not larger than one may be.
pub(crate) fn check_size(kind: ContentKind, name: &ContentName, content: &Content) -> Result<(), Problem> {
    let bytes = content.bytes().len();
    if bytes <= CONTENT_MAX_BYTES {
        return Ok(());
    }
    let text = format!("{kind} {name} has {bytes} bytes; at most {CONTENT_MAX_BYTES} are kept");
    Err(Problem::new(413, "too-large", text).hint("use a volume for larger files"))
}

/// Keeps what was given and is used. What is kept already is written again when the stack did not use it until now: whoever takes
/// it away at this moment sees that it has changed.
fn bring(
    vault: &Vault,
    snapshot: &Snapshot,
    spec: &StackSpec,
    given: &Contents,
    now: Timestamp,
) -> Result<Brought, SealError> {
    let safe: BTreeSet<String> = active_spec(snapshot, &spec.name).into_iter().flat_map(digests_in).collect();
    let mut brought = Brought::default();
    let mut seen = BTreeSet::new();
    for file in spec.services.values().flat_map(files) {
        let Some(digest) = file.digest.as_ref().filter(|digest| seen.insert(digest.as_str())) else {
            continue;
        };
        let key = Key::Content(digest.clone());
        let own = given.of(file.kind).get(&file.name).filter(|_| !is_external(spec, file));
        match (snapshot.contents.get(digest), own) {
            (Some(_), _) if safe.contains(digest) => {}
            (Some(record), _) => {
                brought.expect.push((key.clone(), snapshot.version(&key)));
                brought.ops.push(Op::Put(crate::store::Object::Content((**record).clone())));
            }
            (None, Some(content)) => {
                brought.expect.push((key.clone(), None));
                brought.ops.extend(keep(vault, file.kind, digest, content, now)?);
            }
            // Named by a revision or a name, so kept; were it not, its tasks say so.
            (None, None) => {}
        }
    }
    Ok(brought)
}

fn is_external(spec: &StackSpec, file: &ContentFile) -> bool {
    spec.contents(file.kind).get(&file.name).is_some_and(|content| content.external)
}

fn files(service: &ServiceSpec) -> impl Iterator<Item = &ContentFile> {
    service.task.container.files.iter()
}

fn digests_in(spec: &StackSpec) -> impl Iterator<Item = String> {
    spec.services.values().flat_map(files).filter_map(|file| file.digest.clone())
}

/// What the names of a stack stand for in a spec.
fn digests_of(spec: &StackSpec) -> Digests {
    let all = spec.services.values().flat_map(files);
    all.filter_map(|file| Some(((file.kind, file.name.clone()), file.digest.clone()?))).collect()
}

fn active_spec<'a>(snapshot: &'a Snapshot, stack: &StackName) -> Option<&'a StackSpec> {
    let stack = snapshot.stacks.get(stack).filter(|s| s.phase == StackPhase::Active)?;
    snapshot.spec(&stack.name, stack.revision)
}

fn active_specs(snapshot: &Snapshot) -> impl Iterator<Item = &StackSpec> {
    let active = snapshot.stacks.values().filter(|s| s.phase == StackPhase::Active);
    active.filter_map(|s| snapshot.spec(&s.name, s.revision))
}

/// What a name stands for: one made by command, else one that a stack brought.
pub(crate) fn find(snapshot: &Snapshot, kind: ContentKind, name: &ContentName) -> Option<Found> {
    if let Some(record) = snapshot.content_names.get(&(kind, name.clone())) {
        return Some(Found { digest: record.digest.clone(), stack: None, labels: record.labels.clone() });
    }
    active_specs(snapshot).find_map(|spec| {
        let own = spec.contents(kind).get(name).filter(|content| !content.external)?;
        let digest = digests_of(spec).remove(&(kind, name.clone()))?;
        Some(Found { digest, stack: Some(spec.name.clone()), labels: own.labels.clone() })
    })
}

/// All names of a kind.
pub(crate) fn names(snapshot: &Snapshot, kind: ContentKind) -> BTreeSet<ContentName> {
    let made = snapshot.content_names.values().filter(|record| record.kind == kind);
    let of_stacks = active_specs(snapshot).flat_map(|spec| {
        spec.contents(kind).iter().filter(|(_, content)| !content.external).map(|(name, _)| name.clone())
    });
    made.map(|record| record.name.clone()).chain(of_stacks).collect()
}

/// Secrets that do not open: their key was lost, or is another one.
pub(crate) fn closed(vault: &Vault, snapshot: &Snapshot) -> BTreeSet<ContentName> {
    let record = |digest: &String| snapshot.contents.get(digest);
    let closed = |name: &ContentName| {
        let found = find(snapshot, ContentKind::Secret, name);
        found.and_then(|found| record(&found.digest)).is_some_and(|record| !opens(vault, record))
    };
    names(snapshot, ContentKind::Secret).into_iter().filter(closed).collect()
}

/// Services and one-off tasks that have it: by their spec in force, or by a task that has not ended.
pub(crate) fn users(snapshot: &Snapshot, kind: ContentKind, name: &ContentName) -> BTreeSet<ServiceKey> {
    let has = |spec: &ServiceSpec| files(spec).any(|file| file.kind == kind && file.name == *name);
    let wanted = active_specs(snapshot).flat_map(|stack| {
        let services = stack.services.iter().filter(|(_, spec)| has(spec));
        services.map(|(service, _)| ServiceKey::new(stack.name.clone(), service.clone()))
    });
    let live = snapshot.tasks.values().filter(|task| task.is_live());
    let live = live.filter(|task| snapshot.service_spec(&task.service, task.revision).is_some_and(has));
    let runs = snapshot.runs.values().filter(|run| has(&run.spec)).map(|run| run.key.clone());
    wanted.chain(live.map(|task| task.service.clone())).chain(runs).collect()
}

/// Digests that a revision, a one-off task or a name leads to.
pub(crate) fn needed(snapshot: &Snapshot) -> BTreeSet<String> {
    let revisions = snapshot.revisions.values().flat_map(|revision| digests_in(&revision.spec));
    let runs = snapshot.runs.values().flat_map(|run| files(&run.spec)).filter_map(|file| file.digest.clone());
    let names = snapshot.content_names.values().map(|record| record.digest.clone());
    revisions.chain(runs).chain(names).collect()
}

#[cfg(test)]
mod tests;
