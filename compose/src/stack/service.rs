//! One service: joins the parts that the other modules read.

use std::collections::BTreeMap;

use carrack_api::{
    ContainerSpec, Dependency, DependencyCondition, PullPolicy, RestartCondition, RestartPolicy, ServiceName,
    ServiceSpec, TaskNetwork, TaskSpec,
};

use super::Build;
use crate::fields::{Fields, Item};
use crate::outcomes;
use crate::suggest;

/// Systems that images are made for, beside Linux.
const OTHER_SYSTEMS: [&str; 6] = ["darwin", "freebsd", "js", "wasi", "wasip1", "windows"];

impl Build<'_> {
    /// Reads a service; what it says wrong is in the report.
    pub(super) fn service(&mut self, name: &ServiceName, item: &Item<'_>) -> Option<ServiceSpec> {
        if item.node.is_null() {
            item.invalid_hint("the service is empty", "give it an `image:`", self.report);
            return None;
        }
        let mut fields = Fields::open(item, self.report)?;
        let mut container = self.container(&mut fields);
        let build = self.image(&mut fields, name, &mut container);
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
        if let Some(build) = build {
            self.build_of(name, &build, placement.platform.as_deref());
        }
        let ports = self.published(&mut fields);
        let expose = self.exposed(&mut fields);
        let mut depends_on = self.depends_on(&mut fields);
        self.links(&mut fields, name, &mut depends_on);
        self.volumes_from(&mut fields, name, &mut depends_on);
        container.files = self.content_files(&mut fields);
        container.files.append(&mut self.small_files);
        self.check_places();
        self.meaningless(&mut fields);
        fields.finish(&outcomes::refused("services"), self.report);
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
        fields.listed("develop", "services.develop", self.report);
        fields.listed("attach", "services.attach", self.report);
        fields.listed("annotations", "services.annotations", self.report);
        if let Some(item) = fields.take("logging")
            && let Some(mut logging) = Fields::open(&item, self.report)
        {
            if let Some(driver) = logging.take("driver")
                && let Some(name) = driver.text(self.report)
            {
                let kept = ["", "json-file", "local", "journald", "none"].contains(&name.as_str());
                let form = if kept { "" } else { "drivers that send" };
                driver.listed("services.logging.driver", form, self.report);
            }
            logging.listed("options", "services.logging.options", self.report);
            logging.finish(&[], self.report);
        }
        if let Some(item) = fields.take("runtime")
            && let Some(runtime) = item.text(self.report)
        {
            let ours = ["runc", "crun", "youki", "io.containerd.runc.v2"].contains(&runtime.as_str());
            let form = if ours { "" } else { "others than runc, crun and youki" };
            item.listed("services.runtime", form, self.report);
        }
        if let Some(item) = fields.take("isolation")
            && let Some(isolation) = item.text(self.report)
            && isolation != "default"
        {
            item.listed("services.isolation", "others than default", self.report);
        }
    }

    /// The image, and what it is built from. A build without a name is called after stack and service, and no registry is asked
    /// for that name.
    fn image<'a>(
        &mut self,
        fields: &mut Fields<'a>,
        service: &ServiceName,
        container: &mut ContainerSpec,
    ) -> Option<Item<'a>> {
        container.image = fields.take("image").and_then(|i| i.text(self.report)).unwrap_or_default();
        let build = fields.take("build");
        if container.image.is_empty() && build.is_some() {
            container.image = format!("{}-{service}", self.name).to_ascii_lowercase();
            container.pull = PullPolicy::Never;
        } else if container.image.is_empty() && !fields.has("provider") {
            let (mark, path) = (fields.mark, fields.path.clone());
            self.report.invalid_hint(
                mark,
                &path,
                "the service has no image",
                "for example `image: nginx:1.27`",
            );
        }
        build
    }

    /// `restart`, unless `deploy.restart_policy` says it.
    fn restart(&mut self, fields: &mut Fields<'_>, deploy: Option<RestartPolicy>) -> RestartPolicy {
        let item = fields.take("restart");
        let written = item.as_ref().and_then(|i| self.restart_word(i));
        match (deploy, written, item) {
            (Some(policy), Some(_), Some(item)) => {
                item.listed("services.restart", "beside deploy.restart_policy", self.report);
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
        // An architecture alone is one of Linux.
        let system = platform.split('/').next().unwrap_or_default();
        if (platform.contains('/') && system != "linux") || OTHER_SYSTEMS.contains(&system) {
            item.listed("services.platform", "others than Linux", self.report);
            return None;
        }
        Some(platform)
    }

    fn depends_on(&mut self, fields: &mut Fields<'_>) -> BTreeMap<ServiceName, Dependency> {
        let mut out = BTreeMap::new();
        let Some(item) = fields.take("depends_on") else { return out };
        for (key, item) in item.entries(self.report) {
            let mut dependency =
                Dependency { condition: DependencyCondition::Started, required: true, restart: false };
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
                dependency.restart =
                    fields.take("restart").and_then(|i| i.bool(self.report)).unwrap_or(false);
                fields.finish(&[], self.report);
            }
            if let Some(name) = self.dependency_name(key, &item, dependency.required) {
                out.insert(name, dependency);
            }
        }
        out
    }

    /// The service a dependency names, when it is one that will run.
    pub(super) fn dependency_name(
        &mut self,
        key: &str,
        item: &Item<'_>,
        required: bool,
    ) -> Option<ServiceName> {
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
            depends_on.entry(service.clone()).or_insert(Dependency {
                condition: DependencyCondition::Started,
                required: true,
                restart: false,
            });
            if alias != target {
                item.listed("services.links", "SERVICE:ALIAS", self.report);
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
            item.listed("services.container_name", "", self.report);
            for attachment in networks.values_mut() {
                if !attachment.aliases.contains(&name) {
                    attachment.aliases.push(name.clone());
                }
            }
        } else {
            item.listed("services.container_name", "without a network", self.report);
        }
    }
}
