//! Virtual addresses with real packets: who answers, how evenly, from where.

mod lab;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use lab::{Lab, address, ask, vip};

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
}
