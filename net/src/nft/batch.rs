//! Changes to nftables as atomic batches.
//!
//! Owns: the messages that make and remove our table, its elements, and rules in foreign chains; chunking of long
//! element lists (an attribute ends at 64 KiB). Owns not: which changes ([`crate::plan`]).

use std::collections::BTreeMap;

use crate::error::NetError;
use crate::nft::expr::{Exprs, Verdict, value};
use crate::nft::foreign::{ForeignRule, Place};
use crate::nft::sets::{DataShape, Datum, Elements, Key, SetId, concatenated, describe_key};
use crate::nft::skeleton::{Chain, Layout, Rule, TABLE, chains, port_chain, service_chain};
use crate::socket::{Request, Socket};
use crate::wire::{Attrs, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, nfgen};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
pub(crate) const GET_SET: u16 = 10;
const NEW_ELEMENTS: u16 = 12;
pub(crate) const GET_ELEMENTS: u16 = 13;
const DEL_ELEMENTS: u16 = 14;
pub(crate) const GET_GENERATION: u16 = 16;

pub(crate) const FAMILY_UNSPEC: u8 = 0;
pub(crate) const FAMILY_INET: u8 = 1;
pub(crate) const FAMILY_IP: u8 = 2;

const SET_FLAG_MAP: u32 = 0x8;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
const POLICY_ACCEPT: u32 = 1;

/// Elements in one message: far below the 64 KiB of an attribute, and a failure is still told apart.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// Most bytes of user data that the kernel keeps with an object.
const USERDATA_MAX: usize = 256;

/// nftables' kind number of a message.
pub(crate) fn kind(message: u16) -> u16 {
    SUBSYSTEM | message
}

/// One change to the elements of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElementChange {
    /// The set.
    pub set: SetId,
    /// The element.
    pub key: Key,
    /// What it yields now, if it is there.
    pub old: Option<Datum>,
    /// What it shall yield, if it shall be there.
    pub new: Option<Datum>,
}

/// A batch that grows; sent at once, made as a whole or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    requests: Vec<Request>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn commit(&self, socket: &mut Socket, action: &str) -> Result<(), NetError> {
        let frame = |kind| Request { kind, flags: 0, payload: nfgen(0, 10, &[]), action: action.to_owned() };
        socket.batch(&frame(BATCH_BEGIN), &self.requests, &frame(BATCH_END))
    }

    /// Our table with everything in it. An old one is removed in the same batch: no packet sees neither.
    pub(crate) fn replace_table(&mut self, instance: &str, layout: Layout, elements: &Elements) {
        self.delete_table();
        let comment = comment(&owner_tag(instance));
        self.add("create table carrack", NEW_TABLE, NLM_F_CREATE, &table_attrs(1).bytes(6, &comment));
        for (number, set) in SetId::all().enumerate() {
            self.add_set(set, u32::try_from(number).unwrap_or_default() + 1);
        }
        let chains = chains(layout);
        for chain in &chains {
            self.add_chain(chain);
        }
        for chain in &chains {
            for rule in &chain.rules {
                self.add_rule(&chain.name, rule);
            }
        }
        let added: Vec<ElementChange> = elements
            .iter()
            .flat_map(|(set, map)| {
                map.iter().map(|(key, new)| ElementChange {
                    set: *set,
                    key: *key,
                    old: None,
                    new: Some(*new),
                })
            })
            .collect();
        self.change_elements(&added);
    }

    /// Removes our table, also when there is none: making it first is no error, and then it can be removed.
    pub(crate) fn delete_table(&mut self) {
        self.add("create table carrack", NEW_TABLE, NLM_F_CREATE, &table_attrs(1));
        self.add("delete table carrack", DEL_TABLE, 0, &table_attrs(1));
    }

    /// Removes what goes or changes, then adds what comes or changes.
    pub(crate) fn change_elements(&mut self, changes: &[ElementChange]) {
        let mut gone: BTreeMap<SetId, Vec<(Key, Datum)>> = BTreeMap::new();
        let mut new: BTreeMap<SetId, Vec<(Key, Datum)>> = BTreeMap::new();
        for change in changes {
            if let Some(datum) = change.old {
                gone.entry(change.set).or_default().push((change.key, datum));
            }
            if let Some(datum) = change.new {
                new.entry(change.set).or_default().push((change.key, datum));
            }
        }
        for (set, elements) in gone {
            self.add_elements("remove", DEL_ELEMENTS, 0, set, &elements);
        }
        for (set, elements) in new {
            self.add_elements("add", NEW_ELEMENTS, NLM_F_CREATE | NLM_F_EXCL, set, &elements);
        }
    }

    /// Puts a rule into somebody else's chain.
    pub(crate) fn insert_foreign_rule(&mut self, rule: &ForeignRule, place: Place, exprs: &Exprs, tag: &str) {
        let attrs = Attrs::new().text(1, &rule.table).text(2, &rule.chain).nest(4, exprs.attrs().clone());
        let (attrs, flags) = match place {
            Place::Before(handle) => (attrs.be64(6, handle), NLM_F_CREATE),
            Place::End => (attrs, NLM_F_CREATE | NLM_F_APPEND),
        };
        let action = format!("accept {rule}");
        self.push(action, NEW_RULE, flags, rule.family, &attrs.bytes(7, &comment(tag)));
    }

    pub(crate) fn delete_foreign_rule(&mut self, family: u8, table: &str, chain: &str, handle: u64) {
        let attrs = Attrs::new().text(1, table).text(2, chain).be64(3, handle);
        self.push(
            format!("remove our rule from chain {chain} of table {table}"),
            DEL_RULE,
            0,
            family,
            &attrs,
        );
    }

    fn add_set(&mut self, set: SetId, id: u32) {
        let attrs = set_attrs(set).text(1, TABLE).be32(10, id);
        self.add(&format!("create set {}", set.name()), NEW_SET, NLM_F_CREATE, &attrs);
    }

    fn add_chain(&mut self, chain: &Chain) {
        let attrs = chain_attrs(chain).text(1, TABLE);
        self.add(&format!("create chain {}", chain.name), NEW_CHAIN, NLM_F_CREATE, &attrs);
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let attrs = rule_attrs(rule).text(1, TABLE).text(2, chain);
        let action = format!("create the rule {:?} of chain {chain}", rule.comment);
        self.add(&action, NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &attrs);
    }

    fn add_elements(&mut self, verb: &str, message: u16, flags: u16, set: SetId, elements: &[(Key, Datum)]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let list =
                chunk.iter().fold(Attrs::new(), |list, (key, datum)| list.nest(1, element(set, key, *datum)));
            let attrs = Attrs::new().text(1, TABLE).text(2, &set.name()).nest(3, list);
            let first = chunk.first().map(|(key, _)| describe_key(set, key)).unwrap_or_default();
            let action = format!("{verb} {} elements of {}, from {first}", chunk.len(), set.name());
            self.add(&action, message, flags, &attrs);
        }
    }

    fn add(&mut self, action: &str, message: u16, flags: u16, attrs: &Attrs) {
        self.push(action.to_owned(), message, flags, FAMILY_IP, attrs);
    }

    fn push(&mut self, action: String, message: u16, flags: u16, family: u8, attrs: &Attrs) {
        let payload = nfgen(family, 0, attrs.as_slice());
        self.requests.push(Request { kind: kind(message), flags, payload, action });
    }
}

/// The comment by which we know our table and our rules in foreign chains.
pub(crate) fn owner_tag(instance: &str) -> String {
    format!("{TABLE} {instance}")
}

/// A comment as nftables' tools store it: type, length, text with its zero.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.bytes().take(USERDATA_MAX - 3).chain([0]).collect();
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [0, length].into_iter().chain(text).collect()
}

/// The text of a stored comment.
pub(crate) fn comment_text(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = tail.get(usize::from(*length)..)?;
    }
    None
}

/// What defines a set, without its table and id.
pub(crate) fn set_attrs(set: SetId) -> Attrs {
    let types = set.key_types();
    let flags = if set.data() == DataShape::Nothing { 0 } else { SET_FLAG_MAP };
    let length = u32::try_from(set.key_length()).unwrap_or_default();
    let attrs = Attrs::new().text(2, &set.name()).be32(3, flags).be32(4, concatenated(types)).be32(5, length);
    match set.data() {
        DataShape::Nothing => attrs,
        DataShape::Verdict => attrs.be32(6, DATA_TYPE_VERDICT),
        DataShape::Value { kind, length } => attrs.be32(6, kind).be32(7, length),
    }
}

/// What defines a chain, without its table.
pub(crate) fn chain_attrs(chain: &Chain) -> Attrs {
    let attrs = Attrs::new().text(3, &chain.name);
    match chain.hook {
        None => attrs,
        Some(hook) => {
            let place = Attrs::new().be32(1, hook.number).bytes(2, &hook.priority.to_be_bytes());
            attrs.nest(4, place).be32(5, POLICY_ACCEPT).text(7, hook.kind)
        }
    }
}

/// What defines a rule, without its table and chain.
pub(crate) fn rule_attrs(rule: &Rule) -> Attrs {
    Attrs::new().nest(4, rule.exprs.attrs().clone()).bytes(7, &comment(rule.comment))
}

fn table_attrs(name_attr: u16) -> Attrs {
    Attrs::new().text(name_attr, TABLE)
}

fn element(set: SetId, key: &Key, datum: Datum) -> Attrs {
    let attrs = Attrs::new().nest(1, value(key.get(..set.key_length()).unwrap_or(key)));
    match (datum, set.data()) {
        (Datum::Chain(class), _) => {
            let chain = match set {
                SetId::Ports => port_chain(class, key.starts_with(&[0; 4])),
                _ => service_chain(class),
            };
            attrs.nest(2, Verdict::Goto(&chain).data())
        }
        (Datum::Value(bytes), DataShape::Value { length, .. }) => {
            let length = usize::try_from(length).unwrap_or(bytes.len());
            attrs.nest(2, value(bytes.get(..length).unwrap_or(&bytes)))
        }
        (Datum::Value(_), DataShape::Nothing | DataShape::Verdict) | (Datum::Nothing, _) => attrs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_as_they_were_written() {
        assert_eq!(comment_text(&comment("carrack a-1")).as_deref(), Some("carrack a-1"));
        assert_eq!(comment_text(&[1, 2, 0, 0, 0, 2, b'x', 0]).as_deref(), Some("x"));
        assert_eq!(comment_text(&[0, 200, 1]), None);
        assert_eq!(comment_text(&[]), None);
        assert!(comment(&"x".repeat(1000)).len() <= USERDATA_MAX);
    }

    #[test]
    fn long_element_lists_are_cut_into_messages() {
        let mut batch = Batch::new();
        let changes: Vec<ElementChange> = (0..1000)
            .map(|slot| ElementChange {
                set: SetId::Slots(crate::nft::sets::SizeClass::S4096),
                key: crate::nft::sets::slot_key(std::net::Ipv4Addr::LOCALHOST, slot),
                old: None,
                new: Some(crate::nft::sets::address_value(std::net::Ipv4Addr::LOCALHOST)),
            })
            .collect();
        batch.change_elements(&changes);
        assert_eq!(batch.requests.len(), 4);
        assert!(batch.requests.iter().all(|request| request.payload.len() < usize::from(u16::MAX)));
    }
}
