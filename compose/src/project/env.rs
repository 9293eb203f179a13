//! The environment that fills in variables: the user's, then `.env` or the files given for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Loader;
use crate::dotenv;
use crate::report::{DiagnosticKind, Mark};

impl Loader<'_> {
    /// The user's environment with the variables of `.env` that it does not set.
    pub(super) fn environment(
        &mut self,
        outer: &BTreeMap<String, String>,
        dir: &Path,
        given: &[PathBuf],
    ) -> BTreeMap<String, String> {
        let default = dir.join(".env");
        let paths =
            if given.is_empty() && self.files.is_file(&default) { vec![default] } else { given.to_vec() };
        let mut found = BTreeMap::new();
        for path in paths {
            let lookup = |name: &str| outer.get(name).or_else(|| found.get(name)).cloned();
            let Some((text, file)) = self.text(&path, None) else { continue };
            match dotenv::parse(&text, &lookup) {
                Ok(variables) => found.extend(variables),
                Err(error) => {
                    let mark = Mark { line: error.line, column: 1, ..file };
                    self.report.problem(DiagnosticKind::Syntax, mark, "", error.message, None);
                }
            }
        }
        found.extend(outer.iter().map(|(k, v)| (k.clone(), v.clone())));
        found
    }
}
