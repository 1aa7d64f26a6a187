"""Processes forked from a server that shares its parent's imports, in a program of its own for each test."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

PROGRAM = """
import colorsys, json, os, signal, sys, time
from internlm2_trainer.pod import forks

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

def run(environment, arguments):
    os.environ.update(environment)
    exec(arguments[0])
    os._exit(0)

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
signal.set_wakeup_fd(os.eventfd(0, os.EFD_NONBLOCK))
"""


def program(text: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM + textwrap.dedent(text)]


def lines_of(text: str) -> list[Any]:
    """Return the lines that a program prints, which are JSON."""
    done = subprocess.run(program(text), stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_how_a_process_ended_is_its_exit_code_or_its_signal() -> None:
    assert lines_of("""
        with forks.server(run, shared=[], further=[]) as server:
            ended = [server.fork({}, [f"os._exit({code})"]) for code in (0, 3)]
            killed, terminated, running = (server.fork({}, ["time.sleep(600)"]) for _ in range(3))
            killed.kill()
            terminated.terminate()
            for each in (*ended, killed, terminated):
                each.join()
            running.join(0.1)
            print([each.exitcode for each in (*ended, killed, terminated)], flush=True)
            print(json.dumps([running.is_alive(), running.exitcode, killed.is_alive()]))
    """) == [[0, 3, -signal.SIGKILL, -signal.SIGTERM], [True, None, False]]


def test_what_is_shared_is_imported_once_and_the_rest_by_the_server_alone() -> None:
    say = "print(json.dumps([colorsys.marker, *(name in sys.modules for name in NAMES)]), flush=True)"
    assert lines_of(f"""
        NAMES = ("chunk", "sndhdr", "imghdr")
        colorsys.marker = "of the parent, before"
        with forks.server(run, shared=["chunk"], further=["sndhdr"]) as server:
            colorsys.marker = "of the parent, after"
            import imghdr
            server.fork({{}}, [{say!r}]).join()
            print(json.dumps([name in sys.modules for name in NAMES]))
    """) == [["of the parent, before", True, True, False], [True, False, True]]


def test_each_process_has_its_environment_and_arguments_and_the_parent_neither() -> None:
    say = "print(json.dumps([os.environ['NAME'], arguments[1]]), flush=True)"
    assert lines_of(f"""
        with forks.server(run, shared=[], further=[]) as server:
            for name in ("a", "b"):
                server.fork({{"NAME": name}}, [{say!r}, "for " + name]).join()
            print(json.dumps("NAME" in os.environ))
    """) == [["a", "for a"], ["b", "for b"], False]


def test_a_process_starts_with_default_signal_handlers_though_its_parent_has_its_own() -> None:
    say = (
        "print(json.dumps([[signal.getsignal(n) is signal.SIG_DFL for n in HANDLED],"
        " len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), signal.set_wakeup_fd(-1)]), flush=True)"
    )
    assert lines_of(f"""
        with forks.server(run, shared=[], further=[]) as server:
            server.fork({{}}, [{say!r}]).join()
            print(json.dumps(signal.getsignal(signal.SIGTERM) is stop))
    """) == [[[True] * 3, 0, -1], True]


def test_the_server_survives_sigterm_and_ends_with_the_block() -> None:
    assert lines_of("""
        with forks.server(run, shared=[], further=[]) as server:
            process = server.fork({}, ["time.sleep(600)"])
            parent = int(open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGTERM)
            server.fork({}, ["print('true', flush=True)"]).join()
        print(json.dumps([os.path.exists(f"/proc/{parent}"), os.path.exists(f"/proc/{process.pid}")]))
    """)[-2:] == [True, [False, False]]


def test_a_killed_parent_takes_server_and_processes_with_it() -> None:
    text = """
        with forks.server(run, shared=[], further=[]) as server:
            process = server.fork({}, ["print(f'{os.getppid()} {os.getpid()}', flush=True); time.sleep(600)"])
            process.join()
    """
    with subprocess.Popen(program(text), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(_runs(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 30.0
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_whose_server_is_gone_is_killed_and_no_other_can_start() -> None:
    assert lines_of("""
        with forks.server(run, shared=[], further=[]) as server:
            process = server.fork({}, ["time.sleep(600)"])
            parent = int(open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)
            process.join()
            print(json.dumps(process.exitcode))
            try:
                server.fork({}, ["pass"])
            except forks.ServerLost:
                print(json.dumps("refused"))
    """)[-2:] == [-signal.SIGKILL, "refused"]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
