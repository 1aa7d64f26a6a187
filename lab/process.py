"""Daemons of the lab: started detached, found again by pid file, killed without asking."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab.settings import LabError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The shell goes away at once, so the daemon is nobody's child here: no zombie and no warning in a caller's test.
LAUNCH = 'setsid "$@" >>"$LAB_LOG" 2>&1 </dev/null & echo $!'


def run(*argv: str, stdin: str | None = None, env: dict[str, str] | None = None, seconds: float = 60) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        LabError: it failed; the message holds the end of its error output.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=seconds, env=env, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise LabError(f"{' '.join(argv[:6])}: exit {done.returncode}: {' | '.join(last)}")
    return done.stdout


def start(name: str, argv: Sequence[str], *, state: Path, env: dict[str, str] | None = None) -> int:
    """Start a daemon with its output in `logs/<name>.log` and its identity in `pids/<name>`; return the pid."""
    for folder in ("logs", "pids"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    path = ":".join(dict.fromkeys([*PATH.split(":"), *os.environ.get("PATH", "").split(":")]))
    full = {"PATH": path, "HOME": str(state), "LAB_LOG": str(state / "logs" / f"{name}.log")} | (env or {})
    pid = int(run("sh", "-c", LAUNCH, "sh", *argv, env=full))
    (state / "pids" / name).write_text(f"{pid} {started(pid)}\n")
    return pid


def started(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot): with the pid it is an identity. None once it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def pid_of(name: str, state: Path) -> int | None:
    """Return the pid of a daemon that runs, else None."""
    try:
        pid, when = (state / "pids" / name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if started(int(pid)) == (int(when) if when.isdigit() else -1) else None


def recorded(state: Path) -> dict[str, int]:
    """Return name and pid of every daemon of this state folder that runs."""
    folder = state / "pids"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {name: pid for name in names if (pid := pid_of(name, state)) is not None}


def in_netns(name: str) -> set[int]:
    """Return the pids whose network namespace has this name."""
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return {int(pid) for pid in done.stdout.split()}


def ancestors() -> set[int]:
    """Return this process and its parents: what a `down` typed inside the lab's network may not kill."""
    found, pid = set(), os.getpid()
    while pid and pid not in found:  # the first process has parent 0
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL; a pid that is gone is fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_until_gone(find: Callable[[], set[int]], *, what: str, seconds: float = 20) -> None:
    """SIGKILL what `find` returns until it returns nothing: new ones may be born meanwhile.

    Raises:
        LabError: something was still there at the deadline.
    """
    spared = ancestors()
    deadline = time.monotonic() + seconds
    while left := {pid for pid in find() - spared if started(pid) is not None}:
        kill(left)
        if time.monotonic() > deadline:
            raise LabError(f"{what}: processes {sorted(left)} do not end; look at them with ps")
        time.sleep(0.02)


def wait_until(ready: Callable[[], bool], *, what: str, seconds: float, every: float = 0.1) -> None:
    """Return once `ready` is true.

    Raises:
        LabError: it was not by the deadline.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:.0f} s; see `python -m lab logs`")
        time.sleep(every)


def listens(path: Path) -> bool:
    """Return whether a server accepts connections on a Unix socket: the file alone comes a moment earlier."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def nsenter(netns: str, *argv: str, mounts_of: int | None = None) -> list[str]:
    """Return `argv` as run in a network namespace, and in the mount namespace of `mounts_of`."""
    program = shutil.which("nsenter") or "nsenter"
    mounts = [f"--mount=/proc/{mounts_of}/ns/mnt"] if mounts_of else []
    return [program, f"--net=/run/netns/{netns}", *mounts, *argv]
