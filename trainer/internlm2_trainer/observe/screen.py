"""Draws the progress of a run on a terminal, from a thread that keeps its clock going."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from internlm2_spec.contract import TrainPhase
from internlm2_trainer.observe import output, progress
from internlm2_trainer.observe.progress import View

REFRESH_SECONDS: Final = 0.5


class Screen:
    """The last line of a terminal. It uses no colours and moves the cursor only within that line."""

    def __init__(self, stage: str, steps: int, phase: Callable[[], TrainPhase]) -> None:
        self._view = View(stage, steps, phase_time=time.time())
        self._phase = phase
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> None:
        """Take over what is said from now on."""
        output.listener = self.show
        threading.Thread(target=self._refresh, name="screen", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        """Leave the line as it is; lines come below it again."""
        self._closed.set()
        output.listener = None
        with self._lock:
            self._draw()
            sys.stdout.write("\n")
            sys.stdout.flush()

    def show(self, said: Mapping[str, Any]) -> None:
        """Draw one more line of output: an event above the line, a step in it."""
        with self._lock:
            self._view = progress.seen(self._view, said)
            if text := progress.event(said):
                sys.stdout.write(f"{output.ERASE}{text}\n")
            self._draw()

    def _refresh(self) -> None:
        while not self._closed.wait(REFRESH_SECONDS):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        now = time.time()
        self._view = progress.entered(self._view, self._phase(), now)
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap
        sys.stdout.write(output.ERASE + progress.line(self._view, now, width))
        sys.stdout.flush()


def wanted() -> bool:
    """Say whether a person reads standard output: on a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
