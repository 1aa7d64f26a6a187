"""SIGTERM in a rank: finish the step, or, where no step finishes any more, show why and end."""

import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from internlm2_spec.contract import ExitCode

MIN_HANG_SECONDS: Final = 20.0
HANG_STEPS: Final = 5.0


class StopRequest:
    """Whether this rank was asked to stop, and the guard of that wish.

    Python runs signal handlers between bytecodes of the main thread, so a rank that waits inside a
    collective never runs its own. The interpreter's wake-up descriptor is written by the C handler
    itself: a thread reads it, and ends the process when no step finishes in time.
    """

    def __init__(self, on_hang: Callable[[float], None], min_hang_seconds: float = MIN_HANG_SECONDS) -> None:
        self.requested = False
        self._on_hang = on_hang
        self._min_hang_seconds = min_hang_seconds
        self._step_seconds = 0.0
        self._finished = threading.Event()

    def listen(self) -> None:
        """Take over SIGTERM of this process. Call from the main thread."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self._watch, args=(reader, writer), name="stop", daemon=True).start()

    def step_finished(self, seconds: float) -> None:
        self._step_seconds = seconds
        if self.requested:
            self._finished.set()

    def _watch(self, reader: socket.socket, _writer: socket.socket) -> None:
        while signal.SIGTERM not in reader.recv(1):
            pass
        self.requested = True
        limit = max(self._min_hang_seconds, HANG_STEPS * self._step_seconds)
        if not self._finished.wait(limit):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self._on_hang(limit)
            os._exit(ExitCode.HANG)
