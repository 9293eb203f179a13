//! The filter table of iptables-legacy, which nftables cannot see into.
//!
//! Owns: asking the kernel whether its chains drop what no rule speaks of, and whether our links are accepted in them.
//! Changes nothing. Does not ask for a table that is not loaded: the question would load it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::model::LINK_PREFIX;

/// The tables that are loaded in this network namespace.
const LOADED: &str = "/proc/thread-self/net/ip_tables_names";

const SO_GET_INFO: libc::c_int = 64;
const SO_GET_ENTRIES: libc::c_int = 65;

/// `struct ipt_getinfo`: name, valid hooks, 5 entry points, 5 underflows, number of entries, size.
const INFO_BYTES: usize = 84;
const NAME_BYTES: usize = 32;
/// `struct ipt_get_entries` before the entries, with its padding.
const ENTRIES_HEADER: usize = 40;
/// `struct ipt_entry` and `struct xt_entry_target` before the verdict.
const ENTRY_BYTES: usize = 112;
const VERDICT_AT: usize = ENTRY_BYTES + 32;
/// Where an entry has its links' names and the distance to the next entry.
const INPUT_NAME_AT: usize = 16;
const OUTPUT_NAME_AT: usize = 32;
const NEXT_AT: usize = 90;

const VERDICT_DROP: i32 = -1;
const VERDICT_ACCEPT: i32 = -2;

/// Largest table that is looked into, in bytes.
const TABLE_MAX_BYTES: usize = 64 << 20;

/// What the table does to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Legacy {
    /// Forwarded packets are dropped unless a rule accepts them, and none accepts our links.
    pub(crate) drops_forwarded: bool,
    /// The same for packets to this host: queries of containers to our DNS address.
    pub(crate) drops_input: bool,
}

/// Looks into the table. `None`: it is not loaded.
pub(crate) fn legacy() -> io::Result<Option<Legacy>> {
    let loaded = match fs::read_to_string(LOADED) {
        Ok(names) => names.lines().any(|name| name == "filter"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if !loaded {
        return Ok(None);
    }
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut info = vec![0; INFO_BYTES];
    put(&mut info, 0, b"filter");
    ask(&raw, SO_GET_INFO, &mut info)?;
    let size = number(&info, INFO_BYTES - 4).unwrap_or_default();
    let size = usize::try_from(size).ok().filter(|size| *size <= TABLE_MAX_BYTES);
    let size = size.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut table = vec![0; ENTRIES_HEADER + size];
    put(&mut table, 0, b"filter");
    put(&mut table, NAME_BYTES, &u32::try_from(size).unwrap_or_default().to_ne_bytes());
    ask(&raw, SO_GET_ENTRIES, &mut table)?;
    Ok(Some(judge(&info, table.get(ENTRIES_HEADER..).unwrap_or_default())))
}

fn judge(info: &[u8], entries: &[u8]) -> Legacy {
    const INPUT: usize = 1;
    const FORWARD: usize = 2;
    // After the name and the valid hooks.
    let offset = |list: usize, hook: usize| {
        let number = number(info, NAME_BYTES + 4 + (list * 5 + hook) * 4)?;
        usize::try_from(number).ok()
    };
    let chain = |hook| Some((offset(0, hook)?, offset(1, hook)?));
    let drops = |hook, names: &[usize]| {
        chain(hook).is_some_and(|(first, policy)| {
            verdict(entries, policy) == Some(VERDICT_DROP)
                && !names.iter().all(|name_at| accepts(entries, first, policy, *name_at))
        })
    };
    Legacy {
        drops_forwarded: drops(FORWARD, &[INPUT_NAME_AT, OUTPUT_NAME_AT]),
        drops_input: drops(INPUT, &[INPUT_NAME_AT]),
    }
}

/// Whether a rule of the chain accepts by the name of our links.
fn accepts(entries: &[u8], first: usize, end: usize, name_at: usize) -> bool {
    let mut at = first;
    while at < end {
        let name = entries.get(at + name_at..).is_some_and(|name| name.starts_with(LINK_PREFIX.as_bytes()));
        if name && verdict(entries, at) == Some(VERDICT_ACCEPT) {
            return true;
        }
        let next = entries.get(at + NEXT_AT..at + NEXT_AT + 2).and_then(|next| next.try_into().ok());
        match next.map(u16::from_ne_bytes) {
            None | Some(0) => return false,
            Some(next) => at += usize::from(next),
        }
    }
    false
}

/// The verdict of an entry without matches; of others it is not looked for.
fn verdict(entries: &[u8], at: usize) -> Option<i32> {
    let bytes = entries.get(at + VERDICT_AT..at + VERDICT_AT + 4)?;
    Some(i32::from_ne_bytes(bytes.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, byte) in to.iter_mut().skip(at).zip(bytes) {
        *to = *byte;
    }
}

#[expect(unsafe_code, reason = "no crate of the tree wraps these socket options")]
fn ask(socket: &impl AsRawFd, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length =
        libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the buffer is writable for `length` bytes and outlives the call; the kernel writes no more than `length`.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
