//! The state in memory: one ordered table per kind of object, shared by reference between snapshots.
//!
//! Owns copy-on-write and object versions. A version is the index of the transaction that wrote the object.

use std::collections::BTreeMap;
use std::sync::Arc;

use carrack_api::{
    ContentKind, ContentName, NetworkName, NodeId, ServiceKey, ServiceSpec, StackName, StackSpec, TaskId,
    VolumeName,
};

use super::model::{
    ClusterRecord, ContentNameRecord, ContentPartRecord, ContentRecord, Key, LoginRecord, NetworkRecord,
    NodeRecord, Object, Op, RevisionRecord, RunRecord, ServiceRecord, StackPhase, StackRecord, TaskRecord,
    VolumeRecord,
};

/// An object and the index of the transaction that wrote it.
#[derive(Debug, Clone, PartialEq)]
struct Entry<V> {
    version: u64,
    value: Arc<V>,
}

/// An ordered table that is cheap to clone and is copied when a shared one is changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Table<K, V>(Arc<BTreeMap<K, Entry<V>>>);

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// The object, when there is one.
    pub(crate) fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.0.get(key).map(|e| &e.value)
    }

    /// All objects in order of their keys.
    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<V>> {
        self.0.values().map(|e| &e.value)
    }

    /// Objects whose keys are in the range.
    pub(crate) fn range(
        &self,
        range: impl std::ops::RangeBounds<K>,
    ) -> impl DoubleEndedIterator<Item = &Arc<V>> {
        self.0.range(range).map(|(_, e)| &e.value)
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing was written between the two.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn version(&self, key: &K) -> Option<u64> {
        self.0.get(key).map(|e| e.version)
    }

    fn put(&mut self, key: K, value: V, version: u64) {
        Arc::make_mut(&mut self.0).insert(key, Entry { version, value: Arc::new(value) });
    }

    fn delete(&mut self, key: &K) {
        Arc::make_mut(&mut self.0).remove(key);
    }
}

/// All durable state at one index. Immutable once published.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// Transactions applied so far.
    pub(crate) index: u64,
    pub(crate) clusters: Table<(), ClusterRecord>,
    pub(crate) nodes: Table<NodeId, NodeRecord>,
    pub(crate) stacks: Table<StackName, StackRecord>,
    pub(crate) revisions: Table<(StackName, u64), RevisionRecord>,
    pub(crate) services: Table<ServiceKey, ServiceRecord>,
    pub(crate) tasks: Table<TaskId, TaskRecord>,
    pub(crate) volumes: Table<VolumeName, VolumeRecord>,
    pub(crate) runs: Table<ServiceKey, RunRecord>,
    pub(crate) networks: Table<NetworkName, NetworkRecord>,
    pub(crate) logins: Table<(StackName, String), LoginRecord>,
    pub(crate) contents: Table<String, ContentRecord>,
    pub(crate) content_parts: Table<(String, u32), ContentPartRecord>,
    pub(crate) content_names: Table<(ContentKind, ContentName), ContentNameRecord>,
}

impl Snapshot {
    /// The cluster's record; absent only before the first start has written it.
    pub(crate) fn cluster(&self) -> Option<&Arc<ClusterRecord>> {
        self.clusters.get(&())
    }

    /// The stack, unless it is gone.
    pub(crate) fn stack(&self, name: &StackName) -> Option<&Arc<StackRecord>> {
        self.stacks.get(name).filter(|s| s.phase != StackPhase::Removed)
    }

    /// The accepted spec of a stack at a revision.
    pub(crate) fn spec(&self, stack: &StackName, revision: u64) -> Option<&StackSpec> {
        self.revisions.get(&(stack.clone(), revision)).map(|r| &r.spec)
    }

    /// The service's spec at a revision of its stack; that of a one-off task is its own.
    pub(crate) fn service_spec(&self, key: &ServiceKey, revision: u64) -> Option<&ServiceSpec> {
        if let Some(run) = self.runs.get(key) {
            return Some(&run.spec);
        }
        self.spec(&key.stack, revision)?.services.get(&key.service)
    }

    /// The spec in force for a service; `None` when the service or its stack is not wanted any more.
    pub(crate) fn wanted_spec(&self, key: &ServiceKey) -> Option<&ServiceSpec> {
        let stack = self.stacks.get(&key.stack).filter(|s| s.phase == StackPhase::Active)?;
        self.service_spec(key, stack.revision)
    }

    /// The service is kept at zero by command.
    pub(crate) fn is_stopped(&self, key: &ServiceKey) -> bool {
        self.stacks.get(&key.stack).is_some_and(|s| s.stopped.contains(&key.service))
    }

    /// One-off tasks of a stack.
    pub(crate) fn runs_of<'a>(&'a self, stack: &'a StackName) -> impl Iterator<Item = &'a Arc<RunRecord>> {
        self.runs.values().filter(move |r| r.key.stack == *stack)
    }

    /// Credentials of a stack.
    pub(crate) fn logins_of<'a>(
        &'a self,
        stack: &'a StackName,
    ) -> impl Iterator<Item = &'a Arc<LoginRecord>> {
        self.logins.values().filter(move |l| l.stack == *stack)
    }

    /// Services of a stack.
    pub(crate) fn services_of<'a>(
        &'a self,
        stack: &'a StackName,
    ) -> impl Iterator<Item = &'a Arc<ServiceRecord>> {
        self.services.values().filter(move |s| s.key.stack == *stack)
    }

    /// The version of an object, `None` when it is absent.
    pub(crate) fn version(&self, key: &Key) -> Option<u64> {
        match key {
            Key::Cluster => self.clusters.version(&()),
            Key::Node(id) => self.nodes.version(id),
            Key::Stack(name) => self.stacks.version(name),
            Key::Revision(name, revision) => self.revisions.version(&(name.clone(), *revision)),
            Key::Service(key) => self.services.version(key),
            Key::Task(id) => self.tasks.version(id),
            Key::Volume(name) => self.volumes.version(name),
            Key::Run(key) => self.runs.version(key),
            Key::Network(name) => self.networks.version(name),
            Key::Login(stack, registry) => self.logins.version(&(stack.clone(), registry.clone())),
            Key::Content(digest) => self.contents.version(digest),
            Key::ContentPart(digest, number) => self.content_parts.version(&(digest.clone(), *number)),
            Key::ContentName(kind, name) => self.content_names.version(&(*kind, name.clone())),
        }
    }

    /// Applies one change as part of the transaction with number `version`.
    pub(crate) fn apply(&mut self, op: Op, version: u64) {
        match op {
            Op::Put(object) => self.put(object, version),
            Op::Delete(key) => match key {
                Key::Cluster => self.clusters.delete(&()),
                Key::Node(id) => self.nodes.delete(&id),
                Key::Stack(name) => self.stacks.delete(&name),
                Key::Revision(name, revision) => self.revisions.delete(&(name, revision)),
                Key::Service(key) => self.services.delete(&key),
                Key::Task(id) => self.tasks.delete(&id),
                Key::Volume(name) => self.volumes.delete(&name),
                Key::Run(key) => self.runs.delete(&key),
                Key::Network(name) => self.networks.delete(&name),
                Key::Login(stack, registry) => self.logins.delete(&(stack, registry)),
                Key::Content(digest) => self.contents.delete(&digest),
                Key::ContentPart(digest, number) => self.content_parts.delete(&(digest, number)),
                Key::ContentName(kind, name) => self.content_names.delete(&(kind, name)),
            },
        }
    }

    fn put(&mut self, object: Object, version: u64) {
        match object {
            Object::Cluster(r) => self.clusters.put((), r, version),
            Object::Node(r) => self.nodes.put(r.info.id.clone(), r, version),
            Object::Stack(r) => self.stacks.put(r.name.clone(), r, version),
            Object::Revision(r) => self.revisions.put((r.stack.clone(), r.revision), r, version),
            Object::Service(r) => self.services.put(r.key.clone(), r, version),
            Object::Task(r) => self.tasks.put(r.id, r, version),
            Object::Volume(r) => self.volumes.put(r.name.clone(), r, version),
            Object::Run(r) => self.runs.put(r.key.clone(), r, version),
            Object::Network(r) => self.networks.put(r.name.clone(), r, version),
            Object::Login(r) => self.logins.put((r.stack.clone(), r.registry.clone()), r, version),
            Object::Content(r) => self.contents.put(r.digest.clone(), r, version),
            Object::ContentPart(r) => self.content_parts.put((r.digest.clone(), r.number), r, version),
            Object::ContentName(r) => self.content_names.put((r.kind, r.name.clone()), r, version),
        }
    }

    /// All objects with their versions, for a compacted copy.
    pub(crate) fn objects(&self) -> Vec<(u64, Object)> {
        fn all<K, V: Clone>(table: &Table<K, V>, wrap: fn(V) -> Object, out: &mut Vec<(u64, Object)>) {
            out.extend(table.0.values().map(|e| (e.version, wrap(V::clone(&e.value)))));
        }
        let mut out = Vec::new();
        all(&self.clusters, Object::Cluster, &mut out);
        all(&self.nodes, Object::Node, &mut out);
        all(&self.stacks, Object::Stack, &mut out);
        all(&self.revisions, Object::Revision, &mut out);
        all(&self.services, Object::Service, &mut out);
        all(&self.tasks, Object::Task, &mut out);
        all(&self.volumes, Object::Volume, &mut out);
        all(&self.runs, Object::Run, &mut out);
        all(&self.networks, Object::Network, &mut out);
        all(&self.logins, Object::Login, &mut out);
        all(&self.contents, Object::Content, &mut out);
        all(&self.content_parts, Object::ContentPart, &mut out);
        all(&self.content_names, Object::ContentName, &mut out);
        out
    }
}
