"""Lines of the kernel's log: what is believed, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health import kernel
from internlm2_operator.health.kernel import (
    DriverFailed,
    DriverLoaded,
    FilesystemFailed,
    GpuLost,
    LinkChanged,
    MachineCheck,
    MemoryLimit,
    OutOfMemory,
    Record,
    SXidSeen,
    XidSeen,
)

LOST = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."

RECORDS = {
    "a record of the kernel": (b"4,1093,5140900,-;text", Record(4, 1093, 5140900, "text")),
    "its dictionary is left out": (
        b"6,1,2,-;text\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n",
        Record(6, 1, 2, "text"),
    ),
    "a fragment": (b"6,1,2,c;text", Record(6, 1, 2, "text")),
    "the caller is told by newer kernels": (b"6,1,2,-,caller=T123;text", Record(6, 1, 2, "text")),
    "semicolons belong to the text": (b"6,1,2,-;a;b", Record(6, 1, 2, "a;b")),
    "a process wrote it": (b"12,1,2,-;text", Record(12, 1, 2, "text")),
    "a line of a dictionary": (b" SUBSYSTEM=pci", None),
    "nothing": (b"", None),
    "a prefix that was cut": (b"4,1093,51", None),
    "a prefix without its flags": (b"4,1093,5140900;text", None),
    "a priority beyond any": (b"40000,1,2,-;text", None),
    "a sequence beyond any": (b"4,9999999999999999999,2,-;text", None),
    "a sequence of thousands of digits": (b"4," + b"9" * 5000 + b",2,-;text", None),
    "digits of another script": ("4,\u0661,2,-;text".encode(), None),
    "a negative number": (b"4,-1,2,-;text", None),
    "more text than the kernel writes": (b"4,1,2,-;" + b"x" * 1025, None),
}


@pytest.mark.parametrize("case", RECORDS)
def test_record(case: str) -> None:
    raw, want = RECORDS[case]
    assert kernel.record(raw) == want


PRINTED = {
    "the text alone": (LOST, LOST),
    "dmesg": (f"[  812.400121] {LOST}", LOST),
    "dmesg with dates": (f"[Thu Jun 11 02:14:07 2026] {LOST}", LOST),
    "dmesg with priorities": (f"<4>[  812.400121] {LOST}", LOST),
    "the priority of a process": (f"<12>[  812.400121] {LOST}", None),
    "syslog": (f"Jun  1 02:12:41 gru-6 kernel: {LOST}", LOST),
    "syslog with the time since boot": (f"Jun 11 02:12:41 gru-6 kernel: [70012.210001] {LOST}", LOST),
    "syslog with other dates": (f"2026-06-10T22:41:09.118273+02:00 osl-05 kernel: {LOST}", LOST),
    "the journal with little": (f"kernel: {LOST}", LOST),
    "dmesg with the dates of a standard": (f"2026-06-10T22:41:09,118273+02:00 {LOST}", LOST),
    "dmesg with differences": (f"[  +0.000012] {LOST}", LOST),
    "dmesg with words for priorities": (f"kern  :warn  : [  812.400121] {LOST}", LOST),
    "dmesg with words for priorities and the dates of a standard": (
        f"kern  :err   : 2026-06-10T22:41:09,118273+02:00 {LOST}",
        LOST,
    ),
    "dmesg with dates and differences": (f"[Jun10 22:41] {LOST}", LOST),
    "talosctl": (f"bm-22: kern:     err: {LOST}", LOST),
    "and those of a process": (f"user  :warn  : [  812.400121] {LOST}", f"user  :warn  : [  812.400121] {LOST}"),
    "also with dates": (
        f"user  :err   : 2026-06-10T22:41:09,118273+02:00 {LOST}",
        f"user  :err   : 2026-06-10T22:41:09,118273+02:00 {LOST}",
    ),
    "no text at all": ("\ud800", "\ud800"),
    "a host and no date": (f"ewr-c2 kernel: {LOST}", LOST),
    "a record": (f"4,20341,6085129004188,-;{LOST}", LOST),
    "a record of a process": (f"12,20341,6085129004188,-;{LOST}", None),
    "a program's name": (f"python[4242]: {LOST}", f"python[4242]: {LOST}"),
    "a program's name in syslog": (f"Jun 11 02:12:41 n1 python: {LOST}", f"n1 python: {LOST}"),
    "what a program says of the kernel": (f"python: kernel: {LOST}", f"python: kernel: {LOST}"),
    "another language": (f"26. Nov. 10:00:00 gpu-7 Kernel: {LOST}", f"26. Nov. 10:00:00 gpu-7 Kernel: {LOST}"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize(("line", "text"), PRINTED.values(), ids=PRINTED)
def test_what_tools_print_before_the_text(line: str, text: str | None) -> None:
    assert kernel.printed(line) == text


def test_only_facility_zero_is_the_kernel() -> None:
    facilities = {priority: Record(priority, 0, 0, "").facility for priority in (0, 7, 8, 15, 30)}
    assert facilities == {0: 0, 7: 0, 8: 1, 15: 1, 30: 3}


SEEN = {
    "an XID, old form of the process": (LOST, XidSeen(79, "0000:3b:00", "GPU has fallen off the bus.")),
    "an XID without a process": (
        "NVRM: Xid (PCI:0000:1B:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        XidSeen(154, "0000:1b:00", "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
    ),
    "the process's own name is left out": (
        "NVRM: Xid (PCI:0000:dc:00): 45, pid=18, name=python3, Ch 00000001 caused by previous Xid 149",
        XidSeen(45, "0000:dc:00", "Ch 00000001 caused by previous Xid 149"),
    ),
    "a name that plays the driver is left out whole": (
        "NVRM: Xid (PCI:0000:dc:00): 45, pid=18, name=a, Node Reboot, Ch 00000001",
        XidSeen(45, "0000:dc:00", "Ch 00000001"),
    ),
    "a name in another script is left out": (
        r"NVRM: Xid (PCI:0000:dc:00): 31, pid=18, name=\xe8\xae\xad\xe7\xbb\x83, Ch 00000001",
        XidSeen(31, "0000:dc:00", "Ch 00000001"),
    ),
    "an XID of an old driver": ("NVRM: Xid (0000:01:00): 31, Ch 1", XidSeen(31, "0000:01:00", "Ch 1")),
    "an SXID that is not fatal": (
        "nvidia-nvswitch3: SXid (PCI:0000:04:00.0): 22013, Non-fatal, Link 44 Minion Link DLREQ interrupt",
        SXidSeen(22013, False, 44, "0000:04:00.0", "Minion Link DLREQ interrupt"),
    ),
    "a fatal SXID without a link": (
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, LTSSM Fault Up",
        SXidSeen(20034, True, None, "0000:c1:00.0", "LTSSM Fault Up"),
    ),
    "a code of an instance of a partitioned GPU": (
        "NVRM: Xid (PCI:0000:1b:00 GPU-I:05): 95, pid=7, name=python, Uncontained: FBHUB",
        XidSeen(95, "0000:1b:00", "Uncontained: FBHUB"),
    ),
    "of an instance with one of compute": (
        "NVRM: Xid (PCI:0009:01:00 GPU-I:02 GPU-CI:00): 43, pid=3, name=trigger, channel 0x0b",
        XidSeen(43, "0009:01:00", "channel 0x0b"),
    ),
    "other words where the instance stands": ("NVRM: Xid (PCI:0000:1b:00 of a user): 95, pid=7, name=python, x", None),
    "the data of an SXID": ("nvidia-nvswitch3: SXid (PCI:0000:04:00.0): 22013, Data {0x2b, 0x2b}", None),
    "the severity of an SXID": (
        "nvidia-nvswitch3: SXid (PCI:0000:04:00.0): 22013, Severity 0 Engine instance 44",
        None,
    ),
    "off the bus, said once more": ("NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.", GpuLost("0000:91:00.0")),
    "the driver cannot start a GPU": (
        "NVRM: GPU 0000:98:00.0: RmInitAdapter failed! (0x62:0x65:1792)",
        DriverFailed("0000:98:00.0"),
    ),
    "an old driver cannot": ("NVRM: RmInitAdapter failed! (0x26:0xffff:1375)", DriverFailed("")),
    "the driver starts": (
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.195.03  Release Build",
        DriverLoaded(),
    ),
    "ext4 goes read-only": ("EXT4-fs (sda1): Remounting filesystem read-only", FilesystemFailed("sda1")),
    "XFS shuts down": (
        "XFS (nvme0n1p1): Filesystem has been shut down due to log error (0x2).",
        FilesystemFailed("nvme0n1p1"),
    ),
    "a container's limit of memory": (
        "Memory cgroup out of memory: Killed process 4242 (python) total-vm:1kB",
        MemoryLimit(4242),
    ),
    "no memory on the node": ("Out of memory: Killed process 4242 (python) total-vm:1kB", OutOfMemory(4242)),
    "a NIC loses its link": ("mlx5_core 0000:17:00.0 ens1f0: Link down", LinkChanged("ens1f0", device="0000:17:00.0")),
    "another NIC does": ("igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down", None),
    "a third": ("ixgbe 0000:01:00.0 eth0: NIC Link is Down", LinkChanged("eth0", device="0000:01:00.0")),
    "a link that is back": ("mlx5_core 0000:17:00.0 ens1f0: Link up", LinkChanged("ens1f0", True, "0000:17:00.0")),
    "a port of InfiniBand loses its link": (
        "mlx5_core 0000:5e:00.0: mlx5_0: Port: 1 Link DOWN",
        LinkChanged("mlx5_0", device="0000:5e:00.0"),
    ),
    "and has it back": (
        "mlx5_core 0000:ab:00.0 mlx5_5: Port: 1 Link UP",
        LinkChanged("mlx5_5", True, "0000:ab:00.0"),
    ),
    "a link of a container": ("eth0: Link down", LinkChanged("eth0")),
    "a GPU that the driver finds dead": (
        r"NVRM: The NVIDIA GPU 0000:b3:00.0\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\x0a"
        r"NVRM: fallen off the bus and is not responding to commands.",
        GpuLost("0000:b3:00.0"),
    ),
    "a machine check": (
        "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400",
        MachineCheck("CPU 3"),
    ),
    "memory beyond correction": (
        "EDAC MC3: 1 UE memory read error on CPU_SrcID#1_MC#1_Chan#2_DIMM#0 (channel:2 slot:0 page:0x92e4410)",
        MachineCheck("MC3"),
    ),
    "memory of another controller": (
        "EDAC MC0: 1 UE multi-bit ECC on LP5x_0 LP5x_0 (node:0 card:0 module:0 page:0x1f offset:0x0 grain:1)",
        MachineCheck("MC0"),
    ),
    "a program of such a name crashes": ("EDAC MC1: 1 UE [4242]: segfault at 0 ip 00007f sp 00007f error 4", None),
    "it has no memory": ("EDAC MC1: 1 UE invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0", None),
    "it uses much of its stack": ("EDAC MC1: 1 UE (4242) used greatest stack depth: 10 bytes left", None),
    "memory that was corrected": ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0", None),
    "it is found in use": ("mce: Uncorrected hardware memory error in user-access at 92e4410ac0", MachineCheck("")),
    "its user is told": (
        "Memory failure: 0x92e4410: Sending SIGBUS to python3:55102 due to hardware memory corruption",
        MachineCheck(""),
    ),
    "a page that is taken out in time": ("Soft offlining pfn 0x92e4410 at process virtual address 0x7f00", None),
    "errors that were corrected": ("mce: [Hardware Error]: Machine check events logged", None),
    "firmware reports a fatal error": ("{1}[Hardware Error]: event severity: fatal", MachineCheck("")),
    "firmware reports a corrected one": ("{1}[Hardware Error]: event severity: corrected", None),
    "cut before the comma, 7 of 79": ("NVRM: Xid (PCI:0000:3b:00): 7", None),
    "cut in the address": ("NVRM: Xid (PCI:0000:3b", None),
    "a code of ten thousand digits": ("NVRM: Xid (PCI:0000:3b:00): " + "9" * 10_000 + ", x", None),
    "a code of 0": ("NVRM: Xid (PCI:0000:3b:00): 0, x", None),
    "digits of another script": ("NVRM: Xid (PCI:0000:3b:00): \u0667\u0669, x", None),
    "another locale": ("NVRM: Xid (PCI:0000:3b:00): 79\uff0cGPU \u5df2\u4ece\u603b\u7ebf", None),
    "not at the start": (f"python: {LOST}", None),
    "a name that plays the driver, at a crash": ("NVRM: Xid (PCI:[18]: segfault at 0 ip 0 sp 0 error 4", None),
    "a space before": (f" {LOST}", None),
    "lower case": (LOST.lower(), None),
}


@pytest.mark.parametrize("case", SEEN)
def test_read(case: str) -> None:
    text, want = SEEN[case]
    assert kernel.read(text) == want


@given(st.binary(max_size=300))
def test_no_bytes_raise(raw: bytes) -> None:
    found = kernel.record(raw)
    assert found is None or kernel.read(found.text) is None or raw.startswith(b"0")


@given(st.integers(min_value=0, max_value=len(LOST) - 1))
def test_a_cut_line_is_never_another_code(length: int) -> None:
    seen = kernel.read(LOST[:length])
    assert seen is None or (isinstance(seen, XidSeen) and seen.code == 79)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=15))
def test_no_name_of_a_process_makes_a_line(name: str) -> None:
    """15 bytes are all that a process can put at the start of a kernel line, or in the middle of an XID's text.

    What is left of the text is the driver's, even where that costs a word of it.
    """
    assert kernel.read(f"{name}[18]: segfault at 0 ip 0 sp 0 error 4") is None
    said = "GPU has fallen off the bus, engmask 00000101"
    seen = kernel.read(f"NVRM: Xid (PCI:0000:dc:00): 45, pid=18, name={name}, {said}")
    assert isinstance(seen, XidSeen)
    assert said.endswith(seen.text)
