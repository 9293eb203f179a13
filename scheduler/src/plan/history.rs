//! Bounds on the past: ended tasks per slot, revisions per stack, names of removed stacks, content that nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::defaults::REVISIONS_KEPT;
use carrack_api::{ServiceKey, StackName, TaskId, Timestamp};

use super::draft::Draft;
use super::services::revisions;
use crate::contents;
use crate::store::{Key, Op, StackPhase};

/// Ended tasks kept per slot, with their logs on the node.
pub(crate) const ENDED_PER_SLOT: usize = 5;
/// Removed stacks whose revision number is remembered.
const REMOVED_STACKS_KEPT: usize = 1000;

/// Forgets what is past its bound.
pub(super) fn plan(draft: &mut Draft<'_>) {
    ended_tasks(draft);
    old_revisions(draft);
    removed_stacks(draft);
    contents(draft);
}

fn ended_tasks(draft: &mut Draft<'_>) {
    let mut slots: BTreeMap<(ServiceKey, u32), Vec<TaskId>> = BTreeMap::new();
    for task in draft.state.tasks.values().filter(|t| !t.is_live()) {
        slots.entry((task.service.clone(), task.slot)).or_default().push(task.id);
    }
    for ((service, slot), ids) in slots {
        for id in ids.iter().take(ids.len().saturating_sub(ENDED_PER_SLOT)) {
            let reason = format!("{ENDED_PER_SLOT} newer ended tasks of the slot are kept");
            draft.push("forget", format!("{service}.{slot} {id}"), reason, Op::Delete(Key::Task(*id)));
        }
    }
}

fn old_revisions(draft: &mut Draft<'_>) {
    let mut used: BTreeSet<(StackName, u64)> = BTreeSet::new();
    for task in draft.state.tasks.values() {
        used.insert((task.service.stack.clone(), task.revision));
    }
    for service in draft.state.services.values() {
        used.extend(
            [Some(service.template), service.converged]
                .into_iter()
                .flatten()
                .map(|r| (service.key.stack.clone(), r)),
        );
    }
    used.extend(draft.state.runs.values().map(|r| (r.key.stack.clone(), r.revision)));
    let stacks: Vec<StackName> = draft.state.stacks.values().map(|s| s.name.clone()).collect();
    for stack in stacks {
        let all = revisions(draft, &stack);
        for revision in all.iter().take(all.len().saturating_sub(REVISIONS_KEPT)) {
            if !used.contains(&(stack.clone(), *revision)) {
                let reason = format!("{REVISIONS_KEPT} newer ones are kept");
                let key = Key::Revision(stack.clone(), *revision);
                draft.push("forget", format!("{stack} revision {revision}"), reason, Op::Delete(key));
            }
        }
    }
}

fn removed_stacks(draft: &mut Draft<'_>) {
    let mut removed: Vec<(Timestamp, StackName)> = draft
        .state
        .stacks
        .values()
        .filter(|s| s.phase == StackPhase::Removed)
        .map(|s| (s.deployed_at, s.name.clone()))
        .collect();
    removed.sort();
    for (_, name) in removed.iter().take(removed.len().saturating_sub(REMOVED_STACKS_KEPT)) {
        let reason = format!("{REMOVED_STACKS_KEPT} later removed stacks are remembered");
        draft.push("forget", name, reason, Op::Delete(Key::Stack(name.clone())));
    }
}

/// Content of secrets and configs that neither a revision nor a one-off task nor a name leads to any more, and parts whose record
/// went without them: a plan of many changes can end between its transactions.
fn contents(draft: &mut Draft<'_>) {
    if draft.state.contents.len() == 0 && draft.state.content_parts.len() == 0 {
        return;
    }
    let needed = contents::needed(&draft.state);
    let unneeded = draft.state.contents.values().filter(|record| !needed.contains(&record.digest));
    let unneeded: Vec<_> = unneeded.cloned().collect();
    for record in unneeded {
        for op in contents::forget(&record) {
            draft.push(
                "forget",
                format!("{} {}", record.kind, record.digest),
                "nothing leads to it any more",
                op,
            );
        }
    }
    let lost = |digest: &String| draft.state.contents.get(digest).is_none();
    let parts = draft.state.content_parts.values().filter(|part| lost(&part.digest));
    let parts: Vec<_> = parts.map(|part| (part.digest.clone(), part.number)).collect();
    for (digest, number) in parts {
        let subject = format!("part {number} of {digest}");
        draft.push("forget", subject, "its content is gone", Op::Delete(Key::ContentPart(digest, number)));
    }
}
