//! Where each key stands, so that a problem found later, by the server for example, is shown with file and line.

use std::collections::BTreeMap;

use crate::report::{Position, Report};
use crate::yaml::{Node, Value};

/// Positions by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(BTreeMap<String, Position>);

/// Keys that mean the same, as a path of a spec names them and as a file may have them.
const ALSO: [(&str, &str); 14] = [
    (".deploy.resources.limits.memory", ".mem_limit"),
    (".deploy.resources.limits.cpus", ".cpus"),
    (".deploy.resources.limits.pids", ".pids_limit"),
    (".deploy.resources.reservations.memory", ".mem_reservation"),
    (".deploy.replicas", ".scale"),
    (".mode.replicated.replicas", ".deploy.replicas"),
    (".task.container.env", ".environment"),
    (".task.container.mounts", ".volumes"),
    (".task.container.groups", ".group_add"),
    (".task.container.stop_grace", ".stop_grace_period"),
    (".task.container.limits.memory", ".deploy.resources.limits.memory"),
    (".task.container.limits.cpus", ".deploy.resources.limits.cpus"),
    (".task.container", ""),
    (".task", ""),
];

impl Places {
    pub(crate) fn new(root: &Node, report: &Report) -> Self {
        let mut places = Self::default();
        places.add(root, "", report);
        places
    }

    fn add(&mut self, node: &Node, path: &str, report: &Report) {
        match &node.value {
            Value::Map(map) => {
                for entry in &map.entries {
                    let below =
                        if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    self.add(&entry.value, &below, report);
                    self.0.insert(below, report.position(entry.mark));
                }
            }
            Value::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    let below = format!("{path}[{index}]");
                    self.add(item, &below, report);
                    self.0.insert(below, report.position(item.mark));
                }
            }
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    /// The place of a path, of a key that means the same, or of the nearest key above.
    pub(crate) fn find(&self, path: &str) -> Option<Position> {
        if let Some(position) = self.0.get(path) {
            return Some(position.clone());
        }
        for (from, to) in ALSO {
            if let Some(at) = path.find(from) {
                let other = format!("{}{to}{}", &path[..at], &path[at + from.len()..]);
                if let Some(position) = self.find(&other).filter(|_| self.knows(&other)) {
                    return Some(position);
                }
            }
        }
        let cut = path.rfind(['.', '['])?;
        self.find(&path[..cut])
    }

    /// The path itself stands in a file, or the key just above it does and is more than a service.
    fn knows(&self, path: &str) -> bool {
        let above = path.rfind(['.', '[']).map(|cut| &path[..cut]);
        let is_key = |p: &str| self.0.contains_key(p) && p.matches(['.', '[']).count() > 1;
        self.0.contains_key(path) || above.is_some_and(is_key)
    }
}
