//! One service: joins the parts that the other modules read.

use std::collections::BTreeMap;

use carrack_api::{
    Dependency, DependencyCondition, RestartCondition, RestartPolicy, ServiceName, ServiceSpec, TaskNetwork,
    TaskSpec,
};

use super::{Build, refused};
use crate::fields::{Fields, Item};
use crate::suggest;

impl Build<'_> {
    /// Reads a service; what it says wrong is in the report.
    pub(super) fn service(&mut self, name: &ServiceName, item: &Item<'_>) -> Option<ServiceSpec> {
        if item.node.is_null() {
            item.invalid_hint("the service is empty", "give it an `image:`", self.report);
            return None;
        }
        let mut fields = Fields::open(item, self.report)?;
        let mut container = self.container(&mut fields);
        container.image = self.image(&mut fields);
        self.environment(&mut fields, &mut container);
        container.mounts = self.mounts(&mut fields);
        container.security = self.security(&mut fields);
        container.healthcheck = self.healthcheck(&mut fields);
        let deploy = self.deploy(&mut fields);
        let resources = self.limits(&mut fields, &deploy);
        container.limits = resources.limits;
        let restart = self.restart(&mut fields, deploy.restart.clone());
        let mut network = self.task_network(&mut fields);
        self.container_name(&mut fields, &deploy, &mut network);
        let mut placement = deploy.placement;
        placement.platform = self.platform(&mut fields);
        let ports = self.published(&mut fields);
        let expose = self.exposed(&mut fields);
        let mut depends_on = self.depends_on(&mut fields);
        self.links(&mut fields, name, &mut depends_on);
        for (key, known) in [("secrets", self.secrets.clone()), ("configs", self.configs.clone())] {
            self.stored_users(&mut fields, key, &known);
        }
        self.meaningless(&mut fields);
        fields.finish(refused::SERVICE, self.report);
        let reservations = resources.reservations;
        Some(ServiceSpec {
            task: TaskSpec { container, restart, network, reservations },
            mode: deploy.mode,
            placement,
            update: deploy.update,
            ports,
            expose,
            depends_on,
            labels: deploy.labels,
        })
    }

    /// Keys that are right but have nothing to do here.
    fn meaningless(&mut self, fields: &mut Fields<'_>) {
        fields.take("profiles");
        // Followed when the files were read; what is left of it has been told.
        fields.take("extends");
        fields.note("develop", "is for development with Docker Compose and means nothing here", self.report);
        fields.note("attach", "`carrack up` shows the logs of all services", self.report);
        if let Some(item) = fields.take("logging")
            && let Some(mut logging) = Fields::open(&item, self.report)
        {
            let driver = logging.take("driver");
            let name = driver.as_ref().and_then(|d| d.text(self.report)).unwrap_or_default();
            logging.take("options");
            logging.finish(&[], self.report);
            match (name.as_str(), driver) {
                ("" | "json-file" | "local" | "journald" | "none", _) | (_, None) => {
                    item.note("Carrack keeps the last 50 MB of each task itself", self.report);
                }
                (other, Some(driver)) => {
                    let message = format!("sending logs to {other} is not built yet");
                    driver.unsupported(message, Some("take it away and read `carrack logs`"), self.report);
                }
            }
        }
        if let Some(item) = fields.take("runtime")
            && let Some(runtime) = item.text(self.report)
        {
            match runtime.as_str() {
                "runc" | "crun" | "youki" | "io.containerd.runc.v2" => {
                    item.note("Carrack runs containers itself", self.report);
                }
                other => item.unsupported(format!("there is no runtime {other:?}"), None, self.report),
            }
        }
        if let Some(item) = fields.take("isolation")
            && let Some(isolation) = item.text(self.report)
            && isolation != "default"
        {
            item.unsupported("is a setting of Windows", None, self.report);
        }
    }

    fn image(&mut self, fields: &mut Fields<'_>) -> String {
        let image = fields.take("image").and_then(|i| i.text(self.report)).unwrap_or_default();
        let build = fields.take("build");
        if let Some(build) = &build {
            self.build_keys(build);
            if image.is_empty() {
                let hint =
                    "build it with your tool, load it with `carrack image load`, and name it in `image:`";
                build.unsupported("images are not built here yet", Some(hint), self.report);
            } else {
                build.note("images are not built here yet; the image of that name is used", self.report);
            }
        } else if image.is_empty() && !fields.has("provider") {
            let (mark, path) = (fields.mark, fields.path.clone());
            self.report.invalid_hint(
                mark,
                &path,
                "the service has no image",
                "for example `image: nginx:1.27`",
            );
        }
        image
    }

    /// The keys of `build` are checked although nobody builds.
    fn build_keys(&mut self, item: &Item<'_>) {
        let Some(mut build) = Fields::open(item, self.report) else { return };
        for key in [
            "context",
            "dockerfile",
            "dockerfile_inline",
            "args",
            "ssh",
            "cache_from",
            "cache_to",
            "additional_contexts",
            "extra_hosts",
            "isolation",
            "labels",
            "network",
            "no_cache",
            "no_cache_filter",
            "pull",
            "shm_size",
            "target",
            "secrets",
            "tags",
            "platforms",
            "privileged",
            "entitlements",
            "ulimits",
            "provenance",
            "sbom",
        ] {
            build.take(key);
        }
        build.finish(&[], self.report);
    }

    /// `restart`, unless `deploy.restart_policy` says it.
    fn restart(&mut self, fields: &mut Fields<'_>, deploy: Option<RestartPolicy>) -> RestartPolicy {
        let item = fields.take("restart");
        let written = item.as_ref().and_then(|i| self.restart_word(i));
        match (deploy, written, item) {
            (Some(policy), Some(_), Some(item)) => {
                item.note("`deploy.restart_policy` says it and wins", self.report);
                policy
            }
            (Some(policy), _, _) => policy,
            (None, Some(policy), _) => policy,
            (None, None, item) => {
                if item.is_none() {
                    let text = "nothing is written: started again after a failure, not after exit code 0";
                    self.report.detail(fields.mark, &format!("{}.restart", fields.path), text);
                }
                RestartPolicy::default()
            }
        }
    }

    fn restart_word(&mut self, item: &Item<'_>) -> Option<RestartPolicy> {
        let text = item.text(self.report)?;
        let (word, count) = match text.split_once(':') {
            Some((word, count)) => (word, Some(count)),
            None => (text.as_str(), None),
        };
        let (condition, max_attempts) = match (word, count) {
            ("no", None) => (RestartCondition::Never, None),
            ("always" | "unless-stopped", None) => (RestartCondition::Any, None),
            ("on-failure", None) => (RestartCondition::OnFailure, None),
            ("on-failure", Some(count)) if count.parse::<u32>().is_ok() => {
                (RestartCondition::OnFailure, count.parse().ok().filter(|n| *n > 0))
            }
            _ => {
                let known = ["no", "always", "on-failure", "unless-stopped"];
                let hint = match suggest::nearest(word, known) {
                    Some(meant) if meant != word => format!("did you mean `{meant}`?"),
                    _ => "use no, always, unless-stopped, on-failure or on-failure:N".into(),
                };
                item.invalid_hint(format!("{text:?} is no restart policy"), &hint, self.report);
                return None;
            }
        };
        Some(RestartPolicy { condition, max_attempts, delay: None })
    }

    fn platform(&mut self, fields: &mut Fields<'_>) -> Option<String> {
        let item = fields.take("platform")?;
        let platform = item.text(self.report)?;
        if platform.starts_with("windows") || platform.starts_with("darwin") {
            item.unsupported("only Linux containers are run", None, self.report);
            return None;
        }
        Some(platform)
    }

    fn depends_on(&mut self, fields: &mut Fields<'_>) -> BTreeMap<ServiceName, Dependency> {
        let mut out = BTreeMap::new();
        let Some(item) = fields.take("depends_on") else { return out };
        for (key, item) in item.entries(self.report) {
            let mut dependency = Dependency { condition: DependencyCondition::Started, required: true };
            if let Some(mut fields) = Fields::open(&item, self.report) {
                let words = [
                    ("service_started", DependencyCondition::Started),
                    ("service_healthy", DependencyCondition::Healthy),
                    ("service_completed_successfully", DependencyCondition::Completed),
                ];
                if let Some(condition) = fields.take("condition").and_then(|i| i.choice(&words, self.report))
                {
                    dependency.condition = condition;
                }
                dependency.required =
                    fields.take("required").and_then(|i| i.bool(self.report)).unwrap_or(true);
                if let Some(restart) = fields.take("restart")
                    && restart.bool(self.report) == Some(true)
                {
                    let message = "restarting with a dependency is not built yet";
                    restart.unsupported(message, Some("take it away"), self.report);
                }
                fields.finish(&[], self.report);
            }
            if let Some(name) = self.dependency_name(key, &item, dependency.required) {
                out.insert(name, dependency);
            }
        }
        out
    }

    /// The service a dependency names, when it is one that will run.
    fn dependency_name(&mut self, key: &str, item: &Item<'_>, required: bool) -> Option<ServiceName> {
        match self.services.get(key) {
            Some(true) => return ServiceName::new(key).ok(),
            Some(false) if required => {
                let hint = "ask for its profile with --profile, or write `required: false`";
                item.invalid_hint(format!("service {key} is in no active profile"), hint, self.report);
            }
            Some(false) => item.note("is in no active profile and not waited for", self.report),
            None if required => {
                let names = self.services.keys().map(String::as_str);
                let hint = suggest::nearest(key, names).map(|n| format!("did you mean `{n}`?"));
                let message = format!("there is no service {key} in this file");
                let kind = crate::report::DiagnosticKind::Invalid;
                self.report.problem(kind, item.mark(), &item.path, message, hint);
            }
            None => item.note("is not in this file and not waited for", self.report),
        }
        None
    }

    /// `SERVICE[:ALIAS]`: an alias of the other service, which also starts first.
    fn links(
        &mut self,
        fields: &mut Fields<'_>,
        name: &ServiceName,
        depends_on: &mut BTreeMap<ServiceName, Dependency>,
    ) {
        let Some(item) = fields.take("links") else { return };
        for item in item.items(self.report) {
            let Some(text) = item.text(self.report) else { continue };
            let (target, alias) = text.split_once(':').unwrap_or((&text, &text));
            let Some(service) = self.dependency_name(target, &item, true) else { continue };
            depends_on
                .entry(service.clone())
                .or_insert(Dependency { condition: DependencyCondition::Started, required: true });
            if alias != target {
                item.note("is an alias that the whole network sees", self.report);
                self.links.push((service, name.clone(), alias.to_owned()));
            }
        }
    }

    /// One container of a name: an alias of the service.
    fn container_name(
        &mut self,
        fields: &mut Fields<'_>,
        deploy: &super::deploy::Deploy,
        network: &mut TaskNetwork,
    ) {
        let Some(item) = fields.take("container_name") else { return };
        let Some(name) = item.text(self.report) else { return };
        let valid = name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !valid {
            let hint = "use at least two letters, digits, `_`, `.` or `-`, and begin with a letter or digit";
            item.invalid_hint(format!("{name:?} is no name for a container"), hint, self.report);
            return;
        }
        if deploy.many() {
            let hint = "take away container_name or the replicas; tasks are named stack/service.1, .2, ...";
            item.invalid_hint("one name cannot belong to several replicas", hint, self.report);
            return;
        }
        if let TaskNetwork::Networks(networks) = network {
            item.note("is a further name of the service on its networks", self.report);
            for attachment in networks.values_mut() {
                if !attachment.aliases.contains(&name) {
                    attachment.aliases.push(name.clone());
                }
            }
        } else {
            item.note("names nothing without a network of its own", self.report);
        }
    }

    fn stored_users(
        &mut self,
        fields: &mut Fields<'_>,
        key: &'static str,
        known: &std::collections::BTreeSet<String>,
    ) {
        let Some(item) = fields.take(key) else { return };
        for item in item.items(self.report) {
            let Some(mut fields) = Fields::open(&item, self.report) else { continue };
            let source = fields.take("source").and_then(|i| i.text(self.report)).unwrap_or_default();
            for field in ["target", "uid", "gid", "mode"] {
                fields.take(field);
            }
            fields.finish(&[], self.report);
            let what = key.trim_end_matches('s');
            if known.contains(&source) {
                let hint = Some("use an environment variable or a bind mount for now");
                item.unsupported(format!("{key} are not built yet"), hint, self.report);
            } else {
                item.invalid(format!("there is no {what} {source:?} at the top of the file"), self.report);
            }
        }
    }
}
