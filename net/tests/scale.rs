//! Many services: big batches arrive whole, and a small change among many is planned as the audit would.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::net::Ipv4Addr;

use carrack_net::plan::Op;
use lab::{Lab, address, ask, tcp, vip};

/// 34,000 elements, some 2 MB in one batch: ten times a socket's default buffer.
const SERVICES: u32 = 2000;

#[test]
fn thousands_of_services_load_in_one_batch_and_changes_stay_small() {
    let mut lab = Lab::new();
    let client = lab.container(2, &["web"]);
    for last in [3, 4] {
        lab.container(last, &["web"]);
    }
    let first = Ipv4Addr::new(10, 252, 1, 0).to_bits();
    let endpoints = [address(3), address(4)];
    lab.tables.services = (0..SERVICES).map(|n| (Ipv4Addr::from_bits(first + n), endpoints.into())).collect();
    let report = lab.apply();
    let [carrack_net::plan::Step { op: Op::ChangeElements { changes }, .. }] = &report.steps[..] else {
        panic!("{} steps", report.steps.len())
    };
    assert!(changes.len() >= SERVICES as usize * 17);
    let last = Ipv4Addr::from_bits(first + SERVICES - 1);
    assert!(endpoints.map(|e| e.to_string()).contains(&ask(&client, last, 80).unwrap().server));
    for round in 0..60u8 {
        let count = round % 5;
        let some: Vec<u8> = (3..3 + count).collect();
        lab.service(round % 40, &some);
        lab.publish(tcp(8000 + u16::from(round % 9)), &some);
        let report = lab.apply();
        assert!(report.steps.len() <= 1, "{:?}", report.steps);
    }
    // What was planned from memory, change by change, is what a look at the kernel says.
    let report = lab.on_host(|network| network.audit()).unwrap();
    assert!(report.steps.is_empty(), "{:?}", report.steps);
    assert!(lab.tables.services.contains_key(&vip(7)));
}
