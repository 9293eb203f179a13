//! Chains of others that drop what we forward (Docker, ufw, firewalld).
//!
//! An accept in our table does not override a drop in another, so each such chain gets commented accept rules for our
//! links: right before the rule that refuses everything, or at the end of a chain whose policy drops. What stands
//! before that (an administrator's narrower drops) stays in force. Owns: finding these chains and our rules in them, the
//! form of the rules (such that `iptables-nft` can still read its tables). Owns not: deciding ([`crate::plan`]), what a
//! chain does to a packet ([`crate::nft::walk`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::NetError;
use crate::model::{DNS_ADDRESS, LINK_PREFIX};
use crate::nft::batch::{FAMILY_INET, owner_tag};
use crate::nft::expr::{Exprs, LinkName, Verdict, counter, destination, is_address, link, verdict};
use crate::nft::others::{Base, OtherRule, OtherTable, tables};
use crate::nft::skeleton::{HOOK_FORWARD, HOOK_INPUT, TABLE};
use crate::nft::walk::{Fate, Packet, fate};
use crate::socket::Socket;

/// Where an accept rule of ours is needed or found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRule {
    /// nftables' family number: 1 is `inet`, 2 is `ip`.
    pub family: u8,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Which traffic it accepts.
    pub accepts: Accepts,
}

/// The traffic that one of our rules in a foreign chain accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accepts {
    /// Forwarded traffic from containers.
    FromContainers,
    /// Forwarded traffic to containers.
    ToContainers,
    /// Queries of containers to our DNS address.
    Dns,
}

impl Accepts {
    pub(crate) const ALL: [Self; 3] = [Self::FromContainers, Self::ToContainers, Self::Dns];

    /// The hook at which it may be dropped.
    pub(crate) fn hook(self) -> u32 {
        match self {
            Self::FromContainers | Self::ToContainers => HOOK_FORWARD,
            Self::Dns => HOOK_INPUT,
        }
    }

    pub(crate) fn packet(self) -> Packet {
        match self {
            Self::FromContainers => Packet::FromContainer,
            Self::ToContainers => Packet::ToContainer,
            Self::Dns => Packet::Dns,
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FromContainers => "traffic from containers",
            Self::ToContainers => "traffic to containers",
            Self::Dns => "DNS queries of containers",
        })
    }
}

impl fmt::Display for ForeignRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in chain {} {} {}", self.accepts, family_name(self.family), self.table, self.chain)
    }
}

/// `inet` or `ip`.
pub(crate) fn family_name(family: u8) -> &'static str {
    if family == FAMILY_INET { "inet" } else { "ip" }
}

/// Where a rule goes in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before the rule with this handle, which refuses everything.
    Before(u64),
    /// At the end: the policy drops.
    End,
}

/// What the foreign chains need and hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Rules that the chains which drop need, and where.
    pub needed: BTreeMap<ForeignRule, Place>,
    /// Our rules that are there, with their handles. The same rule may be there twice.
    pub present: BTreeSet<(ForeignRule, u64)>,
    /// Our rules that no packet reaches: a rule before them refuses everything.
    pub unreached: BTreeSet<(ForeignRule, u64)>,
}

/// Looks through all base chains of others at the forward and input hooks.
pub(crate) fn foreign(socket: &mut Socket, instance: &str) -> Result<Foreign, NetError> {
    Ok(judge(&tables(socket, &[HOOK_FORWARD, HOOK_INPUT])?, instance))
}

fn judge(tables: &[OtherTable], instance: &str) -> Foreign {
    let mut found = Foreign::default();
    for table in tables {
        for (name, chain) in &table.chains {
            let Some(base) = chain.base else { continue };
            for accepts in Accepts::ALL.into_iter().filter(|accepts| accepts.hook() == base.hook) {
                let rule = ForeignRule {
                    family: table.family,
                    table: table.name.clone(),
                    chain: name.clone(),
                    accepts,
                };
                judge_chain(table, base, rule, instance, &mut found);
            }
        }
    }
    found
}

fn judge_chain(table: &OtherTable, base: Base, wanted: ForeignRule, instance: &str, found: &mut Foreign) {
    let Some(chain) = table.chains.get(&wanted.chain) else { return };
    if table.owner.is_some() {
        // It takes rules from nobody but its owner.
        return;
    }
    let fate = fate(table, &wanted.chain, base, wanted.accepts.packet(), &is_accept_of_ours);
    let refuses_at = match &fate {
        Fate::Refused { top, .. } => Some(*top),
        Fate::Accepted | Fate::Passed | Fate::Policy => None,
    };
    let place = match (refuses_at.and_then(|place| chain.rules.get(place)), &fate) {
        (Some(rule), _) => Some(Place::Before(rule.handle)),
        (None, Fate::Policy) => Some(Place::End),
        (None, _) => None,
    };
    found.needed.extend(place.map(|place| (wanted.clone(), place)));
    let tag = tag(instance, wanted.accepts);
    for (place, rule) in chain.rules.iter().enumerate() {
        if rule.comment.as_deref() == Some(&tag) {
            let reached = refuses_at.is_none_or(|refuses_at| place < refuses_at);
            let list = if reached { &mut found.present } else { &mut found.unreached };
            list.insert((wanted.clone(), rule.handle));
        }
    }
}

/// Whether a rule is an accept of an installation of Carrack, this or another.
pub(crate) fn is_accept_of_ours(rule: &OtherRule) -> bool {
    let prefix = format!("{TABLE} ");
    let comment = rule.comment.as_deref().and_then(|comment| comment.strip_prefix(&prefix));
    let ends = |comment: &str| Accepts::ALL.iter().any(|accepts| comment.ends_with(suffix(*accepts)));
    comment.is_some_and(ends)
}

/// The expressions of a rule of ours, as `iptables-nft` would write them.
pub(crate) fn exprs(accepts: Accepts) -> Exprs {
    let container = |input| link(input, true, LinkName::Prefix(LINK_PREFIX));
    let condition = match accepts {
        Accepts::FromContainers => container(true),
        Accepts::ToContainers => container(false),
        Accepts::Dns => destination(0).then(is_address(true, DNS_ADDRESS)).then(container(true)),
    };
    condition.then(counter()).then(verdict(Verdict::Accept))
}

/// The comment of a rule of ours.
pub(crate) fn tag(instance: &str, accepts: Accepts) -> String {
    format!("{}{}", owner_tag(instance), suffix(accepts))
}

fn suffix(accepts: Accepts) -> &'static str {
    match accepts {
        Accepts::FromContainers => " from",
        Accepts::ToContainers => " to",
        Accepts::Dns => " dns",
    }
}
