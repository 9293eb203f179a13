//! Where a task goes: a pure function from a request and the nodes to a node with reasons, or to why none fits.
//!
//! ```text
//!   request + candidates -> filter (every misfit is named) -> score (lower is better) -> node
//! ```
//! Owns constraints, resources and spread. Knows no store and changes nothing.

mod constraint;
mod filter;

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::{Bytes, MilliCpus, NodeId, NodeInfo, Protocol, Reservations, ServiceSpec, VolumeName};

pub(crate) use filter::{Misfit, misfit};

/// Weight of the imbalance between free CPU and free memory: what strands one of them costs. Measured best for packing
/// without giving up empty nodes (`reference/performance.md` 2.3).
const IMBALANCE_WEIGHT: f64 = 4.0;

/// A node as placement sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) info: &'a NodeInfo,
    /// Set aside for tasks that are there.
    pub(crate) reserved: Reservations,
    /// Tasks of the same service there.
    pub(crate) siblings: u32,
    /// Host-mode ports that tasks there hold.
    pub(crate) host_ports: BTreeSet<(u16, Protocol)>,
}

impl Candidate<'_> {
    fn free(&self) -> (MilliCpus, Bytes) {
        (
            MilliCpus(self.info.cpus.0.saturating_sub(self.reserved.cpus.0)),
            Bytes(self.info.memory.0.saturating_sub(self.reserved.memory.0)),
        )
    }
}

/// What is to be placed.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a ServiceSpec,
    /// Home nodes of the volumes it mounts.
    pub(crate) homes: Vec<(VolumeName, NodeId)>,
    /// The only node allowed, for a task of a global service.
    pub(crate) only: Option<NodeId>,
}

/// A node and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) node: NodeId,
    pub(crate) reason: String,
}

/// Why no node fits. Renders as `no node fits: 1 node: lacks 512 GiB memory (has 23 GiB)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoFit {
    misfits: Vec<(NodeId, Misfit)>,
}

impl NoFit {
    /// Every node lacks CPU or memory that it would not have even when it were empty.
    pub(crate) fn is_for_resources(&self) -> bool {
        !self.misfits.is_empty()
            && self.misfits.iter().all(|(_, m)| matches!(m, Misfit::Memory { .. } | Misfit::Cpus { .. }))
    }

    /// Every node's kernel is without something that the service needs: the first such field.
    pub(crate) fn lacking(&self) -> Option<&str> {
        let fields: Option<Vec<&str>> = self
            .misfits
            .iter()
            .map(|(_, m)| if let Misfit::Host { field, .. } = m { Some(field.as_str()) } else { None })
            .collect();
        fields?.first().copied()
    }
}

impl std::fmt::Display for NoFit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.misfits.is_empty() {
            return f.write_str("no node fits: no node has reported yet");
        }
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        for (_, misfit) in &self.misfits {
            *groups.entry(misfit.to_string()).or_default() += 1;
        }
        let texts: Vec<String> = groups
            .into_iter()
            .map(|(text, count)| format!("{count} node{}: {text}", if count == 1 { "" } else { "s" }))
            .collect();
        write!(f, "no node fits: {}", texts.join("; "))
    }
}

/// Chooses a node. Equal scores are ordered by a hash of seed and node, so that ties spread and replays agree.
pub(crate) fn place(request: &Request<'_>, candidates: &[Candidate<'_>], seed: u64) -> Result<Choice, NoFit> {
    let mut misfits = Vec::new();
    let mut best: Option<(Score, &Candidate<'_>)> = None;
    let mut fitting = 0_usize;
    for candidate in candidates {
        if let Some(misfit) = misfit(request, candidate) {
            misfits.push((candidate.info.id.clone(), misfit));
            continue;
        }
        fitting += 1;
        let score = Score::new(request, candidate, seed);
        if best.as_ref().is_none_or(|(other, _)| score.is_better_than(other)) {
            best = Some((score, candidate));
        }
    }
    let Some((score, candidate)) = best else { return Err(NoFit { misfits }) };
    let reason = match (fitting, candidates.len()) {
        (1, 1) => "the only node".to_owned(),
        (1, all) => format!("the only one of {all} nodes that fits"),
        (_, all) => format!("best of {fitting} of {all} nodes: {score}"),
    };
    Ok(Choice { node: candidate.info.id.clone(), reason })
}

/// How well a node suits; compared field by field, lower is better.
#[derive(Debug, Clone)]
struct Score {
    siblings: u32,
    /// Free CPU and memory as fractions after placing, plus the weighted imbalance.
    packing: f64,
    tie: u64,
}

impl Score {
    fn new(request: &Request<'_>, candidate: &Candidate<'_>, seed: u64) -> Self {
        let (cpus, memory) = candidate.free();
        let wanted = request.spec.task.reservations;
        let fraction =
            |free: u64, wanted: u64, all: u64| free.saturating_sub(wanted) as f64 / all.max(1) as f64;
        let a = fraction(cpus.0, wanted.cpus.0, candidate.info.cpus.0);
        let b = fraction(memory.0, wanted.memory.0, candidate.info.memory.0);
        let packing = a + b + IMBALANCE_WEIGHT * (a - b).abs();
        Self { siblings: candidate.siblings, packing, tie: hash(seed, candidate.info.id.as_str()) }
    }

    fn is_better_than(&self, other: &Self) -> bool {
        self.siblings
            .cmp(&other.siblings)
            .then(self.packing.total_cmp(&other.packing))
            .then(self.tie.cmp(&other.tie))
            .is_lt()
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks of the service there, packing {:.2}", self.siblings, self.packing)
    }
}

/// FNV-1a over seed and text: the same on every platform and in every version.
pub(crate) fn hash(seed: u64, text: &str) -> u64 {
    let bytes = seed.to_le_bytes();
    bytes
        .iter()
        .chain(text.as_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
