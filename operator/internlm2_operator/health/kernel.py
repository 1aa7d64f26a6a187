"""What a line of the kernel's log says about a node. Pure: bytes of /dev/kmsg in, one thing seen or None out.

Sources: Documentation/ABI/testing/dev-kmsg of Linux (record format, facility); NVIDIA's XID catalogue and the lines of
its driver as public reports show them (open-gpu-kernel-modules issues 789 and 1150, gpud pull requests 1160 and 1174,
nvtrust issue 124, dra-driver-nvidia-gpu issue 904); fs/ext4/super.c, fs/xfs/xfs_fsops.c, mm/oom_kill.c,
mm/memory-failure.c, arch/x86/kernel/cpu/mce/core.c, drivers/edac/edac_mc.c and drivers/firmware/efi/cper.c of Linux.

Every pattern is anchored at the start of the text. A process chooses at most 15 bytes of a kernel line, its own name
(TASK_COMM_LEN), and some lines begin with that name ("NAME[pid]: segfault at"): no pattern can be met by 15 bytes.
"""

import re
from dataclasses import dataclass
from typing import Final

KERNEL: Final = 0
"""The facility of what the kernel itself says; it turns a 0 that a process asks for into 1 (devkmsg_write)."""
MAX_TEXT: Final = 1024
"""Bytes of one record's text, LOG_LINE_MAX of the kernel; what is longer is not a record."""
_MAX_SEQUENCE: Final = 2**63


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `sequence` counts from boot without gaps, `microseconds` is the time since boot."""

    priority: int
    sequence: int
    microseconds: int
    text: str

    @property
    def facility(self) -> int:
        return self.priority >> 3


@dataclass(frozen=True, slots=True)
class XidSeen:
    """A fault of a GPU. `text` is what the driver says after the code, without what a process can choose."""

    code: int
    pci: str
    text: str


@dataclass(frozen=True, slots=True)
class SXidSeen:
    """A fault of an NVSwitch; `link` is the port, None when the line names none."""

    code: int
    fatal: bool
    link: int | None
    pci: str
    text: str


@dataclass(frozen=True, slots=True)
class GpuLost:
    """The driver cannot reach a GPU any more. XID 79 says the same, where it is logged."""

    pci: str


@dataclass(frozen=True, slots=True)
class DriverFailed:
    """The driver could not start a GPU; `pci` is empty where an old driver does not say which."""

    pci: str


@dataclass(frozen=True, slots=True)
class DriverLoaded:
    """The driver starts afresh, and with it every GPU."""


@dataclass(frozen=True, slots=True)
class FilesystemFailed:
    """A file system went read-only or shut itself down. A hint to look: it may be a volume of a user."""

    device: str


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A network interface lost its link or has it back. A hint to look: it may be one of a container.

    `device` is the address of the hardware; empty where the line names none.
    """

    interface: str
    up: bool = False
    device: str = ""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A container's group met its limit of memory; the node may have plenty."""

    pid: int


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The node, not only a container's group, had no memory left."""

    pid: int


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """The hardware reports an error that it could not correct; `where` is the CPU or controller, if the line says."""

    where: str


Seen = (
    XidSeen
    | SXidSeen
    | GpuLost
    | DriverFailed
    | DriverLoaded
    | FilesystemFailed
    | LinkChanged
    | OutOfMemory
    | MemoryLimit
    | MachineCheck
)

# Newer kernels add fields (caller=T123) after the flags, so more than four are taken.
_PREFIX: Final = re.compile(rb"(\d{1,4}),(\d{1,19}),(\d{1,19}),[-c+](?:,[\x21-\x3a\x3c-\x7e]{0,64})?;([^\n]*)", re.A)
_PCI = r"(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
# Of a partitioned GPU the instance is told, that of compute, or both; it is the GPU that is to blame.
_PART: Final = r"(?: GPU-I:\d{1,3})?(?: GPU-CI:\d{1,3})?"
# The comma after the code is asked for: without it a cut "7" of 79 would be another code.
_XID: Final = re.compile(rf"NVRM: Xid \((?:PCI:)?{_PCI}{_PART}\): (?P<code>[1-9]\d{{0,2}}), ?(?P<text>.*)", re.A)
_SXID: Final = re.compile(
    rf"nvidia-nvswitch\d{{1,3}}: SXid \(PCI:{_PCI}\): (?P<code>[1-9]\d{{0,5}}), (?P<how>Fatal|Non-fatal),"
    r"(?: Link (?P<link>\d{1,3})\b)? ?(?P<text>.*)",
    re.A,
)
_LOST: Final = re.compile(rf"NVRM: (?:GPU|GPU at) (?:PCI:)?{_PCI}: GPU has fallen off the bus\b", re.A)
# One record of three lines, whose ends the kernel writes as \x0a: what the driver says of a GPU that it finds dead.
_BREAK: Final = r"(?:\\x0a|\s)+(?:NVRM: )?"
_GONE: Final = re.compile(
    rf"NVRM: The NVIDIA GPU {_PCI}{_BREAK}\(PCI ID: [0-9a-f]{{4}}:[0-9a-f]{{4}}\){_BREAK}"
    rf"installed in this system has{_BREAK}fallen off the bus\b",
    re.A,
)
_FAILED: Final = re.compile(rf"NVRM: (?:GPU {_PCI}: )?RmInitAdapter failed!", re.A)
_LOADED: Final = re.compile(r"NVRM: loading NVIDIA UNIX ", re.A)
_EXT4: Final = re.compile(
    r"EXT4-fs \((?P<device>[\w.-]{1,64})\): (?:Remounting filesystem read-only|shut down requested)"
)
_XFS: Final = re.compile(
    r"XFS \((?P<device>[\w.-]{1,64})\): "
    r"(?:.*Shutting down filesystem|Filesystem has been shut down|xfs_do_force_shutdown)"
)
_OOM: Final = re.compile(r"Out of memory: Killed process (?P<pid>\d{1,10}) \(", re.A)
_LIMIT: Final = re.compile(r"Memory cgroup out of memory: Killed process (?P<pid>\d{1,10}) \(", re.A)
_LINK: Final = re.compile(
    r"(?:[\w-]{1,32} (?P<device>[0-9a-f:.]{11,15}[0-9a-f]):? )?(?P<interface>[\w.-]{1,15}): (?:[\w-]{1,32}: )?"
    r"(?:NIC )?(?:Port: \d{1,2} )?[Ll]ink (?:is )?(?:(?P<up>[Uu]p|UP)|[Dd]own|DOWN)\b"
)
_MCE: Final = re.compile(r"mce: \[Hardware Error\]: (?P<where>CPU \d{1,5}): Machine Check Exception: ", re.A)
# Memory beyond correction: counted by its controller, found in use, or the page that is given up. CE are corrected.
_MEMORY: Final = re.compile(
    r"EDAC (?P<where>MC\d{1,3}): \d{1,10} UE .{0,400}\bpage:0x|"
    r"mce: Uncorrected hardware memory error |Memory failure: 0x[0-9a-f]{1,16}: ",
    re.A,
)
# Firmware counts corrected errors too, on healthy nodes thousands a day: only the others are told.
_FIRMWARE: Final = re.compile(r"\{\d{1,10}\}\[Hardware Error\]: event severity: (?:fatal|recoverable)\b", re.A)
# What tools print before the text: journal and syslog date, host and "kernel:", dmesg the time since boot or a date.
_DATE: Final = r"(?:[A-Z][a-z]{2} {1,2}\d{1,2} [\d:]{8}|\d{4}-\d\d-\d\d[T ][\d:.,]{8,15}(?:Z|[+-]\d\d:?\d\d)?)"
_PRINTED: Final = re.compile(
    rf"(?:{_DATE} )?(?:(?:[\w.-]{{1,64}} )?kernel: )?(?:(?:[\w.-]{{1,64}}: )?kern *: *\w+ *: *(?:{_DATE} )?)?"
    r"(?:<(?P<priority>\d{1,3})>)?"
    r"(?:\[ {0,8}\+?\d{1,10}\.\d{1,6}\] "
    r"|\[[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d{1,2} [\d:]{8} \d{4}\] |\[[A-Z][a-z]{2} {0,2}\d{1,2} \d\d:\d\d\] )?"
    r"(?P<text>.*)",
    re.A | re.S,
)
# The kernel writes bytes outside ASCII as \xNN. Greedy, so that nothing of a name with commas is left over.
_NAME: Final = re.compile(r"pid=(?:\d{1,10}|'?<unknown>'?)(?:, name=(?:\\x[0-9a-f]{2}|[^\\]){0,15}(?:, |$)|, |$)", re.A)


def record(raw: bytes) -> Record | None:
    """Parse what one read of /dev/kmsg gives; the lines of a dictionary after the first are left out.

    None for anything else: a cut prefix, numbers beyond any kernel's, a text that is longer than the kernel makes.
    """
    found = _PREFIX.match(raw)
    if found is None or len(found[4]) > MAX_TEXT:
        return None
    priority, sequence, microseconds = int(found[1]), int(found[2]), int(found[3])
    if sequence >= _MAX_SEQUENCE or microseconds >= _MAX_SEQUENCE:
        return None
    return Record(priority, sequence, microseconds, found[4].decode("ascii", errors="replace"))


def printed(line: str) -> str | None:
    """Return the text of the kernel's record that a tool printed so, None where the line says that a process wrote it.

    For what people recorded with dmesg, from the journal, syslog or /dev/kmsg. A node's own log is read by `record`.
    """
    if (raw := record(line.encode(errors="replace"))) is not None:
        return raw.text if raw.facility == KERNEL else None
    found = _PRINTED.fullmatch(line)
    return found["text"] if found and int(found["priority"] or 0) >> 3 == KERNEL else None


def read(text: str) -> Seen | None:
    """Return what the text of a kernel record says, None for all that does not concern us.

    Ask only for records of facility KERNEL: a process may write any other text into the same log.
    """
    if text.startswith("NVRM: "):
        return _driver(text)
    if (found := _SXID.match(text)) is not None:
        link = int(found["link"]) if found["link"] else None
        return SXidSeen(int(found["code"]), found["how"] == "Fatal", link, found["pci"].lower(), found["text"])
    if (found := _EXT4.match(text) or _XFS.match(text)) is not None:
        return FilesystemFailed(found["device"])
    if (found := _OOM.match(text)) is not None:
        return OutOfMemory(int(found["pid"]))
    if (found := _LIMIT.match(text)) is not None:
        return MemoryLimit(int(found["pid"]))
    if (found := _MCE.match(text) or _MEMORY.match(text)) is not None:
        return MachineCheck(found["where"] or "")
    if _FIRMWARE.match(text) is not None:
        return MachineCheck("")
    found = _LINK.match(text)
    return LinkChanged(found["interface"], found["up"] is not None, found["device"] or "") if found else None


def _driver(text: str) -> Seen | None:
    if (found := _XID.match(text)) is not None:
        return XidSeen(int(found["code"]), found["pci"].lower(), _NAME.sub("", found["text"], count=1))
    if (found := _LOST.match(text) or _GONE.match(text)) is not None:
        return GpuLost(found["pci"].lower())
    if (found := _FAILED.match(text)) is not None:
        return DriverFailed((found["pci"] or "").lower())
    return DriverLoaded() if _LOADED.match(text) else None
