//! What a command is about: a stack, a service, a slot or a task, as people write them.
//!
//! Pure: the caller brings the stacks that exist and the stack of the current directory. A name alone is a service of that
//! stack, else a unique match among all stacks and services, else an error that lists the candidates. `hello/` is a stack and
//! nothing else; a task id is meant only when nothing has that name.

use std::collections::BTreeSet;
use std::fmt;

use carrack_api::{ServiceKey, SlotKey, StackName, StackStatus, TaskId};

use crate::error::CliError;

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// `hello`.
    Stack(StackName),
    /// `hello/web`.
    Service(ServiceKey),
    /// `hello/web.2`.
    Slot(SlotKey),
    /// `t17`.
    Task(TaskId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(stack) => stack.fmt(f),
            Self::Service(service) => service.fmt(f),
            Self::Slot(slot) => slot.fmt(f),
            Self::Task(task) => task.fmt(f),
        }
    }
}

impl Target {
    /// The stack it belongs to; a task id does not say.
    pub(crate) fn stack(&self) -> Option<&StackName> {
        match self {
            Self::Stack(stack) => Some(stack),
            Self::Service(service) => Some(&service.stack),
            Self::Slot(slot) => Some(&slot.service.stack),
            Self::Task(_) => None,
        }
    }

    /// A task of that service, slot and id is meant by it.
    pub(crate) fn covers(&self, service: &ServiceKey, slot: u32, task: TaskId) -> bool {
        match self {
            Self::Stack(stack) => *stack == service.stack,
            Self::Service(wanted) => wanted == service,
            Self::Slot(wanted) => wanted.service == *service && wanted.slot == slot,
            Self::Task(wanted) => *wanted == task,
        }
    }
}

/// What `text` means, given what exists and the stack of the current directory.
pub(crate) fn resolve(
    text: &str,
    here: Option<&StackName>,
    stacks: &[StackStatus],
) -> Result<Target, CliError> {
    // A one-off task is meant by its name as a service is: it is alone under it.
    let services = || {
        stacks.iter().flat_map(|stack| {
            stack.services.iter().map(|s| &s.service).chain(stack.runs.iter().map(|r| &r.run))
        })
    };
    if let Some(name) = text.strip_suffix('/') {
        let stack = stacks.iter().find(|stack| stack.name.as_str() == name);
        return stack.map(|stack| Target::Stack(stack.name.clone())).ok_or_else(|| unknown(name, stacks));
    }
    if let Some((stack, service)) = text.split_once('/') {
        let found = services().filter(|key| key.stack.as_str() == stack);
        return match match_service(service, found).into_iter().next() {
            Some(target) => Ok(target),
            None => Err(unknown(text, stacks)),
        };
    }
    let local = match_service(text, services().filter(|key| Some(&key.stack) == here));
    if let Some(target) = local.into_iter().next() {
        return Ok(target);
    }
    let mut found = match_service(text, services());
    found.extend(
        stacks.iter().filter(|s| s.name.as_str() == text).map(|stack| Target::Stack(stack.name.clone())),
    );
    if found.is_empty()
        && let Ok(task) = text.parse::<TaskId>()
    {
        found.insert(Target::Task(task));
    }
    match found.len() {
        1 => found.pop_first().ok_or_else(|| unknown(text, stacks)),
        0 => Err(unknown(text, stacks)),
        _ => Err(ambiguous(text, &found)),
    }
}

/// The stack that a command without a target is about: that of the current directory when it is deployed, else the only one.
pub(crate) fn default_stack(here: Option<&StackName>, stacks: &[StackStatus]) -> Result<StackName, CliError> {
    if let Some(here) = here.filter(|here| stacks.iter().any(|stack| stack.name == **here)) {
        return Ok(here.clone());
    }
    match stacks {
        [only] => Ok(only.name.clone()),
        [] => Err(CliError::new("no stack is deployed")
            .hint("`carrack deploy` deploys the Compose file that is here")),
        _ => {
            let names: Vec<&str> = stacks.iter().map(|stack| stack.name.as_str()).collect();
            Err(CliError::usage(format!("which stack? There are {}", names.join(", ")))
                .hint("name one, or go to the directory of its Compose file"))
        }
    }
}

/// Services called `text`, and slots when it is `service.2`. A service whose name ends in a number wins over a slot.
fn match_service<'a>(text: &str, services: impl Iterator<Item = &'a ServiceKey>) -> BTreeSet<Target> {
    let slot = text.rsplit_once('.').and_then(|(name, n)| Some((name, n.parse::<u32>().ok()?)));
    let mut exact = BTreeSet::new();
    let mut slots = BTreeSet::new();
    for key in services {
        if key.service.as_str() == text {
            exact.insert(Target::Service(key.clone()));
        }
        if let Some((name, slot)) = slot
            && slot > 0
            && key.service.as_str() == name
        {
            slots.insert(Target::Slot(SlotKey { service: key.clone(), slot }));
        }
    }
    if exact.is_empty() { slots } else { exact }
}

fn ambiguous(text: &str, found: &BTreeSet<Target>) -> CliError {
    let names: Vec<String> = found
        .iter()
        .map(|target| match target {
            Target::Stack(stack) => format!("{stack}/ (a stack)"),
            Target::Service(_) | Target::Slot(_) | Target::Task(_) => target.to_string(),
        })
        .collect();
    CliError::usage(format!("{text:?} can mean {}", names.join(" or ")))
        .hint("write it like that, or go to the directory of the Compose file")
}

fn unknown(text: &str, stacks: &[StackStatus]) -> CliError {
    let error = CliError::new(format!("no stack, service or task {text:?}"));
    let mut names: Vec<String> = stacks.iter().map(|stack| stack.name.to_string()).collect();
    for service in stacks.iter().flat_map(|stack| &stack.services) {
        names.push(service.service.to_string());
        names.push(service.service.service.to_string());
    }
    match nearest(text, names.iter().map(String::as_str)) {
        Some(name) => error.hint(format!("did you mean {name:?}? `carrack ls` lists stacks and services")),
        None => error.hint("`carrack ls` lists stacks and services, `carrack ps -a` tasks"),
    }
}

/// The name that is at most two edits away, the nearest first.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = if text.chars().count() <= 3 { 1 } else { 2 };
    names.map(|name| (edits(text, name), name)).filter(|(n, _)| *n <= limit).min().map(|(_, name)| name)
}

/// Insertions, deletions and replacements that make one text of the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::{Rollout, ServiceStatus, Timestamp};

    fn stack(name: &str, services: &[&str]) -> StackStatus {
        let service = |service: &str| ServiceStatus {
            service: format!("{name}/{service}").parse().unwrap(),
            image: "x".into(),
            replicas: 1,
            scaled: false,
            running: 1,
            passing: 1,
            current: 1,
            vips: vec![],
            ports: vec![],
            rollout: Rollout::Converged,
            stopped: false,
            completed: 0,
        };
        StackStatus {
            name: name.parse().unwrap(),
            revision: 1,
            deployed_at: Timestamp(0),
            removing: false,
            services: services.iter().map(|s| service(s)).collect(),
            runs: vec![],
        }
    }

    fn check(text: &str, here: Option<&str>) -> String {
        let stacks =
            [stack("hello", &["web", "redis", "db.1"]), stack("shop", &["web", "hello"]), stack("api", &[])];
        let here = here.map(|name| name.parse().unwrap());
        match resolve(text, here.as_ref(), &stacks) {
            Ok(target) => format!("{target:?}"),
            Err(error) => error.render(false),
        }
    }

    #[test]
    fn full_names_need_no_context() {
        assert_eq!(check("hello/web", None), "Service(ServiceKey { stack: \"hello\", service: \"web\" })");
        assert!(
            check("hello/web.2", None).starts_with("Slot(") && check("hello/web.2", None).contains("slot: 2")
        );
        assert!(check("hello/db.1", None).starts_with("Service("), "a service may end in a number");
        assert!(check("hello/db.1.1", None).starts_with("Slot("));
        assert_eq!(check("t17", None), "Task(TaskId(17))");
    }

    #[test]
    fn a_name_alone_is_a_service_of_the_stack_that_is_here() {
        assert!(check("web", Some("shop")).contains("\"shop\""));
        assert!(check("hello", Some("shop")).starts_with("Service("));
        assert!(check("redis", Some("shop")).contains("\"hello\""), "else a unique match");
        assert!(check("api", None).starts_with("Stack("));
    }

    #[test]
    fn what_can_mean_several_things_lists_them() {
        let text = check("web", None);
        assert!(text.contains("\"web\" can mean hello/web or shop/web"), "{text}");
        let text = check("hello", None);
        assert!(text.contains("hello/ (a stack)") && text.contains("shop/hello"), "{text}");
    }

    #[test]
    fn a_slash_at_the_end_means_the_stack_whatever_else_has_its_name() {
        assert_eq!(check("hello/", None), "Stack(\"hello\")");
        assert_eq!(check("hello/", Some("shop")), "Stack(\"hello\")");
        assert!(check("hell/", None).contains("did you mean \"hello\"?"));
    }

    #[test]
    fn a_task_id_is_meant_only_when_nothing_has_that_name() {
        let stacks = [stack("t1", &["web"])];
        assert_eq!(resolve("t1", None, &stacks).unwrap(), Target::Stack("t1".parse().unwrap()));
        assert_eq!(resolve("t2", None, &stacks).unwrap(), Target::Task(TaskId(2)));
    }

    #[test]
    fn what_is_unknown_gets_the_nearest_name() {
        assert!(check("rediss", None).contains("did you mean \"redis\"?"));
        assert!(check("hello/webb", None).contains("did you mean \"hello/web\"?"));
        assert!(check("hello/web.0", None).contains("no stack, service or task"));
        assert!(check("zzzzzz", None).contains("`carrack ls`"));
    }

    #[test]
    fn without_a_target_the_stack_here_or_the_only_one_is_meant() {
        let two = [stack("a", &[]), stack("b", &[])];
        let here: StackName = "b".parse().unwrap();
        assert_eq!(default_stack(Some(&here), &two).unwrap(), here);
        assert_eq!(default_stack(Some(&here), &two[..1]).unwrap().as_str(), "a");
        assert!(default_stack(None, &two).unwrap_err().render(false).contains("There are a, b"));
        assert!(default_stack(None, &[]).is_err());
    }
}
