//! `post_start` and `pre_stop`: programs that are run in a container at moments of its life.

use std::collections::BTreeMap;

use carrack_api::Hook;

use super::Build;
use crate::fields::Fields;

impl Build<'_> {
    pub(super) fn hooks(&mut self, fields: &mut Fields<'_>, key: &'static str) -> Vec<Hook> {
        let Some(item) = fields.take(key) else { return Vec::new() };
        let mut hooks = Vec::new();
        for item in item.items(self.report) {
            let Some(mut fields) = Fields::open(&item, self.report) else { continue };
            let command = fields.take("command");
            let command = match command.as_ref().and_then(|c| c.node.as_text().map(|text| (c, text))) {
                Some((item, text)) => match crate::words::split(text) {
                    Ok(split) => split.words,
                    Err(why) => {
                        item.invalid(why, self.report);
                        continue;
                    }
                },
                None => command.map(|c| c.texts(self.report)).unwrap_or_default(),
            };
            let user = fields.take("user").and_then(|i| i.text(self.report)).filter(|u| !u.is_empty());
            let working_dir =
                fields.take("working_dir").and_then(|i| i.text(self.report)).filter(|d| !d.is_empty());
            let privileged = fields.take("privileged").and_then(|i| i.bool(self.report)).unwrap_or(false);
            let env: BTreeMap<String, String> =
                self.pairs_of(&mut fields, "environment").into_iter().collect();
            fields.finish(&[], self.report);
            if command.is_empty() {
                item.invalid_hint(
                    "the hook has no command",
                    "for example `command: [\"./migrate\"]`",
                    self.report,
                );
                continue;
            }
            hooks.push(Hook { command, user, working_dir, env, privileged });
        }
        hooks
    }
}
