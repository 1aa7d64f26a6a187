"""What a save costs the training: how long it waits, how much memory it takes, how fast bytes go out and come back.

    python -m bench.checkpoint [--mib 512] [--url file:///folder] [--output bench/results/checkpoint.json]

One rank without GPU saves a state of that size. The stall is the copy; the upload goes on behind it.
"""

import argparse
import dataclasses
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch.distributed import HashStore

from bench.machine import machine
from internlm2_spec.config import Checkpoint
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.checkpoint.memory import Memory
from internlm2_trainer.pod import shm

MIB: Final = 2**20
TENSORS: Final = 16
SAMPLE_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class Cost:
    """One save of a shard. `peak_ratio` is the most memory that the save took at any time, over the shard's bytes."""

    shard_mib: float
    memory_tier: bool
    stall_seconds: float  # median of the saves after the first
    first_stall_seconds: float  # pages are touched for the first time
    save_mib_per_second: float
    load_mib_per_second: float
    peak_ratio: float


def measure(url: str, mib: int, *, memory: Path | None, saves: int = 5) -> Cost:
    """Save a state of `mib` MiB a few times, load it, and return what it took."""
    store = storage.open_store(url)
    room = Memory(memory, 0, limit_bytes=4 * mib * MIB) if memory else None
    settings = Checkpoint(url, every_steps=1, keep=1, memory_every_steps=int(bool(memory)))
    kv = HashStore()
    checkpoints = Checkpointer(store, settings, stage="bench", attempt=1, rank=0, world=1, kv=kv, memory=room)
    state = {f"model.{i}": torch.rand(mib * MIB // 4 // TENSORS) for i in range(TENSORS)}
    size = sum(tensor.numel() * 4 for tensor in state.values())
    stalls, seconds = [], []
    with Peak() as peak:
        for step in range(1, saves + 1):
            started, stalled = time.perf_counter(), checkpoints.stall_seconds
            checkpoints.save(step, state, {})
            stalls.append(checkpoints.stall_seconds - stalled)
            checkpoints.wait()
            seconds.append(time.perf_counter() - started)
    reader = Checkpointer(
        store, dataclasses.replace(settings, memory_every_steps=0), stage="bench", attempt=1, rank=0, world=1,
        kv=kv, incarnation="load",
    )  # fmt: skip
    started = time.perf_counter()
    assert reader.restore(state) is not None
    loaded = time.perf_counter() - started
    return Cost(
        size / MIB, memory is not None, statistics.median(stalls[1:]), stalls[0],
        size / MIB / statistics.median(seconds), size / MIB / loaded, peak.bytes / size,
    )  # fmt: skip


class Peak:
    """The most that a process's memory grows in a block, looking often. Shared memory counts, files' pages do not."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._before = _resident_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, _resident_bytes() - self._before)


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE))


def main() -> int:
    """Measure with and without the memory tier, print, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=512, help="size of the shard (default 512)")
    parser.add_argument("--url", help="where to save (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=Path("bench/results/checkpoint.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, shm.folder() as memory:
        url = options.url or f"file://{folder}"
        costs = [measure(f"{url}/{name}", options.mib, memory=m) for name, m in (("staged", None), ("memory", memory))]
    results = {
        "command": f"python -m bench.checkpoint {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "costs": [dataclasses.asdict(cost) for cost in costs],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
