"""Reading disks, links and the device plugin's counts."""

from pathlib import Path

import pytest

from internlm2_operator.agent import measure
from internlm2_operator.health.host import Link


def test_a_disk_is_measured_under_its_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    seen = measure.disk("/data", str(tmp_path))
    assert (seen.path, seen.failed, seen.read_only) == ("/data", False, False)
    assert 0.0 <= seen.free_percent <= 100.0


def test_a_disk_that_cannot_be_listed_has_failed(tmp_path: Path) -> None:
    assert measure.disk("/gone", str(tmp_path)).failed


def test_a_link(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0" / "operstate").write_text("up\n")
    (tmp_path / "eth0" / "carrier_changes").write_text("3\n")
    assert measure.link(tmp_path, "eth0") == Link("eth0", "up", 3)
    assert measure.link(tmp_path, "eth1") == Link("eth1", "absent", 0)


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({"capacity": {"x/gpu": "8"}, "allocatable": {"x/gpu": "7"}}, (8, 7)),
        ({"capacity": {"x/gpu": "1k"}}, (0, 0)),
        ({}, (0, 0)),
        (None, (0, 0)),
    ],
)
def test_devices(status: object, want: tuple[int, int]) -> None:
    assert measure.devices({"status": status}, "x/gpu") == want
