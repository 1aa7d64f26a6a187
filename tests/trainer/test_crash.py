"""A writer is killed at a thousand places; no load ever sees an incomplete or corrupt step, nor an older one."""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from internlm2_trainer import storage
from internlm2_trainer.checkpoint.memory import Memory
from internlm2_trainer.pod import shm
from internlm2_trainer.storage import Store
from tests import ranks
from tests.trainer.states import checkpointer, flip, key_of, saved, state_of

KILLS: Final = 1000
# One death in so many is a SIGKILL of a real process; the others are threads that stop where it would hit.
REAL_ONE_IN: Final = 20
# Bytes of a body from one place to die at to the next.
SLICE: Final = 2


@dataclass
class Clock:
    """Counts the places where a writer can die, and lets it die at one of them. The dead do nothing any more."""

    kill_at: int
    die: Callable[[], None]
    now: int = 0

    def tick(self) -> None:
        self.now += 1
        if self.now == self.kill_at:
            self.die()
        if self.now >= self.kill_at:
            raise SystemExit


class Parts(Sequence[memoryview]):
    """A body in slices, with a tick before each: the store below has written the ones before."""

    def __init__(self, parts: Sequence[memoryview], clock: Clock) -> None:
        self._slices = [part[at : at + SLICE] for part in parts for at in range(0, len(part), SLICE)]
        self._clock = clock

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, place: Any) -> Any:
        return self._slices[place]

    def __iter__(self) -> Iterator[memoryview]:
        for part in self._slices:
            self._clock.tick()
            yield part


@dataclass
class Mortal:
    """A store whose process can die before, inside and after each of its operations."""

    store: Store
    clock: Clock

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.clock.tick()
            if name == "put":
                arguments = (arguments[0], Parts(arguments[1], self.clock))
            result = getattr(self.store, name)(*arguments, **named)
            self.clock.tick()
            return result

        return call if name != "url" else self.store.url


@dataclass
class ManifestFirst:
    """The control: a store that writes what a save puts only after the manifest."""

    store: Store
    late: list[tuple[str, bytes]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        self.late.append((key, b"".join(parts)))

    def create(self, key: str, body: bytes) -> None:
        self.store.create(key, body)
        for name, late in self.late:
            self.store.put(name, [memoryview(late)])
        self.late.clear()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a load saw after one kill: nothing wrong, or what."""

    killed: bool
    wrong: str = ""
    passed_over: int = 0


def prepared(url: str, damaged: bool) -> None:
    """Leave steps 1 and 2 of attempt 1, the second damaged or not."""
    store = storage.open_store(url)
    saved(store, 1, 2)
    if damaged:
        flip(store, key_of(store, 2, ".safetensors"))


def write(store: Any, memory: Path, tell: Callable[[int], object]) -> None:
    """Be attempt 2: resume, save steps 2 to 4 keeping two, and tell which ones exist."""
    checkpoints = checkpointer(store, attempt=2, keep=2, memory=Memory(memory, 0, limit_bytes=2**20))
    checkpoints.acquire_fence()
    checkpoints.restore(state_of(0))
    for step in (2, 3, 4):
        checkpoints.save(step, state_of(step), {"step": step}, wait=True)
        tell(step)


def mortal(url: str, clock: Clock, *, broken: bool) -> Any:
    store: Any = Mortal(storage.open_store(url), clock)
    return ManifestFirst(store) if broken else store


@contextlib.contextmanager
def killed(url: str, memory: Path, kill_at: int, *, broken: bool) -> Iterator[tuple[bool, int]]:
    """Run a writer in a process of its own; yield whether it was killed, and the newest step that it told of."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        clock = Clock(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        write(mortal(url, clock, broken=broken), memory, lambda step: os.write(writer, bytes([step])))
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    told = os.read(reader, 16)
    os.close(reader)
    yield os.WIFSIGNALED(status), max(told, default=1)


@contextlib.contextmanager
def stopped(url: str, memory: Path, kill_at: int, *, broken: bool) -> Iterator[tuple[bool, int]]:
    """Do the same in threads that stop where a process would be killed, for as long as the block looks.

    Nothing is cleaned up meanwhile, just as after a SIGKILL, and it takes a tenth of the time of a process.
    """
    over, quiet = threading.Event(), threading.Event()
    told = [1]

    def die() -> None:
        quiet.set()
        over.wait()

    def live() -> None:
        write(mortal(url, clock, broken=broken), memory, told.append)
        quiet.set()

    clock = Clock(kill_at, die)
    thread = threading.Thread(target=live)
    thread.start()
    quiet.wait()
    yield clock.now >= kill_at, told[-1]
    over.set()
    thread.join()


def look(url: str, told: int) -> tuple[str, int]:
    """Load as a new attempt and return what is wrong, if anything, and how many steps were passed over."""
    store = storage.open_store(url)
    state = state_of(0)
    checkpoints = checkpointer(store, attempt=3)
    checkpoints.acquire_fence()
    found = checkpoints.restore(state)
    if found is None:
        return "nothing to load", 0
    values = {name: set(tensor.flatten().tolist()) for name, tensor in state.items()}
    if values != {"model.w": {found.step}, "optim.w.exp_avg": {-found.step}} or found.extra != {"step": found.step}:
        return f"step {found.step} holds {values} and {found.extra}", 0
    if found.step < told:
        return f"step {told} existed, step {found.step} was loaded", len(found.passed_over)
    checkpoints.save(9, state_of(9), {"step": 9}, wait=True)  # and the run goes on
    again = checkpointer(store, attempt=3).restore(state)
    return ("" if again and again.step == 9 else "the next step does not exist"), len(found.passed_over)


def die_often(_rank: int, _world: int, places: list[int], damaged: bool, broken: bool) -> list[Seen]:
    """Let a writer die at each of the places, one after the other; return what a load saw each time."""
    seen = []
    with shm.folder() as fast, tempfile.TemporaryDirectory(dir=fast) as folder:
        prepared(f"file://{folder}/before", damaged)
        for number, place in enumerate(places):
            run, memory = Path(folder, "run"), Path(folder, "memory")
            shutil.copytree(Path(folder, "before"), run)
            memory.mkdir()
            kill = killed if number % REAL_ONE_IN == 0 else stopped
            with kill(f"file://{run}", memory, place, broken=broken) as (was_killed, told):
                wrong, passed_over = look(f"file://{run}", told)
            seen.append(Seen(was_killed, wrong, passed_over))
            shutil.rmtree(run)
            shutil.rmtree(memory)
    return seen


def count_places(_rank: int, _world: int, damaged: bool) -> int:
    """Return how many places to die at an undisturbed writer passes."""
    clock = Clock(2**31, lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        prepared(f"file://{folder}/run", damaged)
        memory = Path(folder, "memory")
        memory.mkdir()
        write(mortal(f"file://{folder}/run", clock, broken=False), memory, lambda _: None)
    return clock.now


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "the newest step damaged"])
def test_no_load_sees_an_incomplete_or_corrupt_step_wherever_the_writer_dies(damaged: bool) -> None:
    places = ranks.run(1, count_places, damaged)[0]
    assert places > 200
    drawn = random.Random(7).choices(range(1, places + 1), k=KILLS // 2)
    seen: list[Seen] = ranks.run(1, die_often, drawn, damaged, False, timeout_seconds=400)[0]
    assert len(seen) == KILLS // 2
    assert all(each.killed for each in seen)
    assert {each.wrong for each in seen} == {""}


def test_the_control_a_manifest_before_its_shards_is_seen() -> None:
    seen: list[Seen] = ranks.run(1, die_often, list(range(1, 400, 9)), False, True, timeout_seconds=200)[0]
    assert any(each.passed_over for each in seen)
