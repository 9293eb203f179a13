//! What this kernel and host offer to the network, as data.
//!
//! Owns: trying each feature for real in a throwaway namespace, and reading the facts of the host that matter.
//! Changes nothing on the host. Owns not: printing.

use std::fs;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::conntrack::flows;
use crate::error::NetError;
use crate::ipnet::{CLUSTER_CIDRS, choose_cluster_cidr, vip_range};
use crate::link::{Links, NewVeth};
use crate::lower::IP_FORWARD;
use crate::network::host_routes;
use crate::nft::batch::Batch;
use crate::nft::dump::{TableState, table_state};
use crate::nft::foreign::foreign;
use crate::nft::sets::Elements;
use crate::nft::skeleton::Layout;
use crate::ns::Netns;
use crate::observe::warnings;
use crate::present::{container_mac, host_mac};
use crate::socket::{Family, Socket};

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// It works, with something to know.
    Note,
    /// It does not work.
    Missing,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, in words.
    pub detail: String,
    /// What lacking it costs; empty if nothing is lacking.
    pub cost: &'static str,
}

/// Looks at everything. Needs root; without it the facts say so.
pub fn examine() -> Vec<Fact> {
    let mut facts = vec![
        tried("network namespaces", "no container has a network of its own", |_| Ok(())),
        tried("veth", "containers cannot be linked to the host", try_veth),
        tried("nftables", "no virtual addresses, no published ports, no isolation", try_nftables),
        tried("conntrack over netlink", "drains do not see open connections", try_conntrack),
        tried("vxlan", "nodes must share one layer-2 network", try_vxlan),
    ];
    facts.push(forwarding());
    facts.push(ranges());
    facts.push(firewalls());
    facts.extend(
        warnings().into_iter().map(|detail| note("iptables-legacy", detail, "traffic may be dropped")),
    );
    facts
}

fn tried(
    name: &'static str,
    cost: &'static str,
    attempt: impl FnOnce(&Netns) -> Result<(), NetError> + Send,
) -> Fact {
    let what = || "a throwaway namespace".to_owned();
    let result = Netns::create()
        .and_then(|netns| netns.run(|| attempt(&netns)))
        .map_err(|source| NetError::Netns { what: what(), source })
        .and_then(|result| result);
    match result {
        Ok(()) => Fact { name, verdict: Verdict::Ok, detail: "works".to_owned(), cost: "" },
        Err(error) => Fact { name, verdict: Verdict::Missing, detail: with_sources(&error), cost },
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The whole table as we use it: numgen, concatenated maps, verdict maps, dnat from registers, fib, reject.
fn try_nftables(_: &Netns) -> Result<(), NetError> {
    let mut nft = Socket::open(Family::Netfilter)?;
    let [cluster, _] = CLUSTER_CIDRS;
    let layout = Layout { cluster, vips: vip_range(cluster), node: Ipv4Addr::new(10, 192, 0, 1) };
    let mut batch = Batch::new();
    batch.replace_table("doctor", layout, &Elements::new());
    batch.commit(&mut nft, "make the table carrack")?;
    match table_state(&mut nft, "doctor", layout)? {
        TableState::Intact => Ok(()),
        TableState::Absent | TableState::OfOther { .. } | TableState::Damaged { .. } => {
            Err(NetError::Answer {
                action: "make the table carrack".to_owned(),
                detail: "the kernel holds another table than was sent".to_owned(),
            })
        }
    }
}

fn try_conntrack(_: &Netns) -> Result<(), NetError> {
    flows(&mut Socket::open(Family::Netfilter)?).map(drop)
}

fn try_veth(netns: &Netns) -> Result<(), NetError> {
    let peer = Netns::create().map_err(|source| NetError::Netns { what: "a peer".to_owned(), source })?;
    debug_assert!(!peer.is_same(netns).unwrap_or(true), "two namespaces are one");
    let address = Ipv4Addr::new(10, 192, 0, 2);
    let (mac, peer_mac) = (host_mac(address), container_mac(address));
    Links::open()?.create_veth(&NewVeth { name: "ckdoctor", mac, peer_mac, mtu: 1500, netns: &peer })
}

fn try_vxlan(_: &Netns) -> Result<(), NetError> {
    Links::open()?.create_vxlan("ckdoctor")
}

fn forwarding() -> Fact {
    let value = fs::read_to_string(format!("/proc/sys/{IP_FORWARD}")).unwrap_or_default();
    let detail = match value.trim() {
        "1" => "on",
        "0" => "off; the daemon switches it on and leaves it on",
        _ => "cannot be read",
    };
    Fact { name: "ip_forward", verdict: Verdict::Ok, detail: detail.to_owned(), cost: "" }
}

fn ranges() -> Fact {
    let name = "cluster range";
    match host_routes().map(|routes| choose_cluster_cidr(&routes)) {
        Ok(Some(range)) => Fact { name, verdict: Verdict::Ok, detail: format!("{range} is free"), cost: "" },
        Ok(None) => {
            let tried = CLUSTER_CIDRS.map(|range| range.to_string()).join(" and ");
            let detail = format!("{tried} overlap routes of this host; choose one with --cluster-cidr");
            Fact { name, verdict: Verdict::Missing, detail, cost: "the daemon does not start" }
        }
        Err(error) => {
            let detail = with_sources(&error);
            Fact { name, verdict: Verdict::Missing, detail, cost: "the daemon does not start" }
        }
    }
}

fn firewalls() -> Fact {
    let name = "other firewalls";
    let found = Socket::open(Family::Netfilter).and_then(|mut nft| foreign(&mut nft, "doctor"));
    match found {
        Ok(found) if found.needed.is_empty() => {
            Fact { name, verdict: Verdict::Ok, detail: "none drops forwarded traffic".to_owned(), cost: "" }
        }
        Ok(found) => {
            let chains: Vec<String> = found.needed.iter().map(ToString::to_string).collect();
            note(name, format!("the daemon will accept {}", chains.join("; ")), "")
        }
        Err(error) => note(name, with_sources(&error), "they may drop container traffic"),
    }
}

fn note(name: &'static str, detail: String, cost: &'static str) -> Fact {
    Fact { name, verdict: Verdict::Note, detail, cost }
}
