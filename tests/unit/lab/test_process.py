"""A daemon is found again by pid and start time, never by pid alone."""

import os
from pathlib import Path

import pytest

from lab import process
from lab.settings import LabError


def test_a_daemon_is_found_until_it_is_killed(tmp_path: Path) -> None:
    pid = process.start("sleeper", ["sleep", "600"], state=tmp_path)
    assert process.recorded(tmp_path) == {"sleeper": pid}
    process.kill_until_gone(lambda: {pid}, what="sleeper")
    assert process.recorded(tmp_path) == {}


def test_a_pid_that_another_process_got_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "etcd").write_text(f"{os.getpid()} 1\n")
    assert process.pid_of("etcd", tmp_path) is None


def test_the_caller_and_its_parents_are_spared() -> None:
    process.kill_until_gone(lambda: {os.getpid(), os.getppid()}, what="ourselves")
    assert process.started(os.getppid()) is not None


def test_a_failed_command_is_named_with_its_own_words() -> None:
    with pytest.raises(LabError, match=r"^sh -c echo no >&2; exit 3: exit 3: no$"):
        process.run("sh", "-c", "echo no >&2; exit 3")
