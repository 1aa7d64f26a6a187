"""What measurements of a node say about it: devices offered, disks, clock, links. Pure; a fault is a level, and ends
when the next measurement is good."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.condition import Event, event

CLOCK_TOLERANCE: Final = timedelta(seconds=5)
"""Far above what a Date header can tell (whole seconds, and the time of a request), below what a lease bears."""
_RELIEF_PERCENT: Final = 2
"""A full disk counts until so much more is free: no flapping at the edge."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One watched file system. `failed` says that it cannot be listed: it has shut itself down."""

    path: str
    free_percent: float
    read_only: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface: `state` as in operstate, `changes` how often its carrier came or went since boot."""

    interface: str
    state: str
    changes: int = 0


def devices(resource: str, capacity: int, allocatable: int, at: datetime) -> Event | None:
    """Judge what the device plugin offers. None at all is a plugin that restarts, some is devices it calls sick."""
    if allocatable >= capacity:
        return None
    cause = "DevicePluginRestarting" if allocatable == 0 else "DeviceUnhealthy"
    return event(cause, resource, at, f"{allocatable} of {capacity} devices are offered")


def disk(seen: Disk, least_free_percent: float, at: datetime, *, was_full: bool) -> Event | None:
    """Judge one file system."""
    if seen.failed or seen.read_only:
        how = "cannot be listed" if seen.failed else "is read-only"
        return event("DiskReadOnly", seen.path, at, f"the file system {how}")
    bar = least_free_percent + (_RELIEF_PERCENT if was_full else 0)
    if seen.free_percent >= bar:
        return None
    return event("DiskFull", seen.path, at, f"{100 - seen.free_percent:.0f} % full")


def clock(earliest: datetime, latest: datetime, server: datetime, at: datetime) -> Event | None:
    """Judge our clock: we read `earliest` before and `latest` after the API server, whose clock has whole seconds."""
    behind = server - latest
    ahead = earliest - (server + timedelta(seconds=1))
    off = max(behind, ahead)
    if off <= CLOCK_TOLERANCE:
        return None
    side = "behind" if behind > ahead else "ahead of"
    return event("ClockSkew", "", at, f"more than {int(off.total_seconds())} s {side} the API server")


def link(seen: Link, at: datetime) -> Event | None:
    """Judge one interface; `unknown` is what drivers without link detection say of a good one."""
    if seen.state in ("up", "unknown"):
        return None
    return event("LinkDown", seen.interface, at, f"{seen.state}, carrier changed {seen.changes} times since boot")


def flapped(seen: Link, changes_before: int, at: datetime) -> Event | None:
    """Note an interface that was down and up again between two looks: its carrier went and came."""
    if seen.state != "up" or seen.changes - changes_before < 2:
        return None
    return event("LinkFlapped", seen.interface, at, f"carrier changed {seen.changes} times since boot")


def read_only(mountinfo: str, path: str) -> bool:
    """Say whether the file system of `path` is read-only, from /proc/self/mountinfo (proc(5)).

    The options of the superblock decide: those of the mount are ours, and we mount everything read-only.
    """
    best = ""
    verdict = False
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not dash or len(fields) < 5 or len(tail) < 3:
            continue
        point = fields[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two mounts at one point the later one is seen
            best, verdict = point, "ro" in tail[2].split(",")
    return verdict
