//! The kernel is compared with what is wanted, and repaired.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use carrack_net::plan::Op;
use carrack_net::purge::purge;
use carrack_net::{Config, NetError, Network};
use lab::{HOST_ADDRESS, Lab, Server, address, ask, config, is_lost, sh, tcp, vip, wait_for};

fn served() -> Lab {
    let mut lab = Lab::new();
    lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.service(1, &[3]);
    lab.publish(tcp(8080), &[3]);
    lab.apply();
    lab.on_host(Network::settle);
    assert_quiet(&lab);
    lab
}

fn assert_quiet(lab: &Lab) {
    let report = lab.on_host(|network| network.audit()).unwrap();
    assert!(
        report.steps.is_empty(),
        "{:?}",
        report.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    );
}

fn assert_served(lab: &Lab) {
    let client = &lab.containers[&address(2)].netns;
    for (from, to, port) in [
        (client, vip(1), 80),
        (&lab.host, vip(1), 80),
        (&lab.outside, HOST_ADDRESS, 8080),
        (&lab.host, address(3), 80),
    ] {
        assert_eq!(ask(from, to, port).unwrap().server, address(3).to_string(), "{to}:{port}");
    }
}

/// What needs that nobody drives the host, after one who did is gone. A child that another test starts just then has a copy
/// of the lock until its `execve`.
fn undriven<T: Send>(lab: &Lab, work: impl Fn() -> Result<T, NetError> + Sync) -> T {
    let mut done = None;
    wait_for("nobody drives the host", || match lab.host.run(&work).unwrap() {
        Err(error @ NetError::OtherInstance { .. }) => Err(error.to_string()),
        result => {
            done = Some(result.unwrap());
            Ok(())
        }
    });
    done.unwrap()
}

/// Breaks the host with a command and expects one audit to say and repair it, and the next to find nothing.
fn breaks(command: &str, steps: &[&str]) {
    let lab = served();
    lab.host.run(|| sh(command)).unwrap();
    let report = lab.on_host(|network| network.audit()).unwrap();
    let said: Vec<String> = report.steps.iter().map(ToString::to_string).collect();
    for step in steps {
        assert!(said.iter().any(|line| line.contains(step)), "{command}: {step:?} is not in {said:?}");
    }
    assert!(said.len() <= steps.len() + 3, "{command}: {said:?}");
    assert_quiet(&lab);
    assert_served(&lab);
}

#[test]
fn elements() {
    breaks(
        "nft delete element ip carrack slots_16 { 10.252.0.1 . 0x3 : 10.192.7.3 }",
        &["VIP 10.252.0.1 (1)"],
    );
    breaks("nft flush map ip carrack services", &["VIP 10.252.0.1"]);
    breaks("nft flush map ip carrack classes", &["member 10.192.7.2 (1), member 10.192.7.3 (1)"]);
    breaks("nft add element ip carrack blocks { 10.192.9.0 }", &["block 10.192.9.0"]);
    breaks("nft flush set ip carrack hairpin; nft flush map ip carrack ports", &["hairpin", "port 8080/tcp"]);
}

#[test]
fn rules_chains_and_the_table() {
    breaks("nft flush table ip carrack", &["replace table carrack: chain"]);
    breaks("nft delete table ip carrack", &["replace table carrack: it is missing"]);
    breaks("nft flush chain ip carrack forward", &["replace table carrack: chain forward has 0 rules"]);
    breaks("nft insert rule ip carrack forward drop", &["replace table carrack: chain forward has 7 rules"]);
    breaks("nft add chain ip carrack intruder", &["replace table carrack: chain intruder is not ours"]);
    let handle = "$(nft -a list chain ip carrack raw | sed -n 's/.*reach.*handle //p')";
    breaks(
        &format!("nft replace rule ip carrack raw handle {handle} accept"),
        &["replace table carrack: rule"],
    );
}

#[test]
fn routes_neighbours_addresses_and_settings() {
    breaks("ip route del 10.192.7.3", &["set route 10.192.7.3/32: it is missing"]);
    breaks("ip route del 10.252.0.0/14", &["set route 10.252.0.0/14: it is missing"]);
    breaks("ip route replace 10.192.7.3 dev up0 proto 202", &["set route 10.192.7.3/32: it leads elsewhere"]);
    breaks("ip neigh del 10.192.7.3 dev cktask3", &["set neighbour 10.192.7.3 on cktask3"]);
    breaks("ip addr del 10.192.7.1/32 dev lo", &["add address 10.192.7.1"]);
    breaks("sysctl -qw net.ipv4.ip_forward=0", &["set net/ipv4/ip_forward to 1: it is 0"]);
    breaks("ip link set cktask3 down", &["set link cktask3: it is down"]);
    breaks("sysctl -qw net.ipv4.conf.cktask3.route_localnet=0", &["cktask3/route_localnet to 1: it is 0"]);
}

#[test]
fn a_deleted_link_is_made_again_in_the_same_namespace() {
    breaks(
        "ip link del cktask3",
        &["make link cktask3", "set route 10.192.7.3/32", "set neighbour 10.192.7.3"],
    );
}

#[test]
fn leftovers_of_this_instance_go_and_links_of_others_stay() {
    breaks(
        "ip link add ckold type veth peer name ckoldp && ip link set ckold alias carrack:test:old \
         && ip route add 10.192.7.77 dev up0 proto 202",
        &["delete link ckold: no endpoint owns it", "delete route 10.192.7.77/32"],
    );
    let lab = served();
    lab.host
        .run(|| {
            sh("ip link add ckfoe type veth peer name ckfoep && ip link set ckfoe alias carrack:other:old")
        })
        .unwrap();
    assert_quiet(&lab);
}

#[test]
fn one_bad_link_does_not_keep_the_rest_from_being_repaired() {
    let lab = served();
    lab.host
        .run(|| {
            sh("ip link del cktask3; ip link add cktask3 type veth peer name strange; \
                ip link set cktask3 alias somebody; nft delete table ip carrack; ip route del 10.192.7.2")
        })
        .unwrap();
    let error = lab.on_host(|network| network.audit()).unwrap_err();
    assert!(matches!(&error, NetError::ForeignLink { name, .. } if name == "cktask3"), "{error}");
    assert_eq!(ask(&lab.host, address(2), 80).unwrap().server, address(2).to_string());
    lab.host.run(|| sh("nft list table ip carrack")).unwrap();
    // Its owner takes it away: all is repaired.
    lab.host.run(|| sh("ip link del cktask3")).unwrap();
    lab.on_host(|network| network.audit()).unwrap();
    assert_quiet(&lab);
    assert_served(&lab);
}

#[test]
fn a_repair_is_planned_before_it_is_made() {
    let lab = served();
    lab.host.run(|| sh("ip route del 10.192.7.3")).unwrap();
    let steps = lab.on_host(|network| network.plan()).unwrap();
    assert!(matches!(steps[..], [carrack_net::plan::Step { op: Op::SetRoute { .. }, .. }]), "{steps:?}");
    assert!(is_lost(&lab.host, address(3), 80));
}

#[test]
fn a_change_of_tables_heals_what_somebody_else_broke() {
    let mut lab = served();
    lab.host.run(|| sh("nft delete table ip carrack")).unwrap();
    lab.service(2, &[2]);
    lab.apply();
    assert_quiet(&lab);
    assert_served(&lab);
}

#[test]
fn a_batch_is_made_as_a_whole_or_not_at_all() {
    let mut lab = served();
    lab.service(2, &[2]);
    lab.apply();
    // The next batch removes VIP 2, and then a slot that somebody has already removed.
    lab.host.run(|| sh("nft delete element ip carrack slots_16 { 10.252.0.1 . 0x3 : 10.192.7.3 }")).unwrap();
    lab.tables.services.remove(&vip(2));
    lab.service(1, &[2]);
    let report = lab.apply();
    let [carrack_net::plan::Step { op: Op::ChangeElements { changes }, .. }] = &report.steps[..] else {
        panic!("{:?}", report.steps)
    };
    // Of the refused batch nothing was made: all of it is in the second one. 16 + 16 slots and the VIP.
    assert_eq!(changes.len(), 33);
    assert_quiet(&lab);
    assert_eq!(ask(&lab.host, vip(1), 80).unwrap().server, address(2).to_string());
    assert!(is_lost(&lab.host, vip(2), 80));
}

#[test]
fn any_change_of_the_ruleset_is_noticed_by_its_generation() {
    let lab = served();
    let generation = || lab.on_host(|network| network.ruleset_generation()).unwrap();
    let before = generation();
    assert_eq!(generation(), before);
    lab.host.run(|| sh("nft add table ip somebody")).unwrap();
    assert_ne!(generation(), before);
}

#[test]
fn chains_of_others_that_drop_let_containers_through() {
    let mut lab = Lab::new();
    lab.host
        .run(|| {
            sh("nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'; \
                nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'; \
                nft add table inet firewalld; nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }'; \
                nft add rule inet firewalld filter_FORWARD counter reject")
        })
        .unwrap();
    lab.container(2, &["web"]);
    let client = lab.container(3, &["web"]);
    lab.service(1, &[2]);
    lab.apply();
    lab.on_host(Network::settle);
    let report = lab.on_host(|network| network.audit()).unwrap();
    assert_eq!(report.steps.len(), 5, "{:?}", report.steps);
    assert_quiet(&lab);
    assert_eq!(ask(&client, vip(1), 80).unwrap().server, address(2).to_string());
    let _outside = Server::tcp(&lab.outside, 80, "outside");
    assert_eq!(ask(&client, lab::OUTSIDE_ADDRESS, 80).unwrap().server, "outside");
    let _dns = Server::tcp(&lab.host, 53, "dns");
    assert_eq!(ask(&client, carrack_net::model::DNS_ADDRESS, 53).unwrap().server, "dns");
    // The firewall is reloaded: our rules are gone, and come back.
    lab.host.run(|| sh("nft flush chain ip filter FORWARD")).unwrap();
    let report = lab.on_host(|network| network.audit()).unwrap();
    assert_eq!(report.steps.len(), 2, "{:?}", report.steps);
    assert_eq!(ask(&client, vip(1), 80).unwrap().server, address(2).to_string());
    // It does not drop any more: ours go.
    lab.host.run(|| sh("nft 'chain ip filter FORWARD { policy accept; }'")).unwrap();
    let report = lab.on_host(|network| network.audit()).unwrap();
    assert_eq!(report.steps.len(), 2, "{:?}", report.steps);
    let network = lab.network.take().unwrap();
    lab.host.run(|| network.remove_all()).unwrap().unwrap();
    let rules = lab.host.run(|| sh("nft list ruleset")).unwrap();
    assert!(!rules.contains("ck*") && !rules.contains("carrack"), "{rules}");
}

#[test]
fn remove_all_leaves_nothing() {
    let mut lab = Lab::without_network();
    // What the kernel keeps for good once it was used is there before, too.
    lab.host.run(|| sh("sysctl -qw net.ipv4.ip_forward=1")).unwrap();
    let before = lab.inventory();
    lab.network = Some(lab.host.run(|| Network::open(config())).unwrap().unwrap());
    lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.service(1, &[2, 3]);
    lab.publish(tcp(8080), &[2]);
    lab.apply();
    assert_ne!(lab.inventory(), before);
    let network = lab.network.take().unwrap();
    lab.host.run(|| network.remove_all()).unwrap().unwrap();
    assert_eq!(lab.inventory(), before);
}

#[test]
fn a_restarted_daemon_adopts_and_disturbs_nothing() {
    let mut lab = served();
    let client = lab.containers[&address(2)].netns.clone();
    let (_, mut open) = lab::connect(&client, vip(1), 80).unwrap();
    // Without a goodbye: as after SIGKILL.
    drop(lab.network.take());
    assert_served(&lab);
    let before = lab.inventory();
    lab.network = Some(undriven(&lab, || Network::open(config())));
    assert_eq!(lab.inventory(), before);
    let found = lab.on_host(|network| network.found_endpoints()).unwrap();
    assert_eq!(found.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["task2", "task3"]);
    for (address, container) in &lab.containers {
        let handle = lab
            .on_host(|network| network.ensure_endpoint(&container.key, *address, &container.netns))
            .unwrap();
        assert!(!handle.made);
        // Not even for a moment is there a gap: the tables are not set yet.
        assert_eq!(lab.inventory(), before);
    }
    let early = lab.on_host(|network| network.audit()).unwrap();
    assert!(early.steps.is_empty(), "{:?}", early.steps);
    lab.apply();
    lab.on_host(Network::settle);
    assert_quiet(&lab);
    assert_eq!(lab.inventory(), before);
    lab::echo(&mut open).unwrap();
    assert_served(&lab);
}

#[test]
fn two_daemons_do_not_share_a_host() {
    let lab = served();
    let other = Config { instance: "second".to_owned(), ..config() };
    let error = lab.host.run(|| Network::open(other.clone())).unwrap().unwrap_err();
    assert!(matches!(&error, NetError::OtherInstance { holder } if holder == "test"), "{error}");
    // In another namespace there is room.
    let elsewhere = Lab::without_network();
    elsewhere.host.run(|| Network::open(other.clone()).map(Network::remove_all)).unwrap().unwrap().unwrap();
    // One that is gone is replaced.
    let mut lab = lab;
    drop(lab.network.take());
    let second = undriven(&lab, || Network::open(other.clone()));
    let rules = lab.host.run(|| sh("nft list tables; nft list table ip carrack | head -3")).unwrap();
    assert!(rules.contains("second"), "{rules}");
    lab.host.run(|| second.remove_all()).unwrap().unwrap();
}

#[test]
fn what_a_dead_daemon_left_is_purged_and_what_others_have_stays() {
    let mut lab = Lab::without_network();
    lab.host.run(|| sh("sysctl -qw net.ipv4.ip_forward=1")).unwrap();
    let chain = "nft add table ip other; nft 'add chain ip other forward { type filter hook forward priority 0; policy drop; }'";
    lab.host.run(|| sh(chain)).unwrap();
    let before = lab.inventory();
    lab.network = Some(lab.host.run(|| Network::open(config())).unwrap().unwrap());
    lab.container(2, &["web"]);
    lab.service(1, &[2]);
    lab.publish(tcp(8080), &[2]);
    lab.apply();
    assert!(lab.host.run(|| sh("nft list table ip other")).unwrap().contains("carrack test"));
    let refused = lab.host.run(|| purge(Some("test"))).unwrap();
    assert!(matches!(refused, Err(NetError::OtherInstance { .. })), "a daemon drives it: {refused:?}");
    drop(lab.network.take());
    let other = undriven(&lab, || purge(Some("another")));
    assert!(other.steps.is_empty(), "{:?}", other.steps);
    assert_eq!(other.others, ["test", "test"], "by its table and by its links");
    // Nobody needs to know the installation's name: the kernel's objects tell it.
    let purged = undriven(&lab, || purge(None));
    assert!(!purged.steps.is_empty() && purged.others.is_empty(), "{purged:?}");
    assert_eq!(lab.inventory(), before);
    assert!(undriven(&lab, || purge(None)).steps.is_empty(), "a second time finds nothing");
}
