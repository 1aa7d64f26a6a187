"""SIGTERM of a pod's agent."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from internlm2_spec.contract import ExitCode, FailureClass, Termination
from internlm2_trainer.pod import ending

# The main thread may sit in a call of the store's client, where Python runs no signal handler.
NOTICE_SECONDS: Final = 3.0


class StopRequested(BaseException):
    """SIGTERM, raised in the main thread wherever it is. Not an Exception: nothing may swallow it."""


class StopSignal:
    """SIGTERM of the agent: an exception in the main thread, or, where that is stuck, an end without it."""

    def __init__(self) -> None:
        self.kill_ranks: Callable[[], bool] = lambda: False
        self._noticed = threading.Event()

    def listen(self) -> None:
        """Take over SIGTERM of this process. Call from the main thread."""
        signal.signal(signal.SIGTERM, self._raise)

    def watch(self) -> None:
        """Start the thread that ends this process where its main thread is stuck. Call from the main thread."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, writer), name="stop", daemon=True).start()

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if not self._noticed.is_set():
            self._noticed.set()
            raise StopRequested

    def _watch(self, reader: socket.socket, _writer: socket.socket) -> None:
        while signal.SIGTERM not in reader.recv(1):
            pass
        if not self._noticed.wait(NOTICE_SECONDS):
            running = self.kill_ranks()
            end = Termination(FailureClass.STOPPED, "StoppedBeforeStart", ExitCode.STOPPED)
            if running:
                end = Termination(FailureClass.PEER, "RendezvousLost", ending.INFRASTRUCTURE_EXIT_CODE)
            ending.write_termination_log(end)
            os._exit(end.exit_code)
