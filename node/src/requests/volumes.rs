//! Named volumes of this node: listed with what uses them, removed when nothing does.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use carrack_api::stream::Frame;
use carrack_api::{Bytes, MountSource, Problem, TaskId, Timestamp, VolumeName, VolumeStatus};
use carrack_runtime::RuntimeError;

use super::{Desk, View, done, internal};

/// Most directory entries that are summed up for a volume's size; a larger one shows at least what was counted.
const ENTRIES_MAX: usize = 1_000_000;

impl Desk {
    pub(super) async fn volume_list(&self, view: View) -> Result<Frame, Problem> {
        let node = self.node.clone();
        let listed = self.containers.clone().blocking(move |this| {
            let volumes = this.runtime().volumes().list()?;
            let status = |volume: carrack_runtime::VolumeInfo| VolumeStatus {
                used_by: users(&view, &volume.name),
                node: Some(node.clone()),
                path: volume.path.display().to_string(),
                size: Bytes(size_of(&volume.path)),
                created_at: created(&volume.path),
                name: volume.name,
            };
            Ok(volumes.into_iter().map(status).collect::<Vec<_>>())
        });
        done(&listed.await.map_err(|error: RuntimeError| internal(&error))?)
    }

    pub(super) async fn volume_remove(&self, name: VolumeName, view: View) -> Result<Frame, Problem> {
        let using = users(&view, &name);
        let doomed = name.clone();
        let in_use = !using.is_empty();
        let removed = self.containers.clone();
        let removed =
            removed.blocking(move |this| this.runtime().volumes().remove(&doomed, |_| in_use)).await;
        match removed {
            Ok(()) => done(&()),
            Err(RuntimeError::NoVolume(_)) => {
                Err(Problem::not_found("volume-not-found", format!("no volume {name} on this node"))
                    .hint("`carrack volume ls` lists them"))
            }
            Err(RuntimeError::VolumeInUse(_)) => {
                let users: Vec<String> = using.iter().map(|task| view.name(*task)).collect();
                let detail = format!("volume {name} is in use by {}", users.join(", "));
                Err(Problem::new(409, "volume-in-use", detail)
                    .hint("remove the stack first: carrack rm STACK"))
            }
            Err(error) => Err(internal(&error)),
        }
    }
}

/// Tasks that have the volume mounted, or will have.
fn users(view: &View, name: &VolumeName) -> Vec<TaskId> {
    let Some(assignment) = &view.assignment else { return Vec::new() };
    let mounts = |task: &carrack_api::AssignedTask| {
        let mounts = &task.spec.container.mounts;
        mounts
            .iter()
            .any(|mount| matches!(&mount.source, MountSource::Volume { name: used, .. } if used == name))
    };
    let over = |id: &TaskId| view.report_of(*id).is_some_and(|report| report.state.is_final());
    assignment.tasks.iter().filter(|(id, task)| mounts(task) && !over(id)).map(|(id, _)| *id).collect()
}

/// Bytes of the files below a directory; what cannot be read counts as nothing, links are not followed.
fn size_of(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut entries = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        let Ok(listing) = fs::read_dir(&next) else { continue };
        for entry in listing.flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return bytes;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    bytes
}

fn created(path: &Path) -> Timestamp {
    let made = fs::metadata(path).and_then(|metadata| metadata.created().or_else(|_| metadata.modified()));
    let since = made.ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assigned, assignment};
    use std::sync::Arc;

    #[test]
    fn a_volume_knows_the_tasks_that_mount_it() {
        let name = VolumeName::new("demo_data").unwrap();
        let mut task = assigned("db", 1);
        task.spec.container.mounts.push(carrack_api::Mount {
            target: "/data".into(),
            source: MountSource::Volume { name: name.clone(), nocopy: false, subpath: None },
            read_only: false,
        });
        let all = [(TaskId(1), task), (TaskId(2), assigned("web", 1))].into_iter().collect();
        let view = View { report: None, assignment: Some(Arc::new(assignment(1, all))) };
        assert_eq!(users(&view, &name), [TaskId(1)]);
        assert_eq!(view.name(TaskId(1)), "demo/db.1");
    }

    #[test]
    fn the_size_of_a_volume_is_that_of_its_files() {
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("below")).unwrap();
        fs::write(volume.path().join("a"), [0; 100]).unwrap();
        fs::write(volume.path().join("below/b"), [0; 23]).unwrap();
        assert_eq!(size_of(volume.path()), 123);
        assert!(created(volume.path()).0 > 1_600_000_000_000);
    }
}
