//! What a node is opened with, and how opening and running it can fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use carrack_api::ClusterId;
use carrack_net::Ipv4Net;
use carrack_runtime::error::chain;

/// What a node is opened with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Survives reboots: ledger, images, logs, volumes.
    pub state_dir: PathBuf,
    /// On tmpfs: supervisors' records, sockets.
    pub runtime_dir: PathBuf,
    /// The binary whose `main` calls [`dispatch`] first; it is run again as supervisor and data plane.
    pub exe: PathBuf,
    /// Name of the host; `None` asks the kernel.
    pub hostname: Option<String>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// The cluster this node belongs to; `None` keeps the one it joined, or takes that of its first assignment.
    pub cluster: Option<ClusterId>,
    /// Name servers for all foreign names, in place of those of the host's resolv.conf.
    pub upstreams: Vec<std::net::SocketAddr>,
    /// How registries are reached.
    pub registries: carrack_runtime::image::RegistryConfig,
}

/// How a running node is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Containers, network and DNS go on; the next start adopts them.
    KeepContainers,
    /// All tasks are stopped in order, then the network is removed. Logs, volumes and the ledger stay.
    StopContainers,
}

/// To be called first thing in `main`: runs the hidden modes of this binary (supervisor, data plane) and does not return
/// from those.
pub fn dispatch() {
    carrack_runtime::reexec::dispatch();
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|mode| mode == carrack_net::dataplane::SUBCOMMAND) {
        // What went wrong is in the data plane's log, where the daemon looks for it.
        std::process::exit(i32::from(carrack_net::dataplane::run(arguments).is_err()));
    }
}

/// The cluster's address range: `wanted` when it is usable, else the first default that overlaps no route of this host but our
/// own. It is fixed at the cluster's first start.
pub fn choose_cluster_cidr(wanted: Option<&str>) -> Result<String, NodeError> {
    if let Some(text) = wanted {
        let bad = |reason: String| NodeError::ClusterCidr { text: text.to_owned(), reason };
        let range: Ipv4Net = text.parse().map_err(|error| bad(chain(&error)))?;
        if range.prefix() >= carrack_net::ipnet::VIP_PREFIX {
            return Err(bad(
                "it must be a /13 or larger: its last /14 holds the virtual addresses".to_owned()
            ));
        }
        return Ok(range.to_string());
    }
    let failed = |reason: String| NodeError::ClusterCidr {
        text: carrack_api::defaults::CLUSTER_CIDRS.join(" or "),
        reason,
    };
    let routes = carrack_net::network::host_routes().map_err(|error| failed(chain(&error)))?;
    carrack_net::choose_cluster_cidr(&routes).map(|range| range.to_string()).ok_or_else(|| {
        failed("it overlaps a route of this host; give another with --cluster-cidr".to_owned())
    })
}

/// A node that could not be opened, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or directory of the node.
    #[error("cannot {what} {path}")]
    File {
        /// The operation, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the node that cannot be understood.
    #[error("{path} cannot be read: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the node that a newer binary wrote.
    #[error(
        "{path} was written by a newer version of carrack (format {found}, this one reads up to {known})"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that can be read.
        known: u32,
    },
    /// Another daemon has the state directory.
    #[error("the state directory {path} is in use by another daemon{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that has it, when it could be told.
        pid: Option<u32>,
    },
    /// The state directory belongs to another cluster.
    #[error("this node belongs to cluster {own}, not to {foreign}")]
    ForeignCluster {
        /// The cluster it joined.
        own: ClusterId,
        /// The one it was opened for.
        foreign: ClusterId,
    },
    /// No usable address range.
    #[error("the cluster range {text:?} cannot be used: {reason}")]
    ClusterCidr {
        /// As given; empty when none was.
        text: String,
        /// Why not.
        reason: String,
    },
    /// The container runtime.
    #[error("cannot open the container runtime")]
    Runtime(#[source] carrack_runtime::RuntimeError),
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[source] carrack_runtime::image::Error),
    /// The network of this host is another daemon's, or cannot be asked.
    #[error("the network of this host cannot be used")]
    Network(#[source] carrack_net::NetError),
    /// What runs could not be found out.
    #[error("cannot find out what runs: {0}")]
    Adopt(String),
    /// `run` was called a second time.
    #[error("this node is running already")]
    Running,
}

impl NodeError {
    /// What to do next, where there is something better than a look at the host.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Format { path, .. } if crate::ledger::holds(path) => Some(format!(
                "move {} away: the node learns again what it holds from the scheduler and from what runs",
                path.display()
            )),
            Self::Format { path, .. } if crate::sealed::is_key(path) => Some(format!(
                "move {} away: the node gets the secrets and configs of its tasks again from the scheduler",
                path.display()
            )),
            Self::Network(carrack_net::NetError::OtherInstance { .. }) => Some(
                "one daemon drives a host: stop the other one (`carrack daemon --stop` with its directories)"
                    .into(),
            ),
            Self::Runtime(carrack_runtime::RuntimeError::Unit(_)) => {
                Some("systemctl status 'carrack-tasks*' tells what systemd says of it".into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_the_user_is_checked() {
        assert_eq!(choose_cluster_cidr(Some("172.16.0.0/12")).unwrap(), "172.16.0.0/12");
        for bad in ["10.0.0.0/16", "ten", "10.0.0.1/8"] {
            assert!(choose_cluster_cidr(Some(bad)).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
