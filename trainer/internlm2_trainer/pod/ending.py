"""How a process ends: an exception becomes a class of blame, an exit code and one JSON object."""

import faulthandler
import os
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Final

from internlm2_spec.config import Refused
from internlm2_spec.contract import (
    ENV_RUN_DIR,
    ENV_TERMINATION_LOG,
    TERMINATION_LOG,
    ExitCode,
    FailureClass,
    Termination,
)
from internlm2_spec.standstill import Cluster, bounded

INFRASTRUCTURE_EXIT_CODE: Final = 1
# Of the stacks of a crash, whose innermost frames come first; they share the limit of a termination message.
_MAX_STACKS: Final = 2000

# Texts of a lost peer, where torch raises a plain RuntimeError (gloo) or its own kinds (stores, NCCL).
_PEER_TEXTS: Final = ("gloo", "connection closed by peer", "connection reset", "broken pipe", "nccl")
_PEER_TYPES: Final = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")
_MEMORY_TYPES: Final = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
_MEMORY_TEXTS: Final = ("out of memory", "can't allocate memory")
_DEVICE_TEXTS: Final = ("cuda error", "device-side", "ecc error")


def explain(error: BaseException, *, rank: int | None = None, step: int | None = None, advice: str = "") -> Termination:
    """Return what an exception that ended a process says about whose fault it was; `advice` goes before its text."""
    failure, reason, code = _classify(error)
    message = f"{advice} ({error})" if advice else str(error)
    lines = "".join(traceback.format_exception(error)) if failure is not FailureClass.STOPPED else ""
    if isinstance(error, Refused):
        lines = ""
    return Termination(
        failure, reason, code, message=message[:512], rank=rank, step=step, traceback=lines[-3000:],
    )  # fmt: skip


def _classify(error: BaseException) -> tuple[FailureClass, str, int]:
    name, text = type(error).__name__, str(error).lower()
    if isinstance(error, Refused):
        # The storage's refusals know best which of the two they are.
        default = ExitCode.DATA if error.path.split(".")[0] == "data" else ExitCode.CONFIG
        code = ExitCode(getattr(error, "exit_code", default))
        return FailureClass.USER, "ConfigurationRefused" if code is ExitCode.CONFIG else "DataRefused", code
    if name == "Fenced":
        return FailureClass.STOPPED, name, ExitCode.STOPPED
    if out_of_memory(error):
        return FailureClass.USER, "OutOfMemory", ExitCode.CONFIG
    if name in ("StoreUnavailable", "ServerLost") or any(part in text for part in _DEVICE_TEXTS):
        return FailureClass.INFRASTRUCTURE, name, INFRASTRUCTURE_EXIT_CODE
    if name in _PEER_TYPES or (type(error) is RuntimeError and any(part in text for part in _PEER_TEXTS)):
        return FailureClass.PEER, "PeerLost", INFRASTRUCTURE_EXIT_CODE
    return FailureClass.USER, name, ExitCode.BUG


def out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation failed: Python's or NumPy's, torch's on a GPU (any library's there) or on a CPU."""
    text = str(error).lower()
    return type(error).__name__ in _MEMORY_TYPES or any(part in text for part in _MEMORY_TEXTS)


def record(ending: Termination) -> None:
    """Leave the ending of a rank for its agent, or, without one, in the termination log, with the time it is now."""
    ending = replace(ending, time=time.time())
    folder = os.environ.get(ENV_RUN_DIR)
    if folder is None:
        write_termination_log(ending)
        return
    _write(Path(folder) / f"{time.time_ns()}-{os.getpid()}.json", ending.to_json())


def collect(folder: Path) -> list[tuple[int, Termination]]:
    """Return (process id, ending) of every rank that left one, oldest first, and forget them."""
    endings = []
    for path in sorted(folder.glob("*.json")):
        if ending := Termination.from_json(path.read_text()):
            endings.append((int(path.stem.split("-")[1]), ending))
        path.unlink()
    return endings


def leave_stacks() -> None:
    """Let this rank leave its stacks for its agent if it crashes in C, where no exception can leave a word."""
    if folder := os.environ.get(ENV_RUN_DIR):
        # Never closed: the handler of the signal writes into it.
        faulthandler.enable(os.open(_stacks(Path(folder), os.getpid()), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))


def stacks(folder: Path, pid: int) -> str:
    """Return the stacks that a crashed rank left, the innermost frames first, empty for one that left none."""
    path = _stacks(folder, pid)
    return path.read_text(errors="replace")[:_MAX_STACKS] if path.exists() else ""


def _stacks(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.stacks"


def blame(endings: list[Termination]) -> Termination:
    """Return the one ending that explains the others: the first that is more than the loss of a peer.

    Where all lost a peer, or ended as they were told, no rank of these failed first.
    """
    first = next((e for e in endings if e.failure is not FailureClass.PEER), endings[0])
    failed = first.failure in (FailureClass.USER, FailureClass.INFRASTRUCTURE)
    return replace(first, first_failing_rank=first.rank if failed else None)


def stood(endings: list[Termination]) -> tuple[Cluster, ...]:
    """Return where the ranks of this node stood when nothing went on; a rank that lost its peers over it waited.

    A rank may leave two words, its place and then the loss of a peer that ended before it did: its place says more.
    """
    said = [cluster for end in endings for cluster in end.stood]
    spoke = {rank for cluster in said for rank in cluster.ranks}
    lost = {end.rank for end in endings if end.failure is FailureClass.PEER and end.rank is not None}
    return bounded([*said, *(Cluster((rank,), waits=True) for rank in sorted(lost - spoke))])


def write_termination_log(ending: Termination) -> None:
    """Write where Kubernetes reads it. Outside a pod that file does not exist, and then nothing is written."""
    # A mount of the kubelet's, where it exists: it can be written, not replaced.
    path = os.environ.get(ENV_TERMINATION_LOG) or TERMINATION_LOG
    if path != TERMINATION_LOG or os.path.exists(path):
        Path(path).write_text(ending.to_json())


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".ending-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(temporary, path)
