//! When images are taken away to make room: now and then, after an image came, and when one could not come. Owns the moment and
//! what must stay; the image store owns which of the rest go.

use carrack_api::ImageCollection;

use super::*;

/// Between two looks at the disk.
const EVERY: Duration = Duration::from_secs(60);
/// Between two looks when something has changed.
const SOON: Duration = Duration::from_secs(5);

/// How far the collection is.
pub(super) struct Collecting {
    at: Instant,
    last: Instant,
    under_way: bool,
    /// The last images that were taken away.
    pub(super) done: Option<ImageCollection>,
}

impl Collecting {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { at: now + EVERY, last: now, under_way: false, done: None }
    }

    /// When the disk is looked at next.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Something has changed that makes a look worth while.
    pub(super) fn soon(&mut self) {
        self.at = self.at.min(self.last + SOON);
    }
}

impl<E: Engine, N: Network> Driver<E, N> {
    /// Looks at the disk when it is time to, and takes images away when it is too full.
    pub(super) fn collect(&mut self) {
        let now = Instant::now();
        if now < self.collecting.at {
            return;
        }
        self.collecting.at = now + EVERY;
        if self.collecting.under_way {
            return;
        }
        let Some(needed) = self.lasting.as_deref().and_then(|assigned| needed(assigned, &self.facts)) else {
            return;
        };
        self.collecting.under_way = true;
        self.collecting.last = now;
        self.workers.collect(needed);
    }

    pub(super) fn collected(&mut self, result: Result<Option<ImageCollection>, Refusal>) {
        self.collecting.under_way = false;
        match result {
            Ok(None) => {}
            Ok(Some(collection)) => {
                tracing::info!(
                    images = collection.images.join(", "), freed = %collection.freed,
                    used_before = collection.used_before, used_after = collection.used_after,
                    "images were taken away to make room"
                );
                self.collecting.done = Some(collection);
                self.changed();
            }
            Err(error) => tracing::error!(%error, "images cannot be taken away to make room"),
        }
    }
}

/// What must stay: images of kept revisions, of one-off tasks, and of all tasks here, by digest, else by name. `None` while that
/// is not known: a container still runs that nobody assigns any more.
fn needed(assigned: &Assignment, facts: &BTreeMap<TaskId, TaskFacts>) -> Option<BTreeSet<String>> {
    let stray = |(id, facts): (&TaskId, &TaskFacts)| facts.is_running() && !assigned.tasks.contains_key(id);
    if facts.iter().any(stray) {
        return None;
    }
    let of_tasks = assigned.tasks.values().map(|task| {
        let container = &task.spec.container;
        container.image_digest.clone().unwrap_or_else(|| container.image.clone())
    });
    Some(of_tasks.chain(assigned.images_needed.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assigned, assignment};

    #[test]
    fn what_revisions_and_tasks_need_stays_and_a_stray_container_stops_it_all() {
        let mut task = assigned("web", 1);
        task.spec.container.image_digest = Some("sha256:running".into());
        let mut told = assignment(1, BTreeMap::from([(TaskId(1), task), (TaskId(2), assigned("web", 2))]));
        told.images_needed.insert("sha256:older".into());
        let name = told.tasks[&TaskId(2)].spec.container.image.clone();
        let mut facts = BTreeMap::from([(TaskId(1), TaskFacts::default())]);
        let wanted = BTreeSet::from(["sha256:running".to_owned(), "sha256:older".to_owned(), name]);
        assert_eq!(needed(&told, &facts), Some(wanted));
        let mut stray = TaskFacts::default();
        stray.has_started(7, 15, Timestamp(1));
        facts.insert(TaskId(9), stray);
        assert_eq!(needed(&told, &facts), None);
    }
}
