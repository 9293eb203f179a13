//! Placement constraints in Swarm's syntax: `node.labels.disk == ssd`, `node.hostname != a`.

use carrack_api::NodeInfo;

/// The parts of a constraint; values compare without regard to case, as in Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraint<'a> {
    pub(crate) key: &'a str,
    pub(crate) equal: bool,
    pub(crate) value: &'a str,
}

/// Splits a constraint; `None` when it has neither `==` nor `!=` or lacks a side.
pub(crate) fn parse(text: &str) -> Option<Constraint<'_>> {
    let at = text.find("==").into_iter().chain(text.find("!=")).min()?;
    let (key, rest) = text.split_at(at);
    let (operator, value) = rest.split_at(2);
    let (key, value) = (key.trim(), value.trim());
    (!key.is_empty() && !value.is_empty()).then_some(Constraint { key, equal: operator == "==", value })
}

/// What a node has for a key; `None` for a key that no node can have. A label that is not set is the empty text.
pub(crate) fn values(node: &NodeInfo, key: &str) -> Option<Vec<String>> {
    let one = |text: &str| Some(vec![text.to_owned()]);
    match key {
        "node.id" => one(node.id.as_str()),
        "node.hostname" => one(&node.hostname),
        "node.platform.os" => one(&node.os),
        // Docker's own names and the kernel's are both in use.
        "node.platform.arch" => Some(match node.arch.as_str() {
            "amd64" => vec!["amd64".into(), "x86_64".into()],
            "arm64" => vec!["arm64".into(), "aarch64".into()],
            other => vec![other.into()],
        }),
        // Every node runs tasks, and until there are server nodes apart, every node is one of the servers.
        "node.role" => Some(vec!["manager".into(), "worker".into()]),
        _ => {
            let label = key.strip_prefix("node.labels.").or_else(|| key.strip_prefix("engine.labels."))?;
            one(node.labels.get(label).map_or("", String::as_str))
        }
    }
}

/// The node meets the constraint.
pub(crate) fn holds(constraint: &Constraint<'_>, node: &NodeInfo) -> bool {
    values(node, constraint.key).is_some_and(|values| {
        values.iter().any(|v| v.eq_ignore_ascii_case(constraint.value)) == constraint.equal
    })
}
