//! Endpoints that come and go under open flows.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carrack_net::Protocol;
use carrack_net::listen::{listening_ports, listening_ports_of};
use lab::{Lab, address, ask, ask_udp, connect, echo, udp, vip, wait_for};

#[test]
fn a_swap_keeps_open_connections_and_moves_new_ones() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.container(4, &["web"]);
    lab.service(1, &[3]);
    lab.apply();
    let (answer, mut open) = connect(&client, vip(1), 80).unwrap();
    assert_eq!(answer.server, address(3).to_string());
    lab.service(1, &[4]);
    let report = lab.apply();
    assert_eq!(report.steps.len(), 1, "{:?}", report.steps);
    for _ in 0..20 {
        assert_eq!(ask(&client, vip(1), 80).unwrap().server, address(4).to_string());
    }
    echo(&mut open).unwrap();
    let flows = lab.on_host(|network| network.open_flows(address(3))).unwrap();
    assert_eq!(flows.tcp, 1);
    drop(open);
    wait_for("the drain ends with the last connection", || {
        let flows = lab.on_host(|network| network.open_flows(address(3))).unwrap();
        if flows.tcp == 0 { Ok(()) } else { Err(format!("{flows:?}")) }
    });
}

#[test]
fn nobody_is_refused_while_endpoints_come_and_go() {
    // Seen once in about 5,000 changes on two busy CPUs, before a second look was taken.
    const ROUNDS: usize = 100;
    /// A client has 28,000 ports.
    const MOST: usize = 10_000;
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    for last in 3..6 {
        lab.container(last, &["web"]);
    }
    let published = lab::tcp(8080);
    let stop = AtomicBool::new(false);
    let ask_until_stopped = |from: &carrack_net::Netns, to: Ipv4Addr, port: u16| {
        from.run(|| {
            let mut refused = Vec::new();
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) && sent < MOST {
                sent += 1;
                refused.extend(TcpStream::connect((to, port)).err());
            }
            (sent, refused)
        })
        .unwrap()
    };
    let set = |lab: &mut Lab, endpoints: &[u8]| {
        lab.service(1, endpoints);
        lab.publish(published, endpoints);
        lab.apply();
    };
    set(&mut lab, &[3, 4]);
    let host = lab.host.clone();
    std::thread::scope(|scope| {
        let clients = [
            scope.spawn(|| ask_until_stopped(&client, vip(1), 80)),
            scope.spawn(|| ask_until_stopped(&host, vip(1), 80)),
            scope.spawn(|| ask_until_stopped(&host, Ipv4Addr::LOCALHOST, 8080)),
        ];
        for _ in 0..ROUNDS {
            // A service of three has more slots than one of two: all of them are others.
            set(&mut lab, &[3, 4, 5]);
            set(&mut lab, &[3, 4]);
        }
        stop.store(true, Ordering::Relaxed);
        for (client, from) in clients.into_iter().zip(["container", "host", "published"]) {
            let (sent, refused) = client.join().unwrap();
            assert!(sent > 0 && refused.is_empty(), "{from}: of {sent} connections failed {refused:?}");
        }
    });
}

/// Makes the first packet of a connection take milliseconds between the rules that choose its endpoint and the moment its
/// flow is entered, as a CPU that is held up by others does.
fn slow_down_new_connections(lab: &Lab) {
    // Rules that match nothing, passed several times over: some milliseconds a packet.
    let idle: String = (1..=1000).map(|mark| format!("meta mark {mark} drop\n")).collect();
    let passes = "jump idle\n".repeat(3000);
    let ruleset = format!(
        "table ip slow {{\nchain idle {{\n{idle}}}\nchain out {{\ntype filter hook postrouting priority 50\nct state != new accept\n{passes}}}\n}}\n"
    );
    let file = std::env::temp_dir().join(format!("slow-{}.nft", std::process::id()));
    std::fs::write(&file, ruleset).unwrap();
    lab.host.run(|| lab::sh(&format!("nft -f {}", file.display()))).unwrap();
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn once_no_flow_is_counted_none_comes_any_more() {
    const ROUNDS: usize = 10;
    let mut lab = Lab::new();
    let clients: Vec<_> = (10..14).map(|n| lab.container(n, &["web"])).collect();
    lab.container(3, &["web"]);
    lab.container(4, &["web"]);
    slow_down_new_connections(&lab);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        lab.service(1, &[3, 4]);
        lab.apply();
        for client in &clients {
            scope.spawn(|| {
                client.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(TcpStream::connect((vip(1), 80)))
                    }
                })
            });
        }
        let mut late = Vec::new();
        for round in 0..ROUNDS {
            lab.service(1, &[3]);
            lab.on_host(|network| {
                network.set_tables(&lab.tables).unwrap();
                wait_for("the drain ends", || match network.open_flows(address(4)).unwrap().tcp {
                    0 => Ok(()),
                    open => Err(format!("{open} flows are open")),
                });
                let end = Instant::now() + Duration::from_millis(20);
                while Instant::now() < end {
                    let flows = network.flows().unwrap();
                    late.extend(
                        flows
                            .into_iter()
                            .filter(|f| f.open && f.reply.source == address(4))
                            .map(|f| (round, f)),
                    );
                }
                network.delete_flows(address(4), Protocol::Tcp).unwrap();
            });
            lab.service(1, &[3, 4]);
            lab.apply();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(late.is_empty(), "{} late flows, the first {:?}", late.len(), late.first());
    });
}

#[test]
fn the_end_of_a_drain_resets_what_is_still_open() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.service(1, &[3]);
    lab.apply();
    let (_, mut through_vip) = connect(&client, vip(1), 80).unwrap();
    let (_, mut direct) = connect(&client, address(3), 80).unwrap();
    let key = lab.containers[&address(3)].key.clone();
    lab.service(1, &[]);
    lab.tables.members.remove(&address(3));
    lab.apply();
    assert_eq!(lab.on_host(|network| network.delete_flows(address(3), Protocol::Tcp)).unwrap(), 2);
    lab.on_host(|network| network.remove_endpoint(&key)).unwrap();
    for open in [&mut through_vip, &mut direct] {
        let error = echo(open).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
            ),
            "{error}"
        );
    }
}

#[test]
fn udp_flows_do_not_stick_to_an_endpoint_that_is_gone() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    lab.container(3, &["web"]);
    lab.container(4, &["web"]);
    lab.service(1, &[3]);
    lab.apply();
    let socket = udp(&client, vip(1), 80);
    assert_eq!(ask_udp(&socket).unwrap().server, address(3).to_string());
    lab.service(1, &[4]);
    lab.apply();
    // The black hole: conntrack still knows the old endpoint.
    assert_eq!(ask_udp(&socket).unwrap().server, address(3).to_string());
    assert_eq!(lab.on_host(|network| network.delete_flows(address(3), Protocol::Udp)).unwrap(), 1);
    assert_eq!(ask_udp(&socket).unwrap().server, address(4).to_string());
    assert_eq!(lab.on_host(|network| network.delete_flows(address(3), Protocol::Udp)).unwrap(), 0);
}

#[test]
fn readiness_sees_what_a_container_listens_on() {
    let mut lab = Lab::new();
    let netns = lab.container(2, &["web"]);
    let before = listening_ports(&netns).unwrap();
    assert!(before.has(Protocol::Tcp, 80) && before.has(Protocol::Udp, 80));
    assert!(!before.has(Protocol::Tcp, 81));
    let loopback = netns.run(|| std::net::TcpListener::bind("127.0.0.1:81")).unwrap().unwrap();
    let v6 = netns.run(|| std::net::TcpListener::bind("[::]:82")).unwrap().unwrap();
    let now = listening_ports(&netns).unwrap();
    assert!(!now.has(Protocol::Tcp, 81) && now.tcp_loopback_only.contains(&81));
    assert!(now.has(Protocol::Tcp, 82));
    drop((loopback, v6));
    // A child that another test starts just then has copies of our sockets until its `execve`.
    wait_for("nobody listens any more", || match listening_ports(&netns).unwrap() {
        ports if ports == before => Ok(()),
        ports => Err(format!("{ports:?}")),
    });
    assert!(listening_ports_of(i32::try_from(std::process::id()).unwrap()).is_ok());
}
