//! Readiness and health of one run: when to probe next and what the answers mean. Pure.
//!
//! ```text
//!   Unknown ──pass──> Passing ──`retries` failures──> Failing ──`retries` more──> restart
//!      │                 ^                               │
//!      │                 └────────────pass───────────────┘
//!      └──start period over, then `retries` failures──> Failing
//! ```
//! A failing run is first only taken out of the load balancers, which a run that is merely overloaded survives; when it goes
//! on failing for as many probes again it is restarted as a crash, as Swarm does (Compose only reports it). Only a healthcheck
//! restarts; a port that nobody listens on withdraws the endpoint and no more.

use std::time::Duration;

use carrack_api::defaults::{
    PROBE_INTERVAL, PROBE_RETRIES, PROBE_START_INTERVAL, PROBE_START_PERIOD, PROBE_TIMEOUT,
    READY_WITHOUT_PROBE,
};
use carrack_api::{Health, HealthTest, Healthcheck, Timestamp};

/// A port is looked for this often in the first moments of a run: it costs microseconds, and servers are quick to listen.
const LISTEN_POLL: Duration = Duration::from_millis(20);
/// How long those first moments last.
const LISTEN_POLL_PERIOD: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// A program in the container must end with 0.
    Command(Vec<String>),
    /// Something must listen on a TCP port.
    Listens(u16),
    /// It must live this long.
    Lives(Duration),
}

/// What is asked, how often, and what the answers mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// What is asked.
    pub(crate) question: Question,
    /// For one answer.
    pub(crate) timeout: Duration,
    interval: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

impl Probe {
    /// The probe of a task: its healthcheck, else the first target port, else that it lives.
    pub(crate) fn of(healthcheck: Option<&Healthcheck>, port: Option<u16>) -> Self {
        let command = healthcheck.and_then(|check| match &check.test {
            HealthTest::Disabled | HealthTest::Inherit => None,
            HealthTest::Exec(argv) => Some(argv.clone()),
            HealthTest::Shell(line) => Some(vec!["/bin/sh".into(), "-c".into(), line.clone()]),
        });
        let times = healthcheck.filter(|_| command.is_some());
        let question = match (command, port) {
            (Some(argv), _) => Question::Command(argv),
            (None, Some(port)) => Question::Listens(port),
            (None, None) => Question::Lives(READY_WITHOUT_PROBE),
        };
        Self {
            question,
            timeout: times.and_then(|t| t.timeout).unwrap_or(PROBE_TIMEOUT),
            interval: times.and_then(|t| t.interval).unwrap_or(PROBE_INTERVAL),
            retries: times.and_then(|t| t.retries).unwrap_or(PROBE_RETRIES).max(1),
            start_period: times.and_then(|t| t.start_period).unwrap_or(PROBE_START_PERIOD),
            start_interval: times.and_then(|t| t.start_interval).unwrap_or(PROBE_START_INTERVAL),
        }
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Health from now on.
    pub(crate) health: Health,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// It is to be started anew.
    pub(crate) restart: bool,
}

/// The probes of one run so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracker {
    probe: Probe,
    started_at: Timestamp,
    health: Health,
    failures: u32,
}

impl Tracker {
    /// For a run that started at `started_at` and has this health (an adopted one may be passing already).
    pub(crate) fn new(probe: Probe, started_at: Timestamp, health: Health) -> Self {
        Self { probe, started_at, health, failures: 0 }
    }

    /// What is probed.
    pub(crate) fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Time until the next probe, after `answered` of them; `None` when there is nothing more to ask.
    pub(crate) fn delay(&self, answered: u64, now: Timestamp) -> Option<Duration> {
        if let Question::Lives(needed) = self.probe.question {
            let wait = needed.saturating_sub(now.since(self.started_at));
            return (self.health != Health::Passing).then_some(wait);
        }
        if answered == 0 {
            return Some(Duration::ZERO);
        }
        let age = now.since(self.started_at);
        let starting = self.health == Health::Unknown && age < self.probe.start_period;
        if starting && age < LISTEN_POLL_PERIOD && matches!(self.probe.question, Question::Listens(_)) {
            return Some(LISTEN_POLL);
        }
        Some(if starting { self.probe.start_interval.min(self.probe.interval) } else { self.probe.interval })
    }

    /// Takes an answer.
    pub(crate) fn record(&mut self, passed: bool, now: Timestamp) -> Judgement {
        if passed {
            self.health = Health::Passing;
            self.failures = 0;
            return Judgement { health: Health::Passing, failures: 0, restart: false };
        }
        let in_grace = self.health == Health::Unknown && now.since(self.started_at) < self.probe.start_period;
        if in_grace {
            return Judgement { health: Health::Unknown, failures: 0, restart: false };
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.probe.retries {
            self.health = Health::Failing;
        }
        let restarts = matches!(self.probe.question, Question::Command(_));
        let restart = restarts && self.failures >= self.probe.retries.saturating_mul(2);
        Judgement { health: self.health, failures: self.failures, restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: HealthTest) -> Healthcheck {
        Healthcheck {
            test,
            interval: None,
            timeout: None,
            retries: None,
            start_period: None,
            start_interval: None,
        }
    }

    fn tracker(health: Health) -> Tracker {
        let check = check(HealthTest::Shell("true".into()));
        Tracker::new(Probe::of(Some(&check), Some(80)), Timestamp(0), health)
    }

    #[test]
    fn a_healthcheck_is_preferred_to_a_port_and_a_port_to_mere_life() {
        let shell = check(HealthTest::Shell("wget -q localhost".into()));
        let expected = Question::Command(vec!["/bin/sh".into(), "-c".into(), "wget -q localhost".into()]);
        assert_eq!(Probe::of(Some(&shell), Some(80)).question, expected);
        let off = check(HealthTest::Disabled);
        assert_eq!(Probe::of(Some(&off), Some(80)).question, Question::Listens(80));
        assert_eq!(Probe::of(None, None).question, Question::Lives(READY_WITHOUT_PROBE));
    }

    #[test]
    fn the_first_probe_comes_at_once_then_often_until_one_passes() {
        let mut tracker = tracker(Health::Unknown);
        assert_eq!(tracker.delay(0, Timestamp(5)), Some(Duration::ZERO));
        assert_eq!(tracker.record(false, Timestamp(10)).health, Health::Unknown);
        assert_eq!(tracker.delay(1, Timestamp(10)), Some(PROBE_START_INTERVAL));
        assert_eq!(tracker.record(true, Timestamp(260)).health, Health::Passing);
        assert_eq!(tracker.delay(2, Timestamp(260)), Some(PROBE_INTERVAL));
    }

    #[test]
    fn a_passing_run_fails_after_the_retries_and_restarts_after_as_many_again() {
        let mut tracker = tracker(Health::Passing);
        let judged: Vec<_> = (0..6).map(|i| tracker.record(false, Timestamp(i * 10_000))).collect();
        assert_eq!(judged[1], Judgement { health: Health::Passing, failures: 2, restart: false });
        assert_eq!(judged[2], Judgement { health: Health::Failing, failures: 3, restart: false });
        assert_eq!(judged[5], Judgement { health: Health::Failing, failures: 6, restart: true });
    }

    #[test]
    fn one_pass_makes_a_failing_run_passing_again() {
        let mut tracker = tracker(Health::Passing);
        for i in 0..4 {
            tracker.record(false, Timestamp(i));
        }
        assert_eq!(
            tracker.record(true, Timestamp(9)),
            Judgement { health: Health::Passing, failures: 0, restart: false }
        );
    }

    #[test]
    fn failures_count_once_the_start_period_is_over() {
        let mut tracker = tracker(Health::Unknown);
        let late = u64::try_from(PROBE_START_PERIOD.as_millis()).unwrap();
        assert_eq!(tracker.record(false, Timestamp(late - 1)).failures, 0);
        for failures in 1..=2 {
            assert_eq!(tracker.record(false, Timestamp(late)).failures, failures);
        }
        assert_eq!(tracker.record(false, Timestamp(late)).health, Health::Failing);
    }

    #[test]
    fn without_anything_to_ask_a_run_passes_once_it_lived_a_second() {
        let mut tracker = Tracker::new(Probe::of(None, None), Timestamp(1_000), Health::Unknown);
        assert_eq!(tracker.delay(0, Timestamp(1_400)), Some(Duration::from_millis(600)));
        tracker.record(true, Timestamp(2_000));
        assert_eq!(tracker.delay(1, Timestamp(2_000)), None);
    }

    #[test]
    fn a_port_is_looked_for_very_often_in_the_first_moments() {
        let tracker = Tracker::new(Probe::of(None, Some(80)), Timestamp(0), Health::Unknown);
        assert_eq!(tracker.delay(1, Timestamp(100)), Some(LISTEN_POLL));
        assert_eq!(tracker.delay(90, Timestamp(3_000)), Some(PROBE_START_INTERVAL));
    }

    #[test]
    fn a_port_that_is_not_listened_on_never_restarts() {
        let mut tracker = Tracker::new(Probe::of(None, Some(80)), Timestamp(0), Health::Passing);
        let judged: Vec<_> = (0..20).map(|i| tracker.record(false, Timestamp(i))).collect();
        assert_eq!(judged[19].health, Health::Failing);
        assert!(judged.iter().all(|j| !j.restart));
    }
}
