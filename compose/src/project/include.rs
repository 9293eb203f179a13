//! `include`: other Compose files as parts of this one, each with its own directory and environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Loader;
use crate::canon;
use crate::fields::{Fields, Item};
use crate::merge::{merge, merge_named, same, settle};
use crate::source::resolve;
use crate::yaml::{Entry, Map, Node, Value};

/// Deepest nesting of includes.
const INCLUDE_DEPTH_MAX: usize = 16;
/// The sections that an included file brings.
const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

impl Loader<'_> {
    /// Takes `include` out of the tree and puts what it names into it.
    pub(super) fn include(
        &mut self,
        path: &Path,
        tree: &mut Node,
        base: &Path,
        env: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) {
        let Some(include) = tree.as_map_mut().and_then(|m| m.remove("include")) else { return };
        if stack.iter().any(|p| p == path) {
            self.report.invalid(include.mark, "include", "files include each other in a circle");
            return;
        }
        if stack.len() >= INCLUDE_DEPTH_MAX {
            let message = format!("files include each other deeper than {INCLUDE_DEPTH_MAX} levels");
            self.report.invalid(include.mark, "include", message);
            return;
        }
        stack.push(path.to_path_buf());
        let item = Item { node: &include.value, path: "include".into() };
        for item in item.items(self.report) {
            if let Some(part) = self.included(&item, base, env, stack)
                && let Some(root) = tree.as_map_mut()
            {
                self.import(root, part);
            }
        }
        stack.pop();
    }

    fn included(
        &mut self,
        item: &Item<'_>,
        base: &Path,
        env: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Option<Node> {
        let (mut paths, mut dir, mut env_files) = (Vec::new(), None, Vec::new());
        if let Some(path) = item.node.as_text() {
            paths.push(path.to_owned());
        } else {
            let mut fields = Fields::open(item, self.report)?;
            let list = |item: Item<'_>, loader: &mut Self| match item.node.as_text() {
                Some(text) => vec![text.to_owned()],
                None => item.texts(loader.report),
            };
            paths = fields.take("path").map(|i| list(i, self)).unwrap_or_default();
            dir = fields.take("project_directory").and_then(|i| i.text(self.report));
            env_files = fields.take("env_file").map(|i| list(i, self)).unwrap_or_default();
            fields.finish(&[], self.report);
        }
        let Some(first) = paths.first() else {
            item.invalid("`include` names no file", self.report);
            return None;
        };
        let dir = match dir {
            Some(dir) => resolve(base, &dir),
            None => resolve(base, first).parent().unwrap_or(base).to_path_buf(),
        };
        // An empty file in place of `.env`, written as people write it.
        let none = env_files.iter().any(|f| f == "/dev/null");
        let env_files: Vec<PathBuf> =
            env_files.iter().filter(|f| *f != "/dev/null").map(|f| resolve(base, f)).collect();
        let at = (item.mark(), item.path.as_str());
        let env = if none && env_files.is_empty() {
            env.clone()
        } else {
            self.environment(env, &dir, &env_files, Some(at))
        };
        let mut root: Option<Node> = None;
        for path in &paths {
            let path = resolve(base, path);
            for tree in self.parse_at(&path, Some(at))? {
                let mut tree = self.finish_file(&path, tree, &dir, &env, stack);
                root = Some(match root {
                    None => {
                        settle(&mut tree);
                        tree
                    }
                    Some(base) => merge(base, tree),
                });
            }
        }
        if let Some(root) = &mut root {
            canon::contexts(root, &dir);
        }
        root
    }

    /// Adds the sections of a part.
    fn import(&mut self, root: &mut Map, part: Node) {
        let Value::Map(part) = part.value else { return };
        for section in part.entries {
            if !SECTIONS.contains(&section.key.as_str()) {
                continue;
            }
            if root.get(&section.key).is_none_or(Node::is_null) {
                root.set(&section.key, section.mark, Node::map(Vec::new(), section.mark));
            }
            let (Some(target), Value::Map(from)) =
                (root.get_mut(&section.key).and_then(Node::as_map_mut), section.value.value)
            else {
                continue;
            };
            for entry in from.entries {
                self.import_entry(target, &section.key, entry);
            }
        }
    }

    /// A name that the including file has as well stands on top of what is included.
    fn import_entry(&mut self, target: &mut Map, section: &str, entry: Entry) {
        match target.entries.iter_mut().find(|e| e.key == entry.key) {
            None => target.entries.push(entry),
            Some(own) if same(&own.value, &entry.value) => {}
            Some(own) => {
                let other = self.report.position(entry.mark);
                let path = format!("{section}.{}", entry.key);
                let text = format!("is also in an included file, at {other}; this one stands on top of it");
                self.report.note(own.mark, &path, text);
                let over = std::mem::replace(&mut own.value, Node::null(own.mark));
                own.value = merge_named(section, &entry.key, entry.value, over);
            }
        }
    }
}
