//! The inner end of an endpoint's link.
//!
//! Owns: what is configured inside a container's namespace (loopback, address, default route, the neighbour that
//! stands for the host) and finding out whether it is there. Owns not: the host's end (`apply`).

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::error::NetError;
use crate::link::{LOOPBACK_INDEX, Links};
use crate::model::{CONTAINER_INTERFACE, GATEWAY_ADDRESS};
use crate::ns::Netns;
use crate::present::{Mac, container_mac, host_mac};

/// Configures the inner end, born together with the host's end of that index. Idempotent. Returns false, and
/// changes nothing, if the namespace does not hold that inner end.
pub(crate) fn configure(netns: &Netns, address: Ipv4Addr, host_index: u32) -> Result<bool, NetError> {
    netns
        .run(|| configure_here(address, host_index))
        .map_err(|source| NetError::Netns { what: format!("the endpoint {address}"), source })?
}

fn configure_here(address: Ipv4Addr, host_index: u32) -> Result<bool, NetError> {
    let mut links = Links::open()?;
    let there = links.links()?;
    let inner = there.get(CONTAINER_INTERFACE);
    let Some(inner) =
        inner.filter(|inner| inner.mac == container_mac(address) && inner.peer == Some(host_index))
    else {
        return Ok(false);
    };
    if there.get("lo").is_some_and(|lo| !lo.up) {
        links.set_link("lo", LOOPBACK_INDEX, None)?;
    }
    without_ipv6()?;
    if !inner.up {
        links.set_link(CONTAINER_INTERFACE, inner.index, None)?;
    }
    links.add_address(inner.index, address, false, None)?;
    let gateway: Mac = host_mac(address);
    links.set_neighbour(inner.index, GATEWAY_ADDRESS, gateway)?;
    links.add_default_route(inner.index)?;
    Ok(true)
}

/// No link-local IPv6 address on a link that routes none: programs would try it first and wait.
fn without_ipv6() -> Result<(), NetError> {
    let path = format!("net/ipv6/conf/{CONTAINER_INTERFACE}/disable_ipv6");
    match fs::write(format!("/proc/sys/{path}"), "1") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetError::Sysctl { path, value: "1".to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
