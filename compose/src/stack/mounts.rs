//! `volumes` and `tmpfs`.

use carrack_api::{Mount, MountSource};

use super::Build;
use super::local::{self, Instead};
use crate::fields::{Fields, Item};
use crate::units;

/// Options of mount(8) without a value that a tmpfs may have.
const TMPFS_FLAGS: [&str; 10] =
    ["exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "nodiratime", "relatime", "strictatime"];
/// The row of all other options.
const TMPFS_OTHERS: &str = "options beyond size, mode, uid, gid, nr_inodes, nr_blocks and flags of mount(8)";

/// Kinds of mounts that the specification knows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bind,
    Volume,
    Tmpfs,
    Refused,
}

impl Build<'_> {
    pub(super) fn mounts(&mut self, fields: &mut Fields<'_>) -> Vec<Mount> {
        let mut out = Vec::new();
        for item in fields.take("volumes").map(|i| i.items(self.report)).unwrap_or_default() {
            out.extend(self.mount(&item));
        }
        for item in fields.take("tmpfs").map(|i| i.items(self.report)).unwrap_or_default() {
            out.extend(self.tmpfs(&item));
        }
        out
    }

    fn mount(&mut self, item: &Item<'_>) -> Option<Mount> {
        let mut fields = Fields::open(item, self.report)?;
        let words = [
            ("bind", Kind::Bind),
            ("volume", Kind::Volume),
            ("tmpfs", Kind::Tmpfs),
            ("image", Kind::Refused),
            ("cluster", Kind::Refused),
            ("npipe", Kind::Refused),
        ];
        let kind = match fields.take("type") {
            Some(item) => {
                let kind = item.choice(&words, self.report)?;
                if kind == Kind::Refused {
                    let form = item.node.as_text().unwrap_or_default();
                    item.listed("services.volumes.type", form, self.report);
                }
                kind
            }
            None => {
                item.invalid_hint("the mount has no type", "use bind, volume or tmpfs", self.report);
                return None;
            }
        };
        let target = fields.take("target").and_then(|i| i.text(self.report));
        let source = fields.take("source").and_then(|i| i.text(self.report)).filter(|s| !s.is_empty());
        let read_only = fields.take("read_only").and_then(|i| i.bool(self.report)).unwrap_or(false);
        fields.listed("consistency", "services.volumes.consistency", self.report);
        let bind = fields.take("bind");
        let volume = fields.take("volume");
        let tmpfs = fields.take("tmpfs");
        let image = fields.take("image");
        fields.finish(&[], self.report);
        let Some(target) = target.map(|t| without_slash(&t)).filter(|t| !t.is_empty()) else {
            item.invalid("the mount has no target", self.report);
            return None;
        };
        if kind == Kind::Bind && read_only && bind.as_ref().is_none_or(is_plain) {
            let path = source.as_deref().unwrap_or_default();
            if let Some(file) = self.small_file(item, path, &target) {
                self.small_files.push(file);
                return None;
            }
        }
        let mut read_only = read_only;
        let (source, own) = match kind {
            Kind::Bind => (self.bind(item, source, bind.as_ref())?, "bind"),
            Kind::Volume => {
                if source.is_none() {
                    item.listed_as("services.volumes.source", "none, of a volume", &target, self.report);
                }
                let found = self.named(item, source, volume.as_ref())?;
                read_only |= found.read_only;
                (found.source, "volume")
            }
            Kind::Tmpfs => (self.tmpfs_options(tmpfs.as_ref()), "tmpfs"),
            Kind::Refused => {
                if let Some(mut options) = image.as_ref().and_then(|i| Fields::open(i, self.report)) {
                    options.listed("subpath", "services.volumes.image.subpath", self.report);
                    options.finish(&[], self.report);
                }
                return None;
            }
        };
        for (name, part) in [("bind", bind), ("volume", volume), ("tmpfs", tmpfs), ("image", image)] {
            if let Some(part) = part.filter(|_| name != own) {
                part.invalid(format!("means nothing for a mount of type {own}"), self.report);
            }
        }
        self.placed(item, &target, false);
        Some(Mount { target, source, read_only })
    }

    fn bind(
        &mut self,
        item: &Item<'_>,
        source: Option<String>,
        options: Option<&Item<'_>>,
    ) -> Option<MountSource> {
        let Some(path) = source else {
            item.invalid_hint("the bind mount has no source", "name a path of the host", self.report);
            return None;
        };
        let (mut create, mut propagation, mut alone) = (true, String::new(), false);
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            create = fields.take("create_host_path").and_then(|i| i.bool(self.report)).unwrap_or(true);
            propagation = fields.take("propagation").map(|i| self.propagation(&i)).unwrap_or_default();
            fields.listed("selinux", "services.volumes.bind.selinux", self.report);
            if let Some(item) = fields.take("recursive") {
                alone = self.recursive(&item);
            }
            fields.finish(&[], self.report);
        }
        item.listed_as("services.volumes.source", "of a bind mount", &path, self.report);
        Some(MountSource::Bind { path, create, propagation, alone })
    }

    /// Who sees later mounts below the other's place.
    fn propagation(&mut self, item: &Item<'_>) -> String {
        let words = ["rprivate", "private", "rshared", "shared", "rslave", "slave"].map(|w| (w, w));
        let word = item.choice(&words, self.report).unwrap_or_default();
        if word.ends_with("shared") {
            item.listed("services.volumes.bind.propagation", "rshared, shared", self.report);
        }
        word.to_owned()
    }

    /// Whether what is mounted below the source is left out.
    fn recursive(&mut self, item: &Item<'_>) -> bool {
        let words = ["enabled", "disabled", "writable", "readonly"].map(|w| (w, w));
        let word = item.choice(&words, self.report);
        if word == Some("writable") {
            item.listed("services.volumes.bind.recursive", "writable", self.report);
        }
        word == Some("disabled")
    }

    fn named(
        &mut self,
        item: &Item<'_>,
        source: Option<String>,
        options: Option<&Item<'_>>,
    ) -> Option<Instead> {
        let (mut nocopy, mut subpath) = (false, None);
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            nocopy = fields.take("nocopy").and_then(|i| i.bool(self.report)).unwrap_or(false);
            subpath = fields.take("subpath").and_then(|i| i.text(self.report)).filter(|s| !s.is_empty());
            fields.listed("labels", "services.volumes.volume.labels", self.report);
            fields.finish(&[], self.report);
        }
        let Some(key) = source else {
            return Some(Instead { source: MountSource::Anonymous, read_only: false });
        };
        let Some(def) = self.volumes.get(&key) else {
            if self.is_at_top("volumes", &key) {
                return None;
            }
            let names = self.volumes.keys().map(String::as_str);
            let hint = match crate::suggest::nearest(&key, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => {
                    format!("add `volumes: {{{key}: {{}}}}` at the top, or write ./{key} for a directory")
                }
            };
            item.invalid_hint(format!("there is no volume {key} in this file"), &hint, self.report);
            return None;
        };
        self.used_volumes.insert(key.clone());
        if let Some(instead) = &def.instead {
            let found = local::below(instead, subpath.as_deref());
            if found.is_none() {
                let hint = "mount the whole volume";
                item.invalid_hint("a path below it cannot be mounted", hint, self.report);
            }
            return found;
        }
        let source = MountSource::Volume { name: def.name.clone(), nocopy, subpath };
        Some(Instead { source, read_only: false })
    }

    fn tmpfs_options(&mut self, options: Option<&Item<'_>>) -> MountSource {
        let (mut size, mut mode) = (None, None);
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            size = fields.take("size").and_then(|i| i.bytes(self.report)).filter(|b| b.0 > 0);
            mode = fields.take("mode").and_then(|i| i.number(self.report));
            fields.finish(&[], self.report);
        }
        MountSource::Tmpfs { size, mode, options: Vec::new() }
    }

    /// `PATH[:OPTIONS]`, with the options of mount(8).
    fn tmpfs(&mut self, item: &Item<'_>) -> Option<Mount> {
        let text = item.text(self.report)?;
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let (source, read_only) = self.tmpfs_words(item, options, ("services.tmpfs", TMPFS_OTHERS));
        let target = without_slash(target);
        self.placed(item, &target, false);
        Some(Mount { target, source, read_only })
    }

    /// Options of mount(8) for memory; what is not known ends as `row` says.
    pub(super) fn tmpfs_words(
        &mut self,
        item: &Item<'_>,
        options: &str,
        row: (&str, &str),
    ) -> (MountSource, bool) {
        let (mut size, mut mode, mut read_only, mut own) = (None, None, false, Vec::new());
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("size", value) => match units::bytes(value) {
                    Ok(value) => size = Some(value),
                    Err(why) => item.invalid(why, self.report),
                },
                ("mode", value) => match u32::from_str_radix(value, 8) {
                    Ok(value) => mode = Some(value),
                    Err(_) => item.invalid(format!("mode {value:?} is not octal"), self.report),
                },
                ("ro", "") => read_only = true,
                ("rw", "") => read_only = false,
                ("uid" | "gid" | "nr_inodes" | "nr_blocks", value) if is_amount(value) => {
                    own.push(option.to_owned());
                }
                (word, "") if TMPFS_FLAGS.contains(&word) => own.push(option.to_owned()),
                (other, _) => {
                    item.listed_as(row.0, row.1, other, self.report);
                }
            }
        }
        (MountSource::Tmpfs { size, mode, options: own }, read_only)
    }
}

/// A bind mount that asks for nothing but to be there.
fn is_plain(options: &Item<'_>) -> bool {
    options.node.as_map().is_some_and(|map| map.entries.iter().all(|entry| entry.key == "create_host_path"))
}

/// A number, perhaps with the kernel's unit.
fn is_amount(text: &str) -> bool {
    let digits = text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G']).unwrap_or(text);
    !digits.is_empty() && digits.len() < 16 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A path without a slash at its end, but for the root itself.
fn without_slash(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => path.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}
