"""Control groups are walked while they come and go."""

import os
from pathlib import Path
from typing import Any

import pytest

from lab import cgroups


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's group with two pods, one of which has a container."""
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    for number, name in enumerate(("node", "node/pod-a", "node/pod-a/box", "node/pod-b"), start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{number}\n")
    return tmp_path


def test_processes_are_those_of_the_group_and_below() -> None:
    assert cgroups.processes("node") == {1, 2, 3, 4}
    assert cgroups.processes_below("node", "pod-a") == {2, 3}
    assert cgroups.processes_below("node", "box") == {3}
    assert cgroups.processes_below("node", "nobody") == set()


def test_a_group_that_goes_while_we_walk_is_left_out(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.scandir

    def looked(path: Any) -> Any:
        if Path(path).name == "pod-a":
            raise FileNotFoundError(path)
        return look(path)

    (groups / "node/pod-b/cgroup.procs").unlink()
    monkeypatch.setattr(os, "scandir", looked)
    assert cgroups.processes("node") == {1}
