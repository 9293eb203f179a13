//! Healthchecks.

use carrack_api::{HealthTest, Healthcheck};

use super::Build;
use crate::fields::{Fields, Item};

impl Build<'_> {
    pub(super) fn healthcheck(&mut self, fields: &mut Fields<'_>) -> Option<Healthcheck> {
        let item = fields.take("healthcheck")?;
        let mut fields = Fields::open(&item, self.report)?;
        let mut test = match fields.take("test") {
            Some(item) => self.health_test(&item),
            None => HealthTest::Inherit,
        };
        if fields.take("disable").and_then(|i| i.bool(self.report)) == Some(true) {
            test = HealthTest::Disabled;
        }
        let out = Healthcheck {
            test,
            interval: fields.take("interval").and_then(|i| i.duration(self.report)),
            timeout: fields.take("timeout").and_then(|i| i.duration(self.report)),
            retries: fields.take("retries").and_then(|i| i.number(self.report)),
            start_period: fields.take("start_period").and_then(|i| i.duration(self.report)),
            start_interval: fields.take("start_interval").and_then(|i| i.duration(self.report)),
        };
        fields.finish(&[], self.report);
        Some(out)
    }

    fn health_test(&mut self, item: &Item<'_>) -> HealthTest {
        let words = item.texts(self.report);
        match words.first().map(String::as_str) {
            Some("NONE") => HealthTest::Disabled,
            Some("CMD") => HealthTest::Exec(words[1..].to_vec()),
            Some("CMD-SHELL") => HealthTest::Shell(words[1..].join(" ")),
            Some(other) => {
                let hint = "begin the list with CMD, CMD-SHELL or NONE, or write one line of text";
                item.invalid_hint(format!("{other:?} is no kind of test"), hint, self.report);
                HealthTest::Inherit
            }
            None => HealthTest::Inherit,
        }
    }
}
