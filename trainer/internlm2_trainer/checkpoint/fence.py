"""The fence: `fence.json` names the one attempt that may publish; an older writer finds out and stops."""

import contextlib

from internlm2_spec.contract import FENCE_NAME
from internlm2_spec.fence import Fence, Resumed
from internlm2_trainer.storage import Conflict, Missing, Store, StoreRefused


class Fenced(Exception):
    """A newer attempt of this job holds the fence: this process is a leftover and must not write."""


def acquire(store: Store, attempt: int, resumed: Resumed | None = None) -> Fence:
    """Make `attempt` the one that may publish, by compare-and-swap, and return the fence.

    `resumed` is noted with it: from then on no step of an older attempt beyond it counts.

    Raises:
        Fenced: a newer attempt has it.
    """
    while True:
        fence, tag = _stored(store)
        if fence.attempt > attempt:
            raise Fenced(f"attempt {fence.attempt} holds the fence; this is attempt {attempt}")
        wanted = fence.held_by(attempt, resumed)
        if wanted == fence:
            return fence
        with contextlib.suppress(Conflict):
            store.swap(FENCE_NAME, wanted.to_json().encode(), tag=tag)
            return wanted


def read(store: Store) -> Fence:
    """Return the fence as it stands; an empty one when nobody took it yet."""
    return _stored(store)[0]


def _stored(store: Store) -> tuple[Fence, str | None]:
    """Return the fence and the tag to swap it by."""
    try:
        stored = store.get(FENCE_NAME)
        return Fence.from_json(stored.body.decode()), stored.tag
    except Missing:
        return Fence(), None
    except ValueError:
        wrong = f"{FENCE_NAME} is not a fence"
        raise StoreRefused(store.url, wrong=wrong, right="delete it, or use an URL of this job's own") from None
