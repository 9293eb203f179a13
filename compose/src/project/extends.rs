//! `extends`: a service on top of another of the same file or of another one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Loader, size};
use crate::canon::{Canon, PORTS_MAX};
use crate::check;
use crate::merge::{merge, merge_service, settle};
use crate::report::DiagnosticKind;
use crate::suggest;
use crate::yaml::{Map, Node};

/// Longest chain of services that extend each other.
const CHAIN_MAX: usize = 32;

/// Values of all services that extend others at most, over all files.
const EXTENDED_MAX_NODES: usize = 500_000;

/// Files of a chain, in long form, each read once.
type Others = BTreeMap<PathBuf, Option<Rc<Map>>>;

impl Loader<'_> {
    /// Puts each service of the file that extends another on top of it.
    pub(super) fn extend_services(&mut self, path: &Path, tree: &mut Node, env: &BTreeMap<String, String>) {
        let Some(services) = tree.as_map().and_then(|m| m.get("services")).and_then(Node::as_map) else {
            return;
        };
        let extending: Vec<String> = services
            .entries
            .iter()
            .filter(|e| e.value.as_map().is_some_and(|s| s.get("extends").is_some()))
            .map(|e| e.key.clone())
            .collect();
        if extending.is_empty() {
            return;
        }
        let before = Rc::new(services.clone());
        let mut others = Others::new();
        for name in extending {
            let chain = &mut Vec::new();
            let extended = self.extended(path, &before, &name, env, &mut others, chain);
            self.extended += extended.as_ref().map_or(0, size);
            if self.extended > EXTENDED_MAX_NODES {
                let message =
                    format!("the services that extend others have more than {EXTENDED_MAX_NODES} values");
                self.report.invalid(tree.mark, &format!("services.{name}.extends"), message);
                return;
            }
            let services = tree.as_map_mut().and_then(|m| m.get_mut("services")).and_then(Node::as_map_mut);
            if let (Some(services), Some(extended)) = (services, extended)
                && let Some(slot) = services.get_mut(&name)
            {
                *slot = extended;
            }
        }
    }

    fn extended(
        &mut self,
        path: &Path,
        services: &Rc<Map>,
        name: &str,
        env: &BTreeMap<String, String>,
        others: &mut Others,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Option<Node> {
        let mut service = services.get(name)?.clone();
        let extends = service.as_map_mut().and_then(|m| m.remove("extends"));
        let Some(extends) = extends.map(|e| e.value).filter(|e| !e.is_null()) else { return Some(service) };
        let (mark, key) = (extends.mark, format!("services.{name}.extends"));
        let link = (path.to_path_buf(), name.to_owned());
        if chain.contains(&link) {
            self.report.invalid(mark, &key, "services extend each other in a circle");
            return Some(service);
        }
        if chain.len() >= CHAIN_MAX {
            self.report.invalid(mark, &key, format!("more than {CHAIN_MAX} services extend each other"));
            return Some(service);
        }
        chain.push(link);
        let field = |name: &str| extends.as_map().and_then(|m| m.get(name)).and_then(Node::as_text);
        let Some(base_name) = field("service") else {
            self.report.invalid_hint(mark, &key, "`extends` names no service", "write `service: NAME`");
            return Some(service);
        };
        if let Some(odd) =
            extends.as_map().and_then(|m| m.entries.iter().find(|e| e.key != "service" && e.key != "file"))
        {
            let hint = Some("`extends` takes `service` and `file`".to_owned());
            let path = format!("{key}.{}", odd.key);
            self.report.problem(DiagnosticKind::UnknownKey, odd.mark, &path, "unknown key", hint);
        }
        let other: PathBuf = field("file").map_or_else(|| path.to_path_buf(), PathBuf::from);
        let base_services: Rc<Map> = if other == path {
            Rc::clone(services)
        } else {
            if !others.contains_key(&other) {
                let found = self.other_file(&other, env, (mark, &key));
                others.insert(other.clone(), found.map(Rc::new));
            }
            Rc::clone(others.get(&other).and_then(Option::as_ref)?)
        };
        if base_services.get(base_name).is_none() {
            let names = base_services.entries.iter().map(|e| e.key.as_str());
            let hint = suggest::nearest(base_name, names).map(|n| format!("did you mean `{n}`?"));
            let message = format!("there is no service {base_name} to extend");
            self.report.problem(DiagnosticKind::Invalid, mark, &key, message, hint);
            return Some(service);
        }
        let mut base = self.extended(&other, &base_services, base_name, env, others, chain)?;
        settle(&mut base);
        Some(merge_service(base, service))
    }

    /// The services of another file in long form; its relative paths start at its own directory.
    fn other_file(
        &mut self,
        path: &Path,
        env: &BTreeMap<String, String>,
        at: (crate::report::Mark, &str),
    ) -> Option<Map> {
        let base = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut root: Option<Node> = None;
        for mut tree in self.parse_at(path, Some(at))? {
            self.interpolate(&mut tree, env);
            check::file(&tree, self.report);
            Canon { base: &base, env, report: self.report, ports_left: PORTS_MAX }.file(&mut tree);
            root = Some(match root {
                None => tree,
                Some(base) => merge(base, tree),
            });
        }
        let services = root.as_mut().and_then(Node::as_map_mut).and_then(|m| m.remove("services"));
        services.and_then(|s| s.value.as_map().cloned()).or_else(|| Some(Map::default()))
    }
}
