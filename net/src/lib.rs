//! One node's part of Carrack's network: links, routes, virtual addresses, published ports, isolation, conntrack.
//!
//! Owns the third of the three loops (see `docs/architecture.md`): [`model::Wanted`] and what the kernel holds go
//! into a pure plan, the plan is applied, the kernel is dumped and compared again. Knows nothing of containers or
//! service specs: endpoints are namespaces with an address, services are VIPs with endpoint addresses.

pub mod conntrack;
pub mod dataplane;
pub mod dns;
pub mod error;
pub mod ipnet;
pub mod listen;
pub mod model;
pub mod network;
pub mod ns;
pub mod plan;
pub mod reserve;

pub use error::NetError;
pub use ipnet::{Ipv4Net, choose_cluster_cidr, vip_range};
pub use model::{Config, EndpointKey, PortKey, PortTarget, Protocol, Tables};
pub use network::{EndpointHandle, Network, Report};
pub use ns::Netns;
