//! Records of services: made when a stack wants them, kept in step with its newest revision, taken away in order.

use carrack_api::{Desired, PublishedPort, ServiceKey, ServiceSpec, StackName};

use super::address::{Range, taken_vips};
use super::draft::{Draft, has_address};
use super::{gate, ports};
use crate::store::{Key, Object, Op, ServiceRecord, StackPhase, StackRecord, TaskRecord};

/// Brings all service records in step, retires what is not wanted and closes stacks that are empty.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let stacks: Vec<StackRecord> = draft.state.stacks.values().map(|s| StackRecord::clone(s)).collect();
    for stack in &stacks {
        if stack.phase == StackPhase::Active
            && let Some(spec) = draft.state.spec(&stack.name, stack.revision).cloned()
        {
            for (name, service) in &spec.services {
                keep(draft, stack, &ServiceKey::new(stack.name.clone(), name.clone()), service);
            }
        }
    }
    let all: Vec<ServiceKey> = draft.state.services.values().map(|s| s.key.clone()).collect();
    for key in all.iter().filter(|key| draft.state.wanted_spec(key).is_none()).collect::<Vec<_>>() {
        retire(draft, key);
    }
    for stack in stacks.iter().filter(|s| s.phase == StackPhase::Removing) {
        close(draft, stack);
    }
}

/// Makes the record of a wanted service or brings it in step with the newest revision.
fn keep(draft: &mut Draft<'_>, stack: &StackRecord, key: &ServiceKey, spec: &ServiceSpec) {
    let before = draft.state.services.get(key).map(|s| ServiceRecord::clone(s));
    let mut record = before.clone().unwrap_or_else(|| ServiceRecord {
        key: key.clone(),
        template: stack.revision,
        converged: None,
        started: spec.depends_on.is_empty(),
        failed: None,
        scale: None,
        vips: Vec::new(),
        ports: Vec::new(),
    });
    let mut reasons = Vec::new();
    let follow = gate::follow(&draft.state, &record, spec);
    if !matches!(follow, gate::Follow::Hold(_)) || gate::in_step(&draft.state, &record) {
        renew(draft, stack, &mut record, spec, &follow, &mut reasons);
    }
    if stack.stopped.contains(&key.service) {
        rest(&mut record, spec, &mut reasons);
    }
    if record.scale.take_if(|s| s.deploy != stack.deploy).is_some() {
        reasons.push("a new deploy returns to the file's replicas".into());
    }
    keep_vip(draft, &mut record, spec, &mut reasons);
    if let Some(ports) = ports::choose(&draft.state, key, &spec.ports)
        && ports != record.ports
    {
        reasons.push(format!("publishes {}", port_list(&ports)));
        record.ports = ports;
    }
    if before.as_ref() != Some(&record) {
        let reason = if before.is_none() { format!("new{}", join(&reasons)) } else { reasons.join(", ") };
        draft.service(reason, record);
    }
}

/// Brings the template in step, and lets what failed before be tried again.
fn renew(
    draft: &Draft<'_>,
    stack: &StackRecord,
    record: &mut ServiceRecord,
    spec: &ServiceSpec,
    follow: &gate::Follow,
    reasons: &mut Vec<String>,
) {
    let template = draft.state.service_spec(&record.key, record.template).map(|s| &s.task);
    let fresh = stack.fresh.get(&record.key.service).copied().unwrap_or(0);
    let reason = if template != Some(&spec.task) {
        Some(format!("revision {} has another task spec", stack.revision))
    } else if record.template < fresh {
        Some("a restart was asked for".into())
    } else if let gate::Follow::Replace(name) = follow {
        Some(format!("it follows {name}, which was replaced"))
    } else {
        None
    };
    if let Some(reason) = reason {
        record.template = stack.revision;
        reasons.push(reason);
    }
    if record.failed.take_if(|f| f.deploy != stack.deploy).is_some() {
        reasons.push("a new deploy tries again".into());
    }
    if record.failed.take_if(|f| f.template != record.template).is_some() {
        reasons.push("its new revision is a new try".into());
    }
}

/// Of a stopped service nothing is left that a start would not decide anew.
fn rest(record: &mut ServiceRecord, spec: &ServiceSpec, reasons: &mut Vec<String>) {
    if record.failed.take().is_some() {
        reasons.push("it is stopped, a start tries again".into());
    }
    let waits = !spec.depends_on.is_empty();
    if record.started && waits {
        record.started = false;
        reasons.push("it is stopped, a start waits for its dependencies".into());
    }
}

fn join(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(", {}", reasons.join(", ")) }
}

fn port_list(ports: &[PublishedPort]) -> String {
    let numbers = ports.iter().filter_map(|p| p.published.map(|n| format!("{n}/{}", p.protocol)));
    let list = numbers.collect::<Vec<_>>().join(" ");
    if list.is_empty() { "no port".into() } else { list }
}

fn keep_vip(
    draft: &mut Draft<'_>,
    record: &mut ServiceRecord,
    spec: &ServiceSpec,
    reasons: &mut Vec<String>,
) {
    if !has_address(&spec.task.network) {
        record.vips.clear();
        return;
    }
    if !record.vips.is_empty() {
        return;
    }
    let Some(mut cluster) = draft.cluster() else { return };
    let Ok(range) = Range::parse(&cluster.cidr) else { return };
    if let Some((vip, cursor)) = range.free_vip(&taken_vips(&draft.state), cluster.vip_cursor) {
        cluster.vip_cursor = cursor;
        let reason = format!("{vip} goes to {}", record.key);
        draft.push(super::BOOK, "cluster", reason, Op::Put(Object::Cluster(cluster)));
        record.vips = vec![vip];
        reasons.push(format!("VIP {vip}"));
    }
}

/// Stops the tasks of a service that is not wanted, after those of what needs it; once all have ended, takes it away with its
/// history.
fn retire(draft: &mut Draft<'_>, key: &ServiceKey) {
    let tasks = draft.tasks(key);
    if tasks.iter().any(TaskRecord::is_wanted)
        && gate::stops_after(&draft.state, draft.observations, key).is_some()
    {
        return;
    }
    let mut live = false;
    for task in tasks.iter().filter(|t| t.is_live()) {
        live = true;
        if task.desired == Desired::Run {
            draft.task(
                "stop",
                "its service is not wanted any more",
                TaskRecord { desired: Desired::Stop, ..task.clone() },
            );
        }
    }
    if live {
        return;
    }
    for task in tasks {
        let subject = format!("{} {}", task.slot_key(), task.id);
        draft.push("forget", subject, "its service is gone", Op::Delete(Key::Task(task.id)));
    }
    draft.push("forget", key, "all its tasks have ended", Op::Delete(Key::Service(key.clone())));
}

/// Closes a stack that is being removed once nothing of it is left.
fn close(draft: &mut Draft<'_>, stack: &StackRecord) {
    if draft.state.services_of(&stack.name).next().is_some()
        || draft.state.runs_of(&stack.name).next().is_some()
    {
        return;
    }
    for revision in revisions(draft, &stack.name) {
        let key = Key::Revision(stack.name.clone(), revision);
        draft.push(
            "forget",
            format!("{} revision {revision}", stack.name),
            "the stack is gone",
            Op::Delete(key),
        );
    }
    let record = StackRecord { phase: StackPhase::Removed, ..stack.clone() };
    draft.push("close", &stack.name, "nothing of it is left", Op::Put(Object::Stack(record)));
    draft.event("stack.removed", &stack.name, format!("stack {} is gone", stack.name), None);
}

/// Kept revisions of a stack, ascending.
pub(super) fn revisions(draft: &Draft<'_>, stack: &StackName) -> Vec<u64> {
    let range = (stack.clone(), 0)..=(stack.clone(), u64::MAX);
    draft.state.revisions.range(range).map(|r| r.revision).collect()
}
