//! What is wrong with a stack, all of it at once, each with the path of its field.
//!
//! The Compose loader shows these with file and line, the server answers them as problem details; both call [`validate`].
//! Only what can be said without a cluster is said here: whether a node fits or an image exists is the scheduler's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::container::{ContainerSpec, HealthTest, Healthcheck, Mount, MountSource, parse_signal};
use crate::content::{CONTENTS_MAX, ContentFile, ContentKind};
use crate::http::{FieldProblem, REPLICAS_MAX};
use crate::id::ServiceName;
use crate::image::ImageName;
use crate::spec::{Protocol, PublishedPort, ServiceMode, ServiceSpec, StackSpec, TaskNetwork};
use crate::units::Bytes;

/// Services of one stack at most.
pub const SERVICES_MAX: usize = 1000;
/// Secrets and configs as files of one container, at most.
pub const CONTENT_FILES_MAX: usize = 100;
/// Longest path that the kernel takes, and longest part of one, bytes.
const PATH_MAX_BYTES: usize = 4095;
const NAME_MAX_BYTES: usize = 255;
/// Characters of a wrong name that are shown.
const SHOWN_MAX_CHARS: usize = 300;
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
    check.contents(stack);
    check.published_ports(stack);
    check.dependency_cycles(stack);
    check.problems.sort();
    check.problems
}

/// Something that stands at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// The path of the field that says so.
    pub path: String,
    /// Where it stands.
    pub target: &'a str,
    /// A secret or config, and not a mount.
    pub file: bool,
}

/// Two places that cannot both be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clash {
    /// The one to be told of, by its number.
    pub place: usize,
    /// The one that was there, or is a file above it.
    pub other: usize,
    /// It is below the other, and not at the same path.
    pub below: bool,
}

/// Secrets and configs at the path of another place, and places below them. Mounts among themselves are left in peace.
pub fn clashes(places: &[Place<'_>]) -> Vec<Clash> {
    let plain: Vec<String> = places.iter().map(|place| plain_path(place.target)).collect();
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (place, at) in plain.iter().enumerate() {
        match first.get(at.as_str()) {
            Some(&other) if places[place].file || places[other].file => {
                found.push(Clash { place, other, below: false });
            }
            Some(_) => {}
            None => drop(first.insert(at, place)),
        }
    }
    for (place, at) in plain.iter().enumerate() {
        let above = at.match_indices('/').map(|(end, _)| &at[..end]);
        if let Some(&other) = above.filter_map(|dir| first.get(dir)).find(|&&other| places[other].file) {
            found.push(Clash { place, other, below: true });
        }
    }
    found
}

/// A path without what means nothing in it: `/run//secrets/./key` is `/run/secrets/key`.
fn plain_path(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// What is wrong with the path of a secret or config.
pub fn file_target_problem(target: &str) -> Option<String> {
    if !target.starts_with('/') || target.split('/').any(|part| part == "..") || target.contains('\0') {
        return Some(format!("{target:?} is not an absolute path"));
    }
    if target.ends_with('/') || target.ends_with("/.") {
        return Some(format!("{target:?} names no file"));
    }
    if target.len() > PATH_MAX_BYTES || target.split('/').any(|part| part.len() > NAME_MAX_BYTES) {
        return Some(format!("a path of {} bytes is longer than the kernel takes", target.len()));
    }
    let plain = plain_path(target);
    let of_kernel = ["/proc/", "/sys/"].iter().find(|dir| plain.starts_with(*dir));
    of_kernel
        .map(|dir| format!("{target:?} is below {}, where only the kernel has files", &dir[..dir.len() - 1]))
}

/// Secrets and configs with the paths of their fields: each kind is counted for itself, as in files.
fn numbered<'a>(service: &str, container: &'a ContainerSpec) -> Vec<(String, &'a ContentFile)> {
    let mut seen: BTreeMap<ContentKind, usize> = BTreeMap::new();
    let number = |file: &'a ContentFile| {
        let index = seen.entry(file.kind).or_default();
        *index += 1;
        (format!("{service}.{}[{}]", file.kind.plural(), *index - 1), file)
    };
    container.files.iter().map(number).collect()
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
        self.content_files(&path, stack, &service.task.container);
        self.places(&path, &service.task.container);
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
        } else if let Err(reason) = ImageName::parse(&container.image) {
            let shown: String = container.image.chars().take(SHOWN_MAX_CHARS).collect();
            let message = format!("{shown:?} is not an image reference: {reason}");
            let hint = "for example `nginx:1.27`, or `registry.example:5000/team/web:1`";
            self.add(format!("{path}.image"), message, Some(hint));
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

    fn contents(&mut self, stack: &StackSpec) {
        let count = stack.secrets.len() + stack.configs.len();
        if count > CONTENTS_MAX {
            let text = format!("{count} secrets and configs; at most {CONTENTS_MAX} are allowed in a stack");
            self.add("secrets", text, None);
        }
    }

    /// Paths count secrets and configs each for itself, as files do.
    fn content_files(&mut self, path: &str, stack: &StackSpec, container: &ContainerSpec) {
        if container.files.len() > CONTENT_FILES_MAX {
            let text = format!("{} files; at most {CONTENT_FILES_MAX} are allowed", container.files.len());
            self.add(format!("{path}.secrets"), text, None);
        }
        for (path, file) in numbered(path, container) {
            if !stack.contents(file.kind).contains_key(&file.name) {
                let text = format!("no {} {} in this stack", file.kind, file.name);
                self.add(format!("{path}.source"), text, None);
            }
            let target = &file.target;
            if let Some(problem) = file_target_problem(target) {
                self.add(format!("{path}.target"), problem, None);
            }
            if file.mode > 0o777 {
                let text = format!("{:o} is more than permission bits of a file", file.mode);
                self.add(format!("{path}.mode"), text, Some("for example 0440"));
            }
            for (field, id) in [("uid", file.uid), ("gid", file.gid)] {
                if id == u32::MAX {
                    self.add(format!("{path}.{field}"), format!("{id} is no id"), None);
                }
            }
        }
    }

    /// No secret or config may hide behind a mount or another file, nor hide one.
    fn places(&mut self, service: &str, container: &ContainerSpec) {
        let mounts = container.mounts.iter().enumerate();
        let mounts = mounts.map(|(index, mount)| Place {
            path: format!("{service}.volumes[{index}]"),
            target: &mount.target,
            file: false,
        });
        let files = numbered(service, container).into_iter();
        let files = files.map(|(path, file)| Place { path, target: &file.target, file: true });
        let places: Vec<Place<'_>> = mounts.chain(files).collect();
        for Clash { place, other, below } in clashes(&places) {
            let (place, other) = (&places[place], &places[other].path);
            let text = match below {
                false => format!("{:?} is the place of {other} already", place.target),
                true => format!("{:?} is below {other}, which is a file", place.target),
            };
            self.add(format!("{}.target", place.path), text, Some("give one of them another `target:`"));
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
        let container = &service.task.container;
        let private = service.task.network != TaskNetwork::Host;
        for name in container.sysctls.keys().filter(|name| !container.owns_sysctl(name, private)) {
            let message = format!("{name} is not a parameter of the container's own namespaces");
            let hint = "set it on the node, for example in /etc/sysctl.d, and take it away here";
            self.add(format!("{path}.sysctls.{name}"), message, Some(hint));
        }
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

    /// A node's port can belong to one service only; `0.0.0.0` holds it on all addresses. Who may publish nothing holds none.
    fn published_ports(&mut self, stack: &StackSpec) {
        let mut taken: BTreeMap<(u16, Protocol), Vec<Holder>> = BTreeMap::new();
        let publishes = |service: &ServiceSpec| matches!(service.task.network, TaskNetwork::Networks(_));
        for (name, service) in stack.services.iter().filter(|(_, service)| publishes(service)) {
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
    use crate::content::{ContentFile, ContentSpec};
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
                NetworkSpec {
                    name: "hello_default".parse().unwrap(),
                    internal: false,
                    external: false,
                    labels: BTreeMap::new(),
                },
            )]),
            volumes: BTreeMap::from([("hello_data".parse().unwrap(), VolumeSpec::default())]),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
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
            range: None,
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
    fn only_parameters_of_its_own_namespaces_are_set() {
        let mut web = service("nginx");
        let of = |name: &str| (name.to_owned(), "1".to_owned());
        web.task.container.sysctls = BTreeMap::from([of("net.core.somaxconn"), of("kernel.shmmax")]);
        assert_eq!(validate(&stack(&[("web", web.clone())])), vec![]);
        web.task.container.sysctls.extend([of("vm.max_map_count")]);
        says(&stack(&[("web", web.clone())]), "services.web.sysctls.vm.max_map_count", "own namespaces");
        web.task.network = TaskNetwork::Host;
        web.task.container.ipc = crate::Namespace::Host;
        assert_eq!(validate(&stack(&[("web", web)])).len(), 3);
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
                Dependency { condition: DependencyCondition::Started, required: true, restart: false },
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
    fn files_need_a_known_source_and_a_place_of_their_own() {
        let mut web = service("x");
        let file = |name: &str, target: &str, mode| ContentFile {
            kind: ContentKind::Secret,
            name: name.parse().unwrap(),
            target: target.into(),
            uid: 0,
            gid: 0,
            mode,
            digest: None,
        };
        web.task.container.files = vec![
            file("hello_a", "/run/secrets/a", 0o440),
            file("b", "/b", 0o444),
            file("hello_a", "/run/secrets/a", 0o4755),
            file("hello_a", "a/../b", 0o444),
        ];
        let mut stack = stack(&[("web", web)]);
        stack.secrets = BTreeMap::from([("hello_a".parse().unwrap(), ContentSpec::default())]);
        assert_eq!(validate(&stack).len(), 4);
        says(&stack, "services.web.secrets[1].source", "no secret b");
        says(&stack, "services.web.secrets[2].target", "the place of services.web.secrets[0]");
        says(&stack, "services.web.secrets[2].mode", "4755");
        says(&stack, "services.web.secrets[3].target", "not an absolute path");
    }

    #[test]
    fn a_file_hides_nothing_and_is_not_hidden() {
        let place = |path: &str, target, file| Place { path: path.to_owned(), target, file };
        let places = [
            place("v0", "/data", false),
            place("v1", "/data", false),
            place("s0", "/run//secrets/./key", true),
            place("s1", "/data", true),
            place("v2", "/run/secrets/key", false),
            place("c0", "/run/secrets/key/below", true),
            place("c1", "/run/secrets/keys", true),
            place("v3", "/run", false),
        ];
        let found: Vec<_> = clashes(&places).iter().map(|c| (c.place, c.other, c.below)).collect();
        assert_eq!(found, [(3, 0, false), (4, 2, false), (5, 2, true)]);
        for (bad, why) in [
            ("key", "not an absolute path"),
            ("/a/../b", "not an absolute path"),
            ("/", "names no file"),
            ("/a/", "names no file"),
            ("/a/.", "names no file"),
            ("/proc/self/mem", "below /proc"),
            ("/.//sys/x", "below /sys"),
        ] {
            assert!(file_target_problem(bad).unwrap().contains(why), "{bad}");
        }
        assert!(file_target_problem(&format!("/{}", "x".repeat(256))).is_some());
        assert_eq!(file_target_problem("/run/secrets/.key..x"), None);
    }

    #[test]
    fn a_volume_at_the_place_of_a_secret_is_refused_and_both_are_named() {
        let mut web = service("x");
        web.task.container.mounts =
            vec![Mount { target: "/run/secrets/a".into(), source: MountSource::Anonymous, read_only: false }];
        web.task.container.files = vec![ContentFile {
            kind: ContentKind::Secret,
            name: "hello_a".parse().unwrap(),
            target: "/run/secrets//a".into(),
            uid: 0,
            gid: 0,
            mode: 0o444,
            digest: None,
        }];
        let mut stack = stack(&[("web", web)]);
        stack.secrets = BTreeMap::from([("hello_a".parse().unwrap(), ContentSpec::default())]);
        says(&stack, "services.web.secrets[0].target", "the place of services.web.volumes[0]");
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
