"""A control group per node: the kubelet's root, and how every process of a node's pods is found."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "systemd",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "unified",  # runc makes a group there too where v1 and v2 are mounted side by side
)


def is_v2() -> bool:
    """Return whether the machine has the unified hierarchy only."""
    return (ROOT / "cgroup.controllers").exists()


def folders(name: str) -> list[Path]:
    """Return the group's folder in every hierarchy that is mounted."""
    if is_v2():
        return [ROOT / name]
    return [ROOT / controller / name for controller in CONTROLLERS if (ROOT / controller / "cgroup.procs").exists()]


def make(name: str) -> None:
    """Make the group in every hierarchy."""
    if is_v2():
        enabled = " ".join(f"+{c}" for c in (ROOT / "cgroup.controllers").read_text().split())
        (ROOT / "cgroup.subtree_control").write_text(enabled)
    for folder in folders(name):
        folder.mkdir(exist_ok=True)
        if folder.parent.name == "cpuset":
            # A cpuset starts empty, and an empty one takes no process.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((folder.parent / file).read_text())


def processes(name: str) -> set[int]:
    """Return the pids in the group and below it."""
    return {pid for folder in folders(name) for group in _walk(folder) for pid in _own(group)}


def processes_below(name: str, part: str) -> set[int]:
    """Return the pids in the groups inside the group whose name contains `part`, and below them."""
    return {pid for found in _below(name, part) for group in _walk(found) for pid in _own(group)}


def _own(folder: Path) -> list[int]:
    """Return the pids in a group itself, none when it has gone."""
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _walk(folder: Path) -> list[Path]:
    """Return a folder and all below it; groups come and go while we walk, which `Path.rglob` does not survive."""
    return [Path(path) for path, _, _ in os.walk(folder)]


def _below(name: str, part: str) -> list[Path]:
    """Return the folders inside the group whose name contains `part`, in one hierarchy."""
    top = next((folder for folder in folders(name) if folder.exists()), None)
    return sorted(path for path in _walk(top) if part in path.name) if top else []


def remove(name: str) -> bool:
    """Remove the group with everything below it; return whether nothing is left."""
    for folder in folders(name):
        for path in sorted(_walk(folder), reverse=True):
            with suppress(OSError):  # gone already, or its last process is still being buried: the caller tries again
                path.rmdir()
    return not any(folder.exists() for folder in folders(name))
