"""What Linux itself keeps a process from, whatever the code in it does: seccomp and Landlock, without privileges.

Limits alone do not hold for root, and audit hooks see only Python. Both filters are inherited, can't be taken off, and
are left out where the kernel or the processor has none; `confine` says which hold. Numbers are those of the kernel's
own headers (unistd.h, seccomp.h, landlock.h).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RETURN_ALLOW, RETURN_ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x10000
# Offsets in struct seccomp_data.
AT_NUMBER, AT_ARCH, AT_ARG0, AT_ARG2 = 0, 4, 16, 32
LOAD, JUMP_IF_EQUAL, JUMP_IF_SET, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06

# Audit architecture, then the system calls that are refused: new programs and processes, sockets, other processes,
# mounts and modules, rights of files (which Landlock leaves alone), and io_uring, which would do all of it unseen.
REFUSED = {
    "x86_64": (0xC000003E, {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "socket": 41, "ptrace": 101, "kill": 62, "tkill": 200,
        "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_send_signal": 424, "io_uring_setup": 425, "bpf": 321,
        "unshare": 272, "setns": 308, "setrlimit": 160, "init_module": 175, "finit_module": 313, "reboot": 169,
        "mount": 165, "umount2": 166, "chroot": 161, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "chmod": 90,
        "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "fchmodat": 268, "fchmodat2": 452,
    }),
    "aarch64": (0xC00000B7, {
        "execve": 221, "execveat": 281, "socket": 198, "ptrace": 117, "kill": 129, "tkill": 130,
        "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_send_signal": 424, "io_uring_setup": 425, "bpf": 280,
        "unshare": 97, "setns": 268, "setrlimit": 164, "init_module": 105, "finit_module": 273, "reboot": 142,
        "mount": 40, "umount2": 39, "chroot": 51, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "fchmod": 52,
        "fchmodat": 53, "fchownat": 54, "fchown": 55, "fchmodat2": 452,
    }),
}  # fmt: skip
CLONE = {"x86_64": 56, "aarch64": 220}
TGKILL = {"x86_64": 234, "aarch64": 131}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
CLONE3 = 435

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, PATH_BENEATH = 444, 445, 446, 1
# WRITE_FILE, REMOVE_DIR, REMOVE_FILE and the seven MAKE_*; TRUNCATE since version 3.
WRITES, TRUNCATE = 0b1_1111_1111_0010, 1 << 14
# EXECUTE, READ_FILE and READ_DIR.
READS = 0b1101
ON_FILES = 0b111 | TRUNCATE


def confine(folder: str, *, readable: Sequence[str] | None) -> list[str]:
    """Keep this process from writing outside `folder`, from programs, processes and sockets; return what holds.

    readable: the only places that can be read besides `folder`; None for all of them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return []
    held = ["landlock"] if _keep_to(libc, folder, readable) else []
    return held + (["seccomp"] if _refuse_calls(libc) else [])


def _keep_to(libc: ctypes.CDLL, folder: str, readable: Sequence[str] | None) -> bool:
    version = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    writes = WRITES | (TRUNCATE if version >= 3 else 0)
    reads = 0 if readable is None else READS
    ruleset = libc.syscall(LANDLOCK_CREATE, struct.pack("Q", writes | reads), 8, 0)
    if ruleset < 0:
        return False
    places = [(folder, writes | reads), ("/dev/null", writes | reads), *((path, reads) for path in readable or ())]
    for path, allowed in places:
        try:
            opened = os.open(path, os.O_PATH)
        except OSError:
            continue
        mask = allowed if os.path.isdir(path) else allowed & ON_FILES
        if mask:
            libc.syscall(LANDLOCK_ADD, ruleset, PATH_BENEATH, struct.pack("=Qi", mask, opened), 0)
        os.close(opened)
    held = bool(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0)
    os.close(ruleset)
    return held


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _refuse_calls(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in REFUSED:
        return False
    code = b"".join(struct.pack("HBBI", *line) for line in _filter(machine))
    program = _Program(len(code) // 8, code)
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the program in classic BPF: (code, jump if true, jump if false, k)."""
    architecture, refused = REFUSED[machine]
    deny = (RETURN, 0, 0, RETURN_ERRNO | EPERM)
    allow = (RETURN, 0, 0, RETURN_ALLOW)
    lines = [
        (LOAD, 0, 0, AT_ARCH),
        # Another architecture has other numbers: 32-bit calls of a 64-bit machine are refused altogether.
        (JUMP_IF_EQUAL, 1, 0, architecture), deny,
        (LOAD, 0, 0, AT_NUMBER),
        # x32 has them too, from here on.
        (JUMP_IF_AT_LEAST, 0, 1, 0x40000000), deny,
        # Its flags lie behind a pointer that a filter can't follow; glibc falls back to clone.
        (JUMP_IF_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, RETURN_ERRNO | ENOSYS),
    ]  # fmt: skip
    for number in refused.values():
        lines += [(JUMP_IF_EQUAL, 0, 1, number), deny]
    # Threads, signals to itself (abort) and asking for a limit are good; the rest of these calls is not.
    lines += [
        (JUMP_IF_EQUAL, 0, 4, CLONE[machine]),
        (LOAD, 0, 0, AT_ARG0),
        (JUMP_IF_SET, 1, 0, CLONE_THREAD),
        deny,
        allow,
    ]
    lines += [
        (JUMP_IF_EQUAL, 0, 4, TGKILL[machine]),
        (LOAD, 0, 0, AT_ARG0),
        (JUMP_IF_EQUAL, 1, 0, os.getpid()),
        deny,
        allow,
    ]
    lines += [(JUMP_IF_EQUAL, 0, 4, PRLIMIT[machine]), (LOAD, 0, 0, AT_ARG2), (JUMP_IF_EQUAL, 1, 0, 0), deny, allow]
    return [*lines, allow]
