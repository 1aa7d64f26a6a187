"""Copies of a rank's state in the node's memory, for a restart in place: they outlive the rank, not the pod.

Two files for each rank in a folder of the agent's under `/dev/shm`. One is overwritten while the other is
whole; a copy counts once its seal, a JSON file that is written last, names its digest.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

# Two: one that is whole, one that is being written.
PLACES: Final = (0, 1)
HASHED_BYTES: Final = 2**24


@dataclass(frozen=True, slots=True)
class Seal:
    """What a whole copy says of itself. `key` names the boxes in it (`staging.Arrangement.key`).

    `mark` is new for each save and the same on all ranks: copies of one step from two lives of a job differ in it.
    """

    stage: str
    attempt: int
    step: int
    mark: str
    key: str
    size: int
    sha256: str
    extra: dict[str, Any]


class Memory:
    """The copies of one rank. `limit_bytes` bounds both together."""

    def __init__(self, folder: Path, local_rank: int, *, limit_bytes: int) -> None:
        self._folder = folder
        self._rank = local_rank
        self._limit = limit_bytes
        self._buffers: dict[int, torch.Tensor] = {}

    def buffer(self, place: int, size: int) -> torch.Tensor:
        """Return the bytes at a place, shared with its file; what another size left there is lost.

        Raises:
            OSError: there is no room for them.
        """
        buffer = self._buffers.get(place)
        if buffer is None or len(buffer) != size:
            self.unseal_unless(place, size)
            if size * len(PLACES) > self._limit:
                raise OSError(f"two copies of {size} bytes are above the limit of {self._limit} bytes")
            buffer = self._buffers[place] = _mapped(self._path(place), size)
        return buffer

    def unseal(self, place: int) -> None:
        """Say that what lies at a place is no copy any more; before it is overwritten."""
        self._seal_path(place).unlink(missing_ok=True)

    def unseal_unless(self, place: int, size: int) -> None:
        """Unseal a place whose copy has another size."""
        seal = self.seals().get(place)
        if seal is not None and seal.size != size:
            self.unseal(place)

    def seal(self, place: int, seal: Seal) -> None:
        """Say that the copy at a place is whole."""
        handle, temporary = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(handle, "w") as file:
            json.dump(dataclasses.asdict(seal), file)
        os.replace(temporary, self._seal_path(place))

    def seals(self) -> dict[int, Seal]:
        """Return the seal of each place that has one."""
        found = {}
        for place in PLACES:
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                found[place] = Seal(**json.loads(self._seal_path(place).read_text()))
        return found

    def sound(self, place: int, seal: Seal) -> bool:
        """Say whether the bytes at a place are those that were sealed."""
        try:
            if self._path(place).stat().st_size != seal.size:
                return False
            return digest(self.buffer(place, seal.size)) == seal.sha256
        except OSError:
            return False

    def _path(self, place: int) -> Path:
        return self._folder / f"{self._rank}-{place}"

    def _seal_path(self, place: int) -> Path:
        return self._folder / f"{self._rank}-{place}.json"


def digest(buffer: torch.Tensor) -> str:
    """Return the SHA-256 of a buffer of bytes, in hex; other threads run meanwhile."""
    total = hashlib.sha256()
    for start in range(0, len(buffer), HASHED_BYTES):
        total.update(buffer[start : start + HASHED_BYTES].numpy().data)
    return total.hexdigest()


def limit(total_bytes: int, cgroup_bytes: int | None, ranks: int) -> int:
    """Return how much of a node's memory the copies of one of its `ranks` may take: half of it, for all together.

    Source: "Characterization of Large Language Model Development in the Datacenter" (arXiv 2403.07648) found less
    than half of the CPU memory in use on training nodes, and keeps checkpoints there.
    """
    return min(total_bytes, cgroup_bytes or total_bytes) // 2 // ranks


def node_limit(ranks: int) -> int:
    """Return the limit on this node, or in this container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        text = "max"
    return limit(total, int(text) if text.isdigit() else None, ranks)


def _mapped(path: Path, size: int) -> torch.Tensor:
    """Map a file of `size` bytes, made where it is not there, with its memory taken now: a later lack is a SIGBUS."""
    if path.exists() and path.stat().st_size != size:
        path.unlink()
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    buffer = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    if torch.cuda.is_available():
        # Pinned, so that the GPU copies at full speed; where that is refused the copy is only slower.
        torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), size, 0)
    return buffer
