//! One node's part of Carrack's network: links, routes, virtual addresses, published ports, isolation, conntrack.
//!
//! Owns the third of the three loops (see `docs/architecture.md`): [`model::Wanted`] and what the kernel holds go
//! into a pure plan, the plan is applied, the kernel is dumped and compared again. Knows nothing of containers or
//! service specs: endpoints are namespaces with an address, services are VIPs with endpoint addresses.

mod apply;
pub mod conntrack;
mod container;
pub mod dataplane;
pub mod dns;
pub mod doctor;
pub mod error;
pub mod ipnet;
pub mod isolation;
mod legacy;
mod link;
pub mod listen;
mod lower;
pub mod model;
mod narrow;
pub mod network;
pub mod nft;
pub mod ns;
mod observe;
pub mod plan;
pub mod present;
pub mod purge;
pub mod reserve;
mod slots;
mod socket;
pub mod watch;
mod wire;

pub use error::NetError;
pub use ipnet::{Ipv4Net, choose_cluster_cidr, vip_range};
pub use model::{Config, EndpointKey, PortKey, PortTarget, Protocol, Tables};
pub use network::{EndpointHandle, Network, Report};
pub use ns::Netns;
