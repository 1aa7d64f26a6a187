"""What goes wrong while a save is in flight: the training goes on, and nothing half-written is seen."""

import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch.distributed as dist

from internlm2_trainer import storage
from internlm2_trainer.storage import Store, StoreRefused
from tests import ranks, servers
from tests.trainer.states import a_store, checkpointer, restored, sharded, state_of
from tests.trainer.test_reshard import load_under, save_under


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    return a_store(request, tmp_path)


class Gate:
    """A store whose writes of shards wait until `opened` is set."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.opened = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        assert self.opened.wait(60)
        self._store.put(key, parts)


def test_a_save_beside_one_in_flight_is_skipped_and_counted_and_a_waiting_one_comes_after(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(store)
    checkpoints = checkpointer(gate)
    checkpoints.save(1, state_of(1), {})
    checkpoints.save(2, state_of(2), {})
    assert (checkpoints.skipped, checkpoints.published, checkpoints.wait(0.0)) == (1, None, False)
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["step"], said["inFlight"]) == ("checkpoint-skipped", 2, 1)
    gate.opened.set()
    checkpoints.save(3, state_of(3), {}, wait=True)
    assert (restored(store)[1], checkpoints.skipped) == (3, 1)
    assert not store.list("pretrain/step-00000002/")


def test_the_training_goes_on_through_an_outage_and_the_save_ends_after_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = storage.open_store(server.url("run"))
        checkpoints = checkpointer(store)
        checkpoints.acquire_fence()
        server.stop()
        checkpoints.save(1, state_of(1), {})
        for step in (2, 3, 4):
            checkpoints.save(step, state_of(step), {})
        assert (checkpoints.skipped, checkpoints.published) == (3, None)
        server.start()
        assert checkpoints.wait(60)
        assert restored(store) == (1.0, 1, ())


def test_closing_gives_up_a_save_that_waits_for_the_storage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        checkpoints = checkpointer(storage.open_store(server.url("run")))
        server.stop()
        checkpoints.save(1, state_of(1), {})
        checkpoints.close()
        assert checkpoints.published is None


class DeadlyStore:
    """A store that kills the process at its n-th write."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        self._count()
        self._store.put(key, parts)

    def create(self, key: str, body: bytes) -> None:
        self._count()
        self._store.create(key, body)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def save_and_die(rank: int, world: int, url: str, victim: int, writes: int) -> None:
    store = storage.open_store(url)
    deadly = DeadlyStore(store, writes if rank == victim else 10**9)
    checkpoints = checkpointer(deadly, rank, world)
    checkpoints.save(8, sharded("data 2", salt=8), {})
    checkpoints.wait()


@pytest.mark.parametrize(("victim", "writes"), [(0, 1), (1, 1), (0, 2)], ids=["rank 0", "rank 1", "the manifest"])
def test_a_rank_killed_during_a_save_leaves_no_step(victim: int, writes: int, tmp_path: pathlib.Path) -> None:
    url = f"file://{tmp_path}/data 2"
    ranks.run(2, save_under, f"file://{tmp_path}", "data 2")
    with pytest.raises(ranks.RankFailed, match="died without a result"):
        ranks.run(2, save_and_die, url, victim, writes)
    assert [step for _, step, _ in ranks.run(1, load_under, url, "1")] == [7]


def failing_on_one(rank: int, world: int, url: str) -> str:
    """Rank 1's storage refuses; every rank must learn it."""
    store = storage.open_store(url if rank == 0 else "file:///dev/null/no-folder")
    checkpoints = checkpointer(store, rank, world)
    try:
        checkpoints.save(1, sharded("data 2", salt=1), {}, wait=True)
    except StoreRefused as error:
        return str(error)
    return ""


def test_a_refusal_on_one_rank_is_raised_on_all(tmp_path: pathlib.Path) -> None:
    messages = ranks.run(2, failing_on_one, f"file://{tmp_path}")
    assert all("/dev/null/no-folder" in message for message in messages)


def keys_left(rank: int, world: int, url: str) -> int:
    kv = dist.distributed_c10d._get_default_store()
    checkpoints = checkpointer(storage.open_store(url), rank, world)
    state = sharded("data 2", salt=1)
    counts = []
    for step in range(1, 5):
        checkpoints.save(step, state, {}, wait=True)
        dist.barrier()
        counts.append(kv.num_keys())
        dist.barrier()
    return int(counts[-1] - counts[1])


def test_saves_leave_no_keys_behind_in_the_rendezvous_store(tmp_path: pathlib.Path) -> None:
    assert ranks.run(2, keys_left, f"file://{tmp_path}") == [0, 0]


def test_the_stall_is_what_the_caller_waited(store: Store) -> None:
    checkpoints = checkpointer(store)
    before = time.monotonic()
    checkpoints.save(1, state_of(1), {})
    assert 0 < checkpoints.stall_seconds <= time.monotonic() - before
    checkpoints.wait()
