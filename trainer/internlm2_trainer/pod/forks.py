"""Ranks are forked from a server that shares the agent's imports: torch is imported once in a pod.

The agent imports torch and forks once, while it has one thread and no device; that child is the server, imports what
else ranks need, and forks itself for each rank. Every rank has a channel: on it the server says the process id, and
later how it ended. An agent that is gone, however that came about, takes its server and its ranks with it.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NoReturn

Run = Callable[[dict[str, str], list[str]], NoReturn]

# A process id or an exit code on a channel.
_NUMBER: Final = struct.Struct("!i")
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class ServerLost(ConnectionError):
    """The server was killed; it cannot be forked again, for the agent has threads by now."""

    def __init__(self) -> None:
        super().__init__("the process that ranks are forked from was killed, maybe for lack of memory")


class Process:
    """A process that the server forked."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel
        self._exitcode: int | None = None
        self._lock = threading.Lock()  # the thread that watches for SIGTERM may ask, too

    @property
    def exitcode(self) -> int | None:
        """The exit code, a signal as its negative number, or None while the process runs."""
        self.join(0.0)
        return self._exitcode

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, `timeout` seconds at most."""
        with self._lock:
            if self._exitcode is None and select.select([self._channel], [], [], timeout)[0]:
                self._exitcode = _exit_code(self.pid, self._channel.recv(_NUMBER.size))
                self._channel.close()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            _signal(self.pid, number)


class Server:
    """The agent's end of the server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fork(self, environment: dict[str, str], arguments: list[str]) -> Process:
        """Start a process that calls the server's `run` with these.

        Raises:
            ServerLost: it was killed.
        """
        request = json.dumps([environment, arguments]).encode() + b"\n"
        with contextlib.ExitStack() as opened:
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            with theirs:
                try:
                    sent = socket.send_fds(self._connection, [request], [theirs.fileno()])
                    self._connection.sendall(request[sent:])
                except (BrokenPipeError, ConnectionResetError) as error:
                    raise ServerLost from error
            if not (told := ours.recv(_NUMBER.size)):
                raise ServerLost
            opened.pop_all()
        (pid,) = _NUMBER.unpack(told)
        return Process(pid, ours)


@contextlib.contextmanager
def server(run: Run, *, shared: Sequence[str], further: Sequence[str]) -> Iterator[Server]:
    """Import `shared`, fork the server, and end it with its processes afterwards.

    The server then imports what its processes need `further`. Call this before the process has a second thread or a
    device: a fork keeps neither.
    """
    _import(shared)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        # Stopping is the agent's to decide; a whole process group may have got the signal.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ours.close()  # or the server would never see that the agent has closed it
        _import(further)
        _Serving(theirs, run).serve()

    pid = _fork(serve)
    theirs.close()
    try:
        with ours:
            yield Server(ours)
    finally:
        os.waitpid(pid, 0)


def _import(modules: Sequence[str]) -> None:
    gc.disable()  # imports leave no garbage, and looking for it takes a tenth of their time
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # collections would write into every page that is shared
    gc.enable()


def _fork(main: Callable[[], object]) -> int:
    """Return the process id of a child that calls `main` and ends, without a signal handler of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HANDLED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            main()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


class _Serving:
    """The server itself, in a process of its own with a single thread."""

    def __init__(self, connection: socket.socket, run: Run) -> None:
        self.connection = connection
        self.run = run
        self.channels: dict[int, socket.socket] = {}
        self.ended, self.wake = socket.socketpair()  # of a child's end, written by the signal
        self.wake.setblocking(False)

    def serve(self) -> None:
        """Fork on request until the agent is gone, then kill what runs."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self.connection, self.ended], [], [])
            if self.ended in ready:
                self.ended.recv(4096)
                self._report()
            if self.connection in ready and not self._answer():
                break
        for pid in self.channels:
            _signal(pid, signal.SIGKILL)
        for pid in self.channels:
            os.waitpid(pid, 0)

    def _answer(self) -> bool:
        request, descriptors, _, _ = socket.recv_fds(self.connection, 65536, 1)
        while not request.endswith(b"\n"):
            if not (more := self.connection.recv(65536)):
                return False
            request += more
        environment, arguments = json.loads(request)
        channel = socket.socket(fileno=descriptors[0])
        pid = _fork(lambda: self._become(channel, environment, arguments))
        self.channels[pid] = channel
        _tell(channel, pid)
        return True

    def _become(self, channel: socket.socket, environment: dict[str, str], arguments: list[str]) -> None:
        # Whoever holds a channel or the agent's connection hides that the other end is gone.
        for each in (channel, self.connection, self.ended, self.wake, *self.channels.values()):
            each.close()
        self.run(environment, arguments)

    def _report(self) -> None:
        for pid in list(self.channels):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with self.channels.pop(pid) as channel:
                    _tell(channel, os.waitstatus_to_exitcode(status))


def _tell(channel: socket.socket, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # the agent is gone, which the connection says next
        channel.sendall(_NUMBER.pack(number))


def _exit_code(pid: int, told: bytes) -> int:
    """Return what the server told of a process's end. Without a server nobody can tell: then it shall have ended."""
    if told:
        (code,) = _NUMBER.unpack(told)
        return int(code)
    _signal(pid, signal.SIGKILL)
    return -signal.SIGKILL


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
