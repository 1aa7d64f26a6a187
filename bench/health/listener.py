"""When a bare watch first heard of each thing that happens on the way to a cordon."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Final

from bench.operator.client import Client, Object
from internlm2_operator.health import condition
from internlm2_spec import contract
from tests.api.apiserver import ApiServer

SAID: Final = "said"  # GPUHealthy is False
ENDED: Final = "ended"  # a pod has failed
SUSPECTED: Final = "suspected"  # the operator holds something against a node
CORDONED: Final = "cordoned"  # unschedulable, with the operator's note
START_SECONDS: Final = 30.0


def happened(thing: Object) -> Iterator[str]:
    """Yield what is so of a node or a pod."""
    status, notes = thing.get("status", {}), thing["metadata"].get("annotations", {})
    if any((c["type"], c["status"]) == (condition.TYPE, "False") for c in status.get("conditions") or ()):
        yield SAID
    if status.get("phase") == "Failed":
        yield ENDED
    if contract.ANNOTATION_HELD in notes:
        yield SUSPECTED
    if thing["spec"].get("unschedulable") and contract.ANNOTATION_FAULT in notes:
        yield CORDONED


class Listener:
    """Context manager that watches nodes and pods in a thread. Times are seconds since the epoch."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._first: dict[tuple[str, str], float] = {}
        self._notes: dict[str, str] = {}
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=START_SECONDS)

    def wait(self, what: str, name: str, *, seconds: float) -> float:
        """Return when `what` was first heard of a node or a pod.

        Raises:
            TimeoutError: it was not within so many seconds.
        """
        with self._news:
            if not self._news.wait_for(lambda: (what, name) in self._first, seconds):
                raise TimeoutError(f"{name} was not {what} within {seconds:.0f} s")
            return self._first[what, name]

    def note(self, node: str) -> str:
        """Return the note that explains a node's cordon."""
        return self._notes[node]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._listen())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        async with Client(self._api) as client, asyncio.TaskGroup() as group:
            for path in ("/api/v1/nodes", "/api/v1/pods"):
                group.create_task(self._follow(client, path))

    async def _follow(self, client: Client, path: str) -> None:
        async for event in client.watch(path):
            thing, now = event["object"], time.time()
            name = thing["metadata"]["name"]
            with self._news:
                for what in happened(thing):
                    if what == CORDONED:
                        self._notes[name] = thing["metadata"]["annotations"][contract.ANNOTATION_FAULT]
                    self._first.setdefault((what, name), now)
                self._news.notify_all()
