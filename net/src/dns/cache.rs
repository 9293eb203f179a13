//! Answers of upstream resolvers, kept for as long as they allow. Pure: the time is an argument.
//!
//! Owns: what is kept, for how long and how much of it. Does not own: asking (`forward`).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::response::Response;
use super::wire::{Name, Query};

/// Most answers kept.
pub(crate) const MAX_ENTRIES: usize = 4096;
/// Most memory that kept answers take, in bytes.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Longest time an answer is kept, whatever its TTL.
const MAX_KEEP: Duration = Duration::from_secs(3600);
/// Longest time the absence of a name is kept, whatever its SOA says.
const MAX_NEGATIVE_KEEP: Duration = Duration::from_secs(60);
/// What an entry takes beside its packet, in bytes (keys, map nodes), as an estimate.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: Name,
    qtype: u16,
    qclass: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
    /// Different resolvers may tell different things (split horizon).
    upstreams: Vec<SocketAddr>,
}

impl Key {
    pub(crate) fn new(query: &Query, upstreams: &[SocketAddr]) -> Key {
        Key {
            name: query.name.clone(),
            qtype: query.qtype,
            qclass: query.qclass,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled(),
            upstreams: upstreams.to_vec(),
        }
    }
}

/// The kept answers, least recently used first out.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Arc<Key>, Entry>,
    by_use: BTreeMap<u64, Arc<Key>>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    response: Arc<Response>,
    received: Instant,
    expires: Instant,
    used: u64,
}

impl Cache {
    /// The kept answer and its age in seconds.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<(Arc<Response>, u32)> {
        let (kept_key, entry) = self.entries.get_key_value(key)?;
        let kept_key = kept_key.clone();
        if entry.expires <= now {
            self.remove(&kept_key);
            return None;
        }
        self.clock += 1;
        let used = self.clock;
        let entry = self.entries.get_mut(&kept_key)?;
        self.by_use.remove(&entry.used);
        entry.used = used;
        self.by_use.insert(used, kept_key);
        let age = now.saturating_duration_since(entry.received).as_secs();
        Some((entry.response.clone(), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Keeps an answer if it may be kept.
    pub(crate) fn put(&mut self, key: Key, response: Arc<Response>, now: Instant) {
        let limit = if response.is_negative() { MAX_NEGATIVE_KEEP } else { MAX_KEEP };
        let keep = Duration::from_secs(u64::from(response.keep_seconds.unwrap_or(0))).min(limit);
        let size = response.size() + ENTRY_OVERHEAD_BYTES;
        if keep.is_zero() || size > MAX_BYTES {
            return;
        }
        let key = Arc::new(key);
        self.remove(&key);
        while self.entries.len() >= MAX_ENTRIES || self.bytes + size > MAX_BYTES {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += size;
        self.by_use.insert(self.clock, key.clone());
        let entry = Entry { response, received: now, expires: now + keep, used: self.clock };
        self.entries.insert(key, entry);
    }

    /// Number of kept answers.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &Arc<Key>) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.response.size() + ENTRY_OVERHEAD_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::wire::{Rcode, Reply, encode_name};

    fn query(name: &str) -> Query {
        let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(encode_name(name));
        packet.extend([0, 1, 0, 1]);
        Query::parse(&packet).unwrap()
    }

    fn response(name: &str, ttl: u32, padding: usize) -> Arc<Response> {
        let mut reply = Reply::new(&query(name), Rcode::NoError, 65_535);
        assert!(reply.push_answer(16, ttl, &vec![0; padding]));
        Arc::new(Response::parse(&reply.finish()).unwrap())
    }

    #[test]
    fn an_answer_is_kept_for_its_ttl_and_ages() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let key = Key::new(&query("a.example"), &[]);
        cache.put(key.clone(), response("a.example", 10, 4), start);
        assert_eq!(cache.get(&key, start + Duration::from_secs(9)).unwrap().1, 9);
        assert!(cache.get(&key, start + Duration::from_secs(10)).is_none());
        assert_eq!((cache.len(), cache.bytes, cache.by_use.len()), (0, 0, 0));
        cache.put(key.clone(), response("a.example", 0, 4), start);
        assert_eq!(cache.len(), 0, "a TTL of zero is not kept");
    }

    #[test]
    fn letter_case_does_not_matter_but_resolvers_do() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(Key::new(&query("a.example"), &[]), response("a.example", 10, 4), start);
        assert!(cache.get(&Key::new(&query("A.Example"), &[]), start).is_some());
        let own = ["127.0.0.1:53".parse().unwrap()];
        assert!(cache.get(&Key::new(&query("a.example"), &own), start).is_none());
    }

    #[test]
    fn a_negative_answer_is_kept_by_its_soa_and_a_failure_is_not() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let key = Key::new(&query("no.example"), &[]);
        let mut reply = Reply::new(&query("no.example"), Rcode::NxDomain, 512);
        reply.push_soa("example", 1, 600);
        cache.put(key.clone(), Arc::new(Response::parse(&reply.finish()).unwrap()), start);
        assert!(cache.get(&key, start + Duration::from_secs(59)).is_some());
        assert!(cache.get(&key, start + Duration::from_secs(60)).is_none(), "capped");
        for rcode in [Rcode::NxDomain, Rcode::ServFail, Rcode::Refused] {
            let bare = Reply::new(&query("no.example"), rcode, 512).finish();
            cache.put(key.clone(), Arc::new(Response::parse(&bare).unwrap()), start);
            assert!(cache.get(&key, start).is_none());
        }
    }

    #[test]
    fn entries_and_bytes_are_bounded_and_the_least_used_goes_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let key = |index: usize| Key::new(&query(&format!("n{index}.example")), &[]);
        let put = |cache: &mut Cache, index: usize, padding| {
            cache.put(key(index), response(&format!("n{index}.example"), 60, padding), now);
        };
        for index in 0..MAX_ENTRIES {
            put(&mut cache, index, 4);
        }
        assert!(cache.get(&key(0), now).is_some());
        put(&mut cache, MAX_ENTRIES, 4);
        assert_eq!(cache.len(), MAX_ENTRIES);
        assert!(cache.get(&key(0), now).is_some(), "used lately");
        assert!(cache.get(&key(1), now).is_none(), "the least recently used");
        for index in 10_000..10_200 {
            put(&mut cache, index, 60_000);
        }
        assert!(cache.bytes <= MAX_BYTES && cache.len() > 0);
        assert_eq!(cache.entries.len(), cache.by_use.len());
    }
}
