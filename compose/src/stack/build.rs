//! `build`: what an image is built from. Owns the meaning of its keys; which tool builds, and what that tool lacks, is known only
//! where it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use carrack_api::{Bytes, ServiceName, Ulimit};

use super::Build;
use crate::fields::{Fields, Item};
use crate::source::resolve;
use crate::yaml::Node;

/// How the image of a service is built.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuildSpec {
    /// An absolute directory, or an address that builders understand.
    pub context: String,
    /// The Dockerfile: an absolute path, or one within a context that is an address; `None` for the context's own.
    pub dockerfile: Option<String>,
    /// The Dockerfile's content in place of a file.
    pub dockerfile_inline: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to build.
    pub target: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Where layers built before may come from.
    pub cache_from: Vec<String>,
    /// Where layers go for the next time.
    pub cache_to: Vec<String>,
    /// Uses no layer that was built before.
    pub no_cache: bool,
    /// Stages that use no layer that was built before.
    pub no_cache_filter: Vec<String>,
    /// Asks registries for newer base images.
    pub pull: bool,
    /// The platform to build for, when it is not that of the builder.
    pub platform: Option<String>,
    /// The network of `RUN`.
    pub network: Option<String>,
    /// Size of `/dev/shm` of `RUN`.
    pub shm_size: Option<Bytes>,
    /// Host names for `RUN`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Secrets that `RUN` may mount.
    pub secrets: Vec<BuildSecret>,
    /// SSH agents or keys that `RUN` may use: `default`, `ID=PATH`.
    pub ssh: Vec<String>,
    /// Limits of `RUN`.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// Further contexts: an absolute directory, an address, or `service:NAME`.
    pub additional_contexts: BTreeMap<String, String>,
    /// `RUN` has all privileges.
    pub privileged: bool,
    /// What `RUN` may be allowed, as builders name it.
    pub entitlements: Vec<String>,
    /// A statement of how the image was built.
    pub provenance: Option<String>,
    /// A list of what is in the image.
    pub sbom: Option<String>,
}

/// A secret of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildSecret {
    /// The name that `RUN --mount=type=secret,id=` has.
    pub id: String,
    /// Where its content is.
    pub source: BuildSecretSource,
}

/// Where a secret of a build comes from.
#[derive(Clone, PartialEq)]
pub enum BuildSecretSource {
    /// An absolute path.
    File(String),
    /// A variable with its value.
    Variable {
        /// The variable's name.
        name: String,
        /// Its value.
        value: String,
    },
}

impl fmt::Debug for BuildSecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Variable { name, .. } => {
                f.debug_struct("Variable").field("name", name).finish_non_exhaustive()
            }
        }
    }
}

impl BuildSpec {
    /// The context is an address, not a directory of this machine.
    pub fn is_remote(&self) -> bool {
        is_address(&self.context)
    }

    /// Services whose images are contexts of this build.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.additional_contexts.values().filter_map(|context| context.strip_prefix("service:"))
    }
}

fn is_address(context: &str) -> bool {
    context.contains("://") || ["github.com/", "git@"].iter().any(|prefix| context.starts_with(prefix))
}

impl Build<'_> {
    /// Reads `build`; the image of a service that names none is called after stack and service.
    pub(super) fn build_of(&mut self, service: &ServiceName, item: &Item<'_>, platform: Option<&str>) {
        let mut spec = BuildSpec::default();
        if let Some(text) = item.node.as_text() {
            spec.context = self.context(text);
        } else if let Some(mut fields) = Fields::open(item, self.report) {
            self.source(&mut fields, &mut spec);
            self.result(&mut fields, &mut spec, platform);
            self.cache(&mut fields, &mut spec);
            self.environment_of_run(&mut fields, &mut spec);
            self.privileges(&mut fields, &mut spec);
            fields.finish(&[], self.report);
        }
        self.builds.insert(service.clone(), spec);
    }

    fn context(&self, text: &str) -> String {
        let text = if text.is_empty() { "." } else { text };
        if is_address(text) { text.to_owned() } else { resolve(self.dir, text).display().to_string() }
    }

    fn source(&mut self, fields: &mut Fields<'_>, spec: &mut BuildSpec) {
        let context = fields.take("context").and_then(|i| i.text(self.report)).unwrap_or_default();
        spec.context = self.context(&context);
        let file = fields.take("dockerfile");
        let inline = fields.take("dockerfile_inline");
        spec.dockerfile_inline = inline.as_ref().and_then(|i| i.text(self.report));
        if let (Some(_), Some(item)) = (&file, &inline) {
            let hint = "take one of the two away";
            item.invalid_hint("`dockerfile` and `dockerfile_inline` exclude each other", hint, self.report);
        } else if inline.is_some() && spec.is_remote() {
            let item = inline.as_ref().map(|i| (i.mark(), i.path.clone()));
            if let Some((mark, path)) = item {
                let hint = Some("fetch the sources first and name their directory");
                self.report.unsupported(
                    mark,
                    &path,
                    "an inline Dockerfile needs a context on this machine",
                    hint,
                );
            }
        }
        let file = file.and_then(|i| i.text(self.report)).filter(|f| !f.is_empty());
        spec.dockerfile = file.map(|file| match spec.is_remote() {
            true => file,
            false => resolve(Path::new(&spec.context), &file).display().to_string(),
        });
        for (name, item) in self.pairs_of(fields, "additional_contexts") {
            let context = match item.strip_prefix("service:") {
                Some(service) => {
                    if !self.services.contains_key(service) {
                        let path = format!("{}.additional_contexts.{name}", fields.path);
                        let message = format!("there is no service {service} in this file");
                        self.report.invalid(fields.mark, &path, message);
                    }
                    item
                }
                None => self.context(&item),
            };
            spec.additional_contexts.insert(name, context);
        }
    }

    fn result(&mut self, fields: &mut Fields<'_>, spec: &mut BuildSpec, platform: Option<&str>) {
        spec.target = fields.take("target").and_then(|i| i.text(self.report)).filter(|t| !t.is_empty());
        spec.labels = self.pairs_of(fields, "labels").into_iter().collect();
        spec.tags = self.list_of(fields, "tags");
        spec.provenance = self.told(fields, "provenance").and_then(|i| i.text(self.report));
        spec.sbom = self.told(fields, "sbom").and_then(|i| i.text(self.report));
        let item = fields.take("platforms");
        let platforms = item.as_ref().map(|i| i.texts(self.report)).unwrap_or_default();
        if let (Some(item), [_, _, ..]) = (&item, &platforms[..]) {
            let wanted = platform.filter(|wanted| platforms.iter().any(|p| p == wanted));
            match wanted {
                Some(wanted) => item
                    .note(format!("the image is built for {wanted} alone, as `platform` says"), self.report),
                None => {
                    let hint = Some("name one of them in `platform` of the service");
                    item.unsupported("an image is built for one platform", hint, self.report);
                }
            }
            spec.platform = wanted.map(str::to_owned);
            return;
        }
        spec.platform = platforms.into_iter().next().or_else(|| platform.map(str::to_owned));
    }

    fn cache(&mut self, fields: &mut Fields<'_>, spec: &mut BuildSpec) {
        spec.cache_from = self.list_of(fields, "cache_from");
        spec.cache_to = self.list_of(fields, "cache_to");
        spec.no_cache = fields.take("no_cache").and_then(|i| i.bool(self.report)).unwrap_or(false);
        spec.no_cache_filter =
            self.told(fields, "no_cache_filter").map(|i| self.texts_of(&i)).unwrap_or_default();
        spec.pull = fields.take("pull").and_then(|i| i.bool(self.report)).unwrap_or(false);
    }

    fn environment_of_run(&mut self, fields: &mut Fields<'_>, spec: &mut BuildSpec) {
        spec.args = self.pairs_of(fields, "args").into_iter().collect();
        spec.network =
            self.told(fields, "network").and_then(|i| i.text(self.report)).filter(|n| !n.is_empty());
        spec.shm_size = self.told(fields, "shm_size").and_then(|i| i.bytes(self.report));
        spec.ulimits = self.ulimits(fields);
        if let Some(item) = fields.take("extra_hosts") {
            spec.extra_hosts = self.hosts(&item);
        }
        if let Some(item) = fields.take("secrets") {
            for item in item.items(self.report) {
                spec.secrets.extend(self.build_secret(&item));
            }
        }
        if let Some(item) = fields.take("ssh") {
            spec.ssh = self.agents(&item);
        }
    }

    fn privileges(&mut self, fields: &mut Fields<'_>, spec: &mut BuildSpec) {
        spec.privileged = self.told(fields, "privileged").and_then(|i| i.bool(self.report)).unwrap_or(false);
        spec.entitlements = self.told(fields, "entitlements").map(|i| self.texts_of(&i)).unwrap_or_default();
        if let Some(item) = fields.take("isolation")
            && let Some(isolation) = item.text(self.report)
            && isolation != "default"
        {
            item.unsupported("is a setting of Windows", Some("take it away"), self.report);
        }
    }

    /// A list of texts, or one text.
    fn list_of(&mut self, fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
        fields.take(key).map(|item| self.texts_of(&item)).unwrap_or_default()
    }

    fn texts_of(&mut self, item: &Item<'_>) -> Vec<String> {
        match item.node.as_text() {
            Some(text) => vec![text.to_owned()],
            None => item.texts(self.report),
        }
    }

    /// A key that some builders do not keep: a note says so, unless it asks for nothing.
    fn told<'n>(&mut self, fields: &mut Fields<'n>, key: &'static str) -> Option<Item<'n>> {
        let item = fields.take(key)?;
        let nothing = item.node.as_text().is_some_and(|text| ["", "false"].contains(&text))
            || item.node.as_list().is_some_and(<[_]>::is_empty);
        if !nothing {
            item.listed(&format!("services.build.{key}"), "", self.report);
        }
        Some(item)
    }

    /// `{A: 1}` or `[A=1]`; what has no value gets that of the environment, else it is left out, as in Compose.
    pub(super) fn pairs_of(&mut self, fields: &mut Fields<'_>, key: &'static str) -> Vec<(String, String)> {
        let Some(item) = fields.take(key) else { return Vec::new() };
        let pairs: Vec<(String, Option<String>)> = match item.node.as_list() {
            Some(_) => {
                let split = |text: String| match text.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (text, None),
                };
                item.texts(self.report).into_iter().map(split).collect()
            }
            None => item
                .entries(self.report)
                .into_iter()
                .map(|(name, item)| {
                    let value = (!item.node.is_null()).then(|| item.text(self.report)).flatten();
                    (name.to_owned(), value)
                })
                .collect(),
        };
        let from_environment = |(name, value): (String, Option<String>)| {
            let value = match key {
                "args" | "environment" => value.or_else(|| self.env.get(&name).cloned())?,
                _ => value.unwrap_or_default(),
            };
            Some((name, value))
        };
        pairs.into_iter().filter_map(from_environment).collect()
    }

    fn hosts(&mut self, item: &Item<'_>) -> Vec<(String, String)> {
        let mut hosts = Vec::new();
        if item.node.as_list().is_some() {
            for item in item.items(self.report) {
                let Some(text) = item.text(self.report) else { continue };
                match text.split_once('=').or_else(|| text.split_once(':')) {
                    Some((name, address)) => hosts.push((name.to_owned(), bare(address))),
                    None => item.invalid_hint(
                        "expected a name and an address",
                        "write \"name=1.2.3.4\"",
                        self.report,
                    ),
                }
            }
            return hosts;
        }
        for (name, item) in item.entries(self.report) {
            let addresses = match item.node.as_text() {
                Some(address) => vec![address.to_owned()],
                None => item.texts(self.report),
            };
            hosts.extend(addresses.into_iter().map(|address| (name.to_owned(), bare(&address))));
        }
        hosts
    }

    /// `default`, `ID=PATH`, or a mapping of them.
    fn agents(&mut self, item: &Item<'_>) -> Vec<String> {
        if let Some(text) = item.node.as_text() {
            return vec![text.to_owned()];
        }
        if item.node.as_list().is_some() {
            return item.items(self.report).iter().flat_map(|item| self.agents(item)).collect();
        }
        let entries = item.entries(self.report);
        let agent = |(id, item): (&str, Item<'_>)| match item.node.as_text().filter(|path| !path.is_empty()) {
            Some(path) => format!("{id}={path}"),
            None => id.to_owned(),
        };
        entries.into_iter().map(agent).collect()
    }

    fn build_secret(&mut self, item: &Item<'_>) -> Option<BuildSecret> {
        let (source, target) = match item.node.as_text() {
            Some(name) => (name.to_owned(), None),
            None => {
                let mut fields = Fields::open(item, self.report)?;
                let source = fields.take("source").and_then(|i| i.text(self.report)).unwrap_or_default();
                let target =
                    fields.take("target").and_then(|i| i.text(self.report)).filter(|t| !t.is_empty());
                if ["uid", "gid", "mode"].map(|key| fields.take(key).is_some()).contains(&true) {
                    item.note("the Dockerfile says owner and mode of a build's secret", self.report);
                }
                fields.finish(&[], self.report);
                (source, target)
            }
        };
        let source_of = self.secret_source(item, &source)?;
        Some(BuildSecret { id: target.unwrap_or(source), source: source_of })
    }

    /// The content of a secret of the file, as far as it is on this machine.
    fn secret_source(&mut self, item: &Item<'_>, name: &str) -> Option<BuildSecretSource> {
        let top = |section: &Node| section.as_map().and_then(|m| m.get(name)).cloned();
        let Some(secret) = self.root.as_map().and_then(|m| m.get("secrets")).and_then(top) else {
            item.invalid(format!("there is no secret {name:?} at the top of the file"), self.report);
            return None;
        };
        let text = |key| secret.as_map().and_then(|m| m.get(key)).and_then(Node::as_text);
        if let Some(path) = text("file") {
            return Some(BuildSecretSource::File(resolve(self.dir, path).display().to_string()));
        }
        if let Some(variable) = text("environment") {
            let Some(value) = self.env.get(variable).cloned() else {
                let hint = format!("set {variable}");
                item.invalid_hint(format!("the variable of secret {name} is not set"), &hint, self.report);
                return None;
            };
            return Some(BuildSecretSource::Variable { name: variable.to_owned(), value });
        }
        let hint = Some("give it `file` or `environment`");
        item.unsupported(format!("the content of secret {name} is not on this machine"), hint, self.report);
        None
    }
}

fn bare(address: &str) -> String {
    address.trim_start_matches('[').trim_end_matches(']').to_owned()
}
