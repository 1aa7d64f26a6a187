"""Steps out of the kubelets' log files: a stream over the API server has holes when that, or a node, was away."""

import threading
from pathlib import Path
from typing import Final

from lab.watch import StepSeen, parse_step

POLL_SECONDS: Final = 0.5


class LogWatch:
    """Context manager that takes up what is new in the logs of a job's pods, in the background until it is left.

    A pod's logs go with the pod, and a node's with the node.
    """

    def __init__(self, state: Path, job: str) -> None:
        self.steps: set[StepSeen] = set()
        self._state, self._glob = state, f"n*/pod-logs/default_{job}-*/*/*.log*"
        self._read: dict[Path, int] = {}  # bytes so far
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="log-watch", daemon=True)

    def __enter__(self) -> "LogWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        self.look()

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Take up the whole lines that came since the last time."""
        for path in sorted(self._state.glob(self._glob)):
            try:
                text = self._new(path)
            except OSError:
                continue  # its pod is gone
            pod = path.parts[-3].split("_")[1]
            steps = (parse_step(line.decode(errors="replace"), pod) for line in text.splitlines())
            self.steps |= {step for step in steps if step is not None}

    def _new(self, path: Path) -> bytes:
        done = self._read.get(path, 0)
        with path.open("rb") as file:
            if path.stat().st_size < done:
                done = 0  # the kubelet began a new file
            file.seek(done)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read[path] = done + whole
        return text[:whole]
