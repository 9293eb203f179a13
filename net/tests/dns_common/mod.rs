//! Shared by the DNS tests: a world with two stacks and a shared network, and queries written and read by an
//! independent codec (hickory-proto).
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrack_net::dns::{
    Answer, DnsSnapshot, DnsView, Range, ServiceNames, SlotNames, Transport, Zone, answer,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service whose endpoints are `(slot, address, passing)`.
pub(crate) fn service(stack: &str, name: &str, vips: &[&str], slots: &[(u32, &str, bool)]) -> ServiceNames {
    let slot = |(number, address, passing): &(u32, &str, bool)| {
        (*number, SlotNames { addresses: vec![ip(address)], passing: *passing })
    };
    ServiceNames {
        stack: stack.to_owned(),
        service: name.to_owned(),
        vips: vips.iter().map(|vip| ip(vip)).collect(),
        slots: slots.iter().map(slot).collect(),
    }
}

pub(crate) fn view(stack: &str, networks: &[&str]) -> DnsView {
    let networks = networks.iter().map(|network| (*network).to_owned()).collect();
    DnsView { stack: stack.to_owned(), networks, ..DnsView::default() }
}

/// hello/{web,redis} on hello/default, hello/admin on hello/back; shop/{web,cart} on shop/default;
/// hello/web and shop/web also on the external network `edge`.
pub(crate) fn world() -> DnsSnapshot {
    let mut world = DnsSnapshot::default();
    let slots = [(1, "10.192.0.11", true), (2, "10.192.0.12", true), (3, "10.192.0.13", false)];
    let web = world.add_service(service("hello", "web", &["10.252.0.1"], &slots));
    let redis = world.add_service(service("hello", "redis", &["10.252.0.2"], &[(1, "10.192.0.21", true)]));
    let admin = world.add_service(service("hello", "admin", &["10.252.0.3"], &[]));
    let shop_web = world.add_service(service("shop", "web", &["10.252.0.4"], &[(1, "10.192.1.11", true)]));
    let cart = world.add_service(service(
        "shop",
        "cart",
        &[],
        &[(1, "10.192.1.21", true), (2, "10.192.1.22", true)],
    ));
    for (network, name, service) in [
        ("hello/default", "web", web),
        ("hello/default", "redis", redis),
        ("hello/default", "cache.internal", redis),
        ("hello/default", "Frontend", web),
        ("hello/back", "admin", admin),
        ("shop/default", "web", shop_web),
        ("shop/default", "cart", cart),
        ("edge", "web", web),
        ("edge", "web", shop_web),
        ("edge", "all-webs", web),
        ("edge", "all-webs", shop_web),
    ] {
        world.name_service(network, name, service);
    }
    world.name_slot("hello/default", "hello-web-2", web, 2);
    for (address, view) in [
        ("10.192.0.11", view("hello", &["hello/default", "edge"])),
        ("10.192.0.21", view("hello", &["hello/default"])),
        ("10.192.0.31", view("hello", &["hello/back", "hello/default"])),
        ("10.192.1.11", view("shop", &["shop/default", "edge"])),
        ("10.192.1.21", view("shop", &["shop/default"])),
        ("10.192.2.1", view("third", &["edge"])),
    ] {
        world.views.insert(ip(address), view);
    }
    world.host_addresses.insert(ip("10.192.0.1"));
    world.ranges.push(Range { address: ip("10.192.0.0"), prefix: 10 });
    world.extra = BTreeMap::from([("host.docker.internal".to_owned(), vec![ip("10.192.0.1")])]);
    world
}

pub(crate) fn zone() -> Zone {
    Zone::new(world(), 42).unwrap()
}

pub(crate) fn query_message(id: u16, name: &str, record: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record));
    message
}

pub(crate) fn query(name: &str, record: RecordType) -> Vec<u8> {
    query_message(7, name, record).to_vec().unwrap()
}

pub(crate) fn query_edns(name: &str, record: RecordType, udp_bytes: u16) -> Vec<u8> {
    let mut message = query_message(7, name, record);
    let mut edns = Edns::new();
    edns.set_max_payload(udp_bytes);
    message.edns = Some(edns);
    message.to_vec().unwrap()
}

/// What became of a query.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Reply(ResponseCode, Vec<String>),
    Forward,
    Drop,
}

pub(crate) fn records(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|record| text(&record.data)).collect();
    data.sort();
    data
}

fn text(data: &RData) -> String {
    data.to_string()
}

pub(crate) fn ask(zone: &Zone, from: &str, name: &str, record: RecordType) -> Outcome {
    match answer(&query(name, record), ip(from), zone, Transport::Udp, 1) {
        Answer::Reply(reply) => {
            let message = Message::from_vec(&reply).unwrap();
            Outcome::Reply(message.metadata.response_code, records(&message))
        }
        Answer::Forward(..) => Outcome::Forward,
        Answer::Drop => Outcome::Drop,
    }
}

pub(crate) fn here(addresses: &[&str]) -> Outcome {
    Outcome::Reply(ResponseCode::NoError, addresses.iter().map(|&address| address.to_owned()).collect())
}

pub(crate) fn absent() -> Outcome {
    Outcome::Reply(ResponseCode::NXDomain, Vec::new())
}
