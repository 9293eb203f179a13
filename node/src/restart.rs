//! What follows the end of a run: a new run after a back-off, or the end of the task. Pure.

use std::time::Duration;

use carrack_api::defaults::{RESTART_BACKOFF_FIRST, RESTART_BACKOFF_MAX, RESTART_BACKOFF_RESET};
use carrack_api::{Exit, Health, RestartCondition, RestartPolicy, TaskId, Timestamp, human_duration};

use crate::facts::{TaskFacts, Verdict};

/// An end that is noticed later than this happened without a daemon; its back-off counts from when it was noticed.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// What follows the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run n+1.
    Restart {
        /// Not before.
        at: Timestamp,
        /// New count of [`TaskFacts::crashes`].
        crashes: u32,
        /// New count of [`TaskFacts::restarts`].
        restarts: u32,
        /// For people.
        reason: String,
    },
    /// Nothing.
    End {
        /// How the task ended.
        verdict: Verdict,
        /// New count of [`TaskFacts::crashes`].
        crashes: u32,
        /// For people.
        reason: Option<String>,
    },
}

/// Why a run ended, as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Itself,
    /// We stopped it because its probes went on failing.
    Unhealthy,
    /// With the host, which is no crash of its own.
    Host,
}

/// Decides by the task's policy, from the facts as they were while the run lived.
pub(crate) fn after_end(
    id: TaskId,
    policy: &RestartPolicy,
    facts: &TaskFacts,
    exit: &Exit,
    end: End,
    now: Timestamp,
) -> Next {
    let failed = end != End::Itself || !exit.success();
    let healthy_for = match (facts.health, facts.health_since) {
        (Health::Passing, Some(since)) => now.since(since),
        (Health::Passing | Health::Unknown | Health::Failing, _) => Duration::ZERO,
    };
    let (crashes, restarts) =
        if healthy_for >= RESTART_BACKOFF_RESET { (0, 0) } else { (facts.crashes, facts.restarts) };
    let what = match end {
        End::Unhealthy => "stopped because it stayed unhealthy".to_owned(),
        End::Itself | End::Host => exit.describe(),
    };
    let wanted = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => failed,
        RestartCondition::Never => false,
    };
    let given_up = policy.max_attempts.is_some_and(|most| restarts >= most);
    if !wanted || given_up {
        let verdict = if failed { Verdict::Failed } else { Verdict::Completed };
        let reason = match (failed, wanted) {
            (true, true) => Some(format!("{what}; given up after {restarts} restarts")),
            (true, false) => Some(what),
            (false, _) => None,
        };
        return Next::End { verdict, crashes: crashes.saturating_add(u32::from(failed)), reason };
    }
    if end == End::Host {
        return Next::Restart { at: now, crashes, restarts, reason: what };
    }
    let crashes = crashes.saturating_add(1);
    let delay = policy.delay.unwrap_or_else(|| backoff(crashes, seed(id, facts.run)));
    let reason = format!("{what}; restarts in {}", human_duration(delay));
    // Counted from the end itself: noticing it and tidying up after it take their time too.
    let ended_at = if now.since(exit.at) <= NOTICE_MAX { exit.at.min(now) } else { now };
    Next::Restart { at: ended_at.after(delay), crashes, restarts: restarts.saturating_add(1), reason }
}

/// The delay before the start that follows the given number of crashes in a row: it doubles, and jitter of the given seed
/// takes off up to half, so that what crashed together does not start together.
pub(crate) fn backoff(crashes: u32, seed: u64) -> Duration {
    let doublings = crashes.saturating_sub(1).min(16);
    let full = RESTART_BACKOFF_FIRST.saturating_mul(1 << doublings).min(RESTART_BACKOFF_MAX);
    let steps = u32::try_from(mix(seed) % 512).unwrap_or(0);
    full - full * steps / 1024
}

/// A seed of its own for each run of each task.
pub(crate) fn seed(id: TaskId, run: u32) -> u64 {
    mix(id.0 ^ (u64::from(run) << 40))
}

/// One round of splitmix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TaskId = TaskId(7);
    const NOW: Timestamp = Timestamp(1_000_000);

    fn exit(code: i32) -> Exit {
        Exit { code, signal: None, oom: false, peak_memory: None, at: NOW, error: None }
    }

    fn policy(condition: RestartCondition) -> RestartPolicy {
        RestartPolicy { condition, ..RestartPolicy::default() }
    }

    fn crashed(crashes: u32, restarts: u32) -> TaskFacts {
        TaskFacts { run: 1, crashes, restarts, ..TaskFacts::default() }
    }

    #[test]
    fn the_back_off_doubles_from_a_tenth_of_a_second_to_half_a_minute() {
        for (crashes, full) in [(1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (4_000_000, 30_000)]
        {
            for seed in 0..50 {
                let delay = backoff(crashes, seed).as_millis();
                assert!((full / 2..=full).contains(&delay), "{crashes} crashes: {delay} ms");
            }
        }
        assert_eq!(backoff(3, 1), backoff(3, 1));
        assert_ne!(backoff(3, 1), backoff(3, 2));
    }

    #[test]
    fn success_completes_a_task_unless_any_end_is_to_be_followed() {
        let next =
            after_end(ID, &policy(RestartCondition::OnFailure), &crashed(0, 0), &exit(0), End::Itself, NOW);
        assert!(matches!(next, Next::End { verdict: Verdict::Completed, .. }));
        let next = after_end(ID, &policy(RestartCondition::Any), &crashed(0, 0), &exit(0), End::Itself, NOW);
        assert!(matches!(next, Next::Restart { crashes: 1, .. }));
    }

    #[test]
    fn a_failure_is_followed_by_a_run_unless_never() {
        let next = after_end(ID, &RestartPolicy::default(), &crashed(2, 2), &exit(1), End::Itself, NOW);
        match next {
            Next::Restart { at, crashes: 3, restarts: 3, reason } => {
                assert!(at > NOW);
                assert!(reason.starts_with("exit code 1; restarts in 0."), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let next =
            after_end(ID, &policy(RestartCondition::Never), &crashed(0, 0), &exit(1), End::Itself, NOW);
        assert_eq!(
            next,
            Next::End { verdict: Verdict::Failed, crashes: 1, reason: Some("exit code 1".to_owned()) }
        );
    }

    #[test]
    fn attempts_are_counted_and_a_healthy_minute_forgives_them() {
        let policy = RestartPolicy { max_attempts: Some(2), ..RestartPolicy::default() };
        let next = after_end(ID, &policy, &crashed(2, 2), &exit(1), End::Itself, NOW);
        assert!(
            matches!(next, Next::End { verdict: Verdict::Failed, reason: Some(r), .. } if r.contains("given up"))
        );
        let mut facts = crashed(2, 2);
        facts.health = Health::Passing;
        facts.health_since = Some(Timestamp(NOW.0 - 60_000));
        let next = after_end(ID, &policy, &facts, &exit(1), End::Itself, NOW);
        assert!(matches!(next, Next::Restart { crashes: 1, restarts: 1, .. }));
    }

    #[test]
    fn a_restart_of_the_host_is_no_crash_and_waits_for_nothing() {
        let mut lost = exit(137);
        lost.error = Some("the host was restarted".to_owned());
        let next = after_end(ID, &RestartPolicy::default(), &crashed(4, 4), &lost, End::Host, NOW);
        assert!(matches!(next, Next::Restart { at: NOW, crashes: 4, restarts: 4, .. }));
    }

    #[test]
    fn a_delay_of_the_file_replaces_the_back_off() {
        let policy = RestartPolicy { delay: Some(Duration::from_secs(5)), ..RestartPolicy::default() };
        let next = after_end(ID, &policy, &crashed(0, 0), &exit(1), End::Itself, NOW);
        assert!(matches!(next, Next::Restart { at: Timestamp(1_005_000), .. }));
    }

    #[test]
    fn an_unhealthy_task_has_failed_whatever_its_exit_code() {
        let next = after_end(ID, &RestartPolicy::default(), &crashed(0, 0), &exit(0), End::Unhealthy, NOW);
        assert!(matches!(next, Next::Restart { reason, .. } if reason.contains("unhealthy")));
    }
}
