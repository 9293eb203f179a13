//! What this kernel and host offer to the network, as data.
//!
//! Owns: trying each feature for real in a throwaway namespace, and reading the facts of the host that matter.
//! Changes nothing on the host. Owns not: printing.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use carrack_api::fact::Fact;

use crate::conntrack::flows;
use crate::error::NetError;
use crate::ipnet::{CLUSTER_CIDRS, choose_cluster_cidr, vip_range};
use crate::link::{Links, NewVeth};
use crate::lower::IP_FORWARD;
use crate::network::host_routes;
use crate::nft::batch::Batch;
use crate::nft::dump::{TableState, table_state};
use crate::nft::foreign::foreign;
use crate::nft::obstacles::{Obstacle, beside};
use crate::nft::sets::Elements;
use crate::nft::skeleton::Layout;
use crate::ns::Netns;
use crate::observe::warnings;
use crate::present::{container_mac, host_mac};
use crate::socket::{Family, Socket};

const AREA: &str = "network";

/// What helps where root is refused something.
const REFUSED: &str = "root needs CAP_NET_ADMIN and CAP_SYS_ADMIN here: see capabilities; run it on the host, outside of containers";

/// Connections that a host with containers should have room for.
const CONNECTIONS_WANTED: u64 = 65_536;

/// Looks at everything. Needs root; without it the facts say so.
pub fn examine() -> Vec<Fact> {
    let mut facts = vec![
        tried(&NAMESPACES, |_| Ok(())),
        tried(&VETH, try_veth),
        tried(&NFTABLES, try_nftables),
        tried(&CONNTRACK, try_conntrack),
        tried(&VXLAN, try_vxlan),
    ];
    facts.push(forwarding());
    facts.push(reverse_paths());
    facts.push(ranges());
    facts.extend(connections());
    facts.extend(firewalls());
    facts
}

/// A feature that is tried: what works with it, what its lack costs, and what helps.
struct Feature {
    name: &'static str,
    works: &'static str,
    cost: &'static str,
    hint: &'static str,
    /// Without it containers cannot run or be reached.
    needed: bool,
}

const NAMESPACES: Feature = Feature {
    name: "network namespaces",
    works: "work",
    cost: "no container has a network of its own",
    hint: "a kernel with CONFIG_NET_NS; inside a container: CAP_SYS_ADMIN",
    needed: true,
};
const VETH: Feature = Feature {
    name: "veth",
    works: "works",
    cost: "containers cannot be linked to the host",
    hint: "modprobe veth",
    needed: true,
};
const NFTABLES: Feature = Feature {
    name: "nftables",
    works: "numgen, maps, maps of concatenations, nat, fib and reject work",
    cost: "no virtual addresses, no published ports, no isolation",
    hint: "modprobe -a nf_tables nft_numgen nft_ct nft_chain_nat nft_nat nft_fib_ipv4 nft_reject_ipv4",
    needed: true,
};
const CONNTRACK: Feature = Feature {
    name: "conntrack over netlink",
    works: "works",
    cost: "drains do not see open connections",
    hint: "modprobe nf_conntrack_netlink",
    needed: true,
};
const VXLAN: Feature = Feature {
    name: "vxlan",
    works: "works",
    cost: "nodes must share one layer-2 network; a single host does without",
    hint: "modprobe vxlan",
    needed: false,
};

fn tried(feature: &Feature, attempt: impl FnOnce(&Netns) -> Result<(), NetError> + Send) -> Fact {
    if !is_root() {
        return Fact::untried(AREA, feature.name).hint("sudo carrack doctor");
    }
    let what = || "a throwaway namespace".to_owned();
    let result = Netns::create()
        .and_then(|netns| netns.run(|| attempt(&netns)))
        .map_err(|source| NetError::Netns { what: what(), source })
        .and_then(|result| result);
    match result {
        Ok(()) => Fact::ok(AREA, feature.name, feature.works),
        Err(error) => {
            let found = with_sources(&error);
            let fact = match feature.needed {
                true => Fact::missing(AREA, feature.name, found, feature.cost),
                false => Fact::note(AREA, feature.name, found, feature.cost),
            };
            fact.hint(if is_refusal(&error) { REFUSED } else { feature.hint })
        }
    }
}

/// Whether this process acts as root.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether the kernel does not let this process do it, whatever is loaded.
fn is_refusal(error: &NetError) -> bool {
    let denied = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::PermissionDenied)
    };
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
        .any(denied)
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
    Fact::ok(AREA, "ip_forward", detail)
}

/// Told because people ask; containers are held to their own addresses by our table, whatever it says.
fn reverse_paths() -> Fact {
    let value = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or_default();
    let detail = match value.trim() {
        "0" => "left to each link; not needed, not changed",
        "1" => "strict on all links; not needed, not changed",
        "2" => "loose on all links; not needed, not changed",
        _ => "cannot be read",
    };
    Fact::ok(AREA, "rp_filter", detail)
}

fn ranges() -> Fact {
    let name = "cluster range";
    let cost = "the daemon does not start";
    match host_routes().map(|routes| choose_cluster_cidr(&routes)) {
        Ok(Some(range)) => Fact::ok(AREA, name, format!("{range} is free")),
        Ok(None) => {
            let tried = CLUSTER_CIDRS.map(|range| range.to_string()).join(" and ");
            Fact::missing(AREA, name, format!("{tried} overlap routes of this host"), cost)
                .hint("carrack daemon --cluster-cidr A.B.C.D/10")
        }
        Err(error) => Fact::missing(AREA, name, with_sources(&error), cost).hint(if is_refusal(&error) {
            REFUSED
        } else {
            "ip route show table all"
        }),
    }
}

/// Chains of others: whose they are, those that we add accepts to, and what we do not get past.
fn firewalls() -> Vec<Fact> {
    let name = "other firewalls";
    let cost = "they may drop container traffic";
    if !is_root() {
        return vec![Fact::untried(AREA, name).hint("sudo carrack doctor")];
    }
    let looked = Socket::open(Family::Netfilter)
        .and_then(|mut nft| Ok((foreign(&mut nft, "doctor")?, beside(&mut nft)?)));
    let (found, beside) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let hint = if is_refusal(&error) { REFUSED } else { "modprobe nf_tables; nft list ruleset" };
            return vec![note(name, with_sources(&error), cost).hint(hint)];
        }
    };
    let mut facts: Vec<Fact> = beside.obstacles.into_iter().map(blocked).collect();
    let programs = beside.programs.into_iter().collect::<Vec<_>>().join(", ");
    let of = |rest: String| if programs.is_empty() { rest } else { format!("{programs}; {rest}") };
    if !found.needed.is_empty() {
        let chains: Vec<String> = found.needed.keys().map(ToString::to_string).collect();
        let detail = of(format!("the daemon has rules of its own accept {}", chains.join("; ")));
        let cost = "what they close for this host is not closed for published ports";
        facts.push(
            note(name, detail, cost)
                .hint("publish what is not for everybody on one address: 127.0.0.1:8080:80"),
        );
    } else if facts.is_empty() {
        facts.push(Fact::ok(AREA, name, of("none drops traffic of containers".to_owned())));
    }
    facts.extend(warnings().into_iter().map(blocked));
    facts
}

fn blocked(obstacle: Obstacle) -> Fact {
    Fact::missing(AREA, "blocked traffic", obstacle.what, "containers are cut off").hint(obstacle.command)
}

/// How full the table of connections is, which all programs of a host share.
fn connections() -> Option<Fact> {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?;
        text.trim().parse().ok()
    };
    let (count, max) = (read("count")?, read("max")?);
    let detail = format!("{count} of at most {max} are open");
    let roomy = max >= CONNECTIONS_WANTED && count <= max / 2;
    if roomy {
        return Some(Fact::ok(AREA, "connections", detail));
    }
    let hint = format!("sysctl -w net.netfilter.nf_conntrack_max={}", CONNECTIONS_WANTED.max(max * 2));
    Some(note("connections", detail, "new connections are dropped when the table is full").hint(hint))
}

fn note(name: &str, detail: String, cost: &str) -> Fact {
    Fact::note(AREA, name, detail, cost)
}
