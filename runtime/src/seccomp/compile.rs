//! From rules to classic BPF: architecture check, then a binary search over the call number.
//!
//! Binary search keeps the path of every call at about nine comparisons; the kernel walks the program for each number when
//! it builds its bitmap of always-allowed calls. Jumps of BPF reach 255 instructions, so inner nodes use `ja` for the far
//! side.

use std::collections::BTreeMap;

use super::table;
use super::{Condition, Rule};

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// Bytes of one instruction in a file.
const INSTRUCTION_BYTES: usize = 8;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_BITS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The program for the architecture this was compiled for.
pub(crate) fn compile(rules: &BTreeMap<u32, Rule>) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD, 0, 0, ARCHITECTURE),
        op(JUMP_EQUAL, 1, 0, table::ARCH),
        op(RETURN, 0, 0, RET_KILL_PROCESS),
        op(LOAD, 0, 0, NUMBER),
    ];
    program.extend(search(&ranges(rules)));
    program
}

/// Neighbouring numbers with the same rule become one range: first number, rule (EPERM between rules).
fn ranges(rules: &BTreeMap<u32, Rule>) -> Vec<(u32, Rule)> {
    let denied = Rule::Errno(libc::EPERM as u16);
    let mut ranges: Vec<(u32, Rule)> = vec![(0, denied.clone())];
    let mut push = |start: u32, rule: Rule| match ranges.last_mut() {
        Some(last) if last.0 == start => last.1 = rule,
        Some(last) if last.1 == rule => {}
        _ => ranges.push((start, rule)),
    };
    for (number, rule) in rules {
        push(*number, rule.clone());
        if !rules.contains_key(&(number + 1)) {
            push(number + 1, denied.clone());
        }
    }
    // Two equal neighbours can arise where a start was replaced.
    ranges.dedup_by(|next, last| next.1 == last.1);
    ranges
}

fn search(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    let (low, high) = match ranges {
        [] => return leaf(&Rule::Errno(libc::EPERM as u16)),
        [(_, rule)] => return leaf(rule),
        _ => ranges.split_at(ranges.len() / 2),
    };
    let pivot = high[0].0;
    let (low, high) = (search(low), search(high));
    let distance = low.len();
    let mut block = match u8::try_from(distance) {
        Ok(near) => vec![op(JUMP_AT_LEAST, near, 0, pivot)],
        Err(_) => vec![op(JUMP_AT_LEAST, 0, 1, pivot), op(JUMP, 0, 0, distance as u32)],
    };
    block.extend(low);
    block.extend(high);
    block
}

fn leaf(rule: &Rule) -> Vec<Instruction> {
    let deny = op(RETURN, 0, 0, RET_ERRNO | libc::EPERM as u32);
    match rule {
        Rule::Allow => vec![op(RETURN, 0, 0, RET_ALLOW)],
        Rule::Errno(errno) => vec![op(RETURN, 0, 0, RET_ERRNO | u32::from(*errno))],
        Rule::AllowWhen(alternatives) => {
            let mut block: Vec<_> = alternatives.iter().flat_map(alternative).collect();
            block.push(deny);
            block
        }
    }
}

/// Ends with "allow" when the condition holds, else falls through behind itself.
fn alternative(condition: &Condition) -> Vec<Instruction> {
    let allow = op(RETURN, 0, 0, RET_ALLOW);
    match *condition {
        // The kernel takes these arguments as int: the high half does not matter to it.
        Condition::Equal(argument, value) => vec![low_half(argument), op(JUMP_EQUAL, 0, 1, value), allow],
        Condition::NoBits(argument, bits) => vec![low_half(argument), op(JUMP_BITS, 1, 0, bits), allow],
        Condition::NotIn(argument, values) => {
            let mut block = vec![low_half(argument)];
            for (index, value) in values.iter().enumerate() {
                block.push(op(JUMP_EQUAL, (values.len() - index) as u8, 0, *value));
            }
            block.push(allow);
            block
        }
    }
}

fn low_half(argument: u8) -> Instruction {
    op(LOAD, 0, 0, ARGUMENTS + 8 * u32::from(argument))
}

fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The bytes kept in a run's directory.
pub(crate) fn to_bytes(program: &[Instruction]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|i| {
            let (code, k) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
            [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
        })
        .collect()
}

/// The program of such a file; `None` when it is none.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let chunks = bytes.chunks_exact(INSTRUCTION_BYTES);
    if !chunks.remainder().is_empty() || bytes.is_empty() {
        return None;
    }
    Some(
        chunks
            .map(|b| {
                op(u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
            })
            .collect(),
    )
}

/// Runs a program as the kernel would.
#[cfg(test)]
pub(super) fn simulate(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let i = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            LOAD => {
                accumulator = match i.k {
                    NUMBER => number,
                    ARCHITECTURE => arch,
                    offset => args[(offset - ARGUMENTS) as usize / 8] as u32,
                }
            }
            JUMP => at += i.k as usize,
            JUMP_EQUAL => at += jump(accumulator == i.k),
            JUMP_AT_LEAST => at += jump(accumulator >= i.k),
            JUMP_BITS => at += jump(accumulator & i.k != 0),
            RETURN => return i.k,
            code => panic!("unknown code {code:#x}"),
        }
    }
}
