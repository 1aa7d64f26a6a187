"""SIGTERM in a rank: finish the step, save, end."""

import signal
import socket
import threading

from internlm2_trainer.loop.hang import Watch


class StopRequest:
    """Whether this rank was asked to stop.

    Python runs signal handlers between bytecodes of the main thread, so a rank that waits inside a
    collective never runs its own. The interpreter's wake-up descriptor is written by the C handler
    itself: a thread reads it, and tells the watch, which ends the process when no step finishes in time.
    """

    def __init__(self, watch: Watch) -> None:
        self.requested = False
        self.watch = watch

    def listen(self) -> None:
        """Take over SIGTERM of this process. Call from the main thread."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self._listen, args=(reader, writer), name="stop", daemon=True).start()

    def step_finished(self, seconds: float) -> None:
        self.watch.step_finished(seconds)

    def _listen(self, reader: socket.socket, _writer: socket.socket) -> None:
        while signal.SIGTERM not in reader.recv(1):
            pass
        self.requested = True
        self.watch.stop_asked()
