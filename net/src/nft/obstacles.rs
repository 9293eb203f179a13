//! The firewalls beside us: whose they are, and the rules that our traffic does not get past, with the command that helps.
//!
//! Owns: which hooks are looked at, and the words. The chains at the forward and input hooks that anybody may change are not
//! here: the daemon adds its accepts to them ([`crate::nft::foreign`]).

use std::collections::BTreeSet;
use std::fmt;

use crate::error::NetError;
use crate::model::LINK_PREFIX;
use crate::nft::foreign::{Accepts, family_name};
use crate::nft::others::{Base, OtherTable, tables};
use crate::nft::skeleton::{HOOK_FORWARD, HOOK_INPUT, HOOK_OUTPUT, HOOK_POSTROUTING, HOOK_PREROUTING};
use crate::nft::walk::{Fate, Packet, fate};
use crate::socket::Socket;

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The table, chain and rule, and what they do.
    pub what: String,
    /// The command that helps.
    pub command: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; what helps: {}", self.what, self.command)
    }
}

/// A kind of traffic at a hook.
struct Way {
    hook: u32,
    hook_name: &'static str,
    packet: Packet,
    traffic: &'static str,
    /// The condition of a rule that would accept it.
    condition: &'static str,
}

/// What the names of firewalld's tables begin with.
const FIREWALLD: &str = "firewalld";

const FROM: &str = "iifname \"ck*\"";
const TO: &str = "oifname \"ck*\"";

const WAYS: [Way; 6] = [
    way(HOOK_PREROUTING, "prerouting", Packet::FromContainer, "traffic from containers", FROM),
    way(HOOK_FORWARD, "forward", Packet::FromContainer, "traffic from containers", FROM),
    way(HOOK_FORWARD, "forward", Packet::ToContainer, "traffic to containers", TO),
    way(HOOK_INPUT, "input", Packet::Dns, "DNS queries of containers", FROM),
    way(HOOK_OUTPUT, "output", Packet::ToContainer, "traffic of this host to containers", TO),
    way(HOOK_POSTROUTING, "postrouting", Packet::ToContainer, "traffic to containers", TO),
];

const fn way(
    hook: u32,
    hook_name: &'static str,
    packet: Packet,
    traffic: &'static str,
    condition: &'static str,
) -> Way {
    Way { hook, hook_name, packet, traffic, condition }
}

/// What is known of the firewalls beside us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    /// The programs whose tables they are, as far as their names tell.
    pub(crate) programs: BTreeSet<&'static str>,
    pub(crate) obstacles: Vec<Obstacle>,
}

/// Looks at all tables of others.
pub(crate) fn beside(socket: &mut Socket) -> Result<Beside, NetError> {
    let tables = tables(socket, &WAYS.map(|way| way.hook))?;
    Ok(Beside {
        programs: tables.iter().flat_map(programs).collect(),
        obstacles: tables.iter().flat_map(in_table).collect(),
    })
}

/// Programs that leave chains in a table.
fn programs(table: &OtherTable) -> impl Iterator<Item = &'static str> {
    let chain = |prefix: &str| table.chains.keys().any(|name| name.starts_with(prefix));
    let known = [
        ("Docker", chain("DOCKER")),
        ("ufw", chain("ufw-")),
        ("firewalld", table.name.starts_with(FIREWALLD)),
    ];
    known.into_iter().filter_map(|(name, is_there)| is_there.then_some(name))
}

fn in_table(table: &OtherTable) -> Vec<Obstacle> {
    let bases = table.chains.iter().filter_map(|(name, chain)| Some((name, chain.base?)));
    let ways = bases.flat_map(|(name, base)| {
        WAYS.iter().filter(move |way| way.hook == base.hook).map(move |way| (name, base, way))
    });
    ways.filter_map(|(name, base, way)| in_chain(table, name, base, way)).collect()
}

fn in_chain(table: &OtherTable, name: &str, base: Base, way: &Way) -> Option<Obstacle> {
    let ours_to_mend = Accepts::ALL.iter().any(|accepts| accepts.hook() == base.hook);
    if ours_to_mend && table.owner.is_none() {
        return None;
    }
    let place = format!("{} {}", family_name(table.family), table.name);
    let condition = way.condition;
    let (culprit, command) = match fate(table, name, base, way.packet, &|_| false) {
        Fate::Accepted | Fate::Passed => return None,
        Fate::Policy => {
            let command = format!("nft add rule {place} {name} {condition} accept");
            (format!("the policy of chain {place} {name}"), command)
        }
        Fate::Refused { chain, handle, .. } => {
            let command = format!("nft insert rule {place} {chain} position {handle} {condition} accept");
            (format!("rule {handle} of chain {place} {chain}"), command)
        }
    };
    let what = format!("{culprit} ({}, priority {}) drops {}", way.hook_name, base.priority, way.traffic);
    Some(Obstacle { what, command: command_for(table, base, command) })
}

/// What a firewall that writes its tables itself needs instead.
fn command_for(table: &OtherTable, base: Base, command: String) -> String {
    let firewalld = table.name.starts_with(FIREWALLD);
    match table.owner {
        _ if firewalld && base.hook == HOOK_PREROUTING => "firewall-cmd --panic-off".to_owned(),
        _ if firewalld => format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={LINK_PREFIX}+ && firewall-cmd --reload"
        ),
        Some(owner) => {
            format!("a rule made by the program that owns the table (netlink port {owner}), like: {command}")
        }
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::others::{End, OtherChain, OtherRule, Part};

    fn table(name: &str, owner: Option<u32>, base: Base, refuses: bool) -> OtherTable {
        let rule = OtherRule { handle: 7, comment: None, parts: vec![Part::End(End::Refuse)] };
        let rules = if refuses { vec![rule] } else { Vec::new() };
        let chains = [("c".to_owned(), OtherChain { base: Some(base), rules })].into();
        OtherTable { family: 1, name: name.to_owned(), owner, chains }
    }

    fn said(table: &OtherTable) -> Vec<String> {
        in_table(table).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_drop_before_ours_is_named_with_the_rule_that_helps() {
        let base = |drops| Base { hook: HOOK_PREROUTING, priority: -310, drops };
        assert_eq!(
            said(&table("fw", None, base(false), true)),
            ["rule 7 of chain inet fw c (prerouting, priority -310) drops traffic from containers; \
                 what helps: nft insert rule inet fw c position 7 iifname \"ck*\" accept"]
        );
        assert_eq!(
            said(&table("fw", None, base(true), false)),
            ["the policy of chain inet fw c (prerouting, priority -310) drops traffic from containers; \
                 what helps: nft add rule inet fw c iifname \"ck*\" accept"]
        );
        assert!(said(&table("fw", None, base(false), false)).is_empty());
    }

    #[test]
    fn programs_are_known_by_what_they_leave() {
        let with = |name: &str, chains: &[&str]| {
            let chains = chains.iter().map(|chain| ((*chain).to_owned(), OtherChain::default()));
            let table =
                OtherTable { name: name.to_owned(), chains: chains.collect(), ..OtherTable::default() };
            programs(&table).collect::<Vec<_>>()
        };
        assert_eq!(with("filter", &["DOCKER-USER", "FORWARD", "ufw-before-input"]), ["Docker", "ufw"]);
        assert_eq!(with("firewalld", &["filter_INPUT"]), ["firewalld"]);
        assert!(with("filter", &["FORWARD", "my-docker"]).is_empty());
    }

    #[test]
    fn what_the_daemon_mends_itself_is_no_obstacle() {
        let base = Base { hook: HOOK_FORWARD, priority: 0, drops: true };
        assert!(said(&table("fw", None, base, false)).is_empty());
    }

    #[test]
    fn a_table_that_belongs_to_firewalld_is_helped_by_firewalld() {
        let base = Base { hook: HOOK_FORWARD, priority: 10, drops: false };
        let said = said(&table("firewalld", Some(42), base, true));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|line| line.contains("firewall-cmd --permanent")), "{said:?}");
    }
}
