"""What is wrong with a checkpoint: its manifest against listing and fence, then every byte against the manifest.

Imports no torch: the command line verifies, too.
"""

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.fence import Fence
from internlm2_spec.manifest import Manifest, StoredObject, lacking, parse_manifest
from internlm2_trainer.storage import PIECE_BYTES, Missing, Store, read_exactly, retrying

_T = TypeVar("_T")

# Pieces of one object that are fetched while an earlier one is hashed: a bound on memory, too.
AHEAD: Final = 4


def sizes(store: Store, stage: str) -> dict[str, int]:
    """Return the bytes of every object of a stage, by key."""
    return {entry.key: entry.size for entry in retrying(lambda: store.list(f"{stage}/"))}


def read_manifest(store: Store, stage: str, step: int) -> Manifest:
    """Read the manifest of a step.

    Raises:
        Missing: the step does not exist.
        ValueError: the manifest is damaged, or of another step.
    """
    key = f"{step_prefix(stage, step)}/{MANIFEST_NAME}"
    manifest = parse_manifest(retrying(lambda: store.get(key)).body.decode())
    if (manifest.stage, manifest.step) != (stage, step):
        raise ValueError(f"it is of {manifest.stage} step {manifest.step}")
    return manifest


def inspect(
    store: Store, stage: str, step: int, *, listed: Mapping[str, int], fence: Fence
) -> tuple[Manifest | None, str | None]:
    """Return a step's manifest, and what it, a listing and the fence show to be wrong: without reading shards."""
    try:
        manifest = read_manifest(store, stage, step)
    except Missing:
        return None, f"{MANIFEST_NAME} is missing"
    except ValueError as error:
        return None, f"{MANIFEST_NAME}: {error}"
    if newer := fence.superseded_by(stage=stage, attempt=manifest.attempt, step=step):
        return manifest, f"attempt {manifest.attempt} wrote it although attempt {newer} had resumed before it"
    return manifest, lacking(manifest, listed, step_prefix(stage, step))


def damage(
    store: Store, folder: str, objects: Iterable[StoredObject], *, noticed: Callable[[int], None] = lambda _: None
) -> str | None:
    """Read objects whole and return what is wrong with the first bad one, None when all are as listed.

    `noticed` is called with the bytes of each piece that was read.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        for stored in objects:
            if reason := _damage(store, f"{folder}/{stored.name}", stored, pool, noticed):
                return reason
    return None


def _damage(
    store: Store, key: str, stored: StoredObject, pool: ThreadPoolExecutor, noticed: Callable[[int], None]
) -> str | None:
    def read(start: int) -> bytes:
        length = min(PIECE_BYTES, stored.size - start)
        return retrying(functools.partial(read_exactly, store, key, start, length))

    total = hashlib.sha256()
    try:
        for piece in _ahead(pool, read, range(0, stored.size, PIECE_BYTES)):
            total.update(piece)
            noticed(len(piece))
    except Missing:
        return f"{stored.name} is missing"
    return None if total.hexdigest() == stored.sha256 else f"{stored.name} has another SHA-256"


def _ahead(pool: ThreadPoolExecutor, action: Callable[[int], _T], items: Iterable[int]) -> Iterator[_T]:
    """Yield `action` of each item in order, with the next ones already under way."""
    pending: deque[Future[_T]] = deque()
    for item in items:
        pending.append(pool.submit(action, item))
        if len(pending) == AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
