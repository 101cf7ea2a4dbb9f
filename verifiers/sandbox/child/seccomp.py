"""The system calls that a program may not make, as a seccomp filter.

It refuses everything that reaches beyond the process (sockets, other processes, mounts, namespaces, keys, clocks,
kernel interfaces with a history of holes) and whatever is newer than this table. See seccomp(2), bpf(4).
"""

from __future__ import annotations

import ctypes
import struct
from errno import ENOSYS, EPERM

from kernel import MACHINE, PR_SET_PDEATHSIG, SECCOMP, prepared, syscall

NEWEST = 462  # mseal; numbers above are unknown here
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE_THREAD = 0x10000
CLONE_NEW_NAMESPACE = 0x7E020080

# name: numbers on x86_64 and aarch64, None where there is none
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "listen": (50, 201), "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "shmdt": (67, 197), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "ptrace": (101, 117), "syslog": (103, 116), "personality": (135, 92),
    "vhangup": (153, 58), "modify_ldt": (154, None), "pivot_root": (155, 41), "adjtimex": (159, 171),
    "chroot": (161, 51), "acct": (163, 89), "settimeofday": (164, 170), "mount": (165, 40), "umount2": (166, 39),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None), "init_module": (175, 105),
    "delete_module": (176, 106), "quotactl": (179, 60), "nfsservctl": (180, 42), "io_setup": (206, 0),
    "io_destroy": (207, 1), "io_getevents": (208, 4), "io_submit": (209, 2), "io_cancel": (210, 3),
    "lookup_dcookie": (212, 18), "clock_settime": (227, 112), "mbind": (237, 235), "kexec_load": (246, 104),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "migrate_pages": (256, 238),
    "unshare": (272, 97), "move_pages": (279, 239), "perf_event_open": (298, 241), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266), "setns": (308, 268), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "finit_module": (313, 273), "memfd_create": (319, 279),
    "kexec_file_load": (320, 294), "bpf": (321, 280), "userfaultfd": (323, 282),
    "pidfd_send_signal": (424, 424), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443), "memfd_secret": (447, 447), "process_mrelease": (448, 448),
    "sync": (162, 81), "syncfs": (306, 267), "statmount": (457, 457), "listmount": (458, 458),
    # held only where other processes and files of the user are in sight:
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "prlimit64": (302, 261), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "tgkill": (234, 131),
    "setsid": (112, 157), "setpgid": (109, 154), "truncate": (76, 45),
}  # fmt: skip
_names = list(NUMBERS)
WITHOUT_NAMESPACES = frozenset(_names[_names.index("chmod") :])
STARTING = {"threads": frozenset(), "exec": frozenset({"execve"}), "processes": frozenset({"execve", "fork", "vfork"})}
"""What a program may start: threads alone, one other program in its place, or processes."""

Instruction = tuple[int, int, int, int]
LOAD, EQUAL, GREATER_OR_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000


def refuse(error: int) -> int:
    """The filter's answer that makes the call fail with `error`."""
    return 0x00050000 | error


def supported() -> str:
    """Why filters cannot be used here, or nothing."""
    if MACHINE not in ARCHITECTURES:
        return f"no table of system calls for {MACHINE}"
    try:
        action = (ctypes.c_uint32 * 1)(0x00050000)
        syscall(SECCOMP, 2, 0, action)  # is the action available
    except OSError as error:
        return f"the kernel refuses seccomp: {error}"
    return ""


class Filter:
    """A filter: built once, applied in each program."""

    def __init__(self, starting: str, *, namespaces: bool) -> None:
        column = list(ARCHITECTURES).index(MACHINE)
        names = set(NUMBERS) - STARTING[starting] - (WITHOUT_NAMESPACES if namespaces else set())
        answers = {number: [ret(refuse(EPERM))] for name in names if (number := NUMBERS[name][column]) is not None}
        answers[56 if column == 0 else 220] = clone(processes=starting == "processes")
        answers[435] = [ret(refuse(ENOSYS))]  # clone3 hides its flags; the C library then uses clone
        if not namespaces:
            answers[302 if column == 0 else 261] = only_if_first_is_zero()
            answers[157 if column == 0 else 167] = all_but_first(PR_SET_PDEATHSIG)
        program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCHITECTURES[MACHINE]), ret(KILL), (LOAD, 0, 0, 0)]
        program += search(spans(answers))
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._header = (ctypes.c_uint64 * 2)(len(program), ctypes.addressof(self._code))
        self.apply = prepared(SECCOMP, 1, 0, self._header)
        """Put this process under the filter for good. It must have given up new privileges."""


def ret(answer: int) -> Instruction:
    """The instruction that ends the filter."""
    return (RETURN, 0, 0, answer)


def clone(*, processes: bool) -> list[Instruction]:
    """Threads are allowed; processes where the policy says so; namespaces never."""
    if processes:
        return [(LOAD, 0, 0, 16), (ANY_BIT, 0, 1, CLONE_NEW_NAMESPACE), ret(refuse(EPERM)), ret(ALLOW)]
    return [(LOAD, 0, 0, 16), (ANY_BIT, 1, 0, CLONE_THREAD), ret(refuse(EPERM)), ret(ALLOW)]


def only_if_first_is_zero() -> list[Instruction]:
    """`prlimit64` of this process alone."""
    return [(LOAD, 0, 0, 16), (EQUAL, 1, 0, 0), ret(refuse(EPERM)), ret(ALLOW)]


def all_but_first(value: int) -> list[Instruction]:
    """`prctl` with any option but one: the program must not outlive what watches it."""
    return [(LOAD, 0, 0, 16), (EQUAL, 0, 1, value), ret(refuse(EPERM)), ret(ALLOW)]


def spans(answers: dict[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """The whole range of numbers in pieces of equal answer, by first number."""
    pieces: list[tuple[int, list[Instruction]]] = []
    for number in range(NEWEST + 1):
        answer = answers.get(number, [ret(ALLOW)])
        if not pieces or pieces[-1][1] != answer:
            pieces.append((number, answer))
    return [*pieces, (NEWEST + 1, [ret(refuse(ENOSYS))])]


def search(pieces: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Binary search for the piece that the number in the accumulator is in."""
    if len(pieces) == 1:
        return pieces[0][1]
    middle = len(pieces) // 2
    below, above = search(pieces[:middle]), search(pieces[middle:])
    return [(GREATER_OR_EQUAL, len(below), 0, pieces[middle][0]), *below, *above]
