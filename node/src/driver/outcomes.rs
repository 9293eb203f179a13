//! What the loop learns from events: each changes facts, none does anything.

use super::*;
use crate::facts::Reach;
use crate::restart::{backoff, seed};
use crate::worker::WiredAgain;
use carrack_api::{Health, fail};

impl<E: Engine, N: Network> Driver<E, N> {
    pub(super) fn happened(&mut self, event: Event) {
        match event {
            Event::Prepared(task, result) => self.prepared(task, result),
            Event::Progress(task, progress) => {
                if let Some(facts) = self.facts.get_mut(&task).filter(|f| f.pending == Some(Pending::Prepare))
                {
                    facts.progress = Some(progress);
                }
            }
            Event::Wired(task, result) => {
                self.step_done(task);
                self.wired(task, result);
            }
            Event::Started(task, run, result) => self.started(task, run, result),
            Event::Drained(task) => self.stop_advanced(task, |_| StopPhase::Drained),
            Event::Signalled(task, result) => {
                log_failure(task, "the stop signal cannot be sent", &result);
                self.stop_advanced(task, |at| StopPhase::Signalled { at });
            }
            Event::Killed(task, result) => {
                log_failure(task, "it cannot be killed", &result);
                self.stop_advanced(task, |at| StopPhase::Killed { at });
            }
            Event::RunRemoved(task, run, result) => {
                self.step_done(task);
                log_failure(task, "an ended run cannot be removed", &result);
                // What could not be removed now goes with the task.
                if let Some(facts) = self.facts.get_mut(&task) {
                    facts.stale_runs.remove(&run);
                }
            }
            Event::Unwired(task, result) => self.tidied(task, result, |driver, facts| {
                driver.namespaces.remove(&task);
                facts.wired = false;
            }),
            Event::Cleaned(task, result) => self.tidied(task, result, |_, facts| facts.has_been_cleaned()),
            Event::Forgotten(task, result) => {
                let gone = result.is_ok();
                self.tidied(task, result, |_, _| {});
                if gone {
                    self.facts.remove(&task);
                    self.namespaces.remove(&task);
                }
            }
            Event::Ended(task, run, exit) => {
                let current = self.facts.get(&task).is_some_and(|f| f.is_running() && f.run == run);
                if current {
                    self.run_ended(task, exit, End::Itself);
                }
            }
            Event::Probed(task, run, judgement, result) => self.probed(task, run, judgement, result),
            Event::Collected(result) => self.collected(result),
            Event::NetworkUp(result) => self.network_up(result),
            Event::Programmed(version, programmed) => {
                self.network.programmed = self.network.programmed.max(version);
                self.network.error = None;
                self.reached();
                if self.conflicts != programmed.conflicts {
                    self.conflicts = programmed.conflicts;
                    self.changed();
                }
            }
            Event::NotProgrammed(error) => {
                self.network.error = Some(error.to_string());
                self.changed();
            }
        }
    }

    fn prepared(&mut self, task: TaskId, result: Result<(), Refusal>) {
        // One that was broken off may still have ended just before.
        if self.facts.get(&task).is_none_or(|facts| facts.pending != Some(Pending::Prepare)) {
            return;
        }
        self.step_done(task);
        self.collecting.soon();
        let Some(facts) = self.facts.get_mut(&task) else { return };
        facts.progress = None;
        match result {
            Ok(()) => {
                facts.prepared = true;
                facts.failures = 0;
                facts.not_before = None;
            }
            Err(error) => self.failed(task, error),
        }
    }

    fn wired(&mut self, task: TaskId, result: Result<PathBuf, Refusal>) {
        match result {
            Ok(path) => {
                self.namespaces.insert(task, path);
                if let Some(facts) = self.facts.get_mut(&task) {
                    facts.wired = true;
                }
            }
            Err(error) => self.failed(task, error),
        }
    }

    fn started(&mut self, task: TaskId, run: u32, result: Result<crate::engine::Started, Refusal>) {
        self.step_done(task);
        let now = self.clock.now();
        match result {
            Ok(started) => {
                if let Some(facts) = self.facts.get_mut(&task) {
                    facts.run = run;
                    facts.has_started(started.pid, started.stop_signal, now);
                }
                self.accompany(task);
                fail::pass("start.7-watched");
            }
            Err(error) => {
                // Its image may be gone from this host: the next try looks, and brings it again.
                if let Some(facts) = self.facts.get_mut(&task) {
                    facts.prepared = false;
                }
                self.failed(task, error);
            }
        }
    }

    /// A step failed: for good, or it is tried again after a back-off.
    fn failed(&mut self, task: TaskId, error: Refusal) {
        let now = self.clock.now();
        let Some(facts) = self.facts.get_mut(&task) else { return };
        tracing::warn!(%task, %error, "a step failed");
        match error {
            Refusal::Final(reason) if !facts.is_running() => {
                facts.conclude(Verdict::Rejected, Some(reason));
            }
            Refusal::Final(reason) | Refusal::Retry(reason) => {
                facts.failures = facts.failures.saturating_add(1);
                facts.not_before = Some(now.after(backoff(facts.failures, seed(task, facts.failures))));
                facts.reason = Some(reason);
            }
        }
        self.changed();
    }

    fn stop_advanced(&mut self, task: TaskId, phase: impl FnOnce(Timestamp) -> StopPhase) {
        let now = self.clock.now();
        // A step that was broken off by the end of the run says nothing any more.
        let Some(stopping) = self.facts.get_mut(&task).and_then(|facts| facts.stopping.as_mut()) else {
            return;
        };
        stopping.phase = phase(now);
        self.step_done(task);
    }

    fn tidied(
        &mut self,
        task: TaskId,
        result: Result<(), Refusal>,
        done: impl FnOnce(&mut Self, &mut TaskFacts),
    ) {
        self.step_done(task);
        match result {
            Ok(()) => {
                let Some(mut facts) = self.facts.remove(&task) else { return };
                facts.failures = 0;
                done(self, &mut facts);
                self.facts.insert(task, facts);
            }
            Err(error) => {
                let now = self.clock.now();
                tracing::warn!(%task, %error, "it cannot be tidied up; trying again");
                if let Some(facts) = self.facts.get_mut(&task) {
                    facts.failures = facts.failures.saturating_add(1);
                    facts.not_before = Some(now.after(backoff(facts.failures, seed(task, facts.failures))));
                }
            }
        }
    }

    fn probed(
        &mut self,
        task: TaskId,
        run: u32,
        judgement: crate::probe::Judgement,
        result: carrack_api::ProbeResult,
    ) {
        let now = self.clock.now();
        let never = self
            .assigned
            .as_ref()
            .and_then(|assigned| assigned.tasks.get(&task))
            .is_some_and(|task| task.spec.restart.condition == carrack_api::RestartCondition::Never);
        let Some(facts) = self.facts.get_mut(&task).filter(|f| f.is_running() && f.run == run) else {
            return;
        };
        let news = facts.health != judgement.health
            || facts
                .probe
                .as_ref()
                .is_none_or(|old| old.passed != result.passed || old.output != result.output);
        let reached = judgement.health == Health::Passing && facts.health != Health::Passing;
        if reached && facts.wired {
            facts.reach = Reach::NextTables;
        }
        facts.set_health(judgement.health, now);
        facts.reason = match judgement.health {
            Health::Failing => {
                Some(format!("{} probes failed: {}", judgement.failures, result.output.trim()))
            }
            Health::Passing | Health::Unknown => None,
        };
        facts.probe = Some(result);
        if judgement.restart && !never {
            facts.unhealthy = true;
        }
        if news {
            self.changed();
        }
    }

    /// The kernel holds newer tables: what they lead to may be told.
    fn reached(&mut self) {
        let programmed = self.network.programmed;
        let mut news = false;
        for facts in self.facts.values_mut() {
            if matches!(facts.reach, Reach::Tables(version) if version <= programmed) {
                facts.reach = Reach::There;
                news = true;
            }
        }
        if news {
            self.changed();
        }
    }

    fn network_up(&mut self, result: Result<Vec<WiredAgain>, Refusal>) {
        self.network.opening = false;
        match result {
            Ok(wired) => {
                self.network.ready = true;
                self.network.error = None;
                self.network.retry = NETWORK_RETRY.0;
                for (task, result) in wired {
                    // One that has ended since needs a new namespace: its old one went with it.
                    if self.facts.get(&task).is_some_and(TaskFacts::is_running) {
                        self.wired(task, result);
                    }
                }
                self.network.bump = true;
            }
            Err(error) => {
                tracing::error!(%error, "the network cannot be opened; trying again");
                self.network.opened = None;
                self.network.not_before = Some(self.clock.now().after(self.network.retry));
                self.network.retry = (self.network.retry * 2).min(NETWORK_RETRY.1);
                self.network.error = Some(error.to_string());
            }
        }
        self.changed();
    }
}

fn log_failure(task: TaskId, what: &'static str, result: &Result<(), Refusal>) {
    if let Err(error) = result {
        tracing::warn!(%task, %error, "{what}");
    }
}
