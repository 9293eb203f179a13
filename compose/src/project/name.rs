//! What a project is called: `-p`, `COMPOSE_PROJECT_NAME`, the last file's `name:`, the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use carrack_api::StackName;

use super::Loader;
use crate::LoadOptions;
use crate::interpolate::interpolate;
use crate::report::Mark;
use crate::yaml::Node;

const RULE: &str = "use lower-case letters, digits, `-` and `_`, starting with a letter or digit";

impl Loader<'_> {
    pub(super) fn project_name(
        &mut self,
        options: &LoadOptions,
        env: &BTreeMap<String, String>,
        trees: &[(PathBuf, Node)],
        dir: &Path,
    ) -> Option<String> {
        let nowhere = Mark::default();
        if let Some(name) = options.project_name.as_ref().filter(|n| !n.is_empty()) {
            return self.checked(name, nowhere, "the project name given with -p");
        }
        if let Some(name) = env.get("COMPOSE_PROJECT_NAME").filter(|n| !n.is_empty()) {
            return self.checked(name, nowhere, "COMPOSE_PROJECT_NAME");
        }
        let written = trees.iter().rev().find_map(|(_, tree)| tree.as_map()?.get("name"));
        if let Some(node) = written.filter(|n| !n.is_null()) {
            let filled = |text| interpolate(text, &|key| env.get(key).cloned(), &mut BTreeSet::new());
            // A template that is wrong is told when the whole file is interpolated.
            let name = node.as_text().and_then(|text| filled(text).ok());
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                let name = self.written(&name, node);
                return self.checked(&name, node.mark, "name");
            }
        }
        let name = normalise(&dir.file_name().unwrap_or_default().to_string_lossy());
        if name.is_empty() {
            let message = format!("the directory {} gives no project name", dir.display());
            self.report.invalid_hint(nowhere, "", message, "give one with -p or `name:` in the file");
            return None;
        }
        self.checked(&name, nowhere, "the name of the project directory")
    }

    /// A name of the file is brought into the form that it must have.
    fn written(&mut self, name: &str, node: &Node) -> String {
        let normal = normalise(name);
        if normal.is_empty() || normal == name {
            return name.to_owned();
        }
        self.report.note(node.mark, "name", format!("{name:?} becomes {normal:?}, as in Docker Compose"));
        normal
    }

    fn checked(&mut self, name: &str, mark: Mark, what: &str) -> Option<String> {
        if StackName::new(name).is_ok() {
            return Some(name.to_owned());
        }
        let (path, message) = if mark.line > 0 {
            ("name", format!("{name:?} is no project name"))
        } else {
            ("", format!("{what}, {name:?}, is no project name"))
        };
        let normal = normalise(name);
        let hint = if normal.is_empty() { RULE.into() } else { format!("{RULE}, for example `{normal}`") };
        self.report.invalid_hint(mark, path, message, hint);
        None
    }
}

/// A project name made of any text, as Compose makes it of a directory's name.
pub(super) fn normalise(text: &str) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_a_name() {
        for (dir, name) in [("My App", "myapp"), ("_x-1", "x-1"), ("a.b", "ab"), ("ü", "")] {
            assert_eq!(normalise(dir), name, "{dir}");
        }
    }
}
