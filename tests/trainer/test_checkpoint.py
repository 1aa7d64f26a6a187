"""Checkpoints on real ranks: every layout into every other, and what failures leave behind."""

import json
import os
import pathlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from internlm2_spec.config import Refused
from internlm2_spec.manifest import parse_manifest
from internlm2_trainer import storage
from internlm2_trainer.checkpoint import Checkpointer, Fenced
from internlm2_trainer.storage import Store, StoreRefused
from tests import ranks, servers

# name -> (replicate, shard, tensor)
LAYOUTS = {
    "1": (1, 1, 1),
    "data 2": (1, 2, 1),
    "data 4": (1, 4, 1),
    "tensor 2": (1, 1, 2),
    "data 2 x tensor 2": (1, 2, 2),
    "replicate 2 x shard 2": (2, 2, 1),
}

# Sizes that do not divide evenly, and the dimension that tensor parallelism cuts (None: every rank has all).
WEIGHTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "wqkv": ((10, 6), 0),
    "wo": ((6, 10), 1),
    "norm": ((7,), None),
    "embedding": ((14, 3), 0),
}


def full(name: str, salt: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(salt * 100 + sum(map(ord, name)))
    return torch.randn(WEIGHTS[name][0], generator=generator)


class Weights(torch.nn.Module):
    def __init__(self, salt: int, tensor_mesh: Any) -> None:
        super().__init__()
        for name, (_, dim) in WEIGHTS.items():
            placement = Replicate() if dim is None else Shard(dim)
            weight = full(name, salt)
            if tensor_mesh is not None:
                weight = distribute_tensor(weight, tensor_mesh, [placement])
            self.register_parameter(name, torch.nn.Parameter(weight))


def sharded(layout: str, salt: int) -> dict[str, torch.Tensor]:
    """Return the state of a model and of one moment under a layout, made by FSDP2 over tensor parallelism."""
    replicate, shard, tensor = LAYOUTS[layout]
    mesh = init_device_mesh("cpu", (replicate, shard, tensor), mesh_dim_names=("replicate", "shard", "tensor"))
    data = mesh["replicate", "shard"] if replicate > 1 else mesh["shard"]
    weights = Weights(salt, mesh["tensor"] if tensor > 1 else None)
    fully_shard(weights, mesh=data)
    state: dict[str, torch.Tensor] = {f"model.{name}": p.detach() for name, p in weights.named_parameters()}
    moments = {name.replace("model.", "optim.") + ".exp_avg": (p * 2).to(torch.bfloat16) for name, p in state.items()}
    return {**state, **moments, "optim.count": torch.tensor(salt)}


def whole(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).tolist() for name, t in state.items()}


def expected(salt: int) -> dict[str, Any]:
    weights = {name: full(name, salt) for name in WEIGHTS}
    moments = {f"optim.{name}.exp_avg": (w * 2).to(torch.bfloat16).tolist() for name, w in weights.items()}
    return {f"model.{name}": w.tolist() for name, w in weights.items()} | moments | {"optim.count": salt}


class Memory:
    """What one rank needs of a rendezvous store."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str, /) -> None:
        self._values[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        return self._values[key]

    def check(self, keys: list[str], /) -> bool:
        return all(key in self._values for key in keys)

    def delete_key(self, key: str, /) -> bool:
        return self._values.pop(key, None) is not None


def checkpointer(
    store: Store,
    rank: int = 0,
    world: int = 1,
    *,
    attempt: int = 1,
    keep: int = 5,
    incarnation: str = "0",
) -> Checkpointer:
    kv = Memory() if world == 1 else dist.distributed_c10d._get_default_store()
    return Checkpointer(
        store,
        stage="pretrain",
        keep=keep,
        attempt=attempt,
        rank=rank,
        world=world,
        kv=kv,
        incarnation=incarnation,
    )


def save_under(rank: int, world: int, url: str, *layouts: str) -> None:
    """Save under layouts one after the other, each to a folder of its name."""
    for layout in layouts:
        checkpoints = checkpointer(storage.open_store(f"{url}/{layout}"), rank, world, incarnation=layout)
        checkpoints.acquire_fence()
        state = sharded(layout, salt=3)
        checkpoints.save(7, state, {"tokens": 70})
        for tensor in state.values():  # the training goes on while the save is in flight
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).zero_()
        checkpoints.wait()
        assert checkpoints.published is not None
        assert checkpoints.published[0] == 7


Loaded = tuple[dict[str, Any], int, dict[str, Any]]


def load_under(rank: int, world: int, url: str, layout: str) -> Loaded:
    """Load what was saved at `url` under a layout; return the whole state, step and extra."""
    state = sharded(layout, salt=99)
    restored = checkpointer(storage.open_store(url), rank, world, incarnation=f"{url} {layout}").restore(state)
    assert restored is not None
    return whole(state), restored.step, restored.extra


def load_every(rank: int, world: int, url: str, *layouts: str) -> dict[tuple[str, str], Loaded]:
    return {
        (saved, loaded): load_under(rank, world, f"{url}/{saved}", loaded) for saved in LAYOUTS for loaded in layouts
    }


def world_of(layout: str) -> int:
    replicate, shard, tensor = LAYOUTS[layout]
    return replicate * shard * tensor


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Loaded]:
    """Every layout saved once and loaded under every other: (saved, loaded) -> what rank 0 then has."""
    url = f"file://{tmp_path_factory.mktemp('layouts')}"
    by_world = {world: [layout for layout in LAYOUTS if world_of(layout) == world] for world in (1, 2, 4)}
    for world, layouts in by_world.items():
        ranks.run(world, save_under, url, *layouts)
    results: dict[tuple[str, str], Loaded] = {}
    for world, layouts in by_world.items():
        results |= ranks.run(world, load_every, url, *layouts)[0]
    return results


@pytest.mark.parametrize("loaded", LAYOUTS)
@pytest.mark.parametrize("saved", LAYOUTS)
def test_a_state_saved_under_one_layout_loads_bitwise_under_another(
    saved: str, loaded: str, reloaded: dict[tuple[str, str], Loaded]
) -> None:
    assert reloaded[saved, loaded] == (expected(3), 7, {"tokens": 70})


def test_layouts_change_bitwise_over_a_real_s3_server(s3: servers.S3Server) -> None:
    url, layout = s3.url(f"checkpoints/{uuid.uuid4()}"), "data 2 x tensor 2"
    ranks.run(4, save_under, url, layout)
    assert [result[0] for result in ranks.run(2, load_under, f"{url}/{layout}", "data 2")] == [expected(3)] * 2


def test_replicas_are_written_once(tmp_path: pathlib.Path) -> None:
    ranks.run(4, save_under, f"file://{tmp_path}", "replicate 2 x shard 2")
    folder = tmp_path / "replicate 2 x shard 2/pretrain/step-00000007"
    manifest = parse_manifest((folder / "manifest.json").read_text())
    assert all(len(tensor.slices) <= 2 for tensor in manifest.tensors.values())


# What one process does to one store, without a layout.


def state_of(value: float) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((4, 3), value), "optim.w.exp_avg": torch.full((4, 3), -value)}


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    if request.param == "file":
        return storage.open_store(f"file://{tmp_path}")
    server: servers.S3Server = request.getfixturevalue("s3")
    return storage.open_store(server.url(f"checkpoints/{uuid.uuid4()}"))


def saved(store: Store, *steps: int, keep: int = 5) -> None:
    checkpoints = checkpointer(store, keep=keep)
    for step in steps:
        checkpoints.save(step, state_of(step), {"step": step}, wait=True)


def restored(store: Store) -> tuple[float, int, tuple[tuple[int, str], ...]]:
    state = state_of(0)
    result = checkpointer(store).restore(state)
    assert result is not None
    return state["model.w"][0, 0].item(), result.step, result.passed_over


def key_of(store: Store, step: int, ending: str) -> str:
    return next(e.key for e in store.list(f"pretrain/step-{step:08d}/") if e.key.endswith(ending))


def test_without_a_checkpoint_there_is_nothing_to_restore(store: Store) -> None:
    assert checkpointer(store).restore(state_of(0)) is None


def test_a_shard_is_a_file_that_safetensors_reads(tmp_path: pathlib.Path) -> None:
    saved(storage.open_store(f"file://{tmp_path}"), 1)
    path = next(tmp_path.glob("pretrain/step-00000001/*.safetensors"))
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("optim.w.exp_avg"), state_of(1)["optim.w.exp_avg"])


DAMAGES: dict[str, tuple[Callable[[Store], None], str]] = {
    "a byte of a shard": (
        lambda store: flip(store, key_of(store, 2, ".safetensors")),
        "has another SHA-256",
    ),
    "a shard cut short": (
        lambda store: store.put(key_of(store, 2, ".safetensors"), [memoryview(b"short")]),
        "has 5 bytes, not",
    ),
    "a shard gone": (lambda store: store.delete([key_of(store, 2, ".safetensors")]), "is missing"),
    "half a manifest": (
        lambda store: store.put(key_of(store, 2, "manifest.json"), [memoryview(b'{"format": "inter')]),
        "manifest.json: ",
    ),
}


def flip(store: Store, key: str) -> None:
    body = bytearray(store.get(key).body)
    body[-1] ^= 1
    store.put(key, [memoryview(body)])


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_newest_step_is_named_and_the_one_before_is_used(
    what: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(store, 1, 2)
    damage, reason = DAMAGES[what]
    damage(store)
    value, step, passed_over = restored(store)
    assert (value, step, [s for s, _ in passed_over]) == (1.0, 1, [2])
    assert reason in passed_over[0][1]
    assert json.loads(capsys.readouterr().out)["event"] == "checkpoint-passed-over"


def test_a_damaged_step_is_written_anew_when_the_training_reaches_it(store: Store) -> None:
    saved(store, 1, 2)
    flip(store, key_of(store, 2, ".safetensors"))
    checkpoints = checkpointer(store)
    checkpoints.restore(state_of(0))
    checkpoints.save(2, state_of(22), {}, wait=True)
    assert restored(store) == (22.0, 2, ())


def test_foreign_files_are_ignored_and_left_alone(store: Store) -> None:
    foreign = ["pretrain/notes.txt", "pretrain/step-9/manifest.json", "pretrain/step-00000001/readme", "manifest.json"]
    for key in foreign:
        store.put(key, [memoryview(b"hello")])
    saved(store, 1, 2, 3, keep=1)
    assert restored(store) == (3.0, 3, ())
    assert set(foreign) <= {entry.key for entry in store.list("")}


def test_retention_keeps_the_newest_and_removes_leftovers_of_killed_saves(store: Store) -> None:
    store.put("pretrain/step-00000001/0-0-dead.safetensors", [memoryview(b"x")])
    saved(store, 2, 3, 4, 5, keep=2)
    folders = {entry.key.split("/")[1] for entry in store.list("pretrain/")}
    assert folders == {"step-00000004", "step-00000005"}


def test_a_step_that_exists_is_not_written_again(store: Store) -> None:
    checkpoints = checkpointer(store)
    checkpoints.save(1, state_of(1), {}, wait=True)
    checkpoints.save(1, state_of(2), {}, wait=True)
    assert restored(store)[0] == 1.0


def test_an_older_attempt_can_neither_take_the_fence_nor_publish(store: Store) -> None:
    old, new = checkpointer(store, attempt=1), checkpointer(store, attempt=2)
    old.acquire_fence()
    new.acquire_fence()
    with pytest.raises(Fenced, match="attempt 2 holds the fence; this is attempt 1"):
        old.save(5, state_of(5), {}, wait=True)
    with pytest.raises(Fenced):
        checkpointer(store, attempt=1).acquire_fence()
    assert new.restore(state_of(0)) is None
    new.acquire_fence()  # a restart in place takes it again


def test_a_stage_starts_from_the_weights_alone_of_another(store: Store) -> None:
    saved(store, 3)
    state = state_of(0)
    later = Checkpointer(store, stage="later", keep=1, attempt=1, rank=0, world=1, kv=Memory(), incarnation="x")
    assert later.restore(state) is None
    assert later.init_from("pretrain", state).step == 3
    assert (state["model.w"][0, 0].item(), state["optim.w.exp_avg"][0, 0].item()) == (3.0, 0.0)
    with pytest.raises(StoreRefused, match="has no finished checkpoint to start from; run that stage first"):
        later.init_from("missing", state)


def test_a_checkpoint_of_another_model_is_refused_with_the_tensor(store: Store) -> None:
    saved(store, 1)
    with pytest.raises(Refused, match=r"model\.w has shape \[4, 3\], the model \[5, 3\]"):
        checkpointer(store).restore({"model.w": torch.zeros(5, 3)})
    with pytest.raises(Refused, match=r"has no tensor model\.v"):
        checkpointer(store).restore({"model.v": torch.zeros(5, 3)})


# What goes wrong while a save is in flight.


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


def test_a_save_beside_one_in_flight_is_skipped_and_counted_and_a_waiting_one_comes_after(store: Store) -> None:
    gate = Gate(store)
    checkpoints = checkpointer(gate)
    checkpoints.save(1, state_of(1), {})
    checkpoints.save(2, state_of(2), {})
    assert (checkpoints.skipped, checkpoints.published, checkpoints.wait(0.0)) == (1, None, False)
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
