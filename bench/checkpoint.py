"""What a save costs the training: how long it waits, how much memory it takes, how fast bytes go out and come back.

    python -m bench.checkpoint [--shape 100m] [--url file:///folder] [--output bench/results/checkpoint.json]

One rank without GPU takes steps of that model and then saves its whole state, weights and moments. The stall is the
copy; the upload goes on behind it. `stallShare` is what saves and copies to memory cost at the default intervals, over
the steps between, `everySteps` x the median step of the same run, by the tokens of a step: copies take as long whatever
the batch is. Both run on one CPU core here; a GPU makes steps and copies faster.
"""

import argparse
import dataclasses
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from bench import record
from bench.contestants import Place, Step, Work, alone, build, step_of
from bench.trainer import SHAPES
from internlm2_spec.config import Checkpoint
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Checkpointer
from internlm2_trainer.checkpoint.memory import PLACES, Memory
from internlm2_trainer.checkpoint.region import held
from internlm2_trainer.pod import shm

MIB: Final = 2**20
SAMPLE_SECONDS: Final = 0.002
SAVES: Final = 5
STEPS: Final = 3
BATCHES: Final = (2, 8)  # sequences of a step
DEFAULTS: Final = Checkpoint("file:///unused")


def train(work: Work, place: Place) -> tuple[dict[str, Tensor], dict[int, list[float]]]:
    """Take some steps, and return the state, and by the tokens of a step the seconds of each."""
    model, optimizer = build(work.stage(), place)
    found = {}
    for batch in BATCHES:
        one = dataclasses.replace(work, batch=batch)
        step = step_of(one.stage(), place.device, model, optimizer)
        seconds = [
            timed(step, torch.randint(0, work.model.vocab, (batch, work.sequence_length))) for _ in range(STEPS + 1)
        ]
        found[one.tokens] = seconds[1:]
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.parameters().items()}
    return weights | {f"optim.{name}": moment for name, moment in optimizer.state().items()}, found


def timed(step: Step, tokens: Tensor) -> float:
    """Return the seconds that a step takes."""
    started = time.perf_counter()
    step(tokens)
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Call:
    """One save or copy: the stall, the time until it was done behind the training, and how much memory grew in it."""

    stall: float
    done: float
    grown: int


def called(checkpoints: Checkpointer, call: Callable[..., None], step: int, state: dict[str, Tensor]) -> Call:
    """Save or copy, and wait until all of it is done."""
    started, stalled = time.perf_counter(), checkpoints.stall_seconds
    with Peak() as peak:
        call(step, state, {})
        checkpoints.wait()
    return Call(checkpoints.stall_seconds - stalled, time.perf_counter() - started, peak.bytes)


def measure(
    url: str, state: dict[str, Tensor], step_seconds: dict[int, float], *, memory: Path | None
) -> dict[str, Any]:
    """Save a state a few times, copy it to memory as often, load it, and return what it took."""
    store = storage.open_store(url)
    size = sum(local.numel() * local.element_size() for local, _ in map(held, state.values()))
    room = Memory(memory, 0, limit_bytes=2 * len(PLACES) * size) if memory else None
    interval = DEFAULTS.memory_every_steps if memory else 0
    settings = Checkpoint(url, keep=1, memory_every_steps=interval)
    kv = HashStore()
    checkpoints = Checkpointer(store, settings, stage="bench", attempt=1, rank=0, world=1, kv=kv, memory=room)
    checkpoints.restore(state)  # nothing is there, but this is where a run takes the memory for its copies
    before = _resident_bytes()
    saves = [called(checkpoints, checkpoints.save, step, state) for step in range(1, SAVES + 1)]
    copies = [called(checkpoints, checkpoints.remember, SAVES + 1, state) for _ in range(SAVES)]
    kept = _resident_bytes() - before
    plain = Checkpoint(url, memory_every_steps=0)
    reader = Checkpointer(store, plain, stage="bench", attempt=1, rank=0, world=1, kv=kv, incarnation="load")
    started = time.perf_counter()
    assert reader.restore(state) is not None
    loaded = time.perf_counter() - started
    save, copy = (statistics.median(call.stall for call in calls[len(PLACES) :]) for calls in (saves, copies))
    between = DEFAULTS.every_steps // interval - 1 if interval else 0
    return {
        "memoryTier": memory is not None,
        "saveStallSeconds": save,
        "firstStallSeconds": saves[0].stall,  # pages are touched for the first time
        "copyStallSeconds": copy,
        "stallShare": {
            tokens: (save + between * copy) / (DEFAULTS.every_steps * seconds)
            for tokens, seconds in step_seconds.items()
        },
        "saveMibPerSecond": size / MIB / statistics.median(call.done for call in saves),
        "loadMibPerSecond": size / MIB / loaded,
        "peakRatio": max(call.grown for call in (*saves, *copies)) / size,
        "keptRatio": kept / size,  # the buffers that stay for the next save: one, or the two places of the tier
    }


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
    parser.add_argument("--shape", default="100m", choices=SHAPES, help="the model (default 100m)")
    parser.add_argument("--url", help="where to save (default: a temporary folder)")
    record.add_output(parser, "checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with alone(torch.device("cpu")) as place:
        results = measured(options.shape, options.url, place)
    record.write(options.output, "bench.checkpoint", results)
    print(json.dumps(results, indent=1))
    return 0


def measured(shape: str, base: str | None, place: Place) -> dict[str, Any]:
    """Train, then save with and without the memory tier."""
    state, seconds = train(SHAPES[shape], place)
    print(f"seconds of a step, by its tokens: {seconds}", file=sys.stderr)
    step_seconds = {tokens: statistics.median(each) for tokens, each in seconds.items()}
    with tempfile.TemporaryDirectory() as folder, shm.folder() as memory:
        url = base or f"file://{folder}"
        ways = (("staged", None), ("memory", memory))
        costs = [measure(f"{url}/{name}", state, step_seconds, memory=where) for name, where in ways]
    return {
        "shape": shape,
        "shardMib": sum(held(tensor)[0].numel() * 4 for tensor in state.values()) / MIB,
        "stepSeconds": {tokens: record.spread(each) for tokens, each in seconds.items()},
        "everySteps": DEFAULTS.every_steps,
        "memoryEverySteps": DEFAULTS.memory_every_steps,
        "costs": costs,
    }


if __name__ == "__main__":
    sys.exit(main())
