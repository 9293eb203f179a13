//! What is wrong with a stack, all of it at once, each with the path of its field.
//!
//! The Compose loader shows these with file and line, the server answers them as problem details; both call [`validate`].
//! Only what can be said without a cluster is said here: whether a node fits or an image exists is the scheduler's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::container::{ContainerSpec, HealthTest, Healthcheck, Mount, MountSource, parse_signal};
use crate::http::{FieldProblem, REPLICAS_MAX};
use crate::id::ServiceName;
use crate::spec::{Protocol, PublishedPort, ServiceMode, ServiceSpec, StackSpec, TaskNetwork};
use crate::units::Bytes;

/// Services of one stack at most.
pub const SERVICES_MAX: usize = 1000;
/// Smallest memory limit, as Docker has it: below this no process starts.
pub const MEMORY_MIN: Bytes = Bytes(6 << 20);

/// All problems of a stack; empty when it is valid.
pub fn validate(stack: &StackSpec) -> Vec<FieldProblem> {
    let mut check = Check::default();
    if stack.services.is_empty() {
        check.add("services", "a stack needs at least one service", None);
    }
    if stack.services.len() > SERVICES_MAX {
        check.add(
            "services",
            format!("{} services; at most {SERVICES_MAX} are allowed", stack.services.len()),
            None,
        );
    }
    for (name, service) in &stack.services {
        check.service(stack, name, service);
    }
    check.published_ports(stack);
    check.dependency_cycles(stack);
    check.problems.sort();
    check.problems
}

/// The address a port is published on, and the path of the field that says so.
type Holder = (Option<IpAddr>, String);

#[derive(Default)]
struct Check {
    problems: Vec<FieldProblem>,
}

impl Check {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>, hint: Option<&str>) {
        self.problems.push(FieldProblem {
            path: path.into(),
            message: message.into(),
            hint: hint.map(Into::into),
        });
    }

    fn service(&mut self, stack: &StackSpec, name: &ServiceName, service: &ServiceSpec) {
        let path = format!("services.{name}");
        self.container(&path, &service.task.container);
        for (index, mount) in service.task.container.mounts.iter().enumerate() {
            self.mount(&format!("{path}.volumes[{index}]"), stack, mount);
        }
        self.scale(&path, service);
        self.network(&path, stack, service);
        self.reservations(&path, service);
        for constraint in &service.placement.constraints {
            if !constraint.contains("==") && !constraint.contains("!=") {
                self.add(
                    format!("{path}.deploy.placement.constraints"),
                    format!("constraint {constraint:?} has neither == nor !="),
                    Some("write it as `node.labels.disk == ssd`"),
                );
            }
        }
        for (target, dependency) in &service.depends_on {
            if target == name {
                self.add(format!("{path}.depends_on"), format!("service {name} depends on itself"), None);
            } else if dependency.required && !stack.services.contains_key(target) {
                self.add(
                    format!("{path}.depends_on.{target}"),
                    format!("no service {target} in this file"),
                    None,
                );
            }
        }
    }

    fn container(&mut self, path: &str, container: &ContainerSpec) {
        if container.image.trim().is_empty() {
            self.add(format!("{path}.image"), "no image", Some("name one, for example `image: nginx:1.27`"));
        }
        for key in container.env.keys() {
            if key.is_empty() || key.contains(['=', '\0']) {
                self.add(format!("{path}.environment"), format!("{key:?} is no name for a variable"), None);
            }
        }
        let text = |value: &Option<String>| value.as_ref().is_some_and(|v| v.contains('\0'));
        if text(&container.user) || text(&container.working_dir) || text(&container.hostname) {
            self.add(path, "a text contains a NUL byte", None);
        }
        if let Some(dir) = &container.working_dir
            && !dir.starts_with('/')
        {
            self.add(
                format!("{path}.working_dir"),
                format!("{dir:?} is not absolute"),
                Some("begin it with /"),
            );
        }
        if let Some(hostname) = &container.hostname
            && !is_hostname(hostname)
        {
            self.add(format!("{path}.hostname"), format!("{hostname:?} is not a host name"), None);
        }
        if let Some(signal) = &container.stop_signal
            && parse_signal(signal).is_none()
        {
            self.add(
                format!("{path}.stop_signal"),
                format!("no signal {signal:?}"),
                Some("for example SIGTERM or SIGINT"),
            );
        }
        if let Some(score) = container.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            self.add(format!("{path}.oom_score_adj"), format!("{score} is not within -1000 to 1000"), None);
        }
        for (name, limit) in &container.ulimits {
            if limit.hard >= 0 && (limit.soft < 0 || limit.soft > limit.hard) {
                self.add(
                    format!("{path}.ulimits.{name}"),
                    format!("soft limit {} is above hard limit {}", limit.soft, limit.hard),
                    None,
                );
            }
        }
        for (name, address) in &container.extra_hosts {
            if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
                self.add(
                    format!("{path}.extra_hosts"),
                    format!("{address:?} for host {name} is not an IP address"),
                    Some("write an address or `host-gateway`"),
                );
            }
        }
        self.limits(path, container);
        if let Some(healthcheck) = &container.healthcheck {
            self.healthcheck(path, healthcheck);
        }
    }

    fn limits(&mut self, path: &str, container: &ContainerSpec) {
        let limits = &container.limits;
        if let Some(memory) = limits.memory {
            if memory < MEMORY_MIN {
                self.add(
                    format!("{path}.deploy.resources.limits.memory"),
                    format!("{memory} is too little for a process to start"),
                    Some("give at least 6 MiB; sizes are bytes unless they end in b, k, m or g"),
                );
            }
            if limits.memory_swap.is_some_and(|swap| swap < memory) {
                self.add(format!("{path}.memswap_limit"), "memory plus swap is less than memory", None);
            }
            if limits.memory_reservation.is_some_and(|reserved| reserved > memory) {
                self.add(
                    format!("{path}.deploy.resources.reservations.memory"),
                    "the reservation is above the limit",
                    None,
                );
            }
        }
        if limits.cpus.is_some_and(|cpus| cpus.0 == 0) {
            self.add(format!("{path}.deploy.resources.limits.cpus"), "0 CPUs leave nothing to run on", None);
        }
        if limits.cpu_shares.is_some_and(|shares| !(2..=262_144).contains(&shares)) {
            self.add(format!("{path}.cpu_shares"), "not within 2 to 262144", None);
        }
    }

    fn healthcheck(&mut self, path: &str, healthcheck: &Healthcheck) {
        let path = format!("{path}.healthcheck");
        match &healthcheck.test {
            HealthTest::Exec(command) if command.is_empty() => {
                self.add(format!("{path}.test"), "no command", None)
            }
            HealthTest::Shell(line) if line.trim().is_empty() => {
                self.add(format!("{path}.test"), "no command", None)
            }
            HealthTest::Exec(_) | HealthTest::Shell(_) | HealthTest::Disabled | HealthTest::Inherit => {}
        }
        for (name, value) in [("interval", healthcheck.interval), ("timeout", healthcheck.timeout)] {
            if value.is_some_and(|v| v.is_zero()) {
                self.add(format!("{path}.{name}"), "zero is no time for a probe", None);
            }
        }
    }

    fn mount(&mut self, path: &str, stack: &StackSpec, mount: &Mount) {
        if !mount.target.starts_with('/') || mount.target.split('/').any(|part| part == "..") {
            self.add(format!("{path}.target"), format!("{:?} is not an absolute path", mount.target), None);
        } else if mount.target.trim_matches('/').is_empty() {
            self.add(format!("{path}.target"), "the root directory cannot be mounted over", None);
        }
        match &mount.source {
            MountSource::Bind { path: source, .. } if !source.starts_with('/') => {
                self.add(format!("{path}.source"), format!("{source:?} is not an absolute path"), None);
            }
            MountSource::Volume { name, .. } if !stack.volumes.contains_key(name) => {
                self.add(format!("{path}.source"), format!("no volume {name} in this stack"), None);
            }
            MountSource::Bind { .. }
            | MountSource::Volume { .. }
            | MountSource::Anonymous
            | MountSource::Tmpfs { .. } => {}
        }
    }

    fn scale(&mut self, path: &str, service: &ServiceSpec) {
        if let ServiceMode::Replicated { replicas } = service.mode
            && replicas > REPLICAS_MAX
        {
            self.add(
                format!("{path}.deploy.replicas"),
                format!("{replicas}; at most {REPLICAS_MAX} are allowed"),
                None,
            );
        }
        if service.update.parallelism == Some(0) {
            self.add(
                format!("{path}.deploy.update_config.parallelism"),
                "0 would replace all tasks at once and lose requests",
                Some("leave it out for one at a time"),
            );
        }
    }

    fn network(&mut self, path: &str, stack: &StackSpec, service: &ServiceSpec) {
        match &service.task.network {
            TaskNetwork::Networks(networks) => {
                for name in networks.keys().filter(|name| !stack.networks.contains_key(*name)) {
                    self.add(
                        format!("{path}.networks.{name}"),
                        format!("no network {name} in this stack"),
                        None,
                    );
                }
            }
            TaskNetwork::Host | TaskNetwork::None if !service.ports.is_empty() => self.add(
                format!("{path}.ports"),
                "ports are published only for tasks with a network of their own",
                Some("take away `ports` or `network_mode`"),
            ),
            TaskNetwork::Host | TaskNetwork::None => {}
        }
        for (index, port) in service.ports.iter().enumerate() {
            if port.target == 0 || port.published == Some(0) {
                self.add(format!("{path}.ports[{index}]"), "port 0 is no port", None);
            }
        }
    }

    fn reservations(&mut self, path: &str, service: &ServiceSpec) {
        let limits = &service.task.container.limits;
        if limits.cpus.is_some_and(|cpus| service.task.reservations.cpus > cpus) {
            self.add(
                format!("{path}.deploy.resources.reservations.cpus"),
                format!("{} reserved is above the limit", service.task.reservations.cpus),
                None,
            );
        }
        if limits.memory.is_some_and(|memory| service.task.reservations.memory > memory) {
            self.add(
                format!("{path}.deploy.resources.reservations.memory"),
                format!("{} reserved is above the limit", service.task.reservations.memory),
                None,
            );
        }
    }

    /// A node's port can belong to one service only; `0.0.0.0` holds it on all addresses.
    fn published_ports(&mut self, stack: &StackSpec) {
        let mut taken: BTreeMap<(u16, Protocol), Vec<Holder>> = BTreeMap::new();
        for (name, service) in &stack.services {
            for (index, port) in service.ports.iter().enumerate() {
                let Some(published) = port.published else { continue };
                let path = format!("services.{name}.ports[{index}]");
                let holders = taken.entry((published, port.protocol)).or_default();
                if let Some((_, other)) = holders.iter().find(|(ip, _)| overlap(*ip, port.host_ip)) {
                    let message =
                        format!("port {published}/{} is published already by {other}", port.protocol);
                    self.add(path.clone(), message, Some("give it another number on the left of the colon"));
                }
                holders.push((port.host_ip, path));
            }
        }
    }

    fn dependency_cycles(&mut self, stack: &StackSpec) {
        let mut done = BTreeSet::new();
        for name in stack.services.keys() {
            let mut trail = Vec::new();
            if let Some(cycle) = find_cycle(stack, name, &mut trail, &mut done) {
                self.add(
                    format!("services.{name}.depends_on"),
                    format!("services wait for each other: {cycle}"),
                    Some("take one of these dependencies away"),
                );
            }
        }
    }
}

fn find_cycle<'a>(
    stack: &'a StackSpec,
    name: &'a ServiceName,
    trail: &mut Vec<&'a ServiceName>,
    done: &mut BTreeSet<&'a ServiceName>,
) -> Option<String> {
    if let Some(start) = trail.iter().position(|seen| *seen == name) {
        let names: Vec<&str> = trail[start..].iter().chain([&name]).map(|n| n.as_str()).collect();
        return (names.len() > 2).then(|| names.join(" -> "));
    }
    if done.contains(name) {
        return None;
    }
    trail.push(name);
    let found = stack
        .services
        .get(name)
        .and_then(|service| service.depends_on.keys().find_map(|next| find_cycle(stack, next, trail, done)));
    trail.pop();
    done.insert(name);
    found
}

/// Two published addresses want the same socket.
pub fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
        _ => true,
    }
}

/// Two published ports want the same socket of a node.
pub fn ports_collide(a: &PublishedPort, b: &PublishedPort) -> bool {
    a.published.is_some()
        && a.published == b.published
        && a.protocol == b.protocol
        && overlap(a.host_ip, b.host_ip)
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Dependency, DependencyCondition, NetworkSpec, PortMode, TaskSpec, VolumeSpec};
    use crate::{Attachment, MilliCpus, Reservations};

    fn service(image: &str) -> ServiceSpec {
        ServiceSpec {
            task: TaskSpec {
                container: ContainerSpec { image: image.into(), ..Default::default() },
                ..Default::default()
            },
            mode: ServiceMode::default(),
            placement: Default::default(),
            update: Default::default(),
            ports: Vec::new(),
            expose: Vec::new(),
            depends_on: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    fn stack(services: &[(&str, ServiceSpec)]) -> StackSpec {
        StackSpec {
            name: "hello".parse().unwrap(),
            services: services.iter().map(|(n, s)| (n.parse().unwrap(), s.clone())).collect(),
            networks: BTreeMap::from([(
                "default".parse().unwrap(),
                NetworkSpec { name: "hello_default".parse().unwrap(), internal: false, external: false },
            )]),
            volumes: BTreeMap::from([("hello_data".parse().unwrap(), VolumeSpec::default())]),
        }
    }

    fn says(stack: &StackSpec, path: &str, text: &str) {
        let problems = validate(stack);
        assert!(
            problems.iter().any(|p| p.path == path && p.message.contains(text)),
            "no problem {text:?} at {path}: {problems:#?}"
        );
    }

    fn port(published: u16, host_ip: Option<&str>) -> PublishedPort {
        PublishedPort {
            target: 80,
            published: Some(published),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol: Protocol::Tcp,
            mode: PortMode::Ingress,
        }
    }

    #[test]
    fn a_plain_stack_has_no_problem() {
        let mut web = service("nginx");
        web.ports = vec![port(8080, None)];
        web.task.network =
            TaskNetwork::Networks(BTreeMap::from([("default".parse().unwrap(), Attachment::default())]));
        assert_eq!(validate(&stack(&[("web", web)])), vec![]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut web = service("");
        web.task.container.stop_signal = Some("SIGNOPE".into());
        web.task.container.working_dir = Some("srv".into());
        web.task.container.limits.memory = Some(Bytes(1000));
        let stack = stack(&[("web", web)]);
        assert_eq!(validate(&stack).len(), 4);
        says(&stack, "services.web.image", "no image");
        says(&stack, "services.web.stop_signal", "SIGNOPE");
        says(&stack, "services.web.deploy.resources.limits.memory", "too little");
    }

    #[test]
    fn one_port_has_one_service() {
        let (mut a, mut b) = (service("x"), service("y"));
        a.ports = vec![port(80, None)];
        b.ports = vec![port(80, Some("127.0.0.1"))];
        says(
            &stack(&[("a", a.clone()), ("b", b.clone())]),
            "services.b.ports[0]",
            "published already by services.a.ports[0]",
        );
        a.ports = vec![port(80, Some("127.0.0.2"))];
        assert_eq!(validate(&stack(&[("a", a), ("b", b)])), vec![]);
    }

    #[test]
    fn services_that_wait_for_each_other_are_named() {
        let needs = |name: &str| {
            let mut s = service("x");
            s.depends_on = BTreeMap::from([(
                name.parse().unwrap(),
                Dependency { condition: DependencyCondition::Started, required: true },
            )]);
            s
        };
        says(
            &stack(&[("a", needs("b")), ("b", needs("c")), ("c", needs("a"))]),
            "services.a.depends_on",
            "a -> b -> c -> a",
        );
        says(&stack(&[("a", needs("zz"))]), "services.a.depends_on.zz", "no service zz");
        says(&stack(&[("a", needs("a"))]), "services.a.depends_on", "itself");
    }

    #[test]
    fn a_reservation_above_its_limit_is_refused() {
        let mut web = service("x");
        web.task.container.limits.cpus = Some(MilliCpus(500));
        web.task.reservations = Reservations { cpus: MilliCpus(600), memory: Bytes(0) };
        says(&stack(&[("web", web)]), "services.web.deploy.resources.reservations.cpus", "above the limit");
    }

    #[test]
    fn mounts_need_an_absolute_target_and_a_known_volume() {
        let mut web = service("x");
        let volume = |name: &str, target: &str| Mount {
            target: target.into(),
            source: MountSource::Volume { name: name.parse().unwrap(), nocopy: false, subpath: None },
            read_only: false,
        };
        web.task.container.mounts =
            vec![volume("hello_data", "/data"), volume("other", "data"), volume("hello_data", "/")];
        let stack = stack(&[("web", web)]);
        says(&stack, "services.web.volumes[1].target", "not an absolute path");
        says(&stack, "services.web.volumes[1].source", "no volume other");
        says(&stack, "services.web.volumes[2].target", "root directory");
    }
}
