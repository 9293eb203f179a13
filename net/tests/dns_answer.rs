//! What each viewer is told about each name, and what packets of every kind lead to. Pure.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod dns_common;

use std::collections::BTreeSet;

use carrack_net::dns::{ANSWER_TTL_SECONDS, Answer, DnsSnapshot, Transport, Zone, answer};
use dns_common::*;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, HTTPS, MX, PTR};

const HELLO_WEB: &str = "10.192.0.11";
const HELLO_REDIS: &str = "10.192.0.21";
const SHOP_WEB: &str = "10.192.1.11";
const SHOP_CART: &str = "10.192.1.21";
const THIRD: &str = "10.192.2.1";
const HOST: &str = "10.192.0.1";

#[test]
fn names_by_viewer() {
    let zone = zone();
    let cases: &[(&str, &str, Outcome)] = &[
        // A service name is the VIP, in every form.
        (HELLO_REDIS, "web", here(&["10.252.0.1"])),
        (HELLO_REDIS, "WEB.", here(&["10.252.0.1"])),
        (HELLO_REDIS, "web.hello", here(&["10.252.0.1"])),
        (HELLO_REDIS, "web.hello.carrack", here(&["10.252.0.1"])),
        (HELLO_REDIS, "frontend", here(&["10.252.0.1"])),
        (HELLO_REDIS, "cache.internal", here(&["10.252.0.2"])),
        // tasks.* are the passing endpoints, n.* is a slot whether or not it passes.
        (HELLO_REDIS, "tasks.web", here(&["10.192.0.11", "10.192.0.12"])),
        (HELLO_REDIS, "tasks.web.hello.carrack", here(&["10.192.0.11", "10.192.0.12"])),
        (HELLO_REDIS, "tasks.frontend", here(&["10.192.0.11", "10.192.0.12"])),
        (HELLO_REDIS, "3.web", here(&["10.192.0.13"])),
        (HELLO_REDIS, "1.web.hello.carrack", here(&["10.192.0.11"])),
        (HELLO_REDIS, "4.web", absent()),
        (HELLO_REDIS, "hello-web-2", here(&["10.192.0.12"])),
        (HELLO_REDIS, "hello-web-2.hello.carrack", here(&["10.192.0.12"])),
        // A service without VIP is its passing endpoints; one without endpoints still has its VIP.
        (SHOP_CART, "cart", here(&["10.192.1.21", "10.192.1.22"])),
        ("10.192.0.31", "admin", here(&["10.252.0.3"])),
        ("10.192.0.31", "tasks.admin", here(&[])),
        ("10.192.0.31", "1.admin", absent()),
        // On a shared network the own stack comes first, others by their stack, aliases mean all.
        (HELLO_WEB, "web", here(&["10.252.0.1"])),
        (SHOP_WEB, "web", here(&["10.252.0.4"])),
        (HELLO_WEB, "web.shop", here(&["10.252.0.4"])),
        (SHOP_WEB, "web.hello.carrack", here(&["10.252.0.1"])),
        (THIRD, "web", here(&["10.252.0.1", "10.252.0.4"])),
        (THIRD, "all-webs", here(&["10.252.0.1", "10.252.0.4"])),
        // Isolation: names of networks one is not on do not exist, and are asked of nobody.
        (HELLO_REDIS, "admin", absent()),
        (HELLO_REDIS, "admin.hello", absent()),
        (HELLO_REDIS, "tasks.admin.hello", absent()),
        (HELLO_REDIS, "web.shop", absent()),
        (HELLO_REDIS, "1.cart.shop", absent()),
        (SHOP_CART, "redis.hello.carrack", absent()),
        (SHOP_CART, "web.hello", absent()),
        (THIRD, "redis", absent()),
        // Unknown: single labels and our domain stay here, all else goes out.
        (HELLO_REDIS, "nothing", absent()),
        (HELLO_REDIS, "nothing.hello.carrack", absent()),
        (HELLO_REDIS, "a.b.c.carrack", absent()),
        (HELLO_REDIS, "example.com", Outcome::Forward),
        (HELLO_REDIS, "notcarrack", absent()),
        (HELLO_REDIS, "not.a.subcarrack", Outcome::Forward),
        (HELLO_REDIS, "1.2.example.com", Outcome::Forward),
        (SHOP_CART, "cache.internal", Outcome::Forward),
        // Domains of ours exist, without addresses.
        (HELLO_REDIS, "carrack", here(&[])),
        (HELLO_REDIS, "hello.carrack", here(&[])),
        (HELLO_REDIS, "shop.carrack", absent()),
        // Everyone sees the extra names.
        (HELLO_REDIS, "host.docker.internal", here(&["10.192.0.1"])),
        // The node sees every stack, by qualified names only.
        (HOST, "web.hello", here(&["10.252.0.1"])),
        (HOST, "web.shop.carrack", here(&["10.252.0.4"])),
        (HOST, "tasks.cart.shop", here(&["10.192.1.21", "10.192.1.22"])),
        (HOST, "2.cart.shop.carrack", here(&["10.192.1.22"])),
        (HOST, "admin.hello", here(&["10.252.0.3"])),
        (HOST, "cache.internal.hello", here(&["10.252.0.2"])),
        (HOST, "web", absent()),
        (HOST, "example.com", Outcome::Forward),
        ("127.0.0.1", "web.hello", here(&["10.252.0.1"])),
        ("169.254.1.53", "web.hello", here(&["10.252.0.1"])),
        // Strangers get nothing.
        ("10.192.9.9", "web", Outcome::Reply(ResponseCode::Refused, vec![])),
        ("192.0.2.1", "example.com", Outcome::Reply(ResponseCode::Refused, vec![])),
    ];
    for (from, name, expected) in cases {
        assert_eq!(&ask(&zone, from, name, A), expected, "{from} asks for {name}");
    }
}

#[test]
fn other_types_of_a_known_name_are_no_data_at_once() {
    let zone = zone();
    for record in [AAAA, MX, HTTPS, RecordType::TXT, RecordType::SRV, PTR] {
        assert_eq!(ask(&zone, HELLO_REDIS, "web", record), here(&[]), "{record}");
        assert_eq!(ask(&zone, HELLO_REDIS, "nothing", record), absent(), "{record}");
    }
    assert_eq!(ask(&zone, HELLO_REDIS, "web", ANY), here(&["10.252.0.1"]));
    let transfer = Outcome::Reply(ResponseCode::Refused, vec![]);
    assert_eq!(ask(&zone, HELLO_REDIS, "carrack", RecordType::AXFR), transfer);
    assert_eq!(ask(&zone, HELLO_REDIS, "example.com", RecordType::AXFR), transfer);
}

#[test]
fn a_service_with_ipv6_answers_each_family() {
    let mut world = world();
    world.services[0].vips.push(ip("fd00::1"));
    let zone = Zone::new(world, 1).unwrap();
    assert_eq!(ask(&zone, HELLO_REDIS, "web", A), here(&["10.252.0.1"]));
    assert_eq!(ask(&zone, HELLO_REDIS, "web", AAAA), here(&["fd00::1"]));
    assert_eq!(ask(&zone, HELLO_REDIS, "web", ANY), here(&["10.252.0.1", "fd00::1"]));
    let name = format!("1{}.0.0.d.f.ip6.arpa", ".0".repeat(27));
    assert_eq!(ask(&zone, HELLO_REDIS, &name, PTR), here(&["web.hello.carrack."]));
}

#[test]
fn reverse_lookups() {
    let zone = zone();
    let cases: &[(&str, &str, Outcome)] = &[
        (HELLO_REDIS, "1.0.252.10.in-addr.arpa", here(&["web.hello.carrack."])),
        (HELLO_REDIS, "12.0.192.10.in-addr.arpa", here(&["2.web.hello.carrack."])),
        (HELLO_REDIS, "21.1.192.10.in-addr.arpa", absent()),
        (HELLO_REDIS, "99.99.200.10.in-addr.arpa", absent()),
        (HOST, "21.1.192.10.in-addr.arpa", here(&["1.cart.shop.carrack."])),
        (HELLO_REDIS, "8.8.8.8.in-addr.arpa", Outcome::Forward),
        (HELLO_REDIS, "192.10.in-addr.arpa", Outcome::Forward),
        (HELLO_REDIS, "1.0.256.10.in-addr.arpa", Outcome::Forward),
        (HELLO_REDIS, "1.ip6.arpa", Outcome::Forward),
    ];
    for (from, name, expected) in cases {
        assert_eq!(&ask(&zone, from, name, PTR), expected, "{from} asks for {name}");
    }
    assert_eq!(ask(&zone, HELLO_REDIS, "1.0.252.10.in-addr.arpa", A), here(&[]));
}

fn reply(packet: &[u8], from: &str, zone: &Zone, transport: Transport, seed: u64) -> Vec<u8> {
    match answer(packet, ip(from), zone, transport, seed) {
        Answer::Reply(reply) => reply,
        other => panic!("no reply: {other:?}"),
    }
}

#[test]
fn the_form_of_a_reply() {
    let zone = zone();
    let message =
        Message::from_vec(&reply(&query("WeB.", A), HELLO_REDIS, &zone, Transport::Udp, 1)).unwrap();
    assert_eq!(message.metadata.id, 7);
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert!(message.metadata.recursion_desired && !message.metadata.truncation);
    assert_eq!(message.queries[0].name().to_ascii(), "WeB.", "the client's letter case is kept");
    assert_eq!(message.answers[0].ttl, ANSWER_TTL_SECONDS);
    assert!(message.edns.is_none(), "no EDNS to a client that sent none");

    let packet = query_edns("nothing.hello.carrack", A, 4096);
    let message = Message::from_vec(&reply(&packet, HELLO_REDIS, &zone, Transport::Udp, 1)).unwrap();
    assert_eq!(message.edns.as_ref().unwrap().max_payload(), 1232);
    let soa = &message.authorities[0];
    assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), ("carrack.", 1));
    assert!(soa.data.to_string().contains(" 42 "), "the serial is the generation: {}", soa.data);
}

#[test]
fn an_unknown_edns_version_is_told_so() {
    let mut message = query_message(7, "web", A);
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_version(1);
    message.edns = Some(edns);
    let packet = message.to_vec().unwrap();
    let reply = Message::from_vec(&reply(&packet, HELLO_REDIS, &zone(), Transport::Udp, 1)).unwrap();
    // Code 16 has two names.
    assert_eq!(u16::from(reply.metadata.response_code), u16::from(ResponseCode::BADVERS));
}

/// A service with many endpoints.
fn crowd(count: u32) -> Zone {
    let mut world = DnsSnapshot::default();
    let mut crowd = service("s", "crowd", &["10.252.0.1"], &[]);
    for number in 0..count {
        let address = std::net::Ipv4Addr::from(u32::from_be_bytes([10, 192, 0, 0]) + number);
        let slot = carrack_net::dns::SlotNames { addresses: vec![address.into()], passing: true };
        crowd.slots.insert(number, slot);
    }
    let crowd = world.add_service(crowd);
    world.name_service("n", "crowd", crowd);
    world.views.insert(ip("10.0.0.1"), view("s", &["n"]));
    Zone::new(world, 1).unwrap()
}

#[test]
fn long_answers_are_cut_to_what_the_client_takes() {
    let zone = crowd(500);
    let plain = query("tasks.crowd", A);
    let edns = |bytes| query_edns("tasks.crowd", A, bytes);
    for (packet, transport, limit, whole) in [
        (plain.clone(), Transport::Udp, 512, false),
        (edns(100), Transport::Udp, 512, false),
        (edns(1000), Transport::Udp, 1000, false),
        (edns(65_535), Transport::Udp, 1232, false),
        (plain, Transport::Tcp, 65_535, true),
    ] {
        let reply = reply(&packet, "10.0.0.1", &zone, transport, 1);
        assert!(reply.len() <= limit && (whole || reply.len() > limit - 32), "{} of {limit}", reply.len());
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(message.metadata.truncation, !whole);
        assert_eq!(message.answers.len() == 500, whole);
    }
    let few = crowd(28);
    let reply = reply(&query("tasks.crowd", A), "10.0.0.1", &few, Transport::Udp, 1);
    assert!(!Message::from_vec(&reply).unwrap().metadata.truncation, "what fits is not marked");
}

#[test]
fn the_seed_orders_the_addresses() {
    let zone = crowd(20);
    let first = |seed| {
        let reply = reply(&query("tasks.crowd", A), "10.0.0.1", &zone, Transport::Udp, seed);
        Message::from_vec(&reply).unwrap().answers[0].data.to_string()
    };
    assert_eq!(first(1), first(1));
    let firsts: BTreeSet<String> = (0..400).map(first).collect();
    assert_eq!(firsts.len(), 20, "every address comes first at times");
}

#[test]
fn malformed_packets() {
    let zone = zone();
    let good = query("web", A);
    let outcome = |packet: &[u8]| match answer(packet, ip(HELLO_REDIS), &zone, Transport::Udp, 1) {
        Answer::Reply(reply) => format!("{}", reply[3] & 0xf),
        Answer::Forward(..) => "forward".to_owned(),
        Answer::Drop => "drop".to_owned(),
    };
    assert_eq!(outcome(&[]), "drop");
    assert_eq!(outcome(&good[..11]), "drop");
    for end in 12..good.len() {
        assert_eq!(outcome(&good[..end]), "1", "cut at {end}");
    }
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    assert_eq!(outcome(&with(2, 0x81)), "drop", "a response");
    assert_eq!(outcome(&with(2, 0x29)), "4", "an update");
    assert_eq!(outcome(&with(5, 0)), "1", "no question");
    assert_eq!(outcome(&with(5, 2)), "1", "two questions");
    assert_eq!(outcome(&with(12, 0xc0)), "1", "a pointer in the question");
    assert_eq!(outcome(&with(12, 0x40)), "1", "a reserved label type");
    assert_eq!(outcome(&with(11, 1)), "1", "an additional record that is missing");
    assert_eq!(outcome(&with(good.len() - 1, 3)), "5", "class CHAOS");
    let mut strange = query("a.b", A);
    strange[13] = 0xff;
    assert_eq!(outcome(&strange), "forward", "strange labels are somebody else's");
    strange[13] = b'.';
    assert_eq!(outcome(&strange), "forward", "a dot within a label is not a separator");
}

#[test]
fn no_packet_makes_it_panic() {
    let zone = crowd(100);
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds = [
        query("tasks.crowd", A),
        query_edns("1.crowd.s.carrack", ANY, 600),
        query("4.3.2.1.in-addr.arpa", PTR),
    ];
    for round in 0..300_000_usize {
        let mut packet = match round % 4 {
            3 => (0..random() % 80).map(|_| random() as u8).collect(),
            index => seeds[index].clone(),
        };
        for _ in 0..random() % 4 {
            if !packet.is_empty() {
                let at = random() as usize % packet.len();
                packet[at] = random() as u8;
            }
        }
        let transport = if round % 2 == 0 { Transport::Udp } else { Transport::Tcp };
        if let Answer::Reply(reply) = answer(&packet, ip("10.0.0.1"), &zone, transport, random()) {
            assert!(reply.len() >= 12 && reply[..2] == packet[..2], "{packet:?}");
            assert!(transport == Transport::Tcp || reply.len() <= 1232);
        }
    }
}
