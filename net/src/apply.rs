//! Effects: one step of a plan at a time.
//!
//! Owns: making steps real, in order, idempotently. Owns not: which steps ([`crate::plan`]).

use std::collections::BTreeMap;
use std::fs;

use crate::container;
use crate::error::NetError;
use crate::link::{LOOPBACK_INDEX, Links, NewVeth};
use crate::lower::layout;
use crate::model::{EndpointKey, Wanted};
use crate::nft::batch::Batch;
use crate::nft::foreign;
use crate::ns::Netns;
use crate::observe::is_ours;
use crate::plan::{Op, Step};
use crate::present::{ADDRESS_LABEL, Hop, Link, Route, container_mac, link_name};
use crate::socket::Socket;

/// What the steps work with.
#[derive(Debug)]
pub(crate) struct Applier<'a> {
    pub(crate) wanted: &'a Wanted,
    /// The namespaces of the endpoints, which a pure plan cannot hold.
    pub(crate) namespaces: &'a BTreeMap<EndpointKey, Netns>,
    pub(crate) links: &'a mut Links,
    pub(crate) nft: &'a mut Socket,
}

impl Applier<'_> {
    /// Makes all steps. One that fails does not keep the others from being made: a single bad link must not leave the
    /// table unrepaired. The first error is returned, and the next audit starts from what is there then.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Result<(), NetError> {
        let mut first = None;
        for step in steps {
            tracing::debug!(step = %step, "network step");
            if let Err(error) = self.step(&step.op) {
                tracing::warn!(step = %step, %error, "network step failed");
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn step(&mut self, op: &Op) -> Result<(), NetError> {
        match op {
            Op::SetSysctl { path, value } => write_sysctl(path, value),
            Op::AddAddress { address, link_scope } => {
                self.links.add_address(LOOPBACK_INDEX, *address, *link_scope, Some(ADDRESS_LABEL))
            }
            Op::DeleteAddress { address } => self.links.delete_loopback_address(*address),
            Op::MakeLink { name, link } => self.make_link(name, link),
            Op::SetLink { name, link } => match self.index_of(name)? {
                Some(index) => self.links.set_link(name, index, Some(&link.alias)),
                None => Err(self.missing_link(name)),
            },
            Op::DeleteLink { name } => match self.index_of(name)? {
                Some(index) => self.links.delete_link(name, index),
                None => Ok(()),
            },
            Op::SetRoute { destination, route } => {
                if matches!(&route.hop, Hop::Link(name) if name != "lo") {
                    at("create.6-route")?;
                }
                let link = self.link_of(route)?;
                self.links.set_route(*destination, route, link)
            }
            Op::DeleteRoute { destination, route } => self.links.delete_route(*destination, route),
            Op::SetNeighbour { link, address, mac } => match self.index_of(link)? {
                Some(index) => self.links.set_neighbour(index, *address, *mac),
                None => Err(self.missing_link(link)),
            },
            Op::DeleteNeighbour { link, address } => match self.index_of(link)? {
                Some(index) => self.links.delete_neighbour(index, *address),
                None => Ok(()),
            },
            Op::DeleteTable
            | Op::ReplaceTable { .. }
            | Op::ChangeElements { .. }
            | Op::InsertForeign { .. }
            | Op::DeleteForeign { .. } => self.nft_step(op),
        }
    }

    fn nft_step(&mut self, op: &Op) -> Result<(), NetError> {
        let instance = &self.wanted.config.instance;
        let mut batch = Batch::new();
        match op {
            Op::DeleteTable => batch.delete_table(),
            Op::ReplaceTable { elements } => batch.replace_table(instance, layout(self.wanted), elements),
            Op::ChangeElements { changes } => batch.change_elements(changes),
            Op::InsertForeign { rule, place } => {
                let tag = foreign::tag(instance, rule.accepts);
                batch.insert_foreign_rule(rule, *place, &foreign::exprs(rule.accepts), &tag);
            }
            Op::DeleteForeign { rule, handle } => {
                batch.delete_foreign_rule(rule.family, &rule.table, &rule.chain, *handle);
            }
            Op::SetSysctl { .. }
            | Op::AddAddress { .. }
            | Op::DeleteAddress { .. }
            | Op::MakeLink { .. }
            | Op::SetLink { .. }
            | Op::DeleteLink { .. }
            | Op::SetRoute { .. }
            | Op::DeleteRoute { .. }
            | Op::SetNeighbour { .. }
            | Op::DeleteNeighbour { .. } => {}
        }
        batch.commit(self.nft, &op.to_string())
    }

    /// Makes the pair, configures its inner end, and last marks it as ours and complete.
    fn make_link(&mut self, name: &str, link: &Link) -> Result<(), NetError> {
        let claimed = self.wanted.endpoints.iter().find(|(key, _)| link_name(key) == *name);
        let Some((key, endpoint)) = claimed else { return Err(self.missing_link(name)) };
        let Some(netns) = self.namespaces.get(key) else { return Err(self.missing_link(name)) };
        let there = self.index_of(name)?.is_some();
        if let Some(found) = if there { self.links.links()?.remove(name) } else { None } {
            if !is_ours(&found, &self.wanted.config.instance) {
                return Err(NetError::ForeignLink { name: name.to_owned(), alias: found.alias });
            }
            self.links.delete_link(name, found.index)?;
        }
        let new = NewVeth {
            name,
            mac: link.mac,
            peer_mac: container_mac(endpoint.address),
            mtu: self.wanted.mtu,
            netns,
        };
        at("create.3-link")?;
        self.links.create_veth(&new)?;
        at("create.4-inner")?;
        let index = self.index_of(name)?.ok_or_else(|| self.missing_link(name))?;
        if !container::configure(netns, endpoint.address, index)? {
            return Err(self.missing_link(name));
        }
        at("create.5-mark")?;
        self.links.set_link(name, index, Some(&link.alias))
    }

    fn link_of(&mut self, route: &Route) -> Result<Option<u32>, NetError> {
        match &route.hop {
            Hop::Unreachable => Ok(None),
            Hop::Link(name) if name == "lo" => Ok(Some(LOOPBACK_INDEX)),
            Hop::Link(name) => match self.index_of(name)? {
                Some(index) => Ok(Some(index)),
                None => Err(self.missing_link(name)),
            },
        }
    }

    fn index_of(&mut self, name: &str) -> Result<Option<u32>, NetError> {
        self.links.index_of(name)
    }

    fn missing_link(&self, name: &str) -> NetError {
        let detail = "the link is not there, or its namespace is gone".to_owned();
        NetError::Answer { action: format!("use link {name}"), detail }
    }
}

/// A fail point as a step that the kernel refuses.
pub(crate) fn at(step: &'static str) -> Result<(), NetError> {
    carrack_api::fail::point(step)
        .map_err(|source| NetError::Refused { action: format!("pass {step}"), source })
}

pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<(), NetError> {
    fs::write(format!("/proc/sys/{path}"), value).map_err(|source| NetError::Sysctl {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}
