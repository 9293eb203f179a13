//! When an image's registry is asked: `pull_policy`, and `pull_refresh_after` of the policy `refresh`.

use carrack_api::PullPolicy;

use super::Build;
use crate::fields::{Fields, Item};
use crate::suggest;
use crate::units::duration;

const DAY: u64 = 86_400;

impl Build<'_> {
    pub(super) fn pull(&mut self, fields: &mut Fields<'_>) -> PullPolicy {
        let after = fields.take("pull_refresh_after");
        let policy = fields.take("pull_policy");
        let word = policy.as_ref().and_then(|item| Some((item, item.text(self.report)?)));
        if let Some((item, word)) = &word
            && word == "refresh"
        {
            return self.pull_refresh(item, after.as_ref());
        }
        if let Some(after) = after {
            after.listed("services.pull_refresh_after", "without refresh", self.report);
        }
        word.map_or_else(PullPolicy::default, |(item, word)| self.pull_by_name(item, &word))
    }

    fn pull_by_name(&mut self, item: &Item<'_>, word: &str) -> PullPolicy {
        match word {
            "always" => return PullPolicy::Always,
            "never" => return PullPolicy::Never,
            "missing" | "if_not_present" => {}
            "daily" => return every(DAY),
            "weekly" => return every(7 * DAY),
            "build" => {
                item.listed("services.pull_policy", "build", self.report);
                return PullPolicy::Never;
            }
            other => match other.strip_prefix("every_").and_then(seconds) {
                Some(seconds) => return every(seconds),
                None => self.no_pull_policy(item, other),
            },
        }
        PullPolicy::Missing
    }

    fn pull_refresh(&mut self, item: &Item<'_>, after: Option<&Item<'_>>) -> PullPolicy {
        let Some(after) = after else {
            item.listed("services.pull_policy", "refresh, alone", self.report);
            return every(DAY);
        };
        match after.text(self.report) {
            Some(text) => match seconds(&text) {
                Some(seconds) => return every(seconds),
                None => after.invalid_hint(
                    format!("{text:?} is no time after which to ask"),
                    "write a duration: 12h, 1w, 2d12h",
                    self.report,
                ),
            },
            None => return PullPolicy::Missing,
        }
        PullPolicy::Missing
    }

    fn no_pull_policy(&mut self, item: &Item<'_>, word: &str) {
        let known = [
            "always",
            "never",
            "missing",
            "if_not_present",
            "build",
            "daily",
            "weekly",
            "refresh",
            "every_12h",
        ];
        let hint = match suggest::nearest(word, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "use always, missing, never, daily, weekly or every_12h".into(),
        };
        item.invalid_hint(format!("{word:?} is no pull policy"), &hint, self.report);
    }
}

/// A time such as `12h` or `2w1d`; what is shorter than a second is one.
fn seconds(text: &str) -> Option<u64> {
    let time = duration(text).ok()?;
    Some(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

fn every(seconds: u64) -> PullPolicy {
    if seconds == 0 { PullPolicy::Always } else { PullPolicy::Every { seconds } }
}
