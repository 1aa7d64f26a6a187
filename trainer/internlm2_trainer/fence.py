"""The fence: `fence.json` names the one attempt that may publish; an older writer finds out and stops."""

import contextlib
import json

from internlm2_spec.contract import FENCE_NAME
from internlm2_trainer.storage import Conflict, Missing, Store, StoreRefused


class Fenced(Exception):
    """A newer attempt of this job holds the fence: this process is a leftover and must not write."""


def acquire(store: Store, attempt: int) -> None:
    """Make `attempt` the one that may publish, by compare-and-swap.

    Raises:
        Fenced: a newer attempt has it.
    """
    while True:
        holder, tag = _holder(store)
        _refuse_newer(holder, attempt)
        if holder == attempt:
            return  # a restart in place
        with contextlib.suppress(Conflict):
            store.swap(FENCE_NAME, json.dumps({"attempt": attempt}).encode(), tag=tag)
            return


def check(store: Store, attempt: int) -> None:
    """Raise Fenced unless no newer attempt holds the fence.

    Between this and the write that it guards a newer attempt may still take the fence. The step that then
    appears is whole and verified, and the newer attempt finds it published when it gets there.
    """
    _refuse_newer(_holder(store)[0], attempt)


def _refuse_newer(holder: int, attempt: int) -> None:
    if holder > attempt:
        raise Fenced(f"attempt {holder} holds the fence; this is attempt {attempt}")


def _holder(store: Store) -> tuple[int, str | None]:
    """Return the attempt on the fence, -1 for none, and the tag to swap it by."""
    try:
        stored = store.get(FENCE_NAME)
        return int(json.loads(stored.body)["attempt"]), stored.tag
    except Missing:
        return -1, None
    except (ValueError, TypeError, KeyError):
        wrong = f"{FENCE_NAME} is not a fence"
        raise StoreRefused(store.url, wrong=wrong, right="delete it, or use an URL of this job's own") from None
