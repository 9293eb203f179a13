//! What a deploy changes, as text.

use std::fmt::Write as _;

use carrack_api::{ChangeKind, FieldChange, ServiceChange, StackChange};

use super::style::{Style, clean, paint};
use super::table::shorten;

/// Longest value of a field that is shown, characters.
const VALUE_MAX_CHARS: usize = 60;

/// Something would be different.
pub(crate) fn changes(change: &StackChange) -> bool {
    change.services.iter().any(|service| service.kind != ChangeKind::Unchanged)
}

/// One line a service with what changes in it below, then the notes.
pub(crate) fn text(change: &StackChange, colour: bool) -> String {
    let mut out = String::new();
    for service in &change.services {
        service_lines(&mut out, service, colour);
    }
    if !changes(change) {
        out.push_str("nothing changes\n");
    }
    for note in &change.notes {
        let _ = writeln!(out, "{}: {}", paint("note", Style::Busy, colour), clean(note));
    }
    out
}

fn service_lines(out: &mut String, change: &ServiceChange, colour: bool) {
    let (sign, what, style) = match change.kind {
        ChangeKind::Create => ("+", "new", Style::Good),
        ChangeKind::Replace => ("~", "its tasks are replaced, in order", Style::Busy),
        ChangeKind::Adjust => ("~", "adjusted, its tasks go on", Style::Busy),
        ChangeKind::Remove => ("-", "removed; volumes stay", Style::Bad),
        ChangeKind::Unchanged => return,
    };
    let _ = writeln!(out, "{} {what}", paint(&format!("{sign} {}", change.service), style, colour));
    if change.kind == ChangeKind::Create {
        return;
    }
    for field in &change.fields {
        let _ = writeln!(out, "    {}", field_line(field));
    }
}

fn field_line(field: &FieldChange) -> String {
    let show = |value: &str| shorten(&clean(value), VALUE_MAX_CHARS);
    match (&field.from, &field.to) {
        (Some(from), Some(to)) if from == to => format!("{}: {}", field.path, show(to)),
        (Some(from), Some(to)) => format!("{}: {} -> {}", field.path, show(from), show(to)),
        (None, Some(to)) => format!("{}: + {}", field.path, show(to)),
        (Some(from), None) => format!("{}: - {}", field.path, show(from)),
        (None, None) => field.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, kind: ChangeKind, fields: Vec<FieldChange>) -> ServiceChange {
        ServiceChange { service: format!("hello/{name}").parse().unwrap(), kind, fields }
    }

    #[test]
    fn a_change_reads_like_a_diff() {
        let image = FieldChange {
            path: "image".into(),
            from: Some("\"web:1\"".into()),
            to: Some("\"web:2\"".into()),
        };
        let gone = FieldChange { path: "env.A".into(), from: Some("\"x\"".into()), to: None };
        let change = StackChange {
            revision: 2,
            services: vec![
                service("cache", ChangeKind::Create, vec![]),
                service("db", ChangeKind::Unchanged, vec![]),
                service("old", ChangeKind::Remove, vec![]),
                service("web", ChangeKind::Replace, vec![image, gone]),
            ],
            notes: vec!["replicas of hello/web return to 3".into()],
        };
        assert_eq!(
            text(&change, false),
            "+ hello/cache new\n- hello/old removed; volumes stay\n~ hello/web its tasks are replaced, in order\n    \
             image: \"web:1\" -> \"web:2\"\n    env.A: - \"x\"\nnote: replicas of hello/web return to 3\n"
        );
        let none = StackChange { revision: 2, services: vec![], notes: vec![] };
        assert_eq!(text(&none, false), "nothing changes\n");
    }
}
