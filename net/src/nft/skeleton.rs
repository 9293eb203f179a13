//! The fixed part of the table `ip carrack`: its chains, rules, and the shapes of its sets.
//!
//! Owns: every rule we have, in one place to read. Nothing here depends on services or endpoints: those are elements
//! of the sets, so the cost of a packet and of a change is flat in their number. Owns not: elements.
//!
//! ```text
//! from a container                     from this host                    from outside
//!   raw: spoofs, 127/8                                                    raw: spoofs
//!   prerouting: VIP -> endpoint          output: VIP -> endpoint
//!               published -> endpoint            published -> endpoint    prerouting: published -> endpoint
//!   guard: VIP without endpoint,         output_guard: VIP or published
//!          gone endpoint: reject                without endpoint: reject
//!   forward: may the classes talk?                                        forward: published only
//!   postrouting: hairpin, way out        postrouting: from 127.0.0.1
//! input: published without endpoint: reject; DNS for containers and this host only
//! ```

use std::net::Ipv4Addr;

use crate::ipnet::{BLOCK_PREFIX, Ipv4Net};
use crate::model::{DNS_ADDRESS, LINK_PREFIX};
use crate::nft::expr::{
    ADMIN_PROHIBITED, Exprs, HOST_UNREACHABLE, LinkName, PORT_UNREACHABLE, STATE_ESTABLISHED_OR_RELATED,
    STATE_NEW, Verdict, and, connection_state, destination, destination_is_local, destination_port, dnat,
    from_map, immediate, in_net, in_set, is_address, is_dnat, is_protocol, link, masquerade,
    not_the_way_back, original_destination, protocol, random, reject, reset, snat, source,
    source_and_destination, verdict, verdict_map,
};
use crate::nft::sets::{SetId, SizeClass};

/// Name of our table. Nothing else in nftables is ours, except one accept per foreign chain that drops.
pub(crate) const TABLE: &str = "carrack";

/// What the rules need to know of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) cluster: Ipv4Net,
    pub(crate) vips: Ipv4Net,
    pub(crate) node: Ipv4Addr,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// A rule with what it is for, which is also its comment in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) comment: &'static str,
    pub(crate) exprs: Exprs,
}

pub(crate) const HOOK_PREROUTING: u32 = 0;
pub(crate) const HOOK_INPUT: u32 = 1;
pub(crate) const HOOK_FORWARD: u32 = 2;
pub(crate) const HOOK_OUTPUT: u32 = 3;
pub(crate) const HOOK_POSTROUTING: u32 = 4;

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DNAT: i32 = -100;
/// Right after destination NAT: what still has a VIP found no endpoint.
const PRIORITY_GUARD: i32 = -90;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SNAT: i32 = 100;

const TCP: u8 = 6;
const VIPS: &str = "vips";
const PORTS: &str = "ports";
const GONE: &str = "gone";
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 0);

/// Class number that stands for the outside in the set of allowed pairs.
pub(crate) const OUTSIDE: u32 = 0;

/// All chains; each comes after those it leads to.
pub(crate) fn chains(layout: Layout) -> Vec<Chain> {
    let mut chains: Vec<Chain> = SizeClass::ALL.into_iter().flat_map(slot_chains).collect();
    chains.push(Chain { name: VIPS.to_owned(), hook: None, rules: vips() });
    chains.push(Chain { name: PORTS.to_owned(), hook: None, rules: ports() });
    chains.push(Chain { name: GONE.to_owned(), hook: None, rules: gone(layout) });
    let mut base = |name: &str, kind, number, priority, rules| {
        chains.push(Chain { name: name.to_owned(), hook: Some(Hook { kind, number, priority }), rules });
    };
    base("raw", "filter", HOOK_PREROUTING, PRIORITY_RAW, raw(layout));
    base("prerouting", "nat", HOOK_PREROUTING, PRIORITY_DNAT, prerouting(layout));
    base("guard", "filter", HOOK_PREROUTING, PRIORITY_GUARD, guard(layout));
    base("output", "nat", HOOK_OUTPUT, PRIORITY_DNAT, output(layout));
    base("output_guard", "filter", HOOK_OUTPUT, PRIORITY_FILTER, output_guard(layout));
    base("input", "filter", HOOK_INPUT, PRIORITY_FILTER, input());
    base("forward", "filter", HOOK_FORWARD, PRIORITY_FILTER, forward(layout));
    base("postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SNAT, postrouting(layout));
    chains
}

/// The chain that a VIP of a size class leads to.
pub(crate) fn service_chain(class: SizeClass) -> String {
    format!("service_{}", class.slots())
}

/// The chain that a published port of a size class leads to; `any` when it is published on all addresses.
pub(crate) fn port_chain(class: SizeClass, any: bool) -> String {
    if any { format!("port_any_{}", class.slots()) } else { format!("port_{}", class.slots()) }
}

/// The size class that a chain of ours, by name, stands for.
pub(crate) fn slot_chain_of(name: &str) -> Option<SizeClass> {
    SizeClass::ALL.into_iter().find(|class| {
        name == service_chain(*class) || name == port_chain(*class, true) || name == port_chain(*class, false)
    })
}

fn rule(comment: &'static str, exprs: Exprs) -> Rule {
    Rule { comment, exprs }
}

fn slot_chains(class: SizeClass) -> [Chain; 3] {
    let slots = class.slots();
    let service = destination(0)
        .then(random(1, slots))
        .then(from_map(&SetId::Slots(class).name(), 0, 4))
        .then(dnat(4, None));
    let port = |address: Exprs| {
        address
            .then(protocol(1))
            .then(destination_port(2))
            .then(random(3, slots))
            .then(from_map(&SetId::PortSlots(class).name(), 0, 4))
            .then(dnat(4, Some(5)))
    };
    let chain = |name, rule| Chain { name, hook: None, rules: vec![rule] };
    [
        chain(service_chain(class), rule("VIP to an endpoint by a random slot", service)),
        chain(
            port_chain(class, false),
            rule("published address and port to an endpoint", port(destination(0))),
        ),
        chain(port_chain(class, true), rule("published port to an endpoint", port(immediate(0, &[0; 4])))),
    ]
}

fn vips() -> Vec<Rule> {
    vec![rule("VIPs by their size class", destination(0).then(verdict_map(&SetId::Services.name(), 0)))]
}

fn ports() -> Vec<Rule> {
    let key = |address: Exprs| address.then(protocol(1)).then(destination_port(2));
    let map = SetId::Ports.name();
    vec![
        rule(
            "DNS is never a published port",
            destination(0).then(is_address(true, DNS_ADDRESS)).then(verdict(Verdict::Return)),
        ),
        rule("published on one address", key(destination(0)).then(verdict_map(&map, 0))),
        rule("published on all addresses", key(immediate(0, &[0; 4])).then(verdict_map(&map, 0))),
    ]
}

fn from_containers(yes: bool) -> Exprs {
    link(true, yes, LinkName::Prefix(LINK_PREFIX))
}

fn to_containers(yes: bool) -> Exprs {
    link(false, yes, LinkName::Prefix(LINK_PREFIX))
}

fn not_loopback_link(input: bool) -> Exprs {
    link(input, false, LinkName::Whole("lo"))
}

fn loopback_net() -> Ipv4Net {
    Ipv4Net::containing(LOOPBACK, 8)
}

fn raw(layout: Layout) -> Vec<Rule> {
    let foreign_link = || from_containers(false).then(not_loopback_link(true));
    vec![
        rule(
            "containers do not reach the host's 127/8",
            from_containers(true)
                .then(destination(0))
                .then(in_net(true, loopback_net()))
                .then(verdict(Verdict::Drop)),
        ),
        rule(
            "containers do not speak as 127/8",
            from_containers(true)
                .then(source(0))
                .then(in_net(true, loopback_net()))
                .then(verdict(Verdict::Drop)),
        ),
        rule(
            "containers speak only as themselves",
            from_containers(true).then(not_the_way_back()).then(verdict(Verdict::Drop)),
        ),
        rule(
            "nobody outside speaks as the cluster",
            foreign_link().then(source(0)).then(in_net(true, layout.cluster)).then(verdict(Verdict::Drop)),
        ),
    ]
}

/// Jumps to a chain that looks for an endpoint, and does it again for what found none: a batch is one change for each look
/// at a set, but not for the packet. One that has read the size class of before a change finds no slots of it afterwards.
/// The second look is at what the change has made.
fn twice(comment: &'static str, condition: &Exprs, chain: &'static str) -> [Rule; 2] {
    [(); 2].map(|()| rule(comment, condition.clone().then(verdict(Verdict::Jump(chain)))))
}

fn prerouting(layout: Layout) -> Vec<Rule> {
    let of_cluster = source(0).then(in_net(true, layout.cluster));
    [
        twice("VIPs, for the cluster only", &of_cluster, VIPS),
        twice("published ports", &destination_is_local(), PORTS),
    ]
    .concat()
}

fn output(layout: Layout) -> Vec<Rule> {
    let to_vips = destination(0).then(in_net(true, layout.vips));
    [twice("VIPs", &to_vips, VIPS), twice("published ports", &destination_is_local(), PORTS)].concat()
}

/// Reset for TCP, ICMP for the rest, for packets that a condition holds for.
fn refuse(comment: &'static str, condition: &Exprs, code: u8) -> [Rule; 2] {
    [
        rule(comment, condition.clone().then(is_protocol(TCP)).then(reset())),
        rule(comment, condition.clone().then(reject(code))),
    ]
}

fn guard(layout: Layout) -> Vec<Rule> {
    let vip = destination(0).then(in_net(true, layout.vips));
    let mut rules = refuse("VIP without endpoints", &vip, PORT_UNREACHABLE).to_vec();
    let block_mask = Ipv4Net::containing(Ipv4Addr::UNSPECIFIED, BLOCK_PREFIX).netmask().octets();
    let own_block = destination(0).then(and(0, 0, &block_mask)).then(in_set(&SetId::Blocks.name(), 0));
    rules.push(rule("an address of this node", own_block.then(verdict(Verdict::Jump(GONE)))));
    rules
}

fn gone(layout: Layout) -> Vec<Rule> {
    let known = destination(0).then(from_map(&SetId::Classes.name(), 0, 4));
    let node = destination(0).then(is_address(true, layout.node));
    let mut rules = vec![
        rule("a task that exists", known.then(verdict(Verdict::Return))),
        rule("the node itself", node.then(verdict(Verdict::Return))),
    ];
    rules.extend(refuse("a task that is gone", &Exprs::new(), HOST_UNREACHABLE));
    rules
}

/// What finds no endpoint is refused on its way out, before its flow is entered in the table of connections. Refused later, it
/// would leave an entry there without an endpoint, and for ten seconds a connection from the same port would follow that.
/// Datagrams to a published port go on to `input`: an ICMP error tells a socket more than the failure of its `send`.
fn output_guard(layout: Layout) -> Vec<Rule> {
    let vip = destination(0).then(in_net(true, layout.vips));
    let mut rules = refuse("VIP without endpoints", &vip, PORT_UNREACHABLE).to_vec();
    rules.extend(unserved().map(|(comment, flow)| {
        rule(comment, is_protocol(TCP).then(destination_is_local()).then(flow).then(reset()))
    }));
    rules
}

/// New flows to published ports that found no endpoint.
fn unserved() -> [(&'static str, Exprs); 2] {
    let to = |address: Exprs| {
        let key = address.then(protocol(1)).then(destination_port(2));
        let fresh = connection_state(STATE_NEW).then(is_dnat(false));
        fresh.then(key).then(in_set(&SetId::Published.name(), 0))
    };
    [
        ("published address and port without endpoints", to(destination(0))),
        ("published port without endpoints", to(immediate(0, &[0; 4]))),
    ]
}

fn input() -> Vec<Rule> {
    let dns = destination(0).then(is_address(true, DNS_ADDRESS));
    let stranger = from_containers(false).then(not_loopback_link(true));
    let mut rules = vec![
        rule("DNS is for containers and this host", stranger.then(dns.clone()).then(verdict(Verdict::Drop))),
        rule("DNS is never a published port", dns.then(verdict(Verdict::Accept))),
    ];
    rules.extend(unserved().iter().flat_map(|(comment, flow)| refuse(comment, flow, PORT_UNREACHABLE)));
    rules
}

/// The key of @reach is (source address . class of the destination). `nft` (1.0.6) aborts when it lists a rule that
/// uses what came out of a map as (a part of) a key. So the key is loaded as 8 bytes of header first, and its second
/// half is then overwritten, which `nft` does not notice: it prints the rule as `@nh,96,64 @reach`.
fn forward(layout: Layout) -> Vec<Rule> {
    let reach = SetId::Reach.name();
    let accept = || verdict(Verdict::Accept);
    let published = is_dnat(true).then(original_destination(0)).then(in_net(false, layout.vips));
    let inside = source_and_destination(4)
        .then(destination(0))
        .then(from_map(&SetId::Classes.name(), 0, 5))
        .then(in_set(&reach, 4));
    let way_out = source(0)
        .then(in_net(true, layout.cluster))
        .then(destination(0))
        .then(in_net(false, layout.cluster))
        .then(source(4))
        .then(immediate(5, &OUTSIDE.to_ne_bytes()))
        .then(in_set(&reach, 4));
    vec![
        rule("answers", connection_state(STATE_ESTABLISHED_OR_RELATED).then(accept())),
        rule("published ports", published.then(accept())),
        rule("classes that may talk", inside.then(accept())),
        rule("classes that may go out", way_out.then(accept())),
        rule("containers reach nothing else", from_containers(true).then(reject(ADMIN_PROHIBITED))),
        rule("containers are reached by nothing else", to_containers(true).then(reject(ADMIN_PROHIBITED))),
    ]
}

fn postrouting(layout: Layout) -> Vec<Rule> {
    let from_loopback = source(0).then(in_net(true, loopback_net())).then(to_containers(true));
    let itself = source(0).then(destination(1)).then(in_set(&SetId::Hairpin.name(), 0));
    let way_out = source(0)
        .then(in_net(true, layout.cluster))
        .then(destination(0))
        .then(in_net(false, layout.cluster))
        .then(to_containers(false))
        .then(not_loopback_link(false));
    vec![
        rule("localhost to a published port", from_loopback.then(snat(layout.node))),
        rule("a container to itself", itself.then(snat(layout.node))),
        rule("the way out", way_out.then(masquerade())),
    ]
}
