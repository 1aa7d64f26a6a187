"""What one process saves and another finds, in a folder and on a real S3 server."""

import json
import pathlib
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open

from internlm2_spec.config import Refused
from internlm2_trainer import storage
from internlm2_trainer.checkpoint.checkpointer import Fenced
from internlm2_trainer.storage import Store, StoreRefused
from tests.trainer.states import a_store, checkpointer, flip, key_of, restored, saved, state_of


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    return a_store(request, tmp_path)


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


def test_multiples_of_keep_every_stay_for_ever(store: Store) -> None:
    saved(store, *range(1, 9), keep=2, keep_every=3)
    folders = {entry.key.split("/")[1] for entry in store.list("pretrain/")}
    assert folders == {f"step-{step:08d}" for step in (3, 6, 7, 8)}


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


def test_what_an_older_attempt_writes_too_late_does_not_exist(store: Store) -> None:
    """It passed its check of the fence, was held up, and wrote its manifest after a newer attempt had resumed."""
    saved(store, 1, attempt=1)
    new = checkpointer(store, attempt=2)
    new.restore(state_of(0))
    saved(storage.open_store(store.url), 2, 3, attempt=1)  # nobody told it: the fence is as it was
    new.acquire_fence()
    new.save(2, state_of(22), {}, wait=True)  # notes that this attempt resumed from step 1, and replaces step 2
    value, step, passed_over = restored(store)
    assert (value, step) == (22.0, 2)
    assert passed_over == ((3, "attempt 1 wrote it although attempt 2 had resumed before it"),)


def test_the_control_without_a_newer_attempt_loads_the_same_steps(store: Store) -> None:
    saved(store, 1, 2, 3, attempt=1)
    assert restored(store) == (3.0, 3, ())


def test_a_stage_starts_from_the_weights_alone_of_another(store: Store) -> None:
    saved(store, 3)
    state = state_of(0)
    later = checkpointer(store, stage="later")
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
