//! The environment that fills in variables: the user's, then `.env` or the files given for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Loader;
use crate::dotenv;
use crate::report::{DiagnosticKind, Mark};

/// How a variable that switches something on may be set.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "True", "TRUE"];

impl Loader<'_> {
    /// The user's environment with the variables of `.env` that it does not set.
    pub(super) fn environment(
        &mut self,
        outer: &BTreeMap<String, String>,
        dir: &Path,
        given: &[PathBuf],
        at: Option<(Mark, &str)>,
    ) -> BTreeMap<String, String> {
        let default = dir.join(".env");
        let wanted = !outer.get("COMPOSE_DISABLE_ENV_FILE").is_some_and(|v| TRUE.contains(&v.as_str()));
        let paths = if given.is_empty() && wanted && self.files.is_file(&default) {
            vec![default]
        } else {
            given.to_vec()
        };
        let mut found = BTreeMap::new();
        for path in paths {
            let Some((text, file)) = self.text(&path, at) else { continue };
            if let Err(error) = dotenv::parse(&text, &|name| outer.get(name).cloned(), &mut found) {
                let mark = Mark { line: error.line, column: 1, ..file };
                self.report.keep_text(mark, text);
                self.report.problem(DiagnosticKind::Syntax, mark, "", error.message, None);
            }
        }
        found.extend(outer.iter().map(|(k, v)| (k.clone(), v.clone())));
        found
    }
}
