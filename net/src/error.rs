//! What can go wrong, one variant per failed operation with the object in it.

use std::io;
use std::net::Ipv4Addr;

use crate::model::{ConfigError, EndpointKey};
use crate::ns::NetnsError;

/// A failed operation on this node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The configuration is wrong.
    #[error("the network configuration is wrong")]
    Config(#[from] ConfigError),
    /// Another live daemon drives this network namespace.
    #[error("the network of this host is driven by another running daemon (instance {holder})")]
    OtherInstance {
        /// The tag in its table, or `unknown` when it has written none yet.
        holder: String,
    },
    /// The lock that keeps two daemons apart could not be taken.
    #[error("cannot take the network lock @{name}")]
    Lock {
        /// Name of the abstract socket.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A netlink socket could not be opened or set up.
    #[error("cannot open a {protocol} socket")]
    Socket {
        /// `rtnetlink`, `nfnetlink`.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Nothing could be sent or received.
    #[error("cannot talk to the kernel while trying to {action}")]
    Exchange {
        /// What was being done.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("cannot {action}")]
    Refused {
        /// What was asked for.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The packets under way could not be waited for.
    #[error("cannot wait for the packets that are under way (membarrier)")]
    Barrier {
        /// Why.
        source: io::Error,
    },
    /// An answer of the kernel that does not have the expected form.
    #[error("cannot understand the kernel's answer to {action}: {detail}")]
    Answer {
        /// What was asked for.
        action: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot set {path} to {value}")]
    Sysctl {
        /// File below /proc/sys.
        path: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A namespace operation failed.
    #[error("cannot use the network namespace of {what}")]
    Netns {
        /// Whose.
        what: String,
        /// Why.
        source: NetnsError,
    },
    /// Two endpoints want one address, or the address is no task address.
    #[error("endpoint {key} cannot have the address {address}: {reason}")]
    Address {
        /// The endpoint.
        key: EndpointKey,
        /// The address.
        address: Ipv4Addr,
        /// Why not.
        reason: String,
    },
    /// A link of the name exists and is not ours.
    #[error("a link {name} exists and was not made by this instance (alias {alias:?})")]
    ForeignLink {
        /// The link.
        name: String,
        /// Its alias.
        alias: String,
    },
    /// A file of /proc could not be read.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl NetError {
    /// The error number of the kernel, if it refused a request.
    pub fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Config(_)
            | Self::OtherInstance { .. }
            | Self::Lock { .. }
            | Self::Socket { .. }
            | Self::Exchange { .. }
            | Self::Answer { .. }
            | Self::Sysctl { .. }
            | Self::Netns { .. }
            | Self::Address { .. }
            | Self::ForeignLink { .. }
            | Self::Barrier { .. }
            | Self::Proc { .. } => None,
        }
    }
}
