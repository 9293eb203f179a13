//! Keeps the kernel and DNS at the newest tables: one writer, newest wins, failures are tried again. In between audits, at
//! intervals and whenever somebody else (a firewall that is reloaded) has changed the kernel.
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

/// Time between two audits of the kernel, and after one that failed.
const AUDIT: Duration = Duration::from_secs(30);
const AUDIT_AGAIN: Duration = Duration::from_secs(1);
/// Shortest time between audits that others' changes cause, and its least multiple of an audit's own duration: a firewall that
/// changes all the time costs a tenth of a CPU at most.
const CALM: Duration = Duration::from_millis(100);
const CALM_FACTOR: u32 = 10;
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
    let mut audits = Audits::new();
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
        let again = unmet.then(|| Instant::now() + CONFLICT_RETRY);
        if !audits.run(&*network, &mut tables, again).await {
            return;
        }
    }
}

/// When the kernel is compared with what it is to hold: at intervals, and soon after somebody else changed something.
struct Audits {
    due: Instant,
    /// No audit that others cause comes before this.
    calm: Instant,
    disturbed: bool,
}

impl Audits {
    fn new() -> Self {
        let now = Instant::now();
        Self { due: now + AUDIT, calm: now, disturbed: false }
    }

    /// Audits until the tables are to be written: new ones, or the same again. `false`: there will be no more.
    async fn run<N: Network>(
        &mut self,
        network: &N,
        tables: &mut watch::Receiver<Option<Version>>,
        again: Option<Instant>,
    ) -> bool {
        loop {
            let wake = again.map_or(self.due, |again| again.min(self.due));
            tokio::select! {
                changed = tables.changed() => return changed.is_ok(),
                () = network.disturbed(), if !self.disturbed => {
                    self.disturbed = true;
                    self.due = self.due.min(self.calm);
                }
                () = sleep_until(wake) => {
                    let caused = self.disturbed;
                    if Instant::now() >= self.due {
                        self.audit(network).await;
                    }
                    if !caused {
                        return true;
                    }
                }
            }
        }
    }

    async fn audit<N: Network>(&mut self, network: &N) {
        // What is changed from now on causes the next one.
        self.disturbed = false;
        let began = Instant::now();
        let well = report_audit(network.audit().await);
        let now = Instant::now();
        self.calm = now + CALM.max((now - began) * CALM_FACTOR);
        self.due = now + if well { AUDIT } else { AUDIT_AGAIN };
    }
}

fn report_audit(result: Result<Vec<String>, Refusal>) -> bool {
    let well = result.is_ok();
    match result {
        Ok(repairs) => {
            for repair in repairs {
                tracing::warn!(repair, "the audit found the kernel changed by others and repaired it");
            }
        }
        Err(error) => tracing::error!(%error, "the network cannot be audited; trying again"),
    }
    well
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
