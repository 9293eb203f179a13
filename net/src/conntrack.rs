//! Flows through this node.

/// Open flows that end at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// TCP connections that are neither closed nor in TIME_WAIT.
    pub tcp: usize,
    /// UDP flows that conntrack remembers.
    pub udp: usize,
}
