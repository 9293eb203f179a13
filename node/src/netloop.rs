//! Keeps the kernel and DNS at the newest tables: one writer, newest wins, failures are tried again, an audit in between.
//!
//! Also forgets the flows that lead to endpoints that left. Owns no tables: it is handed whole values.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::engine::{Network, Refusal};
use crate::tables::NodeTables;
use crate::worker::Event;

/// Time between two audits of the kernel.
const AUDIT: Duration = Duration::from_secs(30);
/// First and longest delay before a failed write is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Datagram flows to an endpoint that left the tables are forgotten after this time.
const FORGET_DATAGRAMS: Duration = Duration::from_secs(1);
/// Port reservations that failed are tried again at this interval.
const CONFLICT_RETRY: Duration = Duration::from_secs(1);

/// A version of the tables.
pub(crate) type Version = (u64, Arc<NodeTables>);

/// Runs until the sender of tables is gone.
pub(crate) async fn program_all<N: Network>(
    network: Arc<N>,
    mut tables: watch::Receiver<Option<Version>>,
    events: mpsc::Sender<Event>,
) {
    let mut held: Option<Version> = None;
    let mut retry = RETRY.0;
    let mut audit_at = Instant::now() + AUDIT;
    loop {
        let newest = tables.borrow_and_update().clone();
        let Some((version, wanted)) = newest else {
            if tables.changed().await.is_err() {
                return;
            }
            continue;
        };
        let unmet = match network.program(wanted.clone()).await {
            Ok(programmed) => {
                retry = RETRY.0;
                for change in &programmed.changes {
                    tracing::debug!(version, change, "network changed");
                }
                forget_flows(&network, held.as_ref().map(|(_, tables)| &**tables), &wanted, &tables);
                let unmet = !programmed.conflicts.is_empty();
                held = Some((version, wanted));
                if events.send(Event::Programmed(version, programmed)).await.is_err() {
                    return;
                }
                unmet
            }
            Err(error) => {
                tracing::error!(%error, version, "the network cannot be programmed; trying again");
                if events.send(Event::NotProgrammed(error)).await.is_err() {
                    return;
                }
                // A newer value is not waited for: it may be the one that works.
                if let Ok(Err(_gone)) = timeout(retry, tables.changed()).await {
                    return;
                }
                retry = (retry * 2).min(RETRY.1);
                continue;
            }
        };
        let again_at = if unmet { audit_at.min(Instant::now() + CONFLICT_RETRY) } else { audit_at };
        tokio::select! {
            changed = tables.changed() => if changed.is_err() { return },
            () = sleep_until(again_at) => {
                if Instant::now() >= audit_at {
                    audit_at = Instant::now() + AUDIT;
                    report_audit(network.audit().await);
                }
            }
        }
    }
}

fn report_audit(result: Result<Vec<String>, Refusal>) {
    match result {
        Ok(repairs) => {
            for repair in repairs {
                tracing::warn!(repair, "the audit found the kernel changed by others and repaired it");
            }
        }
        Err(error) => tracing::error!(%error, "the network cannot be audited"),
    }
}

/// Addresses behind VIPs and published ports.
fn endpoints(tables: &NodeTables) -> BTreeSet<Ipv4Addr> {
    let services = tables.kernel.services.values().flatten();
    services.chain(tables.kernel.ports.values().flat_map(|port| &port.endpoints)).copied().collect()
}

fn forget_flows<N: Network>(
    network: &Arc<N>,
    old: Option<&NodeTables>,
    new: &NodeTables,
    tables: &watch::Receiver<Option<Version>>,
) {
    let Some(old) = old else { return };
    let left: Vec<Ipv4Addr> = endpoints(old).difference(&endpoints(new)).copied().collect();
    if left.is_empty() {
        return;
    }
    let (network, tables) = (network.clone(), tables.clone());
    tokio::spawn(async move {
        sleep(FORGET_DATAGRAMS).await;
        let back = tables.borrow().as_ref().map(|(_, tables)| endpoints(tables)).unwrap_or_default();
        for address in left.into_iter().filter(|address| !back.contains(address)) {
            if let Err(error) = network.forget_flows(address.into(), false).await {
                tracing::warn!(%address, %error, "datagram flows cannot be forgotten");
            }
        }
    });
}
