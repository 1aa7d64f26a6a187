"""Reading what `health.host` judges: disks, links, the two counts of the device plugin."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internlm2_operator.health.host import Disk, Link, read_only


def disk(path: str, root: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> Disk:
    """Measure the file system of the host's `path`, which we see under `root`."""
    here = os.path.realpath(root + path)
    try:
        room = os.statvfs(here)
        with os.scandir(here) as entries:  # a file system that has shut down answers statvfs, and nothing else
            next(entries, None)
    except OSError:
        return Disk(path, free_percent=100.0, failed=True)
    free = 100.0 * room.f_bavail / room.f_blocks if room.f_blocks else 100.0
    return Disk(path, free_percent=free, read_only=read_only(mountinfo.read_text(), here))


def link(folder: Path, interface: str) -> Link:
    """Measure one interface; one that is gone is down."""
    return Link(interface, _word(folder / interface / "operstate") or "absent", _count(folder / interface))


def devices(node: Mapping[str, Any], resource: str) -> tuple[int, int]:
    """Return how many devices the node has, and how many of them the device plugin offers."""
    status = node.get("status") or {}
    return (_devices(status.get("capacity"), resource), _devices(status.get("allocatable"), resource))


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()[:32]
    except OSError:
        return ""


def _count(folder: Path) -> int:
    word = _word(folder / "carrier_changes")
    return int(word) if word.isdecimal() else 0


def _devices(quantities: Mapping[str, str] | None, resource: str) -> int:
    # Devices are counted in whole numbers; a quantity with a suffix is nobody's GPUs.
    text = (quantities or {}).get(resource, "")
    return int(text) if text.isdecimal() else 0
