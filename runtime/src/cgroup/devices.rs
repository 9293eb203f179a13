//! Which devices the processes of a cgroup may use: the rules every container has, and those rules as an eBPF program for
//! cgroup v2.
//!
//! Pure. On v1 libcontainer writes the same rules to the devices controller; `bpf` gives the program to the kernel.
//!
//! ```text
//! for each kind of device, for each major number, for each minor number that a rule names:
//!     what is asked is within what all rules for this device allow -> 1, else -> 0
//! and so for the rest of a major number, and for the rest of a kind
//! ```
//! No register is compared twice with the same number on any way through: the kernel's verifier then needs time in proportion to
//! the number of devices, and not to its square.

use std::collections::BTreeMap;

use carrack_api::{DeviceKind, DeviceRule};

use crate::bundle::DeviceNode;

/// The kernel's numbers (`BPF_DEVCG_*`).
const BLOCK: u16 = 1;
const CHARACTER: u16 = 2;
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// Every container may use these; what has no minor number here is all of its major.
const EVERYBODYS: [(u32, Option<u32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

/// What libcontainer allows on v1 and no container of ours has: a tunnel into the host's network stack (`/dev/net/tun`).
pub(crate) const TUN: (char, i64, i64) = ('c', 10, 200);

/// What may be done with which devices; everything else may not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceRules(BTreeMap<u16, Kind>);

/// The rules for block or character devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kind {
    all: u8,
    majors: BTreeMap<u32, Major>,
}

/// The rules for the devices of one major number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Major {
    all: u8,
    minors: BTreeMap<u32, u8>,
}

impl DeviceRules {
    /// The rules of a container that was given some devices, and rules of its own.
    pub(crate) fn new(given: &[DeviceNode], own: &[DeviceRule]) -> Self {
        let mut rules = Self::default();
        for kind in [BLOCK, CHARACTER] {
            // A node may be made, as in Docker's containers; what it leads to is asked when it is opened.
            rules.0.entry(kind).or_default().all = MKNOD;
        }
        for (major, minor) in EVERYBODYS {
            rules.allow(CHARACTER, major, minor, ALL);
        }
        for device in given {
            let kind = if device.kind == 'b' { BLOCK } else { CHARACTER };
            // Numbers that do not fit are none that a kernel has.
            if let (Ok(major), Ok(minor)) = (u32::try_from(device.major), u32::try_from(device.minor)) {
                rules.allow(kind, major, Some(minor), access(&device.permissions));
            }
        }
        for rule in own {
            rules.allow_rule(rule);
        }
        rules
    }

    fn allow_rule(&mut self, rule: &DeviceRule) {
        let kinds: &[u16] = match rule.kind {
            Some(DeviceKind::Block) => &[BLOCK],
            Some(DeviceKind::Character) => &[CHARACTER],
            None => &[BLOCK, CHARACTER],
        };
        for kind in kinds {
            match rule.major {
                Some(major) => self.allow(*kind, major, rule.minor, access(&rule.permissions)),
                None => self.0.entry(*kind).or_default().all |= access(&rule.permissions),
            }
        }
    }

    fn allow(&mut self, kind: u16, major: u32, minor: Option<u32>, access: u8) {
        let major = self.0.entry(kind).or_default().majors.entry(major).or_default();
        match minor {
            Some(minor) => *major.minors.entry(minor).or_default() |= access,
            None => major.all |= access,
        }
    }

    /// The rules as a program that answers 1 for what is allowed and 0 for the rest; `None` for more devices than a program's jumps
    /// can pass over (some five thousand).
    pub(crate) fn program(&self) -> Option<Vec<Instruction>> {
        let mut program = vec![
            Instruction::new(LOAD_WORD, TYPE, CONTEXT, 0, 0),
            Instruction::new(MOVE, ACCESS, TYPE, 0, 0),
            Instruction::new(SHIFT_RIGHT, ACCESS, 0, 0, 16),
            Instruction::new(AND, TYPE, 0, 0, 0xffff),
            Instruction::new(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
            Instruction::new(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        ];
        for (kind, rules) in &self.0 {
            program.extend(if_is(TYPE, u32::from(*kind), rules.program()?)?);
        }
        program.extend(answer(0));
        Some(program)
    }
}

impl Kind {
    fn program(&self) -> Option<Vec<Instruction>> {
        let mut program = Vec::new();
        for (major, rules) in &self.majors {
            program.extend(if_is(MAJOR, *major, rules.program(self.all)?)?);
        }
        program.extend(answer_within(self.all));
        Some(program)
    }
}

impl Major {
    fn program(&self, of_kind: u8) -> Option<Vec<Instruction>> {
        let mut program = Vec::new();
        for (minor, access) in &self.minors {
            program.extend(if_is(MINOR, *minor, answer_within(access | self.all | of_kind))?);
        }
        program.extend(answer_within(self.all | of_kind));
        Some(program)
    }
}

/// `rwm` as the kernel's bits.
fn access(permissions: &str) -> u8 {
    let bit = |letter| match letter {
        'r' => READ,
        'w' => WRITE,
        'm' => MKNOD,
        _ => 0,
    };
    permissions.chars().map(bit).fold(0, |all, bit| all | bit)
}

/// What is passed over when a register holds something else.
fn if_is(register: u8, value: u32, then: Vec<Instruction>) -> Option<Vec<Instruction>> {
    let length = i16::try_from(then.len()).ok()?;
    let value = i32::from_ne_bytes(value.to_ne_bytes());
    Some(std::iter::once(Instruction::new(JUMP_IF_NOT, register, 0, length, value)).chain(then).collect())
}

/// 1 when nothing is asked beyond what is allowed.
fn answer_within(allowed: u8) -> Vec<Instruction> {
    let [yes, end] = answer(1);
    if allowed == ALL {
        return vec![yes, end];
    }
    let [no, _] = answer(0);
    let beyond = Instruction::new(AND, ACCESS, 0, 0, i32::from(!allowed & ALL));
    vec![no, beyond, Instruction::new(JUMP_IF_NOT, ACCESS, 0, 1, 0), yes, end]
}

fn answer(value: i32) -> [Instruction; 2] {
    [Instruction::new(SET, RESULT, 0, 0, value), Instruction::new(EXIT, 0, 0, 0, 0)]
}

/// One instruction, laid out as the kernel's `struct bpf_insn` on little-endian machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(cfg!(target_endian = "little") && size_of::<Instruction>() == 8);

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: to | from << 4, offset, immediate }
    }
}

// Registers; the first argument is the context.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// `BPF_CLASS | BPF_OP | BPF_SRC` of the few instructions used here; arithmetic is on 32 bits, which clears the upper half.
const LOAD_WORD: u8 = 0x61; // LDX MEM W
const MOVE: u8 = 0xbc; // ALU MOV X
const SET: u8 = 0xb4; // ALU MOV K
const SHIFT_RIGHT: u8 = 0x74; // ALU RSH K
const AND: u8 = 0x54; // ALU AND K
const JUMP_IF_NOT: u8 = 0x55; // JMP JNE K
const EXIT: u8 = 0x95;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, and refuses what its verifier refuses: jumps out of the program and backwards, and
    /// registers that were never set.
    fn run(program: &[Instruction], access: u8, kind: u16, major: u32, minor: u32) -> u64 {
        let context = [u32::from(access) << 16 | u32::from(kind), major, minor];
        let mut registers: [Option<u64>; 11] = [None; 11];
        registers[usize::from(CONTEXT)] = Some(0);
        let mut at = 0;
        loop {
            let instruction = program[at];
            let (to, from) =
                (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
            let immediate = i64::from(instruction.immediate).cast_unsigned();
            let low = |value: Option<u64>| value.unwrap() & 0xffff_ffff;
            match instruction.code {
                LOAD_WORD => {
                    assert_eq!((from, registers[from]), (usize::from(CONTEXT), Some(0)));
                    registers[to] =
                        Some(u64::from(context[usize::try_from(instruction.offset).unwrap() / 4]));
                }
                MOVE => registers[to] = Some(low(registers[from])),
                SET => registers[to] = Some(immediate & 0xffff_ffff),
                SHIFT_RIGHT => registers[to] = Some(low(registers[to]) >> immediate),
                AND => registers[to] = Some(low(registers[to]) & immediate & 0xffff_ffff),
                JUMP_IF_NOT => {
                    assert!(instruction.offset > 0 && at + 1 + (instruction.offset as usize) < program.len());
                    if registers[to].unwrap() != immediate {
                        at += instruction.offset as usize;
                    }
                }
                EXIT => return registers[usize::from(RESULT)].unwrap(),
                code => panic!("instruction {code:#x}"),
            }
            at += 1;
        }
    }

    fn node(kind: char, major: i64, minor: i64, permissions: &str) -> DeviceNode {
        DeviceNode {
            path: "/dev/x".into(),
            kind,
            major,
            minor,
            mode: 0o600,
            uid: 0,
            gid: 0,
            permissions: permissions.into(),
        }
    }

    /// What the rules mean, said in another way.
    fn meant(given: &[DeviceNode], access_wanted: u8, kind: u16, major: u32, minor: u32) -> bool {
        let everybodys = kind == CHARACTER
            && (major == 136 || major == 5 && minor <= 2 || major == 1 && [3, 5, 7, 8, 9].contains(&minor));
        let allowed = given
            .iter()
            .filter(|node| {
                (if node.kind == 'b' { BLOCK } else { CHARACTER }) == kind
                    && node.major == i64::from(major)
                    && node.minor == i64::from(minor)
            })
            .fold(0, |all, node| all | access(&node.permissions));
        everybodys || access_wanted & !(allowed | MKNOD) == 0
    }

    #[test]
    fn a_program_answers_as_its_rules_say_for_every_device_and_access() {
        let sets = [
            vec![],
            vec![node('b', 8, 0, "r")],
            vec![node('c', 10, 229, "rwm"), node('b', 8, 1, "rw"), node('c', 10, 200, "w")],
            // The same device twice: what both give.
            vec![
                node('c', 10, 229, "r"),
                node('c', 10, 229, "w"),
                node('c', 1, 3, "r"),
                node('b', 8, 1, "m"),
            ],
            // The largest numbers there are.
            vec![node('b', 4095, 1_048_575, "rw")],
        ];
        let majors = [0, 1, 2, 5, 8, 10, 135, 136, 137, 4095];
        let minors = [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 200, 229, 255, 1_048_575];
        let mut allowed = 0;
        for given in &sets {
            let program = DeviceRules::new(given, &[]).program().unwrap();
            for (kind, access) in
                [BLOCK, CHARACTER].into_iter().flat_map(|kind| (1..=ALL).map(move |a| (kind, a)))
            {
                for (major, minor) in majors.into_iter().flat_map(|major| minors.map(|minor| (major, minor)))
                {
                    let answer = run(&program, access, kind, major, minor);
                    let want = meant(given, access, kind, major, minor);
                    assert_eq!(
                        answer,
                        u64::from(want),
                        "{given:?}: access {access} to {kind} {major}:{minor}"
                    );
                    allowed += answer;
                }
            }
        }
        assert!(allowed > 1000);
    }

    #[test]
    fn the_programs_are_those_the_kernel_was_shown() {
        let words = |program: &[Instruction]| -> Vec<(u8, u8, i16, i32)> {
            program.iter().map(|i| (i.code, i.registers, i.offset, i.immediate)).collect()
        };
        let mut rules = DeviceRules::default();
        rules.allow(BLOCK, 8, Some(1), READ);
        rules.allow(BLOCK, 8, Some(2), ALL);
        assert_eq!(
            words(&rules.program().unwrap()),
            [
                (0x61, 0x12, 0, 0),      // type = context[0]
                (0xbc, 0x23, 0, 0),      // access = type
                (0x74, 0x03, 0, 16),     // access >>= 16
                (0x54, 0x02, 0, 0xffff), // type &= 0xffff
                (0x61, 0x14, 4, 0),      // major = context[1]
                (0x61, 0x15, 8, 0),      // minor = context[2]
                (0x55, 0x02, 20, 1),     // block?
                (0x55, 0x04, 14, 8),     // 8?
                (0x55, 0x05, 5, 1),      // 1?
                (0xb4, 0x00, 0, 0),
                (0x54, 0x03, 0, 5), // more than reading?
                (0x55, 0x03, 1, 0),
                (0xb4, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
                (0x55, 0x05, 2, 2), // 2?
                (0xb4, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
                (0xb4, 0x00, 0, 0), // other minors
                (0x54, 0x03, 0, 7),
                (0x55, 0x03, 1, 0),
                (0xb4, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
                (0xb4, 0x00, 0, 0), // other majors
                (0x54, 0x03, 0, 7),
                (0x55, 0x03, 1, 0),
                (0xb4, 0x00, 0, 1),
                (0x95, 0x00, 0, 0),
                (0xb4, 0x00, 0, 0), // other kinds
                (0x95, 0x00, 0, 0),
            ]
        );
    }

    #[test]
    fn thousands_of_devices_are_a_program_and_too_many_are_none() {
        let many = |count| -> Vec<DeviceNode> { (0..count).map(|minor| node('c', 13, minor, "r")).collect() };
        let program = DeviceRules::new(&many(4096), &[]).program().unwrap();
        assert_eq!(run(&program, READ, CHARACTER, 13, 4095), 1);
        assert_eq!(run(&program, READ, CHARACTER, 13, 4096), 0);
        assert_eq!(run(&program, MKNOD, CHARACTER, 13, 4096), 1);
        assert_eq!(DeviceRules::new(&many(10_000), &[]).program(), None);
    }

    #[test]
    fn rules_of_its_own_allow_what_they_name_and_nothing_else() {
        let rule = |kind, major, minor, permissions: &str| DeviceRule {
            kind,
            major,
            minor,
            permissions: permissions.into(),
        };
        let block = Some(DeviceKind::Block);
        let own = [
            rule(block, Some(8), None, "r"),
            rule(Some(DeviceKind::Character), Some(10), Some(229), "rw"),
            rule(block, None, None, "m"),
        ];
        let program = DeviceRules::new(&[], &own).program().unwrap();
        let answer = |access, kind, major, minor| run(&program, access, kind, major, minor);
        assert_eq!(
            (answer(READ, BLOCK, 8, 7), answer(WRITE, BLOCK, 8, 7), answer(READ, BLOCK, 9, 0)),
            (1, 0, 0)
        );
        assert_eq!((answer(READ | WRITE, CHARACTER, 10, 229), answer(READ, CHARACTER, 10, 230)), (1, 0));
        let all = DeviceRules::new(&[], &[rule(None, None, None, "rwm")]).program().unwrap();
        assert_eq!((run(&all, ALL, BLOCK, 254, 0), run(&all, ALL, CHARACTER, 1, 1)), (1, 1));
    }
}
