"""The wall clock of one pod jumps, and nobody else's.

Time namespaces move only the monotonic clocks (time_namespaces(7)), and nothing may be preloaded into the trainer. So
the vDSO is changed: the page of code that the kernel maps into every process, where a call for the time ends without
a system call. In each process of the pod its functions are overwritten, as a debugger would, by the system call and an
addition. What the pod forks later inherits it. Monotonic clocks stay as they are.
"""

import os
import platform
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab import process, victims
from lab.faults.record import Kind, Record
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

# x86-64, System V: what the caller expects to be kept is kept. N are the seconds, four bytes between the two parts.
#   clock_gettime(edi, rsi): mov eax,228; syscall; test edi,edi (CLOCK_REALTIME is 0); jne +7; add qword [rsi],N; ret
#   gettimeofday(rdi, rsi):  mov eax,96; syscall; test rdi,rdi; je +7; add qword [rdi],N; ret
CODE: Final = {
    "__vdso_clock_gettime": ("b8e40000000f0585ff7507488106", "c3"),
    "__vdso_gettimeofday": ("b8600000000f054885ff7407488107", "c3"),
}
DEFAULT_SECONDS: Final = -3600
DYNSYM: Final = 11


def clock_jump(lab: "Lab", what: Record) -> Record:
    """Move the wall clock of a training pod by so many seconds, until it is healed."""
    if platform.machine() != "x86_64":
        raise LabError("clock-jump: is written for x86-64 only; leave it out here")
    pod = victims.training_pod(lab, what.get("pod"))
    by = int(what.get("by", DEFAULT_SECONDS))
    begin = time.time()
    changed = [was for pid in sorted(victims.pids(lab, pod)) if (was := jump(pid, by)) is not None]
    return {"fault": "clock-jump", "time": begin, **victims.where(pod), "by": by, "processes": changed}


def _undo(lab: "Lab", record: Record) -> None:
    """Give every process of the pod its code back, those that were forked since, too."""
    namespace, _, name = record["pod"].partition("/")
    pods = lab.get("pods", "-n", namespace, "--field-selector", f"metadata.name={name}")["items"]
    for pid in victims.pids(lab, pods[0]) if pods else ():
        write(pid, {int(at): bytes.fromhex(code) for at, code in _originals(record, pid).items()})


def _originals(record: Record, pid: int) -> dict[str, str]:
    """Return the code that was there before, by address: forked processes have their parent's mapping."""
    found = _vdso(pid)
    bases = {str(was["base"]): was["code"] for was in record["processes"]}
    code: dict[str, str] = bases.get(str(found), {})
    return code


def jump(pid: int, by: int) -> Record | None:
    """Overwrite a process' functions; return where its vDSO lies and what was there, None where it is gone."""
    base = _vdso(pid)
    if base is None:
        return None
    new = {base + at: _code(name, by) for name, at in _functions(pid, base).items() if name in CODE}
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        old = {str(at): os.pread(memory.fileno(), len(code), at).hex() for at, code in new.items()}
        write(pid, new)
        return {"pid": pid, "base": base, "code": old}
    return None


def _code(name: str, by: int) -> bytes:
    before, after = CODE[name]
    return bytes.fromhex(before) + struct.pack("<i", by) + bytes.fromhex(after)


def write(pid: int, code: dict[int, bytes]) -> None:
    with suppress(OSError), _standing(pid), Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for at, text in code.items():
            os.pwrite(memory.fileno(), text, at)


@contextmanager
def _standing(pid: int) -> Iterator[None]:
    """Stop a process while its code changes; where it stands is all but never in these few instructions."""
    os.kill(pid, signal.SIGSTOP)
    try:
        process.wait_until(lambda: _state(pid) in "TtXZ", what=f"process {pid} stopped", seconds=5, every=0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _vdso(pid: int) -> int | None:
    """Return the address of a process' vDSO, None for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split("-")[0], 16) for line in lines if line.endswith("[vdso]")), None)


def _functions(pid: int, base: int) -> dict[str, int]:
    """Return the offset of each function by its name, from the ELF image's table of dynamic symbols."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        image = os.pread(memory.fileno(), 4 * 4096, base) or b""
    start, (entry, count) = struct.unpack_from("<Q", image, 0x28)[0], struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, start + number * entry) for number in range(count)]
    symbols = next(section for section in sections if section[1] == DYNSYM)
    names = sections[symbols[6]][4]
    found = {}
    for offset in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", image, offset)
        found[image[names + name : image.index(b"\0", names + name)].decode()] = int(value)
    return found


KINDS: Final = {"clock-jump": Kind(clock_jump, _undo)}
