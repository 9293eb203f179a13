//! The doctor tries features for real and leaves nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use carrack_api::fact::Verdict;
use carrack_net::doctor::examine;

#[test]
fn this_kernel_offers_all_that_the_network_needs() {
    let facts = examine();
    let missing: Vec<_> = facts.iter().filter(|fact| fact.verdict == Verdict::Missing).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for name in ["veth", "nftables", "conntrack over netlink", "vxlan", "ip_forward", "cluster range"] {
        assert!(facts.iter().any(|fact| fact.name == name), "{name} was not looked at");
    }
}
