//! `volumes` and `tmpfs`.

use carrack_api::{Mount, MountSource};

use super::Build;
use crate::fields::{Fields, Item};
use crate::units;

/// Kinds of mounts that the specification knows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bind,
    Volume,
    Tmpfs,
    Other(&'static str),
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
            ("image", Kind::Other("images as volumes are not built yet")),
            ("cluster", Kind::Other("cluster volumes are not built yet")),
            ("npipe", Kind::Other("is a setting of Windows")),
        ];
        let kind = match fields.take("type") {
            Some(item) => item.choice(&words, self.report)?,
            None => {
                item.invalid_hint("the mount has no type", "use bind, volume or tmpfs", self.report);
                return None;
            }
        };
        let target = fields.take("target").and_then(|i| i.text(self.report));
        let source = fields.take("source").and_then(|i| i.text(self.report)).filter(|s| !s.is_empty());
        let read_only = fields.take("read_only").and_then(|i| i.bool(self.report)).unwrap_or(false);
        // How a mount is cached between a Mac and its virtual machine; there is nothing to cache here.
        fields.take("consistency");
        let bind = fields.take("bind");
        let volume = fields.take("volume");
        let tmpfs = fields.take("tmpfs");
        let image = fields.take("image");
        fields.finish(&[], self.report);
        let Some(target) = target.map(|t| without_slash(&t)).filter(|t| !t.is_empty()) else {
            item.invalid("the mount has no target", self.report);
            return None;
        };
        let (source, own) = match kind {
            Kind::Bind => (self.bind(item, source, bind.as_ref())?, "bind"),
            Kind::Volume => (self.named(item, source, volume.as_ref())?, "volume"),
            Kind::Tmpfs => (self.tmpfs_options(tmpfs.as_ref()), "tmpfs"),
            Kind::Other(why) => {
                item.unsupported(why, None, self.report);
                return None;
            }
        };
        for (name, part) in [("bind", bind), ("volume", volume), ("tmpfs", tmpfs), ("image", image)] {
            if let Some(part) = part.filter(|_| name != own) {
                part.invalid(format!("means nothing for a mount of type {own}"), self.report);
            }
        }
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
        let (mut create, mut propagation) = (true, String::new());
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            create = fields.take("create_host_path").and_then(|i| i.bool(self.report)).unwrap_or(true);
            let words = ["rprivate", "private", "rshared", "shared", "rslave", "slave"].map(|w| (w, w));
            propagation = fields
                .take("propagation")
                .and_then(|i| i.choice(&words, self.report))
                .unwrap_or_default()
                .to_owned();
            fields.note("selinux", "files are not labelled for SELinux", self.report);
            if let Some(item) = fields.take("recursive")
                && item.node.as_text() != Some("enabled")
            {
                let hint = Some("use enabled, or leave it out");
                item.unsupported("what lies mounted below always comes along", hint, self.report);
            }
            fields.finish(&[], self.report);
        }
        let text = format!("{path} is a path of the node that takes the deploy; the tasks stay there");
        item.note(text, self.report);
        Some(MountSource::Bind { path, create, propagation })
    }

    fn named(
        &mut self,
        item: &Item<'_>,
        source: Option<String>,
        options: Option<&Item<'_>>,
    ) -> Option<MountSource> {
        let (mut nocopy, mut subpath) = (false, None);
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            nocopy = fields.take("nocopy").and_then(|i| i.bool(self.report)).unwrap_or(false);
            subpath = fields.take("subpath").and_then(|i| i.text(self.report)).filter(|s| !s.is_empty());
            fields.note("labels", "labels of volumes stand at the top of the file", self.report);
            fields.finish(&[], self.report);
        }
        let Some(key) = source else { return Some(MountSource::Anonymous) };
        let Some(def) = self.volumes.get(&key) else {
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
        let name = def.name.clone();
        self.used_volumes.insert(key);
        Some(MountSource::Volume { name, nocopy, subpath })
    }

    fn tmpfs_options(&mut self, options: Option<&Item<'_>>) -> MountSource {
        let (mut size, mut mode) = (None, None);
        if let Some(mut fields) = options.and_then(|o| Fields::open(o, self.report)) {
            size = fields.take("size").and_then(|i| i.bytes(self.report)).filter(|b| b.0 > 0);
            mode = fields.take("mode").and_then(|i| i.number(self.report));
            fields.finish(&[], self.report);
        }
        MountSource::Tmpfs { size, mode }
    }

    /// `PATH[:OPTIONS]`, with the options of mount(8).
    fn tmpfs(&mut self, item: &Item<'_>) -> Option<Mount> {
        let text = item.text(self.report)?;
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let (mut size, mut mode, mut read_only) = (None, None, false);
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
                ("rw" | "noexec" | "nosuid" | "nodev", "") => {}
                (other, _) => {
                    let message = format!("the option {other:?} of tmpfs is not built yet");
                    item.unsupported(message, Some("size, mode, ro and rw are there"), self.report);
                }
            }
        }
        let source = MountSource::Tmpfs { size, mode };
        Some(Mount { target: without_slash(target), source, read_only })
    }
}

/// A path without a slash at its end, but for the root itself.
fn without_slash(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => path.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}
