"""Names, addresses and paths of a lab come from its state folder alone."""

import sys
from pathlib import Path

import pytest

from lab.settings import LabError, Names, host_paths, state_dir, versions


def test_two_state_folders_share_no_name_of_the_machine() -> None:
    one, other = Names(Path("/tmp/one")), Names(Path("/tmp/other"))
    assert {one.control_netns, one.netns("n1"), one.cgroup("n1")}.isdisjoint(
        {other.control_netns, other.netns("n1"), other.cgroup("n1")}
    )


def test_the_same_folder_is_the_same_lab_in_another_process() -> None:
    assert Names(Path("/tmp/one")).control_netns == "ilm-02c3a7-sw"


def test_a_path_too_long_for_unix_sockets_is_refused() -> None:
    with pytest.raises(LabError, match=r"^--state: /x{70} is longer than 60 characters; use a shorter path$"):
        state_dir("/" + "x" * 70)


def test_no_host_path_lies_inside_another() -> None:
    paths = host_paths()
    assert [p for p in paths for q in paths if p != q and p.is_relative_to(q)] == []


def test_an_environment_that_a_pod_would_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/tmp")
    with pytest.raises(
        LabError, match=r"^/tmp: pods have a /tmp of their own .* keep Python and INTERNLM2_CACHE elsewhere$"
    ):
        host_paths()


def test_every_tool_has_its_module_file() -> None:
    assert [tool.name for tool in versions().tools if not (tool.folder / "go.sum").is_file()] == []
