"""What measurements of a node say about it."""

from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.health import host
from internlm2_operator.health.host import Disk, Link

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("capacity", "allocatable", "want"),
    [(8, 8, None), (0, 0, None), (8, 7, "DeviceUnhealthy"), (8, 0, "DevicePluginRestarting")],
)
def test_devices(capacity: int, allocatable: int, want: str | None) -> None:
    found = host.devices("nvidia.com/gpu", capacity, allocatable, NOW)
    assert (found and found.cause) == want


@pytest.mark.parametrize(
    ("seen", "was_full", "want"),
    [
        (Disk("/", 50.0), False, None),
        (Disk("/", 4.9), False, "DiskFull"),
        (Disk("/", 6.0), False, None),
        (Disk("/", 6.0), True, "DiskFull"),
        (Disk("/", 7.1), True, None),
        (Disk("/", 50.0, read_only=True), False, "DiskReadOnly"),
        (Disk("/", 100.0, failed=True), False, "DiskReadOnly"),
    ],
)
def test_disk(seen: Disk, was_full: bool, want: str | None) -> None:
    found = host.disk(seen, 5.0, NOW, was_full=was_full)
    assert (found and found.cause) == want


@pytest.mark.parametrize(
    ("offset", "want"),
    [
        (0.0, None),
        (4.9, None),
        (7.5, "more than 7 s behind the API server"),
        (-5.0, None),
        (-7.5, "more than 6 s ahead of the API server"),
    ],
)
def test_clock(offset: float, want: str | None) -> None:
    """`offset` is how far the server is ahead of us; a request of 0.2 s and whole seconds are no skew."""
    server = NOW + timedelta(seconds=offset)
    found = host.clock(NOW - timedelta(seconds=0.2), NOW, server, NOW)
    assert (found and found.detail) == want


@pytest.mark.parametrize(
    ("state", "want"),
    [("up", None), ("unknown", None), ("down", "LinkDown"), ("lowerlayerdown", "LinkDown"), ("absent", "LinkDown")],
)
def test_link(state: str, want: str | None) -> None:
    found = host.link(Link("eth0", state, 3), NOW)
    assert (found and found.cause) == want


def test_a_link_that_was_down_in_between_is_noted() -> None:
    assert host.flapped(Link("eth0", "up", 5), 5, NOW) is None
    assert host.flapped(Link("eth0", "down", 6), 5, NOW) is None
    found = host.flapped(Link("eth0", "up", 7), 5, NOW)
    assert found is not None
    assert found.cause == "LinkFlapped"


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 8:2 / /host/disk/data ro,relatime master:2 - xfs /dev/sdb1 rw,attr2
23 21 8:3 / /host/disk/broken ro,relatime - ext4 /dev/sdc1 ro,errors=remount-ro
24 21 8:3 / /hos
"""


@pytest.mark.parametrize(
    ("path", "want"),
    [("/", False), ("/host/disk/data/x", False), ("/host/disk/broken", True), ("/host/disk/broken2", False)],
)
def test_read_only_is_what_the_superblock_says(path: str, want: bool) -> None:
    assert host.read_only(MOUNTS, path) is want
