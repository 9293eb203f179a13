//! How content rests in the store: in parts that fit its objects, those of secrets sealed. Owns the digest that names it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use carrack_api::{Content, ContentKind, ContentName, Timestamp, base64};

use crate::credentials::{SealError, Vault};
use crate::store::{ContentPartRecord, ContentRecord, Key, Object, Op, Snapshot};

/// Bytes of a part; sealed and as hexadecimal digits they are less than an object may have.
const PART_BYTES: usize = 100 << 10;
/// Bytes that the record itself holds, so that small content is one object.
const FIRST_PART_BYTES: usize = 64 << 10;

/// What a content is called: of a config its SHA-256; of a secret a digest under the key of the store's secrets and for its name,
/// so that nobody can try contents on it, nor see that two secrets are the same.
pub(crate) fn digest(vault: &Vault, kind: ContentKind, name: &ContentName, content: &Content) -> String {
    match kind {
        ContentKind::Secret => {
            format!("hmac-sha256:{}", vault.digest(&format!("secret\0{name}\0"), content.bytes()))
        }
        ContentKind::Config => format!("sha256:{}", Vault::plain_digest(content.bytes())),
    }
}

/// The changes that store a content, and its own record first.
pub(crate) fn keep(
    vault: &Vault,
    kind: ContentKind,
    digest: &str,
    content: &Content,
    now: Timestamp,
) -> Result<Vec<Op>, SealError> {
    let bytes = content.bytes();
    let (first, rest) = bytes.split_at(bytes.len().min(FIRST_PART_BYTES));
    let parts: Vec<&[u8]> = rest.chunks(PART_BYTES).collect();
    let record = ContentRecord {
        digest: digest.to_owned(),
        kind,
        size: bytes.len() as u64,
        at: now,
        first: close(vault, kind, digest, 0, first)?,
        parts: u32::try_from(parts.len()).map_err(|_| SealError)?,
    };
    let mut ops = vec![Op::Put(Object::Content(record))];
    for (number, part) in (1..).zip(parts) {
        let data = close(vault, kind, digest, number, part)?;
        ops.push(Op::Put(Object::ContentPart(ContentPartRecord { digest: digest.to_owned(), number, data })));
    }
    Ok(ops)
}

/// The changes that take a content away.
pub(crate) fn forget(record: &ContentRecord) -> Vec<Op> {
    let parts = (1..=record.parts).map(|number| Key::ContentPart(record.digest.clone(), number));
    std::iter::once(Key::Content(record.digest.clone())).chain(parts).map(Op::Delete).collect()
}

/// The record opens under the key that is there.
pub(crate) fn opens(vault: &Vault, record: &ContentRecord) -> bool {
    open(vault, record.kind, &record.digest, 0, &record.first).is_some()
}

/// A content in plain; `None` when it is not kept whole, or its secret does not open.
pub(crate) fn read(vault: &Vault, snapshot: &Snapshot, digest: &str) -> Option<Content> {
    let record = snapshot.contents.get(&digest.to_owned())?;
    // Filled in place: a buffer that grew would leave copies behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(usize::try_from(record.size).ok()?));
    bytes.extend_from_slice(&open(vault, record.kind, digest, 0, &record.first)?);
    for number in 1..=record.parts {
        let part = snapshot.content_parts.get(&(digest.to_owned(), number))?;
        bytes.extend_from_slice(&open(vault, record.kind, digest, number, &part.data)?);
    }
    (bytes.len() as u64 == record.size).then(|| Content::new(std::mem::take(&mut *bytes)))
}

fn close(
    vault: &Vault,
    kind: ContentKind,
    digest: &str,
    number: u32,
    plain: &[u8],
) -> Result<String, SealError> {
    match kind {
        ContentKind::Secret => vault.seal_bytes(&purpose(digest, number), plain),
        ContentKind::Config => Ok(base64::encode(plain)),
    }
}

fn open(
    vault: &Vault,
    kind: ContentKind,
    digest: &str,
    number: u32,
    data: &str,
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let plain = match kind {
        ContentKind::Secret => vault.open_bytes(&purpose(digest, number), data),
        ContentKind::Config => base64::decode(data),
    };
    plain.map(zeroize::Zeroizing::new)
}

fn purpose(digest: &str, number: u32) -> String {
    format!("content\0{digest}\0{number}")
}

/// Contents in plain that nodes were given, so that none is opened again with each assignment.
#[derive(Debug, Default)]
pub(crate) struct OpenContents(Mutex<BTreeMap<String, Option<Content>>>);

impl OpenContents {
    /// The contents of these digests; all others are wiped. One that cannot be read is left out and told of once.
    pub(crate) fn only(
        &self,
        vault: &Vault,
        snapshot: &Snapshot,
        digests: impl IntoIterator<Item = String>,
    ) -> BTreeMap<String, Content> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = BTreeMap::new();
        for digest in digests {
            let content = known.remove(&digest).unwrap_or_else(|| {
                let content = read(vault, snapshot, &digest);
                if content.is_none() {
                    tracing::warn!(digest, "a secret or config cannot be read: the key of the store's secrets is another one, or it is not kept; deploy again");
                }
                content
            });
            open.insert(digest, content);
        }
        *known = open;
        known.iter().filter_map(|(digest, content)| Some((digest.clone(), content.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(vault: &Vault, kind: ContentKind, content: &Content) -> (String, Snapshot, Vec<Op>) {
        let digest = digest(vault, kind, &"a".parse().unwrap(), content);
        let mut snapshot = Snapshot::default();
        let ops = keep(vault, kind, &digest, content, Timestamp(1)).unwrap();
        ops.iter().cloned().for_each(|op| snapshot.apply(op, 1));
        (digest, snapshot, ops)
    }

    fn vault() -> Vault {
        Vault::open(tempfile::tempdir().unwrap().path()).unwrap()
    }

    #[test]
    fn content_of_any_size_is_read_back_and_fits_the_store() {
        let vault = vault();
        for size in [0, 1, FIRST_PART_BYTES, FIRST_PART_BYTES + 1, carrack_api::CONTENT_MAX_BYTES] {
            let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let content = Content::new(bytes);
            for kind in [ContentKind::Secret, ContentKind::Config] {
                let (digest, mut snapshot, ops) = kept(&vault, kind, &content);
                for op in &ops {
                    assert!(serde_json::to_vec(op).unwrap().len() < crate::store::OBJECT_MAX_BYTES);
                }
                assert_eq!(read(&vault, &snapshot, &digest).as_ref(), Some(&content), "{kind} of {size}");
                let record = snapshot.contents.get(&digest).unwrap().clone();
                forget(&record).into_iter().for_each(|op| snapshot.apply(op, 2));
                assert_eq!((snapshot.contents.len(), snapshot.content_parts.len()), (0, 0));
            }
        }
    }

    #[test]
    fn a_secret_rests_sealed_and_its_digest_tells_nothing() {
        let (own, other) = (vault(), vault());
        let content = Content::new(b"canary".to_vec());
        let (digest, snapshot, ops) = kept(&own, ContentKind::Secret, &content);
        let text = format!("{}{ops:?}", serde_json::to_string(&ops).unwrap());
        assert!(!text.contains("canary") && !text.contains(&base64::encode(b"canary")), "{text}");
        assert_eq!(read(&other, &snapshot, &digest), None);
        let of = |vault: &Vault, name: &str| {
            super::digest(vault, ContentKind::Secret, &name.parse().unwrap(), &content)
        };
        assert_ne!(of(&own, "a"), of(&own, "b"));
        assert_ne!(of(&own, "a"), of(&other, "a"));
        assert_eq!(of(&own, "a"), of(&own, "a"));
    }

    #[test]
    fn what_is_not_needed_is_not_held_open() {
        let vault = vault();
        let (digest, snapshot, _) = kept(&vault, ContentKind::Secret, &Content::new(b"x".to_vec()));
        let open = OpenContents::default();
        let wanted = [digest.clone(), "hmac-sha256:gone".to_owned()];
        assert_eq!(open.only(&vault, &snapshot, wanted).keys().collect::<Vec<_>>(), [&digest]);
        assert!(open.only(&vault, &snapshot, []).is_empty());
        assert!(open.0.lock().unwrap().is_empty());
    }
}
