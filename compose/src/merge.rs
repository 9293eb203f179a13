//! How a later file changes an earlier one, key by key. Works on trees in long form; used for `-f` files, `extends` and
//! override files alike.

use std::collections::HashMap;

use crate::yaml::{Entry, Filling, Map, Node, Tag, Value};

/// `base` with what `over` says on top of it.
pub(crate) fn merge(base: Node, over: Node) -> Node {
    merge_at(base, over, &mut Vec::new())
}

/// An entry of a section on top of another of the same name.
pub(crate) fn merge_named(section: &str, name: &str, base: Node, over: Node) -> Node {
    merge_at(base, over, &mut vec![section.to_owned(), name.to_owned()])
}

/// A service on top of the one it extends.
pub(crate) fn merge_service(base: Node, over: Node) -> Node {
    merge_at(base, over, &mut vec!["services".into(), "extended".into()])
}

/// Of entries of a list that replace each other the last one stays, in the place of the first.
pub(crate) fn unify(node: &mut Node) {
    unify_at(node, &mut Vec::new());
}

fn unify_at(node: &mut Node, path: &mut Vec<String>) {
    match &mut node.value {
        Value::Map(map) => {
            for entry in &mut map.entries {
                path.push(entry.key.clone());
                unify_at(&mut entry.value, path);
                path.pop();
            }
        }
        Value::List(list) => {
            let rule = rule(path);
            if rule != Rule::Usual && list.len() > 1 {
                *list = merge_lists(Vec::new(), std::mem::take(list), rule);
            }
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}

/// Carries out the tags of a tree that nothing lies below: `!reset` takes its key away, `!override` is only itself.
pub(crate) fn settle(node: &mut Node) {
    node.tag = None;
    let reset = |n: &Node| n.tag == Some(Tag::Reset);
    match &mut node.value {
        Value::Map(map) => {
            map.entries.retain(|e| !reset(&e.value));
            map.entries.iter_mut().for_each(|e| settle(&mut e.value));
        }
        Value::List(list) => {
            list.retain(|n| !reset(n));
            list.iter_mut().for_each(settle);
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}

fn merge_at(base: Node, mut over: Node, path: &mut Vec<String>) -> Node {
    let rule = rule(path);
    if over.tag == Some(Tag::Override) || rule == Rule::Replace {
        if over.is_null() && over.tag.is_none() && rule != Rule::Replace {
            return base;
        }
        settle(&mut over);
        return over;
    }
    match (base.value, over.value) {
        (value, Value::Null) => Node { value, mark: base.mark, tag: None },
        (Value::Map(base_map), Value::Map(over_map)) => {
            if rule == Rule::Logging && differs(&base_map, &over_map, "driver") {
                let mut node = Node::new(Value::Map(over_map), over.mark);
                settle(&mut node);
                return node;
            }
            Node::new(Value::Map(merge_maps(base_map, over_map, path)), over.mark)
        }
        (Value::List(base_list), Value::List(over_list)) if rule == Rule::Pools => {
            Node::new(Value::List(merge_pools(&base_list, over_list, path)), over.mark)
        }
        (Value::List(base_list), Value::List(over_list)) => {
            Node::new(Value::List(merge_lists(base_list, over_list, rule)), over.mark)
        }
        (_, value) => {
            let mut node = Node::new(value, over.mark);
            settle(&mut node);
            node
        }
    }
}

fn merge_maps(base: Map, over: Map, path: &mut Vec<String>) -> Map {
    let mut base = Filling::from(base);
    for mut entry in over.entries {
        if entry.value.tag == Some(Tag::Reset) {
            base.remove(&entry.key);
            continue;
        }
        path.push(entry.key.clone());
        match base.get_mut(&entry.key) {
            Some(slot) => {
                let old = std::mem::replace(&mut slot.value, Node::null(entry.mark));
                let inherits = entry.value.is_null() && rule(path) != Rule::Replace;
                slot.value = merge_at(old, entry.value, path);
                if !inherits {
                    slot.mark = entry.mark;
                }
            }
            None => {
                settle(&mut entry.value);
                base.push(entry);
            }
        }
        path.pop();
    }
    base.finish()
}

fn differs(base: &Map, over: &Map, key: &str) -> bool {
    match (base.get(key).and_then(Node::as_text), over.get(key).and_then(Node::as_text)) {
        (Some(base), Some(over)) => base != over,
        _ => false,
    }
}

/// The pools of addresses of a network: those of the later file, each on top of an earlier one of the same subnet.
fn merge_pools(base: &[Node], over: Vec<Node>, path: &mut Vec<String>) -> Vec<Node> {
    let subnet =
        |n: &Node| n.as_map().and_then(|m| m.get("subnet")).and_then(Node::as_text).map(str::to_owned);
    let on_top = |node: Node, path: &mut Vec<String>| match base.iter().find(|b| subnet(b) == subnet(&node)) {
        Some(base) => merge_at(base.clone(), node, path),
        None => node,
    };
    path.push(String::new());
    let merged = over.into_iter().map(|node| on_top(node, path)).collect();
    path.pop();
    merged
}

fn merge_lists(mut base: Vec<Node>, over: Vec<Node>, rule: Rule) -> Vec<Node> {
    // Where each identity stands; long lists are the rule for nobody but those who attack.
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    for (index, node) in base.iter().enumerate() {
        if let Some(id) = identity(node, rule) {
            places.entry(id).or_insert(index);
        }
    }
    for mut node in over {
        if node.tag == Some(Tag::Reset) {
            continue;
        }
        settle(&mut node);
        let Some(id) = identity(&node, rule) else {
            base.push(node);
            continue;
        };
        match places.get(&id) {
            Some(index) => base[*index] = node,
            None => {
                places.insert(id, base.len());
                base.push(node);
            }
        }
    }
    base
}

/// How the values at a path are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Mappings by key, lists one after the other.
    Usual,
    /// The later value stands alone, an empty one too.
    Replace,
    /// Options of another driver mean nothing to this one.
    Logging,
    /// Entries that agree in these fields replace each other; each with what its absence means.
    Unique(&'static [(&'static str, &'static str)]),
    /// Secrets and configs, by the file that they become; this is where those without a `target` go.
    Files(&'static str),
    /// Pools of addresses.
    Pools,
    /// Equal entries are one.
    Set,
    /// Texts that agree up to the first equals sign replace each other.
    Prefix,
}

fn rule(path: &[String]) -> Rule {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["networks", _, "ipam", "config"] = names.as_slice() {
        return Rule::Pools;
    }
    let ["services", _, rest @ ..] = names.as_slice() else { return Rule::Usual };
    match rest {
        ["command" | "entrypoint"] | ["healthcheck", "test"] | ["ulimits", _] => Rule::Replace,
        ["environment", _] | ["labels", _] | ["sysctls", _] | ["annotations", _] => Rule::Replace,
        ["build", "args" | "labels" | "additional_contexts", _] | ["deploy", "labels", _] => Rule::Replace,
        ["logging"] => Rule::Logging,
        ["ports"] => {
            Rule::Unique(&[("host_ip", "0.0.0.0"), ("target", ""), ("published", ""), ("protocol", "tcp")])
        }
        ["volumes"] | ["devices"] => Rule::Unique(&[("target", "")]),
        ["secrets"] => Rule::Files("/run/secrets"),
        ["configs"] => Rule::Files(""),
        ["env_file"] => Rule::Unique(&[("path", "")]),
        ["tmpfs" | "dns_opt"] => Rule::Prefix,
        ["cap_add" | "cap_drop" | "dns" | "dns_search" | "expose" | "extra_hosts" | "group_add"]
        | ["label_file" | "profiles" | "security_opt" | "links" | "external_links" | "device_cgroup_rules"]
        | ["extra_hosts", _]
        | ["build", "extra_hosts", _]
        | ["build", "tags"]
        | ["networks", _, "aliases" | "link_local_ips"] => Rule::Set,
        _ => Rule::Usual,
    }
}

fn identity(node: &Node, rule: Rule) -> Option<Vec<String>> {
    match (rule, &node.value) {
        (Rule::Unique(fields), Value::Map(map)) => {
            let text = |(key, default): &(&str, &str)| {
                map.get(key).and_then(Node::as_text).unwrap_or(default).to_owned()
            };
            Some(fields.iter().map(text).collect())
        }
        (Rule::Files(dir), Value::Map(map)) => {
            let text = |key: &str| map.get(key).and_then(Node::as_text);
            let default = || format!("{dir}/{}", text("source").unwrap_or_default());
            Some(vec![text("target").map_or_else(default, str::to_owned)])
        }
        (Rule::Set, Value::Scalar { text, .. }) => Some(vec![text.clone()]),
        (Rule::Prefix, Value::Scalar { text, .. }) => {
            Some(vec![text.split('=').next().unwrap_or_default().to_owned()])
        }
        _ => None,
    }
}

/// Equal but for where they stand.
pub(crate) fn same(a: &Node, b: &Node) -> bool {
    let same_entry = |a: &Entry, b: &Entry| a.key == b.key && same(&a.value, &b.value);
    match (&a.value, &b.value) {
        (Value::Map(a), Value::Map(b)) => {
            a.entries.len() == b.entries.len()
                && a.entries.iter().zip(&b.entries).all(|(a, b)| same_entry(a, b))
        }
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}
