//! One-off tasks: made of a service's definition and what the asker changes in it, listed, taken away.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use carrack_api::validate::{ports_collide, validate};
use carrack_api::{
    ContainerSpec, HealthTest, Healthcheck, MountSource, Problem, RestartCondition, RestartPolicy,
    RunRequest, RunStatus, ServiceKey, ServiceMode, ServiceName, ServiceSpec, StackSpec,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::deploy::{COMMIT_TRIES, check_room, invalid};
use super::info::world;
use super::lifecycle::{active, with_dependencies};
use super::problem::{ApiError, ApiResult, JsonBody, Params, from_commit};
use super::services::{key, no_service};
use crate::clock;
use crate::plan::{EventDraft, ports};
use crate::store::{CommitError, Key, Object, Op, RunRecord, Snapshot, StackRecord, Txn};

/// Between the name of the service and what tells its one-off tasks apart.
const INFIX: &str = ".run-";
/// One-off tasks of a stack at a time.
const RUNS_MAX: usize = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only of this stack.
    #[param(value_type = Option<String>)]
    stack: Option<carrack_api::StackName>,
}

/// One-off tasks of all stacks or of one.
#[utoipa::path(get, path = "/v1/runs", params(ListParams), responses((status = 200, body = Vec<RunStatus>)))]
pub(super) async fn list(State(inner): App, Params(params): Params<ListParams>) -> Json<Vec<RunStatus>> {
    Json(world(&inner, |world| {
        let runs = world.state.runs.values();
        let wanted = runs.filter(|r| params.stack.as_ref().is_none_or(|stack| *stack == r.key.stack));
        wanted.map(|run| world.run(run)).collect()
    }))
}

/// Makes a one-off task. It is on the service's networks, but not behind its VIP; no deploy replaces it and no policy restarts it.
#[utoipa::path(post, path = "/v1/runs", request_body = RunRequest,
    responses((status = 201, body = RunStatus), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn create(
    State(inner): App,
    JsonBody(body): JsonBody<RunRequest>,
) -> ApiResult<(StatusCode, Json<RunStatus>)> {
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let (stack, spec) = origin(&snapshot, &body.service)?;
        let run = record(&snapshot, &stack, &spec, &body)?;
        check_room(&inner, &alone(&spec, &run))?;
        let txn = txn(&snapshot, stack, &run, &body);
        match inner.cluster.store.commit(txn).await {
            Ok(_) => {
                let message = format!("one-off task {} of {} was asked for", run.key, body.service);
                inner
                    .cluster
                    .events
                    .append(vec![EventDraft::new("run.created", &run.key, message)], clock::now());
                return Ok((StatusCode::CREATED, Json(world(&inner, |world| world.run(&run)))));
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
    Err(ApiError(from_commit(CommitError::Conflict(Key::Stack(body.service.stack)))))
}

/// Takes a one-off task away with its log; one that runs is stopped first.
#[utoipa::path(delete, path = "/v1/runs/{stack}/{name}", params(("stack" = String, Path), ("name" = String, Path)),
    responses((status = 202), (status = 404, body = Problem)))]
pub(super) async fn delete(
    State(inner): App,
    Path((stack, name)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let key = key(&stack, &name)?;
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let run = snapshot.runs.get(&key).ok_or_else(|| no_run(&key))?;
        if run.doomed {
            return Ok(StatusCode::ACCEPTED);
        }
        let expect = vec![(Key::Run(key.clone()), snapshot.version(&Key::Run(key.clone())))];
        let ops = vec![Op::Put(Object::Run(RunRecord { doomed: true, ..RunRecord::clone(run) }))];
        match inner.cluster.store.commit(Txn { expect, ops }).await {
            Ok(_) => return Ok(StatusCode::ACCEPTED),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
    Err(ApiError(from_commit(CommitError::Conflict(Key::Run(key)))))
}

fn no_run(key: &ServiceKey) -> Problem {
    Problem::not_found("no-run", format!("no one-off task {key}"))
        .hint(format!("`carrack ps -a {}` lists them", key.stack))
}

/// The stack and the spec that a one-off task of the service starts from.
fn origin(snapshot: &Snapshot, service: &ServiceKey) -> Result<(StackRecord, StackSpec), Problem> {
    let stack = active(snapshot, &service.stack)?.clone();
    let spec = snapshot.spec(&stack.name, stack.revision).cloned();
    let spec = spec.filter(|s| s.services.contains_key(&service.service));
    Ok((stack, spec.ok_or_else(|| no_service(snapshot, service))?))
}

/// The record, checked.
fn record(
    snapshot: &Snapshot,
    stack: &StackRecord,
    stack_spec: &StackSpec,
    body: &RunRequest,
) -> Result<RunRecord, Problem> {
    if snapshot.runs_of(&stack.name).count() >= RUNS_MAX {
        let text = format!("stack {} has {RUNS_MAX} one-off tasks, which is the most", stack.name);
        return Err(Problem::new(409, "too-many", text));
    }
    let service = &body.service.service;
    let of_file = stack_spec.services.get(service).ok_or_else(|| no_service(snapshot, &body.service))?;
    let key = ServiceKey::new(stack.name.clone(), name(snapshot, stack_spec, body)?);
    let mut spec = of_file.clone();
    spec.mode = ServiceMode::Replicated { replicas: 1 };
    spec.task.restart = RestartPolicy { condition: RestartCondition::Never, ..Default::default() };
    spec.expose.clear();
    spec.ports = ports::choose(snapshot, &key, &body.ports)
        .ok_or_else(|| Problem::new(409, "no-port", "no port is left to publish on"))?;
    if body.no_deps {
        spec.depends_on.clear();
    }
    change(&mut spec.task.container, body);
    let run = RunRecord {
        service: service.clone(),
        revision: stack.revision,
        started: spec.depends_on.is_empty(),
        remove: body.remove,
        doomed: false,
        created_at: clock::now(),
        vips: Vec::new(),
        key,
        spec,
    };
    let problems = validate(&alone(stack_spec, &run));
    if !problems.is_empty() {
        return Err(invalid("the one-off task is not valid", problems));
    }
    check_ports(snapshot, &run)?;
    Ok(run)
}

/// What the asker changes in the container.
fn change(container: &mut ContainerSpec, body: &RunRequest) {
    if let Some(entrypoint) = &body.entrypoint {
        // As with Docker, the command belongs to the entrypoint that is replaced.
        (container.entrypoint, container.command) = (Some(entrypoint.clone()), Some(Vec::new()));
    }
    if !body.command.is_empty() {
        container.command = Some(body.command.clone());
    }
    container.env.extend(body.env.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
    container.labels.extend(body.labels.clone());
    container.user = body.user.clone().or(container.user.take());
    container.working_dir = body.working_dir.clone().or(container.working_dir.take());
    (container.tty, container.stdin_open) = (body.tty, body.stdin);
    // Nobody waits for it to be healthy, and a probe that fails must not end it.
    container.healthcheck = Some(Healthcheck {
        test: HealthTest::Disabled,
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
        start_interval: None,
    });
    let targets: BTreeSet<&str> = body.mounts.iter().map(|m| m.target.as_str()).collect();
    container.mounts.retain(|mount| !targets.contains(mount.target.as_str()));
    container.mounts.extend(body.mounts.iter().cloned());
}

/// A name that neither a service nor another one-off task has.
fn name(snapshot: &Snapshot, spec: &StackSpec, body: &RunRequest) -> Result<ServiceName, Problem> {
    let bad = |e: carrack_api::InvalidName| {
        Problem::new(422, "invalid-name", e.to_string()).hint("give it a shorter or simpler --name")
    };
    let taken = |name: &ServiceName| {
        spec.services.contains_key(name)
            || snapshot.runs.get(&ServiceKey::new(spec.name.clone(), name.clone())).is_some()
    };
    let of = |last: &str| ServiceName::new(format!("{}{INFIX}{last}", body.service.service)).map_err(bad);
    if let Some(wanted) = &body.name {
        let name = of(wanted)?;
        if taken(&name) {
            let text = format!("there is a one-off task {}/{name} already", spec.name);
            return Err(Problem::new(409, "name-taken", text)
                .hint(format!("`carrack rm {}/{name}` takes it away", spec.name)));
        }
        return Ok(name);
    }
    for number in 1..=2 * RUNS_MAX {
        let name = of(&number.to_string())?;
        if !taken(&name) {
            return Ok(name);
        }
    }
    Err(Problem::internal("no number is left for a one-off task"))
}

/// The stack with nothing but the one-off task, as validation and placement see it.
fn alone(stack: &StackSpec, run: &RunRecord) -> StackSpec {
    let spec = ServiceSpec { depends_on: Default::default(), ..run.spec.clone() };
    let mut stack = stack.clone();
    for mount in &spec.task.container.mounts {
        // A volume that is new with it is one of the stack's.
        if let MountSource::Volume { name, .. } = &mount.source
            && name.as_str().starts_with(&format!("{}_", stack.name))
        {
            stack.volumes.entry(name.clone()).or_default();
        }
    }
    stack.services = [(run.key.service.clone(), spec)].into();
    stack
}

fn check_ports(snapshot: &Snapshot, run: &RunRecord) -> Result<(), Problem> {
    let services = snapshot.services.values().flat_map(|s| s.ports.iter().map(|p| (&s.key, p)));
    let runs = snapshot.runs.values().flat_map(|r| r.spec.ports.iter().map(|p| (&r.key, p)));
    let held: Vec<_> = services.chain(runs).collect();
    for port in &run.spec.ports {
        if let Some((holder, _)) = held.iter().find(|(_, other)| ports_collide(port, other)) {
            let number = port.published.unwrap_or(port.target);
            let text = format!("port {number}/{} is published by {holder}", port.protocol);
            return Err(Problem::new(409, "port-taken", text)
                .hint("publish on another port with -p, or leave --service-ports out"));
        }
    }
    Ok(())
}

fn txn(snapshot: &Snapshot, mut stack: StackRecord, run: &RunRecord, body: &RunRequest) -> Txn {
    let (stack_key, run_key) = (Key::Stack(stack.name.clone()), Key::Run(run.key.clone()));
    let mut ops = vec![Op::Put(Object::Run(run.clone()))];
    if !body.no_deps {
        let needed: BTreeSet<ServiceName> =
            run.spec.depends_on.iter().filter(|(_, d)| d.required).map(|(name, _)| name.clone()).collect();
        let started = with_dependencies(snapshot, &stack, needed);
        if !stack.stopped.is_disjoint(&started) {
            stack.stopped.retain(|name| !started.contains(name));
            ops.push(Op::Put(Object::Stack(stack)));
        }
    }
    let expect = [stack_key, run_key].map(|key| (key.clone(), snapshot.version(&key)));
    Txn { expect: expect.into(), ops }
}
