//! Chains of others that drop what we forward (Docker, ufw, firewalld).
//!
//! An accept in our table does not override a drop in another, so each such chain gets commented accept rules for our
//! links at its head. Owns: finding these chains and our rules in them, the form of the rules (such that
//! `iptables-nft` can still read its tables). Owns not: deciding ([`crate::plan`]).

use std::collections::BTreeSet;
use std::fmt;

use crate::error::NetError;
use crate::model::{DNS_ADDRESS, LINK_PREFIX};
use crate::nft::batch::{FAMILY_IP, FAMILY_UNSPEC, GET_CHAIN, GET_RULE, comment_text, kind, owner_tag};
use crate::nft::dump::body;
use crate::nft::expr::{Exprs, LinkName, Verdict, counter, destination, is_address, link, verdict};
use crate::nft::skeleton::{HOOK_FORWARD, HOOK_INPUT, TABLE};
use crate::socket::Socket;
use crate::wire::{Attr, Attrs, Message, find, nfgen};

const FAMILY_INET: u8 = 1;
const POLICY_DROP: u32 = 0;

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

impl fmt::Display for ForeignRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == FAMILY_INET { "inet" } else { "ip" };
        let what = match self.accepts {
            Accepts::FromContainers => "traffic from containers",
            Accepts::ToContainers => "traffic to containers",
            Accepts::Dns => "DNS queries of containers",
        };
        write!(f, "{what} in chain {family} {} {}", self.table, self.chain)
    }
}

/// What the foreign chains need and hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Rules that the chains which drop need.
    pub needed: BTreeSet<ForeignRule>,
    /// Our rules that are there, with their handles. The same rule may be there twice.
    pub present: BTreeSet<(ForeignRule, u64)>,
}

/// Looks through all base chains of others at the forward and input hooks.
pub(crate) fn foreign(socket: &mut Socket, instance: &str) -> Result<Foreign, NetError> {
    let mut found = Foreign::default();
    let chains =
        socket.dump("dump the chains of all tables", kind(GET_CHAIN), &nfgen(FAMILY_UNSPEC, 0, &[]))?;
    for chain in &chains {
        let family = chain.payload.first().copied().unwrap_or_default();
        let name = |attr| find(body(chain), attr).map(Attr::text).unwrap_or_default();
        let hook = find(body(chain), 4).and_then(|hook| hook.find(1)).and_then(Attr::be32);
        let accepts: &[Accepts] = match hook {
            Some(HOOK_FORWARD) => &[Accepts::FromContainers, Accepts::ToContainers],
            Some(HOOK_INPUT) => &[Accepts::Dns],
            _ => continue,
        };
        let (table, chain_name) = (name(1), name(3));
        if !matches!(family, FAMILY_IP | FAMILY_INET) || (family == FAMILY_IP && table == TABLE) {
            continue;
        }
        let rules = rules_of(socket, family, &table, &chain_name)?;
        let rule = |accepts| ForeignRule { family, table: table.clone(), chain: chain_name.clone(), accepts };
        let policy = find(body(chain), 5).and_then(Attr::be32);
        let ends_badly = rules.last().is_some_and(refuses_everything);
        if policy == Some(POLICY_DROP) || ends_badly {
            found.needed.extend(accepts.iter().copied().map(rule));
        }
        for (accepts, handle) in rules.iter().filter_map(|rule| our_rule(rule, instance)) {
            found.present.insert((rule(accepts), handle));
        }
    }
    Ok(found)
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
    let what = match accepts {
        Accepts::FromContainers => "from",
        Accepts::ToContainers => "to",
        Accepts::Dns => "dns",
    };
    format!("{} {what}", owner_tag(instance))
}

fn our_rule(rule: &Message, instance: &str) -> Option<(Accepts, u64)> {
    let comment = comment_text(find(body(rule), 7)?.value)?;
    let accepts = [Accepts::FromContainers, Accepts::ToContainers, Accepts::Dns]
        .into_iter()
        .find(|accepts| comment == tag(instance, *accepts))?;
    Some((accepts, find(body(rule), 3)?.be64()?))
}

fn rules_of(socket: &mut Socket, family: u8, table: &str, chain: &str) -> Result<Vec<Message>, NetError> {
    let filter = Attrs::new().text(1, table).text(2, chain);
    let action = format!("dump the rules of chain {chain} of table {table}");
    socket.dump(&action, kind(GET_RULE), &nfgen(family, 0, filter.as_slice()))
}

/// Whether a rule is nothing but (a counter and) a drop or reject: what firewalld ends its chains with.
fn refuses_everything(rule: &Message) -> bool {
    const DROP: u32 = 0;
    let Some(list) = find(body(rule), 4) else { return false };
    let mut refuses = false;
    for expr in list.nested() {
        let verdict = || expr.find(2)?.find(2)?.find(2)?.find(1)?.be32();
        match expr.find(1).map(Attr::text).as_deref() {
            Some("counter" | "log") => {}
            Some("reject") => refuses = true,
            Some("immediate") if verdict() == Some(DROP) => refuses = true,
            _ => return false,
        }
    }
    refuses
}
