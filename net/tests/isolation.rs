//! Who may talk to whom.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use carrack_net::model::DNS_ADDRESS;
use lab::{
    HOST_ADDRESS, Lab, OUTSIDE_ADDRESS, SILENCE, Server, address, ask, ask_udp, is_lost, sh, udp, vip,
};

#[test]
fn members_of_a_group_talk_and_others_do_not() {
    let mut lab = Lab::new();
    let front = lab.container(2, &["front"]);
    let middle = lab.container(3, &["front", "back"]);
    let back = lab.container(4, &["back"]);
    lab.service(2, &[2]);
    lab.service(3, &[3]);
    lab.service(4, &[4]);
    lab.apply();
    for (from, to) in [(&front, 3), (&middle, 2), (&middle, 4), (&back, 3)] {
        assert_eq!(ask(from, address(to), 80).unwrap().server, address(to).to_string());
        assert_eq!(ask(from, vip(to), 80).unwrap().server, address(to).to_string());
    }
    for (from, to) in [(&front, 4), (&back, 2)] {
        assert_eq!(ask(from, address(to), 80).unwrap_err().kind(), ErrorKind::HostUnreachable);
        assert_eq!(ask(from, vip(to), 80).unwrap_err().kind(), ErrorKind::HostUnreachable);
        assert!(ask_udp(&udp(from, address(to), 80)).is_err());
    }
}

#[test]
fn a_change_of_groups_holds_for_new_connections_and_leaves_open_ones() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["a"]);
    lab.container(3, &["a"]);
    lab.apply();
    let (_, mut open) = lab::connect(&client, address(3), 80).unwrap();
    lab.tables.members.insert(address(3), ["b".to_owned()].into());
    lab.apply();
    assert_eq!(ask(&client, address(3), 80).unwrap_err().kind(), ErrorKind::HostUnreachable);
    lab::echo(&mut open).unwrap();
}

#[test]
fn containers_reach_the_outside_unless_all_their_groups_are_internal() {
    let mut lab = Lab::new();
    let open = lab.container(2, &["inner", "outer"]);
    let shut = lab.container(3, &["inner"]);
    lab.tables.internal.insert("inner".to_owned());
    lab.apply();
    let _server = Server::tcp(&lab.outside, 80, "outside");
    let answer = ask(&open, OUTSIDE_ADDRESS, 80).unwrap();
    assert_eq!((answer.server.as_str(), answer.client), ("outside", HOST_ADDRESS.to_string()));
    assert_eq!(ask(&shut, OUTSIDE_ADDRESS, 80).unwrap_err().kind(), ErrorKind::HostUnreachable);
    // Both still talk to each other.
    assert_eq!(ask(&shut, address(2), 80).unwrap().server, address(2).to_string());
}

#[test]
fn the_outside_reaches_neither_containers_nor_vips_nor_dns_nor_speaks_as_a_container() {
    let mut lab = Lab::new();
    lab.container(2, &["web"]);
    lab.service(1, &[2]);
    lab.apply();
    let _dns = Server::udp(&lab.host, 53, "dns");
    lab.outside
        .run(|| {
            sh(&format!(
                "ip route add 10.192.0.0/10 via {HOST_ADDRESS}; ip route add 169.254.1.53 via {HOST_ADDRESS}"
            ))
        })
        .unwrap();
    assert!(is_lost(&lab.outside, address(2), 80));
    assert!(is_lost(&lab.outside, vip(1), 80));
    let unheard = udp(&lab.outside, DNS_ADDRESS, 53);
    unheard.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask_udp(&unheard).is_err());
    // An address of the cluster on an outside link.
    lab.outside.run(|| sh("ip addr add 10.192.7.200/32 dev lo && ip route replace 10.192.7.2/32 via 192.168.77.1 src 10.192.7.200")).unwrap();
    assert!(is_lost(&lab.outside, address(2), 80));
}

#[test]
fn a_container_does_not_speak_as_another() {
    let mut lab = Lab::new();
    let liar = lab.container(2, &["a"]);
    lab.container(3, &["b"]);
    lab.container(4, &["b"]);
    lab.apply();
    liar.run(|| sh("ip addr add 10.192.7.4/32 dev lo")).unwrap();
    let socket = liar.run(|| std::net::UdpSocket::bind((Ipv4Addr::new(10, 192, 7, 4), 0)).unwrap()).unwrap();
    socket.connect((address(3), 80)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask_udp(&socket).is_err());
    let seen = lab.on_host(|network| network.flows()).unwrap();
    assert!(seen.iter().all(|flow| flow.original.destination != address(3)), "{seen:?}");
}

#[test]
fn containers_reach_dns_and_the_hosts_services() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.tables.internal.insert("web".to_owned());
    lab.apply();
    let _dns = (Server::udp_at(&lab.host, DNS_ADDRESS, 53, "dns"), Server::tcp(&lab.host, 53, "dns"));
    assert_eq!(ask_udp(&udp(&client, DNS_ADDRESS, 53)).unwrap().client, address(2).to_string());
    assert_eq!(ask(&client, DNS_ADDRESS, 53).unwrap().client, address(2).to_string());
    assert_eq!(ask(&client, HOST_ADDRESS, 53).unwrap().server, "dns");
}
