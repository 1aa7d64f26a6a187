import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.manifest import (
    Manifest,
    Slice,
    StoredObject,
    Tensor,
    kept,
    lacking,
    parse_manifest,
    published,
    to_json,
)

FOLDER = "pretrain/step-00000050"
MANIFEST = Manifest(
    stage="pretrain",
    step=50,
    attempt=2,
    world=2,
    time=1.5,
    objects=(StoredObject("2-0-ab.safetensors", 100, "aa"), StoredObject("2-1-ab.safetensors", 60, "bb")),
    tensors={
        "model.w": Tensor(
            "F32",
            (3, 2),
            (Slice("2-0-ab.safetensors", 64, (0, 0), (2, 2)), Slice("2-1-ab.safetensors", 8, (2, 0), (1, 2))),
        ),
        "scalar": Tensor("I64", (), (Slice("2-0-ab.safetensors", 80, (), ()),)),
    },
    extra={"tokens": 1000},
)


def test_a_manifest_survives_its_json() -> None:
    assert parse_manifest(to_json(MANIFEST)) == MANIFEST


def edited(**changes: object) -> str:
    """Return a manifest without digest: what the checks that come after it find."""
    data = json.loads(to_json(MANIFEST)) | changes
    del data["sha256"]
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "not a checkpoint manifest"),
        ("{}", "not a checkpoint manifest"),
        (edited(format="other/1"), "format 'other/1' is not"),
        (edited(step=None), "not a checkpoint manifest"),
        (edited(objects=[["x", 1]]), "not enough values"),
        (edited(tensors={"w": ["F32", [4], [[0, 0, [0], [3]]]]}), "w: slices hold 3 of 4 elements"),
        (edited(tensors={"w": ["F32", [4], [[1, 48, [0], [4]]]]}), "w: bytes 48 to 64 are not in 2-1"),
        (edited(tensors={"w": ["F99", [4], []]}), "type 'F99' is not known"),
        (edited(tensors={"w": ["F32", [4], [[7, 0, [0], [4]]]]}), "not a checkpoint manifest"),
        (to_json(MANIFEST)[:-20], "Unterminated string"),
    ],
)
def test_another_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_manifest(text)


@given(st.text())
def test_any_text_is_a_manifest_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_manifest(text)


def test_published_steps_are_those_with_a_manifest_newest_first() -> None:
    keys = [
        "pretrain/step-00000050/manifest.json",
        "pretrain/step-00000100/manifest.json",
        "pretrain/step-00000150/2-0-ab.safetensors",  # no manifest: an unfinished save
        "pretrain/step-00000200/old/manifest.json",
        "pretrain/step-7/manifest.json",
        "pretrain/notes.txt",
        "other/step-00000300/manifest.json",
        "manifest.json",
    ]
    assert published(keys, "pretrain") == [100, 50]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({f"{FOLDER}/2-0-ab.safetensors": 100, f"{FOLDER}/2-1-ab.safetensors": 60, "foreign": 1}, None),
        ({f"{FOLDER}/2-0-ab.safetensors": 100}, "2-1-ab.safetensors is missing"),
        (
            {f"{FOLDER}/2-0-ab.safetensors": 99, f"{FOLDER}/2-1-ab.safetensors": 60},
            "2-0-ab.safetensors has 99 bytes, not 100",
        ),
    ],
)
def test_a_listing_is_compared_with_the_objects(sizes: dict[str, int], reason: str | None) -> None:
    assert lacking(MANIFEST, sizes, FOLDER) == reason


CHANGES = {"step": ('"step":50', '"step":90'), "tokens": ('"tokens":1000', '"tokens":2000')}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_was_changed_is_found_out(old: str, new: str) -> None:
    text = to_json(MANIFEST)
    assert old in text
    with pytest.raises(ValueError, match="another SHA-256"):
        parse_manifest(text.replace(old, new))


def test_a_manifest_of_the_first_release_has_no_digest_and_is_read() -> None:
    data = json.loads(to_json(MANIFEST))
    del data["sha256"]
    assert parse_manifest(json.dumps(data)) == MANIFEST


@given(steps=st.sets(st.integers(0, 40)), keep=st.integers(0, 5), every=st.integers(0, 9))
def test_retention_keeps_the_newest_and_the_multiples(steps: set[int], keep: int, every: int) -> None:
    left = kept(sorted(steps), keep=keep, keep_every=every)
    newest = sorted(steps)[-max(1, keep) :]
    assert left == {s for s in steps if s in newest or (every and s % every == 0)}
