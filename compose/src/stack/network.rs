//! `networks` and `network_mode` of a service.

use std::collections::BTreeMap;

use carrack_api::{Attachment, NetworkName, TaskNetwork};

use super::Build;
use super::container::{shares, text_of};
use crate::fields::{Fields, Item};
use crate::outcomes;
use crate::suggest;

impl Build<'_> {
    pub(super) fn task_network(&mut self, fields: &mut Fields<'_>) -> TaskNetwork {
        let mode = fields.take("network_mode");
        let networks = fields.take("networks");
        if let (Some(mode), Some(_)) = (&mode, &networks) {
            let hint = "write only one of them";
            mode.invalid_hint("`network_mode` and `networks` exclude each other", hint, self.report);
        }
        match (mode, networks) {
            (Some(mode), _) => self.network_mode(&mode),
            (None, Some(networks)) => {
                let attached = self.attachments(&networks);
                if attached.is_empty() { self.default_network() } else { TaskNetwork::Networks(attached) }
            }
            (None, None) => self.default_network(),
        }
    }

    fn default_network(&mut self) -> TaskNetwork {
        self.used_networks.insert("default".into());
        let name = NetworkName::new("default").ok();
        TaskNetwork::Networks(name.into_iter().map(|n| (n, Attachment::default())).collect())
    }

    fn network_mode(&mut self, item: &Item<'_>) -> TaskNetwork {
        match text_of(item).as_deref() {
            Some("host") => TaskNetwork::Host,
            Some("none") => TaskNetwork::None,
            Some("default" | "") => self.default_network(),
            Some("bridge") => {
                item.listed("services.network_mode", "bridge", self.report);
                self.default_network()
            }
            Some(mode) if shares(mode) => {
                item.listed("services.network_mode", "service:NAME, container:NAME", self.report);
                TaskNetwork::default()
            }
            Some(mode) => {
                let message = format!("there is no network mode {mode:?}");
                item.invalid_hint(message, "use host, none or bridge, or `networks`", self.report);
                TaskNetwork::default()
            }
            None => {
                item.expected("a string", self.report);
                TaskNetwork::default()
            }
        }
    }

    fn attachments(&mut self, item: &Item<'_>) -> BTreeMap<NetworkName, Attachment> {
        let mut out = BTreeMap::new();
        for (key, item) in item.entries(self.report) {
            let mut attachment = Attachment::default();
            if let Some(mut fields) = Fields::open(&item, self.report) {
                attachment.aliases = fields.take("aliases").map(|i| i.texts(self.report)).unwrap_or_default();
                fields.listed("priority", "services.networks.priority", self.report);
                fields.listed("gw_priority", "services.networks.gw_priority", self.report);
                fields.finish(&outcomes::refused("services.networks"), self.report);
            }
            if !self.networks.contains_key(key) {
                if self.is_at_top("networks", key) {
                    continue;
                }
                let names = self.networks.keys().map(String::as_str);
                let hint = match suggest::nearest(key, names) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("add `networks: {{{key}: {{}}}}` at the top"),
                };
                item.invalid_hint(format!("there is no network {key} in this file"), &hint, self.report);
                continue;
            }
            self.used_networks.insert(key.to_owned());
            if let Ok(name) = NetworkName::new(key) {
                out.insert(name, attachment);
            }
        }
        out
    }
}
