//! Credentials for registries, as stacks keep them: one record a stack and registry, sealed in the store.
//!
//! Owns which are kept, how they are sealed and when they go: a deploy or a login replaces them, and they leave with the last
//! revision that needs their registry, at the latest with their stack. In plain they are in memory only: of this process, and of
//! a node that has a task of the stack. Owns no transaction: it says which changes one is to hold.

mod key;
mod seal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use carrack_api::{RegistryCredentials, StackName, StackSpec, Timestamp};

pub use key::KeyError;
use seal::Sealer;

use crate::image_name::registry;
use crate::store::{Key, LoginRecord, Object, Op, Snapshot};

/// Longest user name and longest password or token, bytes: cloud registries' tokens have a few thousand.
const USER_MAX_BYTES: usize = 1 << 10;
const PASSWORD_MAX_BYTES: usize = 32 << 10;
/// Registries that one stack has credentials for.
pub(crate) const REGISTRIES_MAX: usize = 32;

/// Credentials by registry.
pub(crate) type Logins = BTreeMap<String, RegistryCredentials>;

/// Seals and opens the credentials of the store.
#[derive(Debug)]
pub(crate) struct Vault {
    sealer: Sealer,
    /// Records that did not open and were told of.
    unopened: Mutex<BTreeSet<LoginRecord>>,
}

/// Credentials could not be sealed: the kernel has no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credentials could not be encrypted")]
pub(crate) struct SealError;

impl Vault {
    /// Takes the key in `directory`, making one at the first start.
    pub(crate) fn open(directory: &Path) -> Result<Self, KeyError> {
        let sealer = Sealer::new(&key::load(directory)?).map_err(|_| KeyError::Random)?;
        Ok(Self { sealer, unopened: Mutex::default() })
    }

    /// What a stack keeps.
    pub(crate) fn of_stack(&self, snapshot: &Snapshot, stack: &StackName) -> Logins {
        let records = snapshot.logins_of(stack);
        records.filter_map(|record| Some((record.registry.clone(), self.read(record)?))).collect()
    }

    /// Changes of the store that make `given` what the stack keeps for its registries, and that take away what neither `spec` nor
    /// a kept revision needs. Empty when nothing changes.
    pub(crate) fn keep(
        &self,
        snapshot: &Snapshot,
        spec: &StackSpec,
        given: &Logins,
        now: Timestamp,
    ) -> Result<Vec<Op>, SealError> {
        let known = self.of_stack(snapshot, &spec.name);
        let mut ops = Vec::new();
        for (registry, credentials) in given {
            if known.get(registry) != Some(credentials) {
                ops.push(Op::Put(Object::Login(self.seal(&spec.name, registry, credentials, now)?)));
            }
        }
        let mut needed = registries(spec);
        let revisions = snapshot.revisions.range((spec.name.clone(), 0)..=(spec.name.clone(), u64::MAX));
        revisions.for_each(|revision| needed.extend(registries(&revision.spec)));
        let runs = snapshot.runs_of(&spec.name);
        needed.extend(runs.map(|run| registry(&run.spec.task.container.image).to_owned()));
        let unneeded = snapshot.logins_of(&spec.name).filter(|login| !needed.contains(&login.registry));
        ops.extend(unneeded.map(|login| Op::Delete(Key::Login(login.stack.clone(), login.registry.clone()))));
        Ok(ops)
    }

    /// Changes that make `credentials` what every stack with some for the registry keeps for it.
    pub(crate) fn replace(
        &self,
        snapshot: &Snapshot,
        registry: &str,
        credentials: &RegistryCredentials,
        now: Timestamp,
    ) -> Result<Vec<Op>, SealError> {
        let records = snapshot.logins.values().filter(|login| login.registry == registry);
        let changed = records.filter(|login| self.read(login).as_ref() != Some(credentials));
        changed
            .map(|login| Ok(Op::Put(Object::Login(self.seal(&login.stack, registry, credentials, now)?))))
            .collect()
    }

    /// Seals bytes for a purpose.
    pub(crate) fn seal_bytes(&self, purpose: &str, plain: &[u8]) -> Result<String, SealError> {
        self.sealer.seal(purpose, plain).map_err(|_| SealError)
    }

    /// Bytes that were sealed for that purpose; `None` when they were not, or under another key.
    pub(crate) fn open_bytes(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        self.sealer.open(purpose, sealed).ok()
    }

    /// A digest of bytes for a purpose that only the holder of the key can make.
    pub(crate) fn digest(&self, purpose: &str, bytes: &[u8]) -> String {
        self.sealer.digest(purpose, bytes)
    }

    /// SHA-256.
    pub(crate) fn plain_digest(bytes: &[u8]) -> String {
        seal::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
    }

    fn seal(
        &self,
        stack: &StackName,
        registry: &str,
        credentials: &RegistryCredentials,
        now: Timestamp,
    ) -> Result<LoginRecord, SealError> {
        let plain = serde_json::to_vec(credentials).map_err(|_| SealError)?;
        let sealed = self.sealer.seal(&purpose(stack, registry), &plain).map_err(|_| SealError)?;
        Ok(LoginRecord { stack: stack.clone(), registry: registry.to_owned(), sealed, at: now })
    }

    /// A record in plain; one that does not open is told of once and is as if it were not there.
    fn read(&self, record: &LoginRecord) -> Option<RegistryCredentials> {
        let plain = self.sealer.open(&purpose(&record.stack, &record.registry), &record.sealed);
        let read = plain.ok().and_then(|plain| serde_json::from_slice(&plain).ok());
        if read.is_none()
            && self.unopened.lock().unwrap_or_else(PoisonError::into_inner).insert(record.clone())
        {
            tracing::warn!(
                stack = %record.stack, registry = record.registry,
                "kept credentials cannot be read: the key of the store's secrets is another one; deploy again"
            );
        }
        read
    }
}

fn purpose(stack: &StackName, registry: &str) -> String {
    format!("registry credentials\0{stack}\0{registry}")
}

/// The registries of a stack's images.
pub(crate) fn registries(spec: &StackSpec) -> BTreeSet<String> {
    spec.services.values().map(|service| registry(&service.task.container.image).to_owned()).collect()
}

/// Changes that take away what a stack keeps.
pub(crate) fn forget_stack(snapshot: &Snapshot, stack: &StackName) -> Vec<Op> {
    snapshot
        .logins_of(stack)
        .map(|login| Op::Delete(Key::Login(stack.clone(), login.registry.clone())))
        .collect()
}

/// Changes that take away what all stacks keep for a registry.
pub(crate) fn forget_registry(snapshot: &Snapshot, registry: &str) -> Vec<Op> {
    let records = snapshot.logins.values().filter(|login| login.registry == registry);
    records.map(|login| Op::Delete(Key::Login(login.stack.clone(), registry.to_owned()))).collect()
}

/// What is wrong with credentials, without a word of them.
pub(crate) fn check(credentials: &RegistryCredentials) -> Result<(), String> {
    let RegistryCredentials { username, password } = credentials;
    if username.is_empty() || password.is_empty() {
        return Err("user name and password must not be empty".into());
    }
    if username.len() > USER_MAX_BYTES || password.len() > PASSWORD_MAX_BYTES {
        return Err(format!(
            "a user name has at most {USER_MAX_BYTES} bytes and a password {PASSWORD_MAX_BYTES}"
        ));
    }
    if username.contains(':') {
        return Err("a user name cannot hold a colon".into());
    }
    let control = |text: &str| text.chars().any(char::is_control);
    if control(username) || control(password) {
        return Err("user name and password cannot hold control characters".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RevisionRecord;
    use crate::testing;

    fn login(password: &str) -> RegistryCredentials {
        RegistryCredentials { username: "canary-user".into(), password: password.into() }
    }

    fn apply(snapshot: &mut Snapshot, ops: Vec<Op>) {
        ops.into_iter().for_each(|op| snapshot.apply(op, 1));
    }

    fn vault() -> Vault {
        Vault::open(tempfile::tempdir().unwrap().path()).unwrap()
    }

    #[test]
    fn a_deploy_keeps_what_it_brought_and_a_later_one_without_any_keeps_that() {
        let (vault, mut snapshot) = (vault(), Snapshot::default());
        let spec = testing::stack("shop", &[("web", testing::service("reg.test/web:1"))]);
        let given = Logins::from([("reg.test".to_owned(), login("canary"))]);
        let ops = vault.keep(&snapshot, &spec, &given, Timestamp(5)).unwrap();
        assert!(!serde_json::to_string(&ops).unwrap().contains("canary"));
        apply(&mut snapshot, ops);
        assert_eq!(vault.of_stack(&snapshot, &spec.name), given);
        assert_eq!(vault.keep(&snapshot, &spec, &given, Timestamp(6)), Ok(Vec::new()));
        assert_eq!(vault.keep(&snapshot, &spec, &Logins::new(), Timestamp(6)), Ok(Vec::new()));
        let newer = Logins::from([("reg.test".to_owned(), login("other"))]);
        let ops = vault.keep(&snapshot, &spec, &newer, Timestamp(7)).unwrap();
        apply(&mut snapshot, ops);
        assert_eq!(vault.of_stack(&snapshot, &spec.name), newer);
    }

    #[test]
    fn credentials_leave_with_the_last_revision_that_needs_their_registry() {
        let (vault, mut snapshot) = (vault(), Snapshot::default());
        let first = testing::stack("shop", &[("web", testing::service("reg.test/web:1"))]);
        let given = Logins::from([("reg.test".to_owned(), login("x"))]);
        let ops = vault.keep(&snapshot, &first, &given, Timestamp(1)).unwrap();
        apply(&mut snapshot, ops);
        let revision =
            RevisionRecord { stack: first.name.clone(), revision: 1, at: Timestamp(1), spec: first.clone() };
        apply(&mut snapshot, vec![Op::Put(Object::Revision(revision))]);
        let second = testing::stack("shop", &[("web", testing::service("web:1"))]);
        assert_eq!(vault.keep(&snapshot, &second, &Logins::new(), Timestamp(2)), Ok(Vec::new()));
        apply(&mut snapshot, vec![Op::Delete(Key::Revision(first.name.clone(), 1))]);
        let ops = vault.keep(&snapshot, &second, &Logins::new(), Timestamp(3)).unwrap();
        apply(&mut snapshot, ops);
        assert!(vault.of_stack(&snapshot, &first.name).is_empty());
    }

    #[test]
    fn a_login_replaces_what_stacks_keep_for_that_registry_alone() {
        let (vault, mut snapshot) = (vault(), Snapshot::default());
        for (stack, image) in [("a", "reg.test/x"), ("b", "reg.test/y"), ("c", "other.test/z")] {
            let spec = testing::stack(stack, &[("web", testing::service(image))]);
            let given = Logins::from([(registry(image).to_owned(), login("old"))]);
            let ops = vault.keep(&snapshot, &spec, &given, Timestamp(1)).unwrap();
            apply(&mut snapshot, ops);
        }
        let ops = vault.replace(&snapshot, "reg.test", &login("new"), Timestamp(2)).unwrap();
        assert_eq!(ops.len(), 2);
        apply(&mut snapshot, ops);
        assert_eq!(vault.replace(&snapshot, "reg.test", &login("new"), Timestamp(3)), Ok(Vec::new()));
        let of = |snapshot: &Snapshot, stack: &str, host: &str| {
            vault.of_stack(snapshot, &stack.parse().unwrap()).get(host).map(|c| c.password.clone())
        };
        assert_eq!(of(&snapshot, "b", "reg.test").as_deref(), Some("new"));
        assert_eq!(of(&snapshot, "c", "other.test").as_deref(), Some("old"));
        let ops = forget_registry(&snapshot, "reg.test");
        apply(&mut snapshot, ops);
        assert_eq!((of(&snapshot, "a", "reg.test"), snapshot.logins.len()), (None, 1));
    }

    #[test]
    fn another_key_opens_nothing_and_says_so_once() {
        let (first, other, mut snapshot) = (vault(), vault(), Snapshot::default());
        let spec = testing::stack("shop", &[("web", testing::service("reg.test/web:1"))]);
        let given = Logins::from([("reg.test".to_owned(), login("canary"))]);
        let ops = first.keep(&snapshot, &spec, &given, Timestamp(1)).unwrap();
        apply(&mut snapshot, ops);
        for _ in 0..2 {
            assert!(other.of_stack(&snapshot, &spec.name).is_empty());
        }
        assert_eq!(other.unopened.lock().unwrap().len(), 1);
        // What is sealed may hold any short text by chance.
        assert!(!format!("{first:?} {snapshot:?}").contains("canary"));
    }

    #[test]
    fn credentials_that_no_header_can_hold_are_refused_without_a_word_of_them() {
        for (username, password) in
            [("", "x"), ("x", ""), ("a:b", "x"), ("a", "secret\n"), ("a", &"x".repeat(40_000))]
        {
            let bad = RegistryCredentials { username: username.into(), password: password.into() };
            assert!(!check(&bad).unwrap_err().contains("secret"));
        }
        assert_eq!(check(&login("p:x y")), Ok(()));
    }
}
