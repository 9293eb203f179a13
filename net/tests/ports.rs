//! Published ports from everywhere a client can be.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use carrack_net::reserve::ReserveError;
use carrack_net::{PortKey, Protocol};
use lab::{HOST_ADDRESS, Lab, OUTSIDE_ADDRESS, Server, address, ask, ask_udp, is_lost, tcp, udp, wait_for};

fn published() -> Lab {
    let mut lab = Lab::new();
    lab.container(2, &["web"]);
    lab.container(3, &["other"]);
    lab.publish(tcp(8080), &[2]);
    lab.publish(PortKey { protocol: Protocol::Udp, ..tcp(8080) }, &[2]);
    lab.apply();
    let wanted: BTreeSet<PortKey> = lab.tables.ports.keys().copied().collect();
    assert!(lab.on_host(|network| network.reserve_ports(&wanted)).is_empty());
    lab
}

#[test]
fn from_outside_with_the_clients_own_address() {
    let lab = published();
    let answer = ask(&lab.outside, HOST_ADDRESS, 8080).unwrap();
    assert_eq!((answer.server, answer.client), (address(2).to_string(), OUTSIDE_ADDRESS.to_string()));
    let answer = ask_udp(&udp(&lab.outside, HOST_ADDRESS, 8080)).unwrap();
    assert_eq!((answer.server, answer.client), (address(2).to_string(), OUTSIDE_ADDRESS.to_string()));
}

#[test]
fn from_the_host_at_localhost_and_at_its_own_address() {
    let lab = published();
    let local = ask(&lab.host, Ipv4Addr::LOCALHOST, 8080).unwrap();
    assert_eq!((local.server, local.client), (address(2).to_string(), address(1).to_string()));
    assert_eq!(ask(&lab.host, HOST_ADDRESS, 8080).unwrap().server, address(2).to_string());
    assert_eq!(ask_udp(&udp(&lab.host, Ipv4Addr::LOCALHOST, 8080)).unwrap().server, address(2).to_string());
    assert_eq!(ask_udp(&udp(&lab.host, HOST_ADDRESS, 8080)).unwrap().server, address(2).to_string());
}

#[test]
fn from_containers_even_of_other_networks_and_from_the_endpoint_itself() {
    let lab = published();
    for last in [2, 3] {
        let from = lab.containers[&address(last)].netns.clone();
        assert_eq!(ask(&from, HOST_ADDRESS, 8080).unwrap().server, address(2).to_string());
        assert_eq!(ask_udp(&udp(&from, HOST_ADDRESS, 8080)).unwrap().server, address(2).to_string());
    }
}

#[test]
fn only_at_the_address_it_is_published_on() {
    let mut lab = published();
    lab.publish(PortKey { host_ip: Some(Ipv4Addr::LOCALHOST), ..tcp(9090) }, &[2]);
    lab.publish(PortKey { host_ip: Some(HOST_ADDRESS), ..tcp(9091) }, &[2]);
    lab.apply();
    assert_eq!(ask(&lab.host, Ipv4Addr::LOCALHOST, 9090).unwrap().server, address(2).to_string());
    assert_eq!(ask(&lab.host, HOST_ADDRESS, 9090).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&lab.outside, HOST_ADDRESS, 9090).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&lab.host, HOST_ADDRESS, 9091).unwrap().server, address(2).to_string());
    assert_eq!(ask(&lab.outside, HOST_ADDRESS, 9091).unwrap().server, address(2).to_string());
    assert_eq!(ask(&lab.host, Ipv4Addr::LOCALHOST, 9091).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn to_many_endpoints_and_with_the_local_ones_first() {
    let mut lab = published();
    lab.container(4, &["web"]);
    // 10.192.9.9 is wired nowhere here: it must not be chosen while 2 and 4 are.
    lab.publish(tcp(8081), &[2, 4]);
    let target = lab.tables.ports.get_mut(&tcp(8081)).unwrap();
    target.endpoints.insert(Ipv4Addr::new(10, 192, 9, 9));
    lab.apply();
    let servers: BTreeSet<String> =
        (0..100).map(|_| ask(&lab.outside, HOST_ADDRESS, 8081).unwrap().server).collect();
    assert_eq!(servers, BTreeSet::from([address(2).to_string(), address(4).to_string()]));
}

#[test]
fn without_endpoints_it_is_refused_at_once() {
    let mut lab = published();
    lab.publish(tcp(8080), &[]);
    lab.publish(PortKey { protocol: Protocol::Udp, ..tcp(8080) }, &[]);
    lab.apply();
    for (from, to) in
        [(&lab.outside, HOST_ADDRESS), (&lab.host, HOST_ADDRESS), (&lab.host, Ipv4Addr::LOCALHOST)]
    {
        assert_eq!(ask(from, to, 8080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask_udp(&udp(from, to, 8080)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_port_of_the_host_that_is_not_published_stays_its_own() {
    let lab = published();
    let _server = Server::tcp(&lab.host, 7070, "host");
    for (from, to) in [(&lab.outside, HOST_ADDRESS), (&lab.host, Ipv4Addr::LOCALHOST)] {
        assert_eq!(ask(from, to, 7070).unwrap().server, "host");
    }
    let container = &lab.containers[&address(2)].netns;
    assert_eq!(ask(container, HOST_ADDRESS, 7070).unwrap().server, "host");
}

#[test]
fn containers_do_not_reach_loopback_of_the_host_over_their_link() {
    let lab = published();
    let _server = Server::tcp_at(&lab.host, Ipv4Addr::LOCALHOST, 7070, "host");
    let container = &lab.containers[&address(2)].netns;
    // A container that routes 127/8 out of its link: only root in it could.
    container
        .run(|| {
            lab::sh("ip addr del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.all.route_localnet=1; \
                     ip route del table local 127.0.0.0/8 dev lo; ip route add 127.0.0.0/8 via 169.254.1.1 dev eth0 onlink")
        })
        .unwrap();
    assert!(is_lost(container, Ipv4Addr::LOCALHOST, 7070));
}

#[test]
fn a_taken_port_names_its_holder_and_a_free_one_is_held() {
    let lab = Lab::new();
    let listener = lab.host.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
    let socket = lab.host.run(|| UdpSocket::bind("127.0.0.1:5353")).unwrap().unwrap();
    let udp_key = PortKey { protocol: Protocol::Udp, ..tcp(5353) };
    let loopback = PortKey { host_ip: Some(Ipv4Addr::LOCALHOST), ..tcp(8080) };
    let foreign = PortKey { host_ip: Some(Ipv4Addr::new(192, 0, 2, 9)), ..tcp(8080) };
    let wanted = BTreeSet::from([tcp(8080), loopback, foreign, udp_key, tcp(8081)]);
    let failed = lab.on_host(|network| network.reserve_ports(&wanted));
    let me = i32::try_from(std::process::id()).unwrap();
    for key in [tcp(8080), loopback, udp_key] {
        match &failed[&key] {
            ReserveError::Taken { holder, .. } => assert_eq!(holder.pid, me),
            other => panic!("{key}: {other}"),
        }
        assert!(failed[&key].to_string().contains(&format!("pid {me}")), "{}", failed[&key]);
    }
    assert!(matches!(failed[&foreign], ReserveError::NotOurAddress { .. }));
    assert_eq!(failed.len(), 4);
    // What we hold, nobody else gets; what we give back, they do.
    assert!(lab.host.run(|| TcpListener::bind("0.0.0.0:8081")).unwrap().is_err());
    drop((listener, socket));
    // A child that another test starts just then has copies of our sockets until its `execve`.
    wait_for("what was given back is taken", || {
        let failed = lab.on_host(|network| network.reserve_ports(&BTreeSet::from([tcp(8080)])));
        if failed.is_empty() { Ok(()) } else { Err(format!("{failed:?}")) }
    });
    wait_for("what was held is given back", || {
        let bound = lab.host.run(|| TcpListener::bind("0.0.0.0:8081")).unwrap();
        bound.map(drop).map_err(|error| error.to_string())
    });
}
