//! Virtual addresses with real packets: who answers, how evenly, from where.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use carrack_net::{EndpointKey, Netns, Tables};
use lab::{Lab, Server, address, ask, ask_udp, sh, udp, vip};

#[test]
fn a_vip_is_reached_from_containers_and_from_the_host() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.service(1, &[3]);
    lab.apply();
    let from_container = ask(&client, vip(1), 80).unwrap();
    assert_eq!(
        (from_container.server, from_container.client),
        (address(3).to_string(), address(2).to_string())
    );
    let from_host = ask(&lab.host, vip(1), 80).unwrap();
    assert_eq!((from_host.server, from_host.client), (address(3).to_string(), address(1).to_string()));
    assert_eq!(ask_udp(&udp(&client, vip(1), 80)).unwrap().server, address(3).to_string());
    assert_eq!(ask_udp(&udp(&lab.host, vip(1), 80)).unwrap().server, address(3).to_string());
}

#[test]
fn a_container_reaches_itself_through_its_own_vip() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.service(1, &[2]);
    lab.apply();
    for _ in 0..5 {
        assert_eq!(ask(&client, vip(1), 80).unwrap().server, address(2).to_string());
    }
    assert_eq!(ask_udp(&udp(&client, vip(1), 80)).unwrap().server, address(2).to_string());
}

#[test]
fn a_vip_carries_all_ports_and_protocols() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    let server = lab.container(3, &["web"]);
    lab.service(1, &[3]);
    lab.apply();
    let _redis = Server::tcp(&server, 6379, "redis");
    assert_eq!(ask(&client, vip(1), 6379).unwrap().server, "redis");
}

#[test]
fn a_vip_without_endpoints_is_refused_at_once() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.tables.services.insert(vip(1), Default::default());
    lab.apply();
    for from in [&client, &lab.host] {
        for unserved in [vip(1), vip(2)] {
            assert_eq!(ask(from, unserved, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let refused = ask_udp(&udp(from, unserved, 80)).unwrap_err();
            // The host's own datagrams are refused on their way out: `send` fails with EPERM.
            let from_host = std::ptr::eq(from, &lab.host);
            let expected = if from_host { ErrorKind::PermissionDenied } else { ErrorKind::ConnectionRefused };
            assert_eq!(refused.kind(), expected);
        }
    }
}

/// A connection from a port of our choice; what it was told.
fn connect_from(port: u16, to: (Ipv4Addr, u16)) -> std::io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    };
    let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&own, sockopt::ReuseAddr, &true)?;
    bind(own.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    let [a, b, c, d] = to.0.octets();
    Ok(connect(own.as_raw_fd(), &SockaddrIn::new(a, b, c, d, to.1))?)
}

#[test]
fn who_was_refused_is_served_from_the_same_port_once_there_is_an_endpoint() {
    let mut lab = Lab::new();
    lab.container(3, &["web"]);
    let published = lab::tcp(8080);
    lab.service(1, &[]);
    lab.publish(published, &[]);
    lab.apply();
    let targets = [(vip(1), 80), (Ipv4Addr::LOCALHOST, 8080), (lab::HOST_ADDRESS, 8080)];
    for (number, to) in (40_000..).zip(targets) {
        let refused = lab.host.run(|| connect_from(number, to)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to:?}");
    }
    lab.service(1, &[3]);
    lab.publish(published, &[3]);
    lab.apply();
    for (number, to) in (40_000..).zip(targets) {
        lab.host.run(|| connect_from(number, to)).unwrap().unwrap_or_else(|error| panic!("{to:?}: {error}"));
    }
}

#[test]
fn an_address_that_no_task_has_is_an_error_at_once() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.apply();
    let from_container = ask(&client, address(99), 80).unwrap_err();
    assert_eq!(from_container.kind(), ErrorKind::ConnectionRefused);
    let from_host = ask(&lab.host, address(99), 80).unwrap_err();
    assert_eq!(from_host.kind(), ErrorKind::HostUnreachable);
}

/// One service, one container that has all the endpoints' addresses on its loopback link: what is tested is the
/// table, not the number of namespaces.
fn spread(endpoints: u8) {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    let lasts: Vec<u8> = (3..3 + endpoints).collect();
    for last in &lasts {
        lab.container(*last, &["web"]);
    }
    lab.service(1, &lasts);
    lab.apply();
    let slots = slot_counts(&lab);
    assert_eq!(slots.len(), usize::from(endpoints));
    let (least, most) = (slots.values().min().unwrap(), slots.values().max().unwrap());
    assert!(most * 8 <= least * 9, "slots per endpoint: {least} to {most}");
    let mut asked = 0;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    // Expected to need n * ln n (coupon collector); 20 times that is certain for all practical purposes.
    let enough = 20 * usize::from(endpoints) * 6;
    while answers.len() < usize::from(endpoints) && asked < enough {
        *answers.entry(ask(&client, vip(1), 80).unwrap().server).or_default() += 1;
        asked += 1;
    }
    let silent: Vec<String> = lasts
        .iter()
        .map(|last| address(*last).to_string())
        .filter(|name| !answers.contains_key(name))
        .collect();
    assert!(silent.is_empty(), "after {asked} requests nobody heard of {silent:?}");
}

/// Endpoint -> slots, as `nft` prints them: another reader than ours.
fn slot_counts(lab: &Lab) -> BTreeMap<Ipv4Addr, usize> {
    let listing =
        lab.host.run(|| sh("for n in 16 256 4096 65536; do nft list map ip carrack slots_$n; done")).unwrap();
    let mut counts = BTreeMap::new();
    for element in listing.split([',', '{', '}']).filter(|part| part.contains(&vip(1).to_string())) {
        let endpoint: Ipv4Addr = element.rsplit(':').next().unwrap().trim().parse().unwrap();
        *counts.entry(endpoint).or_default() += 1;
    }
    counts
}

#[test]
fn each_of_3_endpoints_gets_its_share() {
    spread(3);
}

#[test]
fn each_of_20_endpoints_gets_its_share() {
    spread(20);
}

#[test]
fn each_of_200_endpoints_gets_its_share() {
    spread(200);
}

#[test]
fn a_namespace_is_wired_again_when_asked_again() {
    let mut lab = Lab::new();
    let netns = lab.container(2, &["web"]);
    lab.service(1, &[2]);
    lab.apply();
    let key = EndpointKey::new("task2").unwrap();
    let again = lab.on_host(|network| network.ensure_endpoint(&key, address(2), &netns)).unwrap();
    assert!(!again.made);
    // A new namespace under the same key and address: the link moves there.
    let other = Netns::create().unwrap();
    let moved = lab.on_host(|network| network.ensure_endpoint(&key, address(2), &other)).unwrap();
    assert!(moved.made);
    let _server = Server::tcp(&other, 80, "moved");
    assert_eq!(ask(&lab.host, vip(1), 80).unwrap().server, "moved");
}

#[test]
fn an_address_is_given_once_and_only_from_the_nodes_blocks() {
    let mut lab = Lab::new();
    let netns = lab.container(2, &["web"]);
    let key = EndpointKey::new("other").unwrap();
    let refusal = |address| {
        lab.on_host(|network| network.ensure_endpoint(&key, address, &netns)).unwrap_err().to_string()
    };
    assert!(refusal(address(2)).contains("task2"));
    assert!(refusal(address(1)).contains("node's own"));
    assert!(refusal(Ipv4Addr::new(10, 192, 8, 2)).contains("blocks"));
    assert_eq!(lab.on_host(|network| network.set_tables(&Tables::default())).unwrap().warnings.len(), 0);
}
