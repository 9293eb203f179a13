//! What a deploy changes: two specs compared field by field. Pure.

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::{ChangeKind, FieldChange, ServiceChange, ServiceKey, ServiceName, ServiceSpec, StackSpec};
use serde_json::Value;

/// Field changes told per service; more are counted in one line.
const FIELDS_TOLD: usize = 200;
/// Longest value told, characters.
const VALUE_CHARS: usize = 200;
/// Parts of a name that mark its value as not to be shown.
const SECRET_WORDS: [&str; 9] =
    ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "PRIVATE", "AUTH", "DSN", "PWD"];

/// What moving a stack from `before` to `after` does to each service.
pub(crate) fn changes(before: Option<&StackSpec>, after: &StackSpec) -> Vec<ServiceChange> {
    let old = |name: &ServiceName| before.and_then(|b| b.services.get(name));
    let names: BTreeSet<&ServiceName> =
        before.into_iter().flat_map(|b| b.services.keys()).chain(after.services.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let service = ServiceKey::new(after.name.clone(), name.clone());
            let (kind, fields) = match (old(name), after.services.get(name)) {
                (None, _) => (ChangeKind::Create, Vec::new()),
                (Some(_), None) => (ChangeKind::Remove, Vec::new()),
                (Some(old), Some(new)) => compare(old, new),
            };
            ServiceChange { service, kind, fields }
        })
        .collect()
}

fn compare(old: &ServiceSpec, new: &ServiceSpec) -> (ChangeKind, Vec<FieldChange>) {
    if old == new {
        return (ChangeKind::Unchanged, Vec::new());
    }
    let kind = if old.task == new.task { ChangeKind::Adjust } else { ChangeKind::Replace };
    let mut fields = Vec::new();
    let json = |spec: &ServiceSpec| serde_json::to_value(spec).unwrap_or_default();
    diff(&mut String::new(), Some(&json(old)), Some(&json(new)), &mut fields);
    if fields.len() > FIELDS_TOLD {
        let more = fields.len() - FIELDS_TOLD;
        fields.truncate(FIELDS_TOLD);
        fields.push(FieldChange { path: format!("({more} more)"), from: None, to: None });
    }
    (kind, fields)
}

fn diff(path: &mut String, from: Option<&Value>, to: Option<&Value>, out: &mut Vec<FieldChange>) {
    let (from, to) = (from.filter(|v| !v.is_null()), to.filter(|v| !v.is_null()));
    if from == to {
        return;
    }
    let length = path.len();
    match (from, to) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                diff(path, a.get(key), b.get(key), out);
                path.truncate(length);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                path.push_str(&format!("[{index}]"));
                diff(path, Some(a), Some(b), out);
                path.truncate(length);
            }
        }
        (from, to) => {
            let show = |value: Option<&Value>| value.map(|v| shown(path, v));
            out.push(FieldChange { path: path.clone(), from: show(from), to: show(to) });
        }
    }
}

fn shown(path: &str, value: &Value) -> String {
    let variable = path.strip_prefix("task.container.env.");
    let secret = variable.is_some_and(|name| is_secret(name, value.as_str().unwrap_or_default()));
    if secret {
        return "(changed)".into();
    }
    // A whole environment at once, as when it is new, shows names only.
    if path == "task.container.env" {
        return value
            .as_object()
            .map(|o| o.keys().cloned().collect::<Vec<_>>().join(", "))
            .unwrap_or_default();
    }
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Takes the values that look secret out of an environment that is about to be shown.
pub(crate) fn hide_secrets(env: &mut BTreeMap<String, Option<String>>) {
    for (name, value) in env {
        if let Some(text) = value.as_mut().filter(|text| is_secret(name, text)) {
            *text = "(not shown)".into();
        }
    }
}

/// The variable's value is not to be shown: its name says so, or it is a URL with a password.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let has_password = || {
        let rest = value.split_once("://").map(|(_, rest)| rest);
        let authority = rest.map(|r| r.split('/').next().unwrap_or_default());
        authority.and_then(|a| a.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
    };
    SECRET_WORDS.iter().any(|word| name.contains(word)) || has_password()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn one(old: &ServiceSpec, new: &ServiceSpec) -> (ChangeKind, Vec<String>) {
        let stack = |s: &ServiceSpec| testing::stack("a", &[("web", s.clone())]);
        let change = changes(Some(&stack(old)), &stack(new)).remove(0);
        let text = |f: FieldChange| {
            format!("{}: {} -> {}", f.path, f.from.unwrap_or("-".into()), f.to.unwrap_or("-".into()))
        };
        (change.kind, change.fields.into_iter().map(text).collect())
    }

    #[test]
    fn changed_fields_are_named_with_their_values() {
        let old = testing::service("nginx:1");
        let mut new = old.clone();
        new.task.container.image = "nginx:2".into();
        assert_eq!(
            one(&old, &new),
            (ChangeKind::Replace, vec!["task.container.image: \"nginx:1\" -> \"nginx:2\"".into()])
        );
        let mut scaled = old.clone();
        scaled.mode = carrack_api::ServiceMode::Replicated { replicas: 3 };
        assert_eq!(one(&old, &scaled), (ChangeKind::Adjust, vec!["mode.replicated.replicas: 1 -> 3".into()]));
        assert_eq!(one(&old, &old), (ChangeKind::Unchanged, vec![]));
    }

    #[test]
    fn an_environment_is_shown_without_its_secrets() {
        let shown = |name: &str, value: &str| {
            let mut env = BTreeMap::from([(name.to_owned(), Some(value.to_owned()))]);
            hide_secrets(&mut env);
            env.remove(name).flatten().unwrap()
        };
        assert_eq!(shown("DB_PASSWORD", "hunter2"), "(not shown)");
        assert_eq!(shown("DATABASE", "postgres://u:hunter2@db/x"), "(not shown)");
        assert_eq!(shown("COLOUR", "blue"), "blue");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut old = testing::service("x");
        let mut new = old.clone();
        for (spec, value) in [(&mut old, "a"), (&mut new, "b")] {
            for name in ["DB_PASSWORD", "api_token", "COLOUR"] {
                spec.task.container.env.insert(name.into(), Some(value.into()));
            }
            let url = format!("postgres://u:{value}@db/x");
            spec.task.container.env.insert("DATABASE".into(), Some(url));
        }
        let (_, fields) = one(&old, &new);
        assert_eq!(
            fields,
            [
                "task.container.env.COLOUR: \"a\" -> \"b\"",
                "task.container.env.DATABASE: (changed) -> (changed)",
                "task.container.env.DB_PASSWORD: (changed) -> (changed)",
                "task.container.env.api_token: (changed) -> (changed)",
            ]
        );
    }

    #[test]
    fn new_and_gone_services_are_told() {
        let old = testing::stack("a", &[("x", testing::service("x")), ("y", testing::service("y"))]);
        let new = testing::stack("a", &[("y", testing::service("y")), ("z", testing::service("z"))]);
        let kinds: Vec<ChangeKind> = changes(Some(&old), &new).into_iter().map(|c| c.kind).collect();
        assert_eq!(kinds, [ChangeKind::Remove, ChangeKind::Unchanged, ChangeKind::Create]);
        assert!(changes(None, &new).iter().all(|c| c.kind == ChangeKind::Create));
    }
}
