//! `driver_opts` of the local volume driver, as mount(8) takes them: a directory of the node and memory become mounts of the tasks.

use carrack_api::MountSource;

use super::Build;
use crate::fields::{Fields, Item};

/// The row of the options of a volume's driver.
const OPTIONS: &str = "volumes.driver_opts";

/// What is mounted in place of a volume that Carrack keeps.
#[derive(Debug, Clone)]
pub(super) struct Instead {
    pub(super) source: MountSource,
    pub(super) read_only: bool,
}

impl Build<'_> {
    /// `type`, `o` and `device`.
    pub(super) fn local_options(&mut self, item: &Item<'_>) -> Option<Instead> {
        let mut fields = Fields::open(item, self.report)?;
        let mut text = |key| fields.take(key).and_then(|i| i.text(self.report)).unwrap_or_default();
        let (kind, options, device) = (text("type"), text("o"), text("device"));
        let plain = item.node.as_map().is_some_and(|map| {
            map.entries.iter().all(|entry| ["type", "o", "device"].contains(&entry.key.as_str()))
        });
        let words: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
        if plain && kind == "tmpfs" {
            let (source, read_only) = self.tmpfs_words(item, &options, (OPTIONS, "others"));
            item.listed(OPTIONS, "type: tmpfs", self.report);
            return Some(Instead { source, read_only });
        }
        let known = ["bind", "rbind", "ro", "rw"];
        let binds = words.iter().any(|word| ["bind", "rbind"].contains(word));
        if !plain || !binds || !["", "none", "bind"].contains(&kind.as_str()) {
            item.listed(OPTIONS, "others", self.report);
            return None;
        }
        if let Some(other) = words.iter().find(|word| !known.contains(word)) {
            item.listed_as(OPTIONS, "others", other, self.report);
            return None;
        }
        if device.is_empty() {
            item.invalid_hint("the bind mount has no device", "name a path of the host", self.report);
            return None;
        }
        item.listed_as(OPTIONS, "o: bind", &device, self.report);
        let (propagation, alone) = (String::new(), !words.contains(&"rbind"));
        let source = MountSource::Bind { path: device, create: false, propagation, alone };
        Some(Instead { source, read_only: words.contains(&"ro") })
    }
}

/// A path below what is mounted.
pub(super) fn below(instead: &Instead, subpath: Option<&str>) -> Option<Instead> {
    let Some(subpath) = subpath else { return Some(instead.clone()) };
    let mut below = instead.clone();
    match &mut below.source {
        MountSource::Bind { path, .. } if !subpath.split('/').any(|part| part == "..") => {
            *path = format!("{}/{}", path.trim_end_matches('/'), subpath.trim_matches('/'));
            Some(below)
        }
        _ => None,
    }
}
