//! Nodes as they are heard: a record and a first block for a new one, and numbers that were given before a lost write.

use carrack_api::{NodeId, TaskId};

use super::address::{NO_ADDRESS_YET, Range};
use super::draft::Draft;
use super::observe::NodeObservation;
use crate::store::{NodeRecord, Object, Op};

/// Makes or updates the records of the nodes that were heard.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let heard: Vec<(NodeId, std::sync::Arc<NodeObservation>)> =
        draft.observations.nodes.iter().map(|(id, seen)| (id.clone(), seen.clone())).collect();
    for (id, seen) in heard {
        record(draft, &id, &seen);
        if let Some(newest) = seen.report.tasks.iter().map(|t| t.task).max() {
            skip_given(draft, newest);
        }
    }
}

fn record(draft: &mut Draft<'_>, id: &NodeId, seen: &NodeObservation) {
    let info = seen.report.node.clone();
    match draft.state.nodes.get(id) {
        Some(record) if record.info == info => {}
        Some(record) => {
            let record = NodeRecord { info, ..NodeRecord::clone(record) };
            draft.push(
                "set",
                format!("node {id}"),
                "it says other things of itself",
                Op::Put(Object::Node(record)),
            );
        }
        None => {
            let block = draft
                .cluster()
                .and_then(|c| Range::parse(&c.cidr).ok())
                .and_then(|range| range.free_block(&draft.state));
            let reason = match block {
                Some(block) => format!("heard for the first time; gets {block}/24"),
                None => "heard for the first time; no address block is free".into(),
            };
            let message = format!("node {} joined", info.hostname);
            let record = NodeRecord { info, blocks: block.into_iter().collect(), cursor: NO_ADDRESS_YET };
            draft.push("add", format!("node {id}"), reason, Op::Put(Object::Node(record)));
            draft.event("node.joined", id, message, None);
        }
    }
}

/// A node may know tasks that a restored store does not: their numbers are never given again.
fn skip_given(draft: &mut Draft<'_>, newest: TaskId) {
    let Some(mut cluster) = draft.cluster() else { return };
    if newest.0 >= cluster.next_task {
        cluster.next_task = newest.0 + 1;
        let reason = format!("a node has task {newest}, which this store never gave");
        draft.push("set", "cluster", reason, Op::Put(Object::Cluster(cluster)));
    }
}
