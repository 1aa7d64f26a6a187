"""Checkpoints on real ranks: every layout into every other, bit by bit."""

import pathlib
import uuid
from typing import Any

import pytest
from torch.distributed.tensor import DTensor

from internlm2_spec.manifest import parse_manifest
from internlm2_trainer import storage
from tests import ranks, servers
from tests.trainer.states import LAYOUTS, checkpointer, expected, flip, sharded, whole, world_of


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


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Loaded]:
    """Every layout saved once and loaded under every other: (saved, loaded) -> what all ranks then have together."""
    url = f"file://{tmp_path_factory.mktemp('layouts')}"
    by_world = {world: [layout for layout in LAYOUTS if world_of(layout) == world] for world in (1, 2, 4)}
    assert sum(map(len, by_world.values())) == len(LAYOUTS)
    for world, layouts in by_world.items():
        ranks.run(world, save_under, url, *layouts)
    results: dict[tuple[str, str], Loaded] = {}
    for world, layouts in by_world.items():
        for pairs in ranks.run(world, load_every, url, *layouts):
            for pair, (state, *rest) in pairs.items():
                before = results[pair][0] if pair in results else {}
                results[pair] = ({**before, **state}, *rest)
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


def test_the_control_sees_a_single_bit(tmp_path: pathlib.Path) -> None:
    ranks.run(2, save_under, f"file://{tmp_path}", "data 2")
    store = storage.open_store(f"file://{tmp_path}/data 2")
    key = next(entry.key for entry in store.list("") if entry.key.endswith(".safetensors"))
    flip(store, key)
    with pytest.raises(ranks.RankFailed, match="assert restored is not None"):
        ranks.run(1, load_under, store.url, "1")
