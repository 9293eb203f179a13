//! `volumes_from`: the mounts of another service, which are known only when all services are read.

use std::collections::BTreeMap;

use carrack_api::{
    ContainerSpec, ContentFile, ContentKind, Dependency, DependencyCondition, Mount, MountSource,
    ServiceName, StackSpec,
};

use super::Build;
use crate::fields::Fields;
use crate::report::Mark;

/// What one service mounts.
type Lent = (Vec<Mount>, Vec<ContentFile>);

/// One entry of `volumes_from`.
pub(super) struct Borrowed {
    of: ServiceName,
    by: ServiceName,
    read_only: bool,
    mark: Mark,
    path: String,
}

impl Build<'_> {
    /// `SERVICE[:ro|rw]`, of a service that starts first.
    pub(super) fn volumes_from(
        &mut self,
        fields: &mut Fields<'_>,
        name: &ServiceName,
        depends_on: &mut BTreeMap<ServiceName, Dependency>,
    ) {
        for item in fields.take("volumes_from").map(|i| i.items(self.report)).unwrap_or_default() {
            let Some(text) = item.text(self.report) else { continue };
            if text.starts_with("container:") {
                item.listed("services.volumes_from", "container:NAME", self.report);
                continue;
            }
            let (service, mode) = text.split_once(':').unwrap_or((&text, "rw"));
            if !["ro", "rw"].contains(&mode) {
                item.invalid_hint(format!("{mode:?} is no way to mount"), "use ro or rw", self.report);
                continue;
            }
            if service == name.as_str() {
                item.invalid("a service cannot have its own volumes", self.report);
                continue;
            }
            let Some(of) = self.dependency_name(service, &item, true) else { continue };
            let started =
                Dependency { condition: DependencyCondition::Started, required: true, restart: false };
            depends_on.entry(of.clone()).or_insert(started);
            let (by, read_only) = (name.clone(), mode == "ro");
            self.borrowed.push(Borrowed { of, by, read_only, mark: item.mark(), path: item.path.clone() });
        }
    }

    /// Gives each borrower what the other mounts, with what that borrows itself; configs are mounts, too. A circle ends where it
    /// began: services that wait for each other are told as such.
    pub(super) fn lend(&mut self, stack: &mut StackSpec) {
        let borrowed = std::mem::take(&mut self.borrowed);
        let own: BTreeMap<ServiceName, Lent> = stack
            .services
            .iter()
            .map(|(name, service)| {
                let container = &service.task.container;
                let configs = container.files.iter().filter(|f| f.kind == ContentKind::Config);
                (name.clone(), (container.mounts.clone(), configs.cloned().collect()))
            })
            .collect();
        for entry in &borrowed {
            let mut found = Lent::default();
            lent(&entry.of, &own, &borrowed, &mut vec![&entry.by], &mut found);
            let (found, files) = found;
            let Some(user) = stack.services.get_mut(&entry.by) else { continue };
            for file in files {
                // What the borrower has there itself stays.
                let container = &mut user.task.container;
                if !has(container, &file.target) {
                    container.files.push(file);
                }
            }
            for mount in found {
                if has(&user.task.container, &mount.target) {
                    continue;
                }
                if mount.source == MountSource::Anonymous {
                    let what =
                        format!("{} of {} has no name that two services can share", mount.target, entry.of);
                    let hint = format!("name it there: `volumes: ['data:{}']`", mount.target);
                    self.report.invalid_hint(entry.mark, &entry.path, what, hint);
                    continue;
                }
                let read_only = mount.read_only || entry.read_only;
                user.task.container.mounts.push(Mount { read_only, ..mount });
            }
        }
    }
}

/// A mount or a file stands there already.
fn has(container: &ContainerSpec, target: &str) -> bool {
    container.mounts.iter().any(|mount| mount.target == target)
        || container.files.iter().any(|file| file.target == target)
}

/// The mounts of a service and of those that it borrows from.
fn lent<'a>(
    of: &'a ServiceName,
    own: &BTreeMap<ServiceName, Lent>,
    borrowed: &'a [Borrowed],
    above: &mut Vec<&'a ServiceName>,
    out: &mut Lent,
) {
    if above.contains(&of) {
        return;
    }
    if let Some((mounts, files)) = own.get(of) {
        out.0.extend(mounts.iter().cloned());
        out.1.extend(files.iter().cloned());
    }
    above.push(of);
    for entry in borrowed.iter().filter(|entry| entry.by == *of) {
        let first = out.0.len();
        lent(&entry.of, own, borrowed, above, out);
        for mount in &mut out.0[first..] {
            mount.read_only |= entry.read_only;
        }
    }
    above.pop();
}
