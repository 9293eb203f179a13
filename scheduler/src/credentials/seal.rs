//! Sealing: ChaCha20-Poly1305 under the key of the store's secrets. A sealed text is bound to what it is for, so that one moved to
//! another record does not open.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::key::KEY_BYTES;

/// Says how the rest of a sealed text is read.
const FORM: &str = "1:";

/// Seals and opens texts. Never printed.
pub(super) struct Sealer {
    key: LessSafeKey,
    digests: hmac::Key,
}

/// It could not be sealed or opened; why is not told by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsealable;

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(not shown)")
    }
}

impl Sealer {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Result<Self, Unsealable> {
        // A key of its own for digests: one key is not used in two ways.
        let digests = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"carrack digests of secrets");
        let digests = hmac::Key::new(hmac::HMAC_SHA256, digests.as_ref());
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| Unsealable)?;
        Ok(Self { key: LessSafeKey::new(key), digests })
    }

    /// The text under a nonce of its own: 96 random bits, which collide for nobody who seals fewer than 2^32 texts.
    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<String, Unsealable> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Unsealable)?;
        let mut text = plain.to_vec();
        let purpose = Aad::from(purpose.as_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), purpose, &mut text)
            .map_err(|_| Unsealable)?;
        Ok(format!("{FORM}{}{}", hex(&nonce), hex(&text)))
    }

    /// A digest for a purpose, in hexadecimal digits.
    pub(super) fn digest(&self, purpose: &str, bytes: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.digests);
        context.update(purpose.as_bytes());
        context.update(bytes);
        hex(context.sign().as_ref())
    }

    pub(super) fn open(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, Unsealable> {
        let mut bytes = sealed.strip_prefix(FORM).and_then(unhex).ok_or(Unsealable)?;
        let mut text = bytes.split_off(NONCE_LEN.min(bytes.len()));
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| Unsealable)?;
        let purpose = Aad::from(purpose.as_bytes());
        let plain = self.key.open_in_place(nonce, purpose, &mut text).map_err(|_| Unsealable)?.len();
        text.truncate(plain);
        Ok(text)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_only_whole_under_its_key_and_for_its_purpose() {
        let sealer = Sealer::new(&[7; KEY_BYTES]).unwrap();
        let sealed = sealer.seal("a", b"canary").unwrap();
        assert_eq!(sealer.open("a", &sealed).unwrap(), b"canary");
        assert_ne!(sealer.seal("a", b"canary").unwrap(), sealed);
        assert_eq!(sealer.open("b", &sealed), Err(Unsealable));
        assert_eq!(Sealer::new(&[8; KEY_BYTES]).unwrap().open("a", &sealed), Err(Unsealable));
        for length in 0..sealed.len() {
            assert_eq!(sealer.open("a", &sealed[..length]), Err(Unsealable), "cut at {length}");
        }
        for bad in ["", "1:", "2:00", "1:zz", "1:\u{e4}"] {
            assert_eq!(sealer.open("a", bad), Err(Unsealable), "{bad}");
        }
    }
}
