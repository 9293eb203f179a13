//! The rules, one function for each area. Each looks at one service: at its tree for the place, at its specification for the
//! meaning.

use std::path::Path;

use carrack_api::{ServiceMode, ServiceSpec, TaskNetwork};

use super::{Finding, Verdict};
use crate::FileSource;
use crate::project::Project;
use crate::report::{Mark, Report};
use crate::stack::Built;
use crate::yaml::{Map, Node};

/// Sockets of container engines, as the ends of paths.
const SOCKETS: [&str; 5] =
    ["/docker.sock", "/podman.sock", "/podman/podman.sock", "/containerd.sock", "/crio.sock"];
/// Places that every host has, each with its own content.
const OF_THE_HOST: [&str; 9] = [
    "/etc/localtime",
    "/etc/timezone",
    "/etc/hosts",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/run",
    "/lib/modules",
];

/// A finding before its place has a file's name.
pub(super) struct Found {
    verdict: Verdict,
    mark: Mark,
    key: String,
    text: String,
    hint: Option<String>,
}

impl Found {
    pub(super) fn placed(self, report: &Report) -> Finding {
        let Self { verdict, mark, key, text, hint } = self;
        Finding { verdict, position: report.position(mark), key, text, hint }
    }
}

/// One service, looked at from all sides.
struct Look<'a> {
    project: &'a Project,
    files: &'a dyn FileSource,
    name: &'a str,
    tree: &'a Map,
    spec: &'a ServiceSpec,
    out: &'a mut Vec<Found>,
}

/// All findings of all services that would run.
pub(super) fn all(project: &Project, built: &Built, files: &dyn FileSource) -> Vec<Found> {
    let mut out = Vec::new();
    let services = project.root.as_map().and_then(|root| root.get("services")).and_then(Node::as_map);
    for (name, spec) in &built.stack.services {
        let Some(tree) = services.and_then(|s| s.get(name.as_str())).and_then(Node::as_map) else { continue };
        let mut look = Look { project, files, name: name.as_str(), tree, spec, out: &mut out };
        look.image();
        look.mounts();
        look.networks();
        look.ports();
        look.names();
        look.host();
    }
    out
}

impl<'a> Look<'a> {
    /// The key of the service, when it holds something.
    fn key(&self, key: &str) -> Option<&'a Node> {
        self.tree.get(key).filter(|node| !node.is_null() && node.as_text() != Some("false"))
    }

    fn tell(
        &mut self,
        verdict: Verdict,
        node: &Node,
        key: &str,
        text: impl Into<String>,
        hint: Option<&str>,
    ) {
        let key = format!("services.{}.{key}", self.name);
        let (text, hint) = (text.into(), hint.map(str::to_owned));
        self.out.push(Found { verdict, mark: node.mark, key, text, hint });
    }

    /// More than one task may run.
    fn many(&self) -> bool {
        match self.spec.mode {
            ServiceMode::Replicated { replicas } => replicas > 1,
            ServiceMode::Global => true,
        }
    }

    fn image(&mut self) {
        let Some(build) = self.key("build") else { return };
        if self.key("image").is_none() {
            let text = "the image is built here, under a name that no registry has";
            let hint =
                "name it in `image:` and push it; `carrack deploy --build` builds and sends it each time";
            self.tell(Verdict::Breaks, build, "build", text, Some(hint));
            return;
        }
        let text = "the image is built here; other hosts get the one that `image:` names";
        self.tell(Verdict::Changes, build, "build", text, None);
    }

    fn mounts(&mut self) {
        let items = self.key("volumes").and_then(Node::as_list).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let Some(map) = item.as_map() else { continue };
            let text = |key: &str| map.get(key).and_then(Node::as_text);
            let key = format!("volumes[{index}]");
            match (text("type"), text("source")) {
                (Some("bind"), Some(source)) => self.bind(item, &key, source),
                (Some("volume"), Some(source)) => self.volume(item, &key, source),
                _ => {}
            }
        }
    }

    fn bind(&mut self, item: &Node, key: &str, source: &str) {
        let target = item.as_map().and_then(|m| m.get("target")).and_then(Node::as_text);
        if self.spec.task.container.files.iter().any(|file| Some(file.target.as_str()) == target) {
            return; // A small file that became a config.
        }
        if SOCKETS.iter().any(|socket| source.ends_with(socket)) {
            let text =
                format!("{source} is the socket of an engine that knows nothing of Carrack's containers");
            let hint = "take it away; programs can ask Carrack's own API";
            return self.tell(Verdict::Breaks, item, key, text, Some(hint));
        }
        let below = |root: &str| source == root || source.starts_with(&format!("{root}/"));
        if source == "/" || OF_THE_HOST.iter().any(|root| below(root)) {
            let text =
                format!("{source} is that of one host: the service stays on the node that takes the deploy");
            let hint = "for one task on every node write `deploy: {mode: global}`";
            return self.tell(Verdict::Changes, item, key, text, Some(hint));
        }
        let path = Path::new(source);
        if !path.starts_with(&self.project.dir) {
            let text = format!(
                "{source} is a path of one host: the service stays on the node that takes the deploy"
            );
            let hint = "use a named volume, or put the path on every host and name the hosts in a constraint";
            return self.tell(Verdict::Changes, item, key, text, Some(hint));
        }
        let shown = match path.strip_prefix(&self.project.dir) {
            Ok(below) if below.as_os_str().is_empty() => ".".to_owned(),
            Ok(below) => format!("./{}", below.display()),
            Err(_) => source.to_owned(),
        };
        if self.files.is_file(path) {
            let hint = "mount it read-only (`:ro`): a small file is then a config, which every node has";
            let text = format!("only this machine has {shown}: the service runs nowhere else");
            return self.tell(Verdict::Breaks, item, key, text, Some(hint));
        }
        if !self.files.is_dir(path) {
            let hint = "make it, or keep data in a named volume";
            let text = format!("{shown} is not there: every host would make an empty directory of its own");
            return self.tell(Verdict::Breaks, item, key, text, Some(hint));
        }
        let hint = "COPY it into the image, or keep data in a named volume";
        let text = format!("only this machine has what is in {shown}: the service runs nowhere else");
        self.tell(Verdict::Breaks, item, key, text, Some(hint));
    }

    fn volume(&mut self, item: &Node, key: &str, source: &str) {
        match self.spec.mode {
            ServiceMode::Global => {
                let text =
                    format!("volume {source} is on one node, and a task on another would have an empty one");
                let hint = "leave `mode: global` out, or give the tasks no common volume";
                self.tell(Verdict::Breaks, item, key, text, Some(hint));
            }
            ServiceMode::Replicated { replicas } if replicas > 1 => {
                let text = format!("volume {source} is on one node, which then has all {replicas} replicas");
                let hint = "keep shared data in a service of its own, for example a database";
                self.tell(Verdict::Changes, item, key, text, Some(hint));
            }
            ServiceMode::Replicated { .. } => {
                let text = format!(
                    "volume {source} is on one node: the service waits for that node when it is lost"
                );
                self.tell(Verdict::Changes, item, key, text, None);
            }
        }
    }

    fn networks(&mut self) {
        let Some(mode) = self.key("network_mode") else { return };
        if self.spec.task.network != TaskNetwork::Host {
            return;
        }
        if self.many() && !matches!(self.spec.mode, ServiceMode::Global) {
            let text = "replicas on one node would fight for the same ports of the host";
            let hint = "leave network_mode out and publish ports, or write `deploy: {mode: global}`";
            return self.tell(Verdict::Breaks, mode, "network_mode", text, Some(hint));
        }
        let text = "its ports are open on whichever node runs it, other services have no name for it, and it has none for them";
        let hint = "leave it out and publish the ports";
        self.tell(Verdict::Changes, mode, "network_mode", text, Some(hint));
    }

    fn ports(&mut self) {
        let items = self.key("ports").and_then(Node::as_list).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let Some(map) = item.as_map() else { continue };
            let key = format!("ports[{index}]");
            let ip =
                map.get("host_ip").and_then(Node::as_text).and_then(|t| t.parse::<std::net::IpAddr>().ok());
            match ip {
                Some(ip) if ip.is_unspecified() => {}
                Some(ip) if ip.is_loopback() => {
                    let text = format!("is open on {ip} of every node: each is reached from itself alone");
                    self.tell(Verdict::Changes, item, &key, text, None);
                }
                Some(ip) => {
                    let text =
                        format!("{ip} is an address of one host; a node without it cannot open the port");
                    let hint = "leave the address out: the port is then open on every node";
                    self.tell(Verdict::Breaks, item, &key, text, Some(hint));
                }
                None => {}
            }
            if map.get("mode").and_then(Node::as_text) == Some("host") {
                let text = "is open only on nodes that run a task, one task each";
                let hint = "leave `mode: host` out: every node then leads to all tasks";
                self.tell(Verdict::Changes, item, &key, text, Some(hint));
            }
        }
    }

    fn names(&mut self) {
        if let Some(name) = self.key("container_name") {
            let text = "the name belongs to one container: the service cannot have several replicas";
            let hint = "take it away; other services use the name of the service";
            self.tell(Verdict::Changes, name, "container_name", text, Some(hint));
        }
        if let Some(hostname) = self.key("hostname").filter(|_| self.many()) {
            let text = "all replicas call themselves by this one name";
            self.tell(
                Verdict::Changes,
                hostname,
                "hostname",
                text,
                Some("take it away: each then has a name"),
            );
        }
    }

    /// What reaches the host itself.
    fn host(&mut self) {
        for key in ["pid", "ipc", "uts", "cgroup"] {
            if let Some(node) = self.key(key).filter(|node| node.as_text() == Some("host")) {
                let text = "is that of whichever node runs it";
                self.tell(Verdict::Changes, node, key, text, None);
            }
        }
        let devices = self.key("devices").and_then(Node::as_list).unwrap_or_default();
        for (index, device) in devices.iter().enumerate() {
            let source = device.as_map().and_then(|m| m.get("source")).and_then(Node::as_text);
            let Some(source) = source.filter(|source| source.starts_with('/')) else { continue };
            if self.spec.placement.constraints.is_empty() {
                let text = format!("a node without {source} cannot start it");
                let hint = "label the nodes that have it, and write a constraint";
                self.tell(Verdict::Breaks, device, &format!("devices[{index}]"), text, Some(hint));
            }
        }
        let hosts = self.key("extra_hosts");
        if let Some(node) = hosts
            && self.spec.task.container.extra_hosts.iter().any(|(_, address)| address == "host-gateway")
        {
            let text = "host-gateway is whichever node runs the task";
            self.tell(Verdict::Changes, node, "extra_hosts", text, None);
        }
        if let Some(node) = self.key("privileged") {
            let text = "reaches all devices of whichever node runs it";
            self.tell(Verdict::Changes, node, "privileged", text, None);
        }
    }
}
