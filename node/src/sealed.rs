//! Secrets and configs of this node's tasks at rest: each sealed in a file of its own, so that tasks start again after a reboot
//! without a scheduler.
//!
//! ```text
//! STATE/keys/node.key           32 random bytes, 0600, made at the first start
//! STATE/node/contents/DIGEST    version, nonce, ChaCha20-Poly1305 of the content, bound to its digest; 0600
//! ```
//! Owns these files. A content is written before the assignment that needs it and goes after the one that does not: the ledger
//! sees to the order. What is written is never plain, so that a crash at any step leaves nothing to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carrack_api::{Assignment, Content};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::config::NodeError;
use crate::identity::{file_error, replace};

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// First byte of a sealed content: how the rest is read.
const FORM: u8 = 1;
/// Longest digest that names a file, bytes.
const DIGEST_MAX_BYTES: usize = 128;

/// Seals contents into files. Clones are the same.
#[derive(Clone)]
pub(crate) struct SealedContents {
    directory: PathBuf,
    key: Arc<LessSafeKey>,
}

impl std::fmt::Debug for SealedContents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedContents").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Where the key is.
fn key_path(state_dir: &Path) -> PathBuf {
    state_dir.join("keys").join("node.key")
}

/// The file of the key: without it the node asks for its contents again.
pub(crate) fn is_key(path: &Path) -> bool {
    path.ends_with("keys/node.key")
}

impl SealedContents {
    /// Takes the key of a state directory, making it at the first start.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, NodeError> {
        let path = key_path(state_dir);
        let key = match fs::read(&path) {
            Ok(key) => Zeroizing::new(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_key(&path).map_err(file_error("make", &path))?
            }
            Err(error) => return Err(file_error("read", &path)(error)),
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| NodeError::Format {
            path: path.clone(),
            reason: format!("a key has {KEY_BYTES} bytes, this one has {}", key.len()),
        })?;
        Ok(Self { directory: state_dir.join("node/contents"), key: Arc::new(LessSafeKey::new(key)) })
    }

    /// The contents that tasks of an assignment need. One that is not there or does not open is left out and told of: its tasks
    /// wait for the scheduler.
    pub(crate) fn of(&self, assignment: &Assignment) -> BTreeMap<String, Content> {
        let tasks = assignment.tasks.values();
        let digests: BTreeSet<&String> = tasks
            .flat_map(|task| &task.spec.container.files)
            .filter_map(|file| file.digest.as_ref())
            .collect();
        let mut contents = BTreeMap::new();
        for digest in digests {
            match self.read(digest) {
                Ok(Some(content)) => drop(contents.insert(digest.clone(), content)),
                Ok(None) => tracing::warn!(
                    digest,
                    "a secret or config of this node does not open; it comes again from the scheduler"
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(digest, %error, "a secret or config of this node cannot be read")
                }
            }
        }
        contents
    }

    /// Writes what is not there yet.
    pub(crate) fn add(&self, contents: &BTreeMap<String, Content>) -> Result<(), NodeError> {
        if contents.is_empty() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(file_error("create", &self.directory))?;
        let known = self.names()?;
        for (digest, content) in contents {
            let Some(name) = file_name(digest).filter(|name| !known.contains(name)) else { continue };
            let path = self.directory.join(name);
            self.seal(digest, content)
                .and_then(|sealed| replace(&path, &sealed, || Ok(())))
                .map_err(file_error("write", &path))?;
        }
        Ok(())
    }

    /// Takes away what is none of these.
    pub(crate) fn keep_only(&self, contents: &BTreeMap<String, Content>) -> Result<(), NodeError> {
        let kept: BTreeSet<String> = contents.keys().filter_map(|digest| file_name(digest)).collect();
        for name in self.names()?.difference(&kept) {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<BTreeSet<String>, NodeError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(file_error("list", &self.directory)(error)),
        };
        let name =
            |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
        entries.map(name).collect::<io::Result<_>>().map_err(file_error("list", &self.directory))
    }

    fn seal(&self, digest: &str, content: &Content) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| io::Error::other("no random bytes"))?;
        let mut text = content.bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(digest.as_bytes()),
                &mut text,
            )
            .map_err(|_| io::Error::other("it cannot be sealed"))?;
        Ok([&[FORM], nonce.as_slice(), &text].concat())
    }

    fn read(&self, digest: &str) -> io::Result<Option<Content>> {
        let Some(name) = file_name(digest) else { return Ok(None) };
        let sealed = fs::read(self.directory.join(name))?;
        Ok(self.unseal(digest, &sealed))
    }

    fn unseal(&self, digest: &str, sealed: &[u8]) -> Option<Content> {
        let rest = sealed.strip_prefix(&[FORM])?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self.key.open_in_place(nonce, Aad::from(digest.as_bytes()), &mut text).ok()?.len();
        text.truncate(length);
        Some(Content::new(std::mem::take(&mut *text)))
    }
}

/// The file of a digest: what it says, without a character that means something in a path.
fn file_name(digest: &str) -> Option<String> {
    let plain = digest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-".contains(&byte));
    (plain && !digest.is_empty() && digest.len() <= DIGEST_MAX_BYTES).then(|| digest.replace(':', "-"))
}

fn make_key(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    replace(path, &key, || Ok(()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn contents(of: &[(&str, &[u8])]) -> BTreeMap<String, Content> {
        of.iter().map(|(digest, text)| ((*digest).to_owned(), Content::new(text.to_vec()))).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_written_is_read_back_and_is_never_plain() {
        let state = tempfile::tempdir().unwrap();
        let sealed = SealedContents::open(state.path()).unwrap();
        let all = contents(&[("hmac-sha256:1", b"canary"), ("sha256:2", b"")]);
        sealed.add(&all).unwrap();
        let again = SealedContents::open(state.path()).unwrap();
        for (digest, content) in &all {
            assert_eq!(again.read(digest).unwrap().as_ref(), Some(content));
            let path = state.path().join("node/contents").join(digest.replace(':', "-"));
            assert!(!fs::read(&path).unwrap().windows(6).any(|part| part == b"canary"));
            assert_eq!(mode(&path), 0o600);
        }
        let key = state.path().join("keys/node.key");
        assert_eq!((mode(&key), mode(key.parent().unwrap())), (0o600, 0o700));
        // Another key, or another content's file, opens nothing.
        fs::copy(
            state.path().join("node/contents/hmac-sha256-1"),
            state.path().join("node/contents/sha256-2"),
        )
        .unwrap();
        assert_eq!(again.read("sha256:2").unwrap(), None);
        fs::remove_file(&key).unwrap();
        assert_eq!(SealedContents::open(state.path()).unwrap().read("hmac-sha256:1").unwrap(), None);
    }

    #[test]
    fn what_no_task_needs_goes() {
        let state = tempfile::tempdir().unwrap();
        let sealed = SealedContents::open(state.path()).unwrap();
        sealed.keep_only(&BTreeMap::new()).unwrap();
        sealed.add(&contents(&[("a", b"1"), ("b", b"2")])).unwrap();
        sealed.keep_only(&contents(&[("b", b"2")])).unwrap();
        assert_eq!(sealed.names().unwrap(), ["b".to_owned()].into());
        assert!(sealed.read("a").is_err());
    }

    #[test]
    fn a_digest_is_no_path() {
        for bad in ["", "..", "a/b", "../../etc/passwd", "a\0", &"x".repeat(DIGEST_MAX_BYTES + 1)] {
            assert_eq!(file_name(bad), None, "{bad}");
        }
        assert_eq!(file_name("sha256:0a").as_deref(), Some("sha256-0a"));
    }

    #[test]
    fn a_damaged_key_is_told() {
        let state = tempfile::tempdir().unwrap();
        drop(SealedContents::open(state.path()).unwrap());
        fs::write(key_path(state.path()), b"short").unwrap();
        let error = SealedContents::open(state.path()).unwrap_err();
        assert!(error.to_string().contains("this one has 5"), "{error}");
        assert!(error.hint().unwrap().contains("node.key"), "{error}");
    }
}
