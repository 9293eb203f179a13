//! Names and defaults that the specification gives to what a file leaves open. Owns only what can be added without asking
//! whether it is right; that is `consistency`'s.

use crate::keys;
use crate::report::Mark;
use crate::source::clean;
use crate::yaml::{Entry, Map, Node, Value};

use super::Environment;

const SECTIONS: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Brings a merged tree into the form that the model has.
pub(super) fn project(root: &mut Map, name: &str, env: &Environment) {
    let mark = root.entries.first().map_or_else(Mark::default, |e| e.mark);
    root.set("name", mark, Node::text(name, mark));
    if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
        for entry in &mut services.entries {
            if let Some(service) = entry.value.as_map_mut() {
                self::service(service, entry.mark, env);
            }
        }
    }
    default_network(root, mark);
    for section in SECTIONS {
        let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) else { continue };
        for entry in &mut map.entries {
            resource(entry, name);
        }
    }
}

/// The network of all services that name none, when there is such a service.
fn default_network(root: &mut Map, mark: Mark) {
    let services = root.get("services").and_then(Node::as_map);
    let uses = |entry: &Entry| {
        let networks = entry.value.as_map().and_then(|s| s.get("networks")).and_then(Node::as_map);
        networks.is_some_and(|n| n.get("default").is_some())
    };
    if !services.is_some_and(|s| s.entries.iter().any(uses)) {
        return;
    }
    if root.get("networks").and_then(Node::as_map).is_none() {
        root.set("networks", mark, Node::map(Vec::new(), mark));
    }
    if let Some(networks) = root.get_mut("networks").and_then(Node::as_map_mut)
        && networks.get("default").is_none()
    {
        networks.set("default", mark, Node::map(Vec::new(), mark));
    }
}

/// A network, volume, secret or config: its name, and the old form of `external`.
fn resource(entry: &mut Entry, project: &str) {
    let mark = entry.mark;
    if entry.value.is_null() {
        entry.value = Node::map(Vec::new(), mark);
    }
    let Some(fields) = entry.value.as_map_mut() else { return };
    let external = fields.get("external").filter(|e| !e.is_null());
    let old = external.and_then(Node::as_map).map(|e| e.get("name").cloned());
    let is_external = external
        .is_some_and(|e| old.is_some() || keys::scalar(&keys::Shape::External, e).is_ok_and(|v| v == true));
    if let Some(name) = old {
        fields.set("external", mark, Node::plain("true", mark));
        if let Some(name) = name
            && fields.get("name").is_none()
        {
            fields.set("name", name.mark, name);
        }
    }
    if fields.get("name").is_none_or(Node::is_null) {
        let key = &entry.key;
        let name = if is_external { key.clone() } else { format!("{project}_{key}") };
        fields.set("name", mark, Node::text(name, mark));
    }
}

fn service(service: &mut Map, mark: Mark, env: &Environment) {
    if service.get("pull_policy").and_then(Node::as_text) == Some("if_not_present") {
        set_text(service, "pull_policy", "missing");
    }
    if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
        self::build(build, mark, env);
    }
    networks(service, mark);
    if let Some(environment) = service.get_mut("environment").and_then(Node::as_map_mut) {
        from_user(environment, env);
    }
    dependencies(service, mark);
    each(service, "ports", |port, mark| {
        or_text(port, "protocol", "tcp", mark);
        or_text(port, "mode", "ingress", mark);
    });
    each(service, "volumes", volume);
    each(service, "secrets", secret);
    each(service, "gpus", device);
    let resources = service.get_mut("deploy").and_then(Node::as_map_mut).and_then(|d| d.get_mut("resources"));
    let reservations = resources.and_then(Node::as_map_mut).and_then(|r| r.get_mut("reservations"));
    if let Some(reservations) = reservations.and_then(Node::as_map_mut) {
        each(reservations, "devices", device);
    }
    if let Some(Value::List(list)) = service.get_mut("dns").map(|n| &mut n.value) {
        list.retain(|n| n.as_text() != Some(""));
    }
    let image = service.get("image").and_then(Node::as_text).unwrap_or_default().to_owned();
    if !image.is_empty() {
        each(service, "pre_start", |hook, mark| or_text(hook, "image", &image, mark));
    }
}

/// Carries out `change` on each mapping of a list.
fn each(map: &mut Map, key: &str, change: impl Fn(&mut Map, Mark)) {
    let Some(Value::List(list)) = map.get_mut(key).map(|n| &mut n.value) else { return };
    for node in list {
        let mark = node.mark;
        if let Some(fields) = node.as_map_mut() {
            change(fields, mark);
        }
    }
}

fn set_text(map: &mut Map, key: &str, text: &str) {
    if let Some(node) = map.get_mut(key) {
        *node = Node::text(text, node.mark);
    }
}

fn or_text(map: &mut Map, key: &str, text: &str, mark: Mark) {
    if map.get(key).is_none_or(Node::is_null) {
        map.set(key, mark, Node::text(text, mark));
    }
}

fn build(build: &mut Map, mark: Mark, env: &Environment) {
    if build.get("dockerfile_inline").is_none() {
        or_text(build, "dockerfile", "Dockerfile", mark);
    }
    if let Some(args) = build.get_mut("args").and_then(Node::as_map_mut) {
        from_user(args, env);
        args.entries.retain(|e| !e.value.is_null());
    }
}

/// A name without a value takes the user's.
fn from_user(map: &mut Map, env: &Environment) {
    for entry in map.entries.iter_mut().filter(|e| e.value.is_null()) {
        if let Some(value) = env.get(&entry.key) {
            entry.value = Node::text(value.as_str(), entry.mark);
        }
    }
}

fn networks(service: &mut Map, mark: Mark) {
    let none = match service.get("networks").map(|n| &n.value) {
        None | Some(Value::Null) => true,
        Some(Value::Map(map)) => map.entries.is_empty(),
        Some(Value::List(_) | Value::Scalar { .. }) => false,
    };
    if none && service.get("network_mode").is_none() && service.get("provider").is_none() {
        let default = Entry { key: "default".into(), mark, value: Node::null(mark) };
        service.set("networks", mark, Node::map(vec![default], mark));
    }
}

/// What a service depends on without saying so in `depends_on`.
fn dependencies(service: &mut Map, mark: Mark) {
    let mut more: Vec<(String, Mark, bool)> = Vec::new();
    let texts = |key: &str| {
        let list = service.get(key).and_then(Node::as_list).into_iter().flatten();
        list.filter_map(|n| Some((n.as_text()?.to_owned(), n.mark))).collect::<Vec<_>>()
    };
    for (link, mark) in texts("links") {
        // Only SERVICE:ALIAS names another service; anything else is taken for a name, and nothing has it.
        let other = link.split_once(':').filter(|(_, alias)| !alias.contains(':'));
        more.push((other.map_or(link.as_str(), |(name, _)| name).to_owned(), mark, true));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(other) = node.as_text().and_then(|t| t.strip_prefix("service:"))
        {
            more.push((other.to_owned(), node.mark, true));
        }
    }
    for (from, mark) in texts("volumes_from") {
        if !from.starts_with("container:") {
            more.push((from.split(':').next().unwrap_or_default().to_owned(), mark, false));
        }
    }
    if let Some(map) = service.get_mut("depends_on").and_then(Node::as_map_mut) {
        for entry in &mut map.entries {
            let mark = entry.mark;
            if let Some(fields) = entry.value.as_map_mut()
                && fields.get("required").is_none()
            {
                fields.set("required", mark, Node::plain("true", mark));
            }
        }
    }
    if more.is_empty() {
        return;
    }
    if service.get("depends_on").and_then(Node::as_map).is_none() {
        service.set("depends_on", mark, Node::map(Vec::new(), mark));
    }
    let Some(map) = service.get_mut("depends_on").and_then(Node::as_map_mut) else { return };
    for (name, mark, restart) in more {
        if map.get(&name).is_none() {
            let field = |key, text: &str| Entry::new(key, Node::plain(text, mark));
            let fields = vec![
                field("condition", "service_started"),
                field("restart", if restart { "true" } else { "false" }),
                field("required", "true"),
            ];
            map.set(&name, mark, Node::map(fields, mark));
        }
    }
}

fn volume(volume: &mut Map, mark: Mark) {
    if let Some(Value::Scalar { text, .. }) = volume.get_mut("target").map(|n| &mut n.value) {
        *text = clean(text);
    }
    if let Some(bind) = volume.get_mut("bind").and_then(Node::as_map_mut)
        && bind.get("create_host_path").is_none()
    {
        bind.set("create_host_path", mark, Node::plain("true", mark));
    }
}

fn secret(secret: &mut Map, mark: Mark) {
    if let Some(source) = secret.get("source").and_then(Node::as_text) {
        let target = format!("/run/secrets/{source}");
        or_text(secret, "target", &target, mark);
    }
}

fn device(device: &mut Map, mark: Mark) {
    if device.get("count").is_none() && device.get("device_ids").is_none() {
        device.set("count", mark, Node::text("all", mark));
    }
}
