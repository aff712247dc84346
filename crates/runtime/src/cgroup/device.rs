//! Which devices a container may open. Without this, a container that may make device nodes (CAP_MKNOD is in the default set)
//! could make the host's disk and read it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Result};

/// One thing that is allowed; all else is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) kind: Devices,
    /// `None`: any.
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// Some of `rwm`.
    pub(crate) access: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Devices {
    All,
    Char,
    Block,
}

/// Every device may be made, as on any host; opening is another matter. The rest is what `/dev` has.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let char_device = |major, minor| DeviceRule { kind: Devices::Char, major: Some(major), minor, access: "rwm".to_owned() };
    let make = |kind| DeviceRule { kind, major: None, minor: None, access: "m".to_owned() };
    let mut rules = vec![make(Devices::Char), make(Devices::Block)];
    // null, zero, full, random, urandom; tty, console, ptmx; pts (Documentation/admin-guide/devices.txt).
    rules.extend([3, 5, 7, 8, 9].map(|minor| char_device(1, Some(minor))));
    rules.extend([0, 1, 2].map(|minor| char_device(5, Some(minor))));
    rules.push(char_device(136, None));
    rules
}

pub(crate) fn limit_v1(directory: &Path, rules: &[DeviceRule]) -> Result<()> {
    let write = |file: &str, text: &str| {
        let path = directory.join(file);
        fs::write(&path, text).map_err(|source| Error::Path { step: "limit devices", path, source })
    };
    if rules.iter().any(|rule| rule.kind == Devices::All) {
        return write("devices.allow", "a");
    }
    write("devices.deny", "a")?;
    for rule in rules {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = if rule.kind == Devices::Block { 'b' } else { 'c' };
        write("devices.allow", &format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access))?;
    }
    Ok(())
}

/// v2 has no files for this: a small program decides (BPF_PROG_TYPE_CGROUP_DEVICE). It stays attached as long as the group is.
pub(crate) fn limit_v2(directory: &Path, rules: &[DeviceRule]) -> Result<()> {
    if rules.iter().any(|rule| rule.kind == Devices::All) {
        return Ok(());
    }
    let failed = |source| Error::Path { step: "limit devices", path: directory.to_owned(), source };
    let program = load(&assemble(rules)).map_err(failed)?;
    let group = fs::File::open(directory).map_err(failed)?;
    attach(&program, &group.into()).map_err(failed)
}

/// One eBPF instruction: opcode, registers (destination low, source high), offset, immediate (linux/bpf.h, struct bpf_insn).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

// Opcodes used below (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER_32: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// struct bpf_cgroup_dev_ctx { u32 access_type /* (access << 16) | type */, major, minor }; returns 1 to allow.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    // r2 type, r3 access, r4 major, r5 minor; r1 is the context.
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER_32, 3, 2, 0, 0),
        instruction(AND_IMMEDIATE_32, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == Devices::Block { 1 } else { 2 };
        let access =
            [('m', 1), ('r', 2), ('w', 4)].iter().filter(|(letter, _)| rule.access.contains(*letter)).map(|(_, bit)| bit).sum::<i32>();
        // Jumps are patched below to the end of the block, where the next rule begins.
        let mut block = vec![
            instruction(JUMP_NOT_EQUAL, 2, 0, 0, kind),
            // Something is wanted that this rule does not allow: r6 = r3 & !access.
            instruction(MOVE_REGISTER_32, 6, 3, 0, 0),
            instruction(AND_IMMEDIATE_32, 6, 0, 0, !access & 0xffff),
            instruction(JUMP_NOT_EQUAL, 6, 0, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                block.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        block.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, step) in block.iter_mut().enumerate() {
            if step.code == JUMP_NOT_EQUAL {
                step.offset = (length - at - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Several programs may be attached; each must allow (needed below a group that has one already).
const BPF_F_ALLOW_MULTI: u32 = 2;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    let attributes = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: bpf(2) reads the attributes, the program and the license, which live across the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave this descriptor to us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach(program: &OwnedFd, group: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attributes =
        Attach { target: group.as_raw_fd() as u32, program: program.as_raw_fd() as u32, kind: BPF_CGROUP_DEVICE, flags: BPF_F_ALLOW_MULTI };
    // SAFETY: bpf(2) reads the attributes; both descriptors are open.
    if unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of::<Attach>()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
