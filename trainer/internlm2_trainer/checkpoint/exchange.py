"""How ranks tell each other small facts outside of collectives: JSON in the rendezvous store, by polling.

A background thread may not take part in collectives, nor block inside the store's client, which the
main thread may share: so `check`, then `get`, never a waiting `get`.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

# A poll starts eager, for ranks that are a millisecond apart, and ends patient, for an upload.
FIRST_POLL_SECONDS: Final = 0.002
LAST_POLL_SECONDS: Final = 0.25


class KeyValue(Protocol):
    """The part of torch.distributed.Store that is used here."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def delete_key(self, key: str, /) -> bool: ...


class Closed(Exception):
    """The wait was given up because the caller is closing."""


class Exchange:
    """Named JSON values under one prefix, which no two incarnations of the ranks may share."""

    def __init__(self, kv: KeyValue, prefix: str) -> None:
        self._kv = kv
        self._prefix = prefix

    def under(self, prefix: str) -> "Exchange":
        """Return the values under a further prefix."""
        return Exchange(self._kv, f"{self._prefix}/{prefix}")

    def post(self, key: str, value: Any) -> None:
        self._kv.set(f"{self._prefix}/{key}", json.dumps(value))

    def collect(self, keys: Sequence[str], *, closing: Callable[[], bool] = lambda: False) -> list[Any]:
        """Wait until every key was posted and return the values.

        Without a deadline: a rank that died takes this one with it through the agent, not through a guess here.

        Raises:
            Closed: `closing` became true first.
        """
        names = [f"{self._prefix}/{key}" for key in keys]
        delay = FIRST_POLL_SECONDS
        while not self._kv.check(names):
            if closing():
                raise Closed
            time.sleep(delay)
            delay = min(LAST_POLL_SECONDS, delay * 1.5)
        return [json.loads(self._kv.get(name)) for name in names]

    def there(self, keys: Sequence[str]) -> bool:
        """Say whether every key was posted by now."""
        return self._kv.check([f"{self._prefix}/{key}" for key in keys])

    def forget(self, keys: Sequence[str]) -> None:
        """Delete values that every rank has read."""
        for key in keys:
            self._kv.delete_key(f"{self._prefix}/{key}")
