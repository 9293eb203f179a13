//! Networks: those that were made by command, those of stacks, and who is on them.
//!
//! A network of the first kind outlives stacks; Compose files name it with `external: true`. One of a stack comes and goes with the
//! stack, and other stacks may name it as external, too.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use carrack_api::{
    CreateNetwork, FieldProblem, NetworkName, NetworkStatus, Problem, PruneNetworks, ServiceKey, StackSpec,
};

use super::App;
use super::deploy::{COMMIT_TRIES, invalid};
use super::problem::{ApiResult, JsonBody, from_commit, name};
use crate::assign::networks_of;
use crate::clock;
use crate::store::{CommitError, Key, NetworkRecord, Object, Op, Snapshot, StackPhase, Txn};
use crate::wiring::Inner;

/// Networks made by command at most.
const NETWORKS_MAX: usize = 1000;
/// Labels of one network at most.
const LABELS_MAX: usize = 64;
/// Longest name or value of a label, bytes.
const LABEL_MAX_BYTES: usize = 4096;

/// All networks, by name.
#[utoipa::path(get, path = "/v1/networks", responses((status = 200, body = Vec<NetworkStatus>)))]
pub(super) async fn list(State(inner): App) -> Json<Vec<NetworkStatus>> {
    Json(all(&inner.cluster.store.snapshot()).into_values().collect())
}

/// A network.
#[utoipa::path(get, path = "/v1/networks/{name}", params(("name" = String, Path)),
    responses((status = 200, body = NetworkStatus), (status = 404, body = Problem)))]
pub(super) async fn get(State(inner): App, Path(text): Path<String>) -> ApiResult<Json<NetworkStatus>> {
    let network: NetworkName = name(&text, "no-network")?;
    let found = all(&inner.cluster.store.snapshot()).remove(&network);
    Ok(Json(found.ok_or_else(|| no_network(&network))?))
}

/// Makes a network that belongs to no stack.
#[utoipa::path(post, path = "/v1/networks", request_body = CreateNetwork,
    responses((status = 201, body = NetworkStatus), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create(
    State(inner): App,
    JsonBody(body): JsonBody<CreateNetwork>,
) -> ApiResult<(StatusCode, Json<NetworkStatus>)> {
    check_labels(&body.labels)?;
    let key = Key::Network(body.name.clone());
    let snapshot = inner.cluster.store.snapshot();
    if let Some(network) = all(&snapshot).get(&body.name) {
        return Err(exists(network).into());
    }
    if snapshot.networks.len() >= NETWORKS_MAX {
        let text = format!("{NETWORKS_MAX} networks were made by command; that is the most there can be");
        return Err(Problem::new(422, "too-many", text)
            .hint("`carrack network prune` takes unused ones away")
            .into());
    }
    let CreateNetwork { name, internal, labels } = body;
    let record = NetworkRecord { name: name.clone(), internal, labels, at: clock::now() };
    let txn = Txn { expect: vec![(key, None)], ops: vec![Op::Put(Object::Network(record))] };
    match inner.cluster.store.commit(txn).await {
        Ok(snapshot) => {
            let made = all(&snapshot).remove(&name).ok_or_else(|| no_network(&name))?;
            Ok((StatusCode::CREATED, Json(made)))
        }
        Err(error) => match (&error, all(&inner.cluster.store.snapshot()).get(&name)) {
            // Made by another in the same moment.
            (CommitError::Conflict(_), Some(network)) => Err(exists(network).into()),
            _ => Err(from_commit(error).into()),
        },
    }
}

/// Takes a network away that was made by command, unless something is on it.
#[utoipa::path(delete, path = "/v1/networks/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(State(inner): App, Path(text): Path<String>) -> ApiResult<StatusCode> {
    remove(&inner, &name(&text, "no-network")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes all networks away that were made by command and that nothing is on.
#[utoipa::path(post, path = "/v1/networks/prune", request_body = PruneNetworks,
    responses((status = 200, body = Vec<NetworkStatus>)))]
pub(super) async fn prune(
    State(inner): App,
    JsonBody(prune): JsonBody<PruneNetworks>,
) -> ApiResult<Json<Vec<NetworkStatus>>> {
    let mut gone = Vec::new();
    let unused = |network: &NetworkStatus| network.stack.is_none() && network.services.is_empty();
    for network in all(&inner.cluster.store.snapshot()).into_values().filter(unused) {
        if !prune.dry_run {
            match remove(&inner, &network.name).await {
                Ok(()) => {}
                // Used since, or gone already: neither was asked for.
                Err(problem) if matches!(problem.status, 404 | 409) => continue,
                Err(problem) => return Err(problem.into()),
            }
        }
        gone.push(network);
    }
    Ok(Json(gone))
}

async fn remove(inner: &Inner, network: &NetworkName) -> Result<(), Problem> {
    let key = Key::Network(network.clone());
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let found = all(&snapshot).remove(network).ok_or_else(|| no_network(network))?;
        if let Some(stack) = &found.stack {
            return Err(Problem::new(
                409,
                "of-a-stack",
                format!("network {network} belongs to stack {stack}"),
            )
            .hint(format!("it goes with the stack: `carrack rm {stack}`")));
        }
        if !found.services.is_empty() {
            let users: Vec<String> = found.services.iter().map(ToString::to_string).collect();
            let text = format!("network {network} is used by {}", users.join(", "));
            return Err(Problem::new(409, "in-use", text)
                .hint("deploy them without it, or remove them with `carrack rm`, first"));
        }
        // A deploy that comes to use it changes its stack, so all stacks must be as they were.
        let stacks = snapshot.stacks.values().map(|stack| Key::Stack(stack.name.clone()));
        let expect =
            stacks.chain([key.clone()]).map(|key| (snapshot.version(&key), key)).map(|(v, k)| (k, v));
        let txn = Txn { expect: expect.collect(), ops: vec![Op::Delete(key.clone())] };
        match inner.cluster.store.commit(txn).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(from_commit(error)),
        }
    }
    Err(from_commit(CommitError::Conflict(key)))
}

fn no_network(network: &NetworkName) -> Problem {
    Problem::not_found("no-network", format!("no network {network}")).hint("`carrack network ls` lists them")
}

fn exists(network: &NetworkStatus) -> Problem {
    let of = match &network.stack {
        Some(stack) => format!("; it belongs to stack {stack}"),
        None => String::new(),
    };
    Problem::new(409, "network-exists", format!("network {} exists already{of}", network.name))
        .hint(format!("`carrack network inspect {}` shows it", network.name))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    let long = |text: &String| text.len() > LABEL_MAX_BYTES;
    if labels.len() > LABELS_MAX
        || labels.iter().any(|(key, value)| key.is_empty() || long(key) || long(value))
    {
        let text =
            format!("at most {LABELS_MAX} labels, each with a name and of at most {LABEL_MAX_BYTES} bytes");
        return Err(Problem::new(422, "invalid-labels", text));
    }
    Ok(())
}

/// Every network with who is on it.
fn all(snapshot: &Snapshot) -> BTreeMap<NetworkName, NetworkStatus> {
    let mut all: BTreeMap<NetworkName, NetworkStatus> = snapshot
        .networks
        .values()
        .map(|record| {
            let NetworkRecord { name, internal, labels, at } = NetworkRecord::clone(record);
            let (stack, services) = (None, BTreeSet::new());
            (name.clone(), NetworkStatus { name, internal, labels, stack, created_at: Some(at), services })
        })
        .collect();
    for spec in in_force(snapshot) {
        for network in spec.networks.values().filter(|network| !network.external) {
            all.entry(network.name.clone()).or_insert_with(|| NetworkStatus {
                name: network.name.clone(),
                internal: network.internal,
                labels: network.labels.clone(),
                stack: Some(spec.name.clone()),
                created_at: None,
                services: BTreeSet::new(),
            });
        }
    }
    for (service, networks) in members(snapshot) {
        for network in networks {
            if let Some(status) = all.get_mut(&network) {
                status.services.insert(service.clone());
            }
        }
    }
    all
}

fn in_force(snapshot: &Snapshot) -> impl Iterator<Item = &StackSpec> {
    let active = snapshot.stacks.values().filter(|stack| stack.phase == StackPhase::Active);
    active.filter_map(|stack| snapshot.spec(&stack.name, stack.revision))
}

/// Services by their specs in force and by tasks that have not ended, with their networks.
fn members(snapshot: &Snapshot) -> Vec<(ServiceKey, BTreeSet<NetworkName>)> {
    let of_specs = in_force(snapshot).flat_map(|spec| {
        spec.services.iter().map(move |(name, service)| {
            let networks = networks_of(spec, service).into_keys().collect();
            (ServiceKey::new(spec.name.clone(), name.clone()), networks)
        })
    });
    let of_tasks = snapshot.tasks.values().filter(|task| task.is_live()).filter_map(|task| {
        let stack = snapshot.spec(&task.service.stack, task.revision)?;
        let service = snapshot.service_spec(&task.service, task.revision)?;
        Some((task.service.clone(), networks_of(stack, service).into_keys().collect()))
    });
    of_specs.chain(of_tasks).collect()
}

/// Checks the networks of a stack that is to be deployed, and takes over what those say that it did not make.
pub(super) fn adopt(snapshot: &Snapshot, spec: &mut StackSpec) -> Result<(), Problem> {
    let known = all(snapshot);
    let mut problems = Vec::new();
    for (key, network) in &mut spec.networks {
        let problem = match (network.external, known.get(&network.name)) {
            (true, Some(found)) if found.stack.as_ref() != Some(&spec.name) => {
                network.internal = found.internal;
                continue;
            }
            (true, _) => (
                format!("external network {} does not exist", network.name),
                format!(
                    "`carrack network create {}` makes it; without `external` it comes with the stack",
                    network.name
                ),
            ),
            (false, Some(found)) if found.stack.is_none() => (
                format!("network {} was made by command and belongs to no stack", network.name),
                "write `external: true` to use it, or give the stack's own another name".to_owned(),
            ),
            (false, _) => continue,
        };
        let (message, hint) = problem;
        problems.push(FieldProblem { path: format!("networks.{key}"), message, hint: Some(hint) });
    }
    if problems.is_empty() { Ok(()) } else { Err(invalid("a network cannot be used", problems)) }
}
