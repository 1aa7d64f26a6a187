"""Every cordon of ours that any node had during a run, seen from outside."""

import threading
from dataclasses import dataclass
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from internlm2_operator.health.node import FaultNote
from internlm2_spec.contract import ANNOTATION_FAULT

POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class CordonSeen:
    """A cordon that lay on a node; `at` in seconds since the epoch, by the operator's note."""

    node: str
    cause: str
    rule: str
    evidence: tuple[str, ...]
    at: float


class CordonWatch:
    """Context manager that looks at all nodes in the background until it is left."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, float], CordonSeen] = {}
        self._stop = threading.Event()
        config.load_kube_config()  # type: ignore[no-untyped-call]  # the client's own gap
        self._core: Any = client.CoreV1Api()
        self._thread = threading.Thread(target=self._poll, name="cordon-watch", daemon=True)

    def __enter__(self) -> "CordonWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def on(self, node: str, *, since: float) -> bool:
        """Return whether a node was cordoned after a moment (seconds since the epoch)."""
        return any(cordon.node == node and cordon.at >= since for cordon in list(self.seen.values()))

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                nodes = self._core.list_node(_request_timeout=5).items
            except (ApiException, HTTPError, OSError):
                continue  # the API server may be the thing that was killed; notes stay until somebody takes them off
            for node in nodes:
                note = FaultNote.from_json((node.metadata.annotations or {}).get(ANNOTATION_FAULT, ""))
                if note is not None:
                    at = note.cordoned_at.timestamp()
                    cordon = CordonSeen(node.metadata.name, note.cause, note.rule, note.evidence, at)
                    self.seen[cordon.node, at] = cordon
