"""The memory tier on real ranks: what a restart in place resumes from, and what a lost node takes from its peers."""

import json
import pathlib
import shutil
from typing import Any

import pytest
import torch
import torch.distributed as dist

from internlm2_trainer import storage
from internlm2_trainer.checkpoint.memory import Memory, limit
from internlm2_trainer.pod import shm
from tests import ranks
from tests.trainer.states import checkpointer, expected, flip, restored, sharded, state_of, value_of, whole

ROOM = 2**20


def memory_of(folder: pathlib.Path, rank: int, *, room: int = ROOM) -> Memory:
    """Return the memory of a rank, each as if on a node of its own."""
    node = folder / f"node{rank}"
    node.mkdir(exist_ok=True)
    return Memory(node, 0, limit_bytes=room)


def train(rank: int, world: int, folder: pathlib.Path, layout: str, life: str, *orders: tuple[str, int]) -> Any:
    """Resume, then do what `orders` say, as (save | remember, step); return what was resumed from."""
    store = storage.open_store(f"file://{folder}/bucket")
    checkpoints = checkpointer(store, rank, world, memory=memory_of(folder, rank), incarnation=life)
    state = sharded(layout, salt=99)
    found = checkpoints.restore(state)
    resumed = (found.step, found.tier, found.extra, whole(state)) if found else None
    for order, step in orders:
        now = sharded(layout, salt=step)
        getattr(checkpoints, order)(step, now, {"step": step})
        for tensor in now.values():
            getattr(tensor, "to_local", lambda tensor=tensor: tensor)().zero_()  # the training goes on
        checkpoints.wait()
        dist.barrier()  # a copy is left out while some rank has not sealed the one before
    return resumed


def after(step: int, tier: str) -> tuple[int, str, dict[str, int], dict[str, Any]]:
    return step, tier, {"step": step}, expected(step)


def test_the_newest_of_memory_and_storage_is_resumed_from_bit_by_bit(tmp_path: pathlib.Path) -> None:
    layout = "data 2 x tensor 2"
    first = ranks.run(4, train, tmp_path, layout, "a", ("save", 5), ("remember", 7), ("remember", 9))
    second = ranks.run(4, train, tmp_path, layout, "b", ("save", 10), ("save", 15))
    third = ranks.run(4, train, tmp_path, layout, "c")
    shutil.rmtree(tmp_path / "node1")
    fourth = ranks.run(4, train, tmp_path, layout, "d")
    assert first == [None] * 4
    assert second == [after(9, "memory")] * 4
    assert third == [after(15, "memory")] * 4
    assert fourth == [after(15, "storage")] * 4


def test_a_node_that_lost_its_memory_takes_it_from_its_replica(tmp_path: pathlib.Path) -> None:
    layout = "replicate 2 x shard 2"
    ranks.run(4, train, tmp_path, layout, "a", ("save", 5), ("remember", 7))
    shutil.rmtree(tmp_path / "node3")
    second = ranks.run(4, train, tmp_path, layout, "b")
    shutil.rmtree(tmp_path / "node1")  # the peer that had it then: what was received counts as a copy
    third = ranks.run(4, train, tmp_path, layout, "c")
    assert second == third == [after(7, "memory")] * 4


def test_without_a_replica_a_lost_node_sends_everybody_to_the_storage(tmp_path: pathlib.Path) -> None:
    ranks.run(2, train, tmp_path, "data 2", "a", ("save", 5), ("remember", 7))
    shutil.rmtree(tmp_path / "node1")
    assert ranks.run(2, train, tmp_path, "data 2", "b") == [after(5, "storage")] * 2


def test_ranks_that_changed_nodes_take_each_others_copies(tmp_path: pathlib.Path) -> None:
    ranks.run(2, train, tmp_path, "data 2", "a", ("save", 5), ("remember", 7))
    (tmp_path / "node0").rename(tmp_path / "elsewhere")
    (tmp_path / "node1").rename(tmp_path / "node0")
    (tmp_path / "elsewhere").rename(tmp_path / "node1")
    assert ranks.run(2, train, tmp_path, "data 2", "b") == [after(7, "memory")] * 2


# What one rank does with its memory.


def remembered(folder: pathlib.Path, *steps: int) -> None:
    checkpoints = checkpointer(storage.open_store(f"file://{folder}/bucket"), memory=memory_of(folder, 0))
    checkpoints.restore(state_of(0))
    for step in steps:
        checkpoints.remember(step, state_of(step), {"step": step})
        checkpoints.wait()


def recalled(folder: pathlib.Path, *, attempt: int = 1, stage: str = "pretrain") -> tuple[float, int, str] | None:
    store = storage.open_store(f"file://{folder}/bucket")
    state = state_of(0)
    found = checkpointer(store, memory=memory_of(folder, 0), attempt=attempt, stage=stage).restore(state)
    return (value_of(state["model.w"]), found.step, found.tier) if found else None


def test_two_copies_are_kept_and_the_newest_is_used(tmp_path: pathlib.Path) -> None:
    remembered(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in (tmp_path / "node0").iterdir()) == ["0-0", "0-0.json", "0-1", "0-1.json"]
    assert recalled(tmp_path) == (3.0, 3, "memory")


def test_a_copy_with_a_changed_byte_is_passed_over_for_the_one_before(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remembered(tmp_path, 1, 2)
    newest = next(p for p in (tmp_path / "node0").glob("*.json") if json.loads(p.read_text())["step"] == 2)
    body = bytearray(newest.with_suffix("").read_bytes())
    body[5] ^= 1
    newest.with_suffix("").write_bytes(body)
    assert recalled(tmp_path) == (1.0, 1, "memory")
    assert '"memory-checkpoint-passed-over"' in capsys.readouterr().out


def test_a_copy_that_was_not_sealed_does_not_exist(tmp_path: pathlib.Path) -> None:
    remembered(tmp_path, 1)
    for path in (tmp_path / "node0").glob("*.json"):
        path.unlink()
    assert recalled(tmp_path) is None


@pytest.mark.parametrize("other", [{"attempt": 2}, {"stage": "later"}], ids=["attempt", "stage"])
def test_a_copy_of_another(other: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """Attempt or stage is none of ours; the control is the same call with neither."""
    remembered(tmp_path, 1)
    assert recalled(tmp_path) == (1.0, 1, "memory")
    assert recalled(tmp_path, **other) is None


def test_copies_newer_than_what_was_resumed_from_are_forgotten(tmp_path: pathlib.Path) -> None:
    """Two nodes: one holds steps 4 and 6, the other only 4; the run goes on from 4 and step 6 will come again."""
    remembered(tmp_path, 4, 6)
    checkpoints = checkpointer(storage.open_store(f"file://{tmp_path}/bucket"), memory=memory_of(tmp_path, 0))
    assert checkpoints._tier is not None
    checkpoints._tier.settle(state_of(0), 4)
    assert recalled(tmp_path) == (4.0, 4, "memory")


def test_the_next_copy_goes_over_the_older_one_after_a_restart_too(tmp_path: pathlib.Path) -> None:
    for step in (1, 2, 3, 4):
        remembered(tmp_path, step)
        kept = sorted(json.loads(path.read_text())["step"] for path in (tmp_path / "node0").glob("*.json"))
        assert kept == ([1] if step == 1 else [step - 1, step])


def test_steps_that_are_given_up_are_gone_from_memory_and_storage(tmp_path: pathlib.Path) -> None:
    store = storage.open_store(f"file://{tmp_path}/bucket")
    checkpoints = checkpointer(store, memory=memory_of(tmp_path, 0))
    checkpoints.restore(state_of(0))
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {}, wait=True)
    state = state_of(0)
    found = checkpoints.roll_back(state, before=3)
    assert (found.step if found else None, value_of(state["model.w"])) == (2, 2.0)
    assert (recalled(tmp_path), restored(store)) == ((2.0, 2, "memory"), (2.0, 2, ()))
    checkpoints.save(3, state_of(33), {}, wait=True)
    assert (recalled(tmp_path), restored(store)) == ((33.0, 3, "memory"), (33.0, 3, ()))


@pytest.mark.parametrize("earlier", ["none", "a damaged one"])
def test_without_a_whole_earlier_step_nothing_is_given_up(earlier: str, tmp_path: pathlib.Path) -> None:
    """The control is the test above."""
    store = storage.open_store(f"file://{tmp_path}/bucket")
    checkpoints = checkpointer(store, memory=memory_of(tmp_path, 0))
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {}, wait=True)
    for key in [entry.key for entry in store.list("pretrain/step-00000001/")]:
        store.delete([key]) if earlier == "none" else flip(store, key)
    there, published = store.list("pretrain/"), checkpoints.published
    state = state_of(7)
    assert checkpoints.roll_back(state, before=2) is None
    assert (value_of(state["model.w"]), store.list("pretrain/"), checkpoints.published) == (7.0, there, published)
    assert (checkpoints.remembered, recalled(tmp_path), restored(store)) == (3, (3.0, 3, "memory"), (3.0, 3, ()))
    checkpoints.save(4, state, {}, wait=True)
    assert (recalled(tmp_path), restored(store)) == ((7.0, 4, "memory"), (7.0, 4, ()))


def test_a_rank_without_room_goes_on_without_memory(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = storage.open_store(f"file://{tmp_path}/bucket")
    checkpoints = checkpointer(store, memory=memory_of(tmp_path, 0, room=200))
    checkpoints.restore(state_of(0))
    checkpoints.remember(1, state_of(1), {})
    checkpoints.save(2, state_of(2), {}, wait=True)
    assert (checkpoints.remembered, restored(store)) == (None, (2.0, 2, ()))
    assert "two copies of 128 bytes are above the limit of 200 bytes" in capsys.readouterr().out


def test_memory_is_resumed_from_while_the_storage_is_away(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered(tmp_path, 3)
    monkeypatch.setattr(storage, "FIRST_DELAY_SECONDS", 0.0)
    store = storage.open_store(f"file://{tmp_path}/bucket")
    state = state_of(0)
    checkpoints = checkpointer(Away(store), memory=memory_of(tmp_path, 0))
    checkpoints.acquire_fence()
    assert checkpoints.restore(state) is not None
    assert torch.equal(state["model.w"], state_of(3)["model.w"])


class Away:
    """A storage that does not answer."""

    def __init__(self, store: storage.Store) -> None:
        self.url = store.url

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise storage.StoreUnavailable(name)

        return call


def test_half_of_the_smaller_memory_is_shared_by_the_ranks_of_a_node() -> None:
    assert limit(1000, None, 5) == 100
    assert limit(1000, 400, 2) == 100


def test_a_folder_goes_with_its_agent_and_one_of_a_killed_agent_with_the_next(tmp_path: pathlib.Path) -> None:
    dead = tmp_path / f"{shm.PREFIX}dead"
    dead.mkdir()
    (dead / shm.LOCK).touch()
    with shm.folder(tmp_path) as living:
        assert living is not None
        with shm.folder(tmp_path) as other:
            assert set(tmp_path.iterdir()) == {living, other}
    assert list(tmp_path.iterdir()) == []


def test_without_shared_memory_there_is_no_folder(tmp_path: pathlib.Path) -> None:
    with shm.folder(tmp_path / "missing") as folder:
        assert folder is None
