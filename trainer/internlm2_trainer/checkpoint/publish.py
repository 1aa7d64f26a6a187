"""How a step comes to exist: every rank's shard, then the manifest.

Runs in a background thread. What needs the storage is tried until the storage is back; one staged copy
is all that waits meanwhile.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.fence import Resumed
from internlm2_spec.manifest import (
    Manifest,
    Slice,
    StoredObject,
    Tensor,
    check_tiling,
    parse_manifest,
    to_json,
)
from internlm2_trainer.checkpoint import fence, shards
from internlm2_trainer.checkpoint.exchange import Closed
from internlm2_trainer.observe.output import say
from internlm2_trainer.storage import Conflict, Missing, Store, StoreUnavailable, digest

_T = TypeVar("_T")

LONGEST_DELAY_SECONDS: Final = 5.0
REPORTED_TRY: Final = 3  # an outage is worth a line once, and a blip none


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, where, and how it waits."""

    store: Store
    stage: str
    attempt: int
    rank: int
    world: int
    pause: Callable[[float], bool]  # sleeps; True when the writer is closing

    def until_back(self, action: Callable[[], _T]) -> _T:
        """Call `action` until the storage is available.

        Raises:
            Closed: the writer is closing and the storage is still away.
        """
        delays = iter((0.25, 0.5, 1.0, 2.0))
        for tries in itertools.count():
            try:
                return action()
            except StoreUnavailable as error:
                if tries == REPORTED_TRY:
                    say(event="checkpoint-waiting", rank=self.rank, reason=str(error))
                if self.pause(next(delays, LONGEST_DELAY_SECONDS)):
                    raise Closed from None
        raise AssertionError("counting does not end")


def upload(writer: Writer, step: int, mark: str, staged: dict[str, shards.Staged]) -> dict[str, Any]:
    """Store this rank's shard and return its entry of the manifest: object, and a slice of each tensor."""
    if not staged:
        return {"object": None, "tensors": {}}
    parts, starts = shards.encode(staged)
    name = f"{writer.attempt}-{writer.rank}-{mark}.safetensors"
    key = f"{step_prefix(writer.stage, step)}/{name}"
    sha256 = digest(parts)
    writer.until_back(lambda: writer.store.put(key, parts))
    return {
        "object": [name, sum(map(len, parts)), sha256],
        "tensors": {
            tensor: [shards.NAMES[s.tensor.dtype], s.shape, starts[tensor], s.region.offset, s.region.shape]
            for tensor, s in staged.items()
        },
    }


def assemble(writer: Writer, step: int, entries: list[dict[str, Any]], extra: dict[str, Any], now: float) -> Manifest:
    """Join the ranks' entries into the manifest of a step.

    Raises:
        ValueError: the slices do not tile a tensor, which is a bug in who writes what.
    """
    objects = [StoredObject(*entry["object"]) for entry in entries if entry["object"]]
    tensors: dict[str, Tensor] = {}
    for entry in entries:
        for name, (dtype, shape, start, offset, box) in entry["tensors"].items():
            part = Slice(entry["object"][0], start, tuple(offset), tuple(box))
            earlier = tensors[name].slices if name in tensors else ()
            tensors[name] = Tensor(dtype, tuple(shape), (*earlier, part))
    manifest = Manifest(writer.stage, step, writer.attempt, writer.world, now, tuple(objects), tensors, extra)
    check_tiling(manifest)
    return manifest


def publish(writer: Writer, manifest: Manifest, *, resumed: int, replace: bool) -> Manifest:
    """Make the step exist and return its manifest: ours, or one that was there before.

    `resumed` is the step that this attempt went on from. `replace` says that the step exists and is known to be
    damaged; one that an older attempt wrote beyond `resumed` is replaced, too.

    Raises:
        Fenced: a newer attempt has taken over.
    """
    store, key = writer.store, f"{step_prefix(writer.stage, manifest.step)}/{MANIFEST_NAME}"
    body = to_json(manifest).encode()
    note = Resumed(writer.stage, writer.attempt, resumed)
    held = writer.until_back(lambda: fence.acquire(store, writer.attempt, note))
    if replace:
        writer.until_back(lambda: store.delete([key]))
    while True:
        try:
            writer.until_back(lambda: store.create(key, body))
            return manifest
        except Conflict:
            found = writer.until_back(lambda: _found(store, key))
        if found is None:
            continue  # deleted meanwhile
        there, tag = found
        if there and held.superseded_by(stage=there.stage, attempt=there.attempt, step=there.step) is None:
            return there
        with contextlib.suppress(Conflict):
            writer.until_back(functools.partial(store.swap, key, body, tag=tag))
            return manifest


def _found(store: Store, key: str) -> tuple[Manifest | None, str] | None:
    """Return the manifest at a key, None in its place when it is damaged, with its tag; None for no object."""
    try:
        stored = store.get(key)
    except Missing:
        return None
    try:
        return parse_manifest(stored.body.decode()), stored.tag
    except ValueError:
        return None, stored.tag
