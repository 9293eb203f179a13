//! What nftables holds: our table, its elements.
//!
//! Owns: reading dumps and judging whether our table is as we make it. Owns not: repairs.

use std::collections::BTreeMap;

use crate::error::NetError;
use crate::nft::batch::{
    FAMILY_IP, GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, chain_attrs,
    comment_text, kind, owner_tag, rule_attrs, set_attrs,
};
use crate::nft::sets::{DataShape, Datum, Elements, Key, SetId};
use crate::nft::skeleton::{Chain, Layout, TABLE, chains, slot_chain_of};
use crate::socket::Socket;
use crate::wire::{Attr, Attrs, Message, attrs, find, includes, nfgen};

/// Length of the nfnetlink header in front of the attributes.
const NFGEN: usize = 4;

/// What there is under the name of our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// No table.
    Absent,
    /// A table whose owner tag is not ours.
    OfOther {
        /// Its tag.
        owner: String,
    },
    /// Our table, but a chain, rule or set is missing, added or changed.
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// Our table, as we make it.
    Intact,
}

/// The attributes of an nfnetlink message.
pub(crate) fn body(message: &Message) -> &[u8] {
    message.payload.get(NFGEN..).unwrap_or_default()
}

/// A number that changes with each change of the ruleset, by whomever.
pub(crate) fn generation(socket: &mut Socket) -> Result<u32, NetError> {
    let action = "read the nftables generation";
    let answers = socket.request(action, kind(GET_GENERATION), 0, &nfgen(0, 0, &[]))?;
    let number = answers.first().and_then(|answer| find(body(answer), 1)).and_then(Attr::be32);
    number.ok_or_else(|| NetError::Answer {
        action: action.to_owned(),
        detail: "there is no number".to_owned(),
    })
}

/// The owner tag of the table, `None` if there is no table.
pub(crate) fn table_owner(socket: &mut Socket) -> Result<Option<String>, NetError> {
    let action = "dump the nftables tables";
    let tables = socket.dump(action, kind(GET_TABLE), &nfgen(FAMILY_IP, 0, &[]))?;
    let ours = tables.iter().find(|table| find(body(table), 1).is_some_and(|name| name.text() == TABLE));
    Ok(ours.map(|table| find(body(table), 6).and_then(|data| comment_text(data.value)).unwrap_or_default()))
}

/// Compares the table with what we would make.
pub(crate) fn table_state(
    socket: &mut Socket,
    instance: &str,
    layout: Layout,
) -> Result<TableState, NetError> {
    match table_owner(socket)? {
        None => return Ok(TableState::Absent),
        Some(owner) if owner != owner_tag(instance) => {
            let owner = owner.strip_prefix(&format!("{TABLE} ")).unwrap_or(&owner).to_owned();
            return Ok(TableState::OfOther { owner });
        }
        Some(_) => {}
    }
    let damage = match damaged_set(socket)? {
        Some(what) => Some(what),
        None => damaged_chain(socket, &chains(layout))?,
    };
    Ok(damage.map_or(TableState::Intact, |what| TableState::Damaged { what }))
}

/// The elements of all our sets.
pub(crate) fn elements(socket: &mut Socket) -> Result<Elements, NetError> {
    let mut elements = Elements::new();
    for set in SetId::all() {
        let found = set_elements(socket, set)?;
        if !found.is_empty() {
            elements.insert(set, found);
        }
    }
    Ok(elements)
}

fn set_elements(socket: &mut Socket, set: SetId) -> Result<BTreeMap<Key, Datum>, NetError> {
    let filter = Attrs::new().text(1, TABLE).text(2, &set.name());
    let action = format!("dump the elements of {}", set.name());
    let answers = match socket.dump(&action, kind(GET_ELEMENTS), &nfgen(FAMILY_IP, 0, filter.as_slice())) {
        // A damaged table may lack a set; it has no elements then.
        Err(error) if error.refusal() == Some(libc::ENOENT) => Vec::new(),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for answer in &answers {
        for element in find(body(answer), 3).into_iter().flat_map(Attr::nested) {
            let (key, datum) = read_element(set, element).ok_or_else(|| NetError::Answer {
                action: action.clone(),
                detail: format!("an element has an unknown form: {:02x?}", element.value),
            })?;
            found.insert(key, datum);
        }
    }
    Ok(found)
}

fn read_element(set: SetId, element: Attr<'_>) -> Option<(Key, Datum)> {
    let mut key = Key::default();
    fill(&mut key, element.find(1)?.find(1)?.value);
    let datum = match set.data() {
        DataShape::Nothing => Datum::Nothing,
        DataShape::Verdict => {
            // A chain that is none of ours, or another verdict, differs from all that is wanted.
            let chain = element.find(2)?.find(2)?.find(2).map(Attr::text).unwrap_or_default();
            slot_chain_of(&chain).map_or(Datum::Nothing, Datum::Chain)
        }
        DataShape::Value { .. } => {
            let mut bytes = [0; 8];
            fill(&mut bytes, element.find(2)?.find(1)?.value);
            Datum::Value(bytes)
        }
    };
    Some((key, datum))
}

fn fill(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

fn damaged_set(socket: &mut Socket) -> Result<Option<String>, NetError> {
    let filter = Attrs::new().text(1, TABLE);
    let sets =
        socket.dump("dump the sets of carrack", kind(GET_SET), &nfgen(FAMILY_IP, 0, filter.as_slice()))?;
    Ok(SetId::all().find_map(|set| {
        let name = set.name();
        let Some(found) = sets.iter().find(|found| name_of(body(found), 2) == name) else {
            return Some(format!("set {name} is missing"));
        };
        // A set without flags has no attribute for them.
        let wanted = set_attrs(set);
        let plain = attrs(wanted.as_slice()).filter(|attr| attr.kind != 3 || attr.be32() != Some(0));
        let same = plain
            .into_iter()
            .all(|attr| find(body(found), attr.kind).is_some_and(|is| is.value == attr.value));
        (!same).then(|| format!("set {name} is of another type"))
    }))
}

fn damaged_chain(socket: &mut Socket, wanted: &[Chain]) -> Result<Option<String>, NetError> {
    let filter = Attrs::new().text(1, TABLE);
    let all = socket.dump("dump the chains", kind(GET_CHAIN), &nfgen(FAMILY_IP, 0, &[]))?;
    let found: Vec<&Message> = all.iter().filter(|chain| name_of(body(chain), 1) == TABLE).collect();
    for chain in wanted {
        let name = &chain.name;
        let Some(there) = found.iter().find(|there| name_of(body(there), 3) == *name) else {
            return Ok(Some(format!("chain {name} is missing")));
        };
        if !includes(body(there), chain_attrs(chain).as_slice()) {
            return Ok(Some(format!("chain {name} hangs elsewhere")));
        }
    }
    let rules =
        socket.dump("dump the rules of carrack", kind(GET_RULE), &nfgen(FAMILY_IP, 0, filter.as_slice()))?;
    let ours = |rule: &&Message| name_of(body(rule), 1) == TABLE;
    for chain in wanted {
        let name = &chain.name;
        let there: Vec<&Message> =
            rules.iter().filter(ours).filter(|rule| name_of(body(rule), 2) == *name).collect();
        if there.len() != chain.rules.len() {
            return Ok(Some(format!("chain {name} has {} rules, not {}", there.len(), chain.rules.len())));
        }
        for (found, rule) in there.iter().zip(&chain.rules) {
            if !includes(body(found), rule_attrs(rule).as_slice()) {
                return Ok(Some(format!("rule {:?} of chain {name} was changed", rule.comment)));
            }
        }
    }
    if let Some(more) =
        found.iter().find(|there| !wanted.iter().any(|chain| chain.name == name_of(body(there), 3)))
    {
        return Ok(Some(format!("chain {} is not ours", name_of(body(more), 3))));
    }
    Ok(None)
}

fn name_of(body: &[u8], attr: u16) -> String {
    find(body, attr).map(Attr::text).unwrap_or_default()
}
