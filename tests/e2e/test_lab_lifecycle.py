"""`lab up` and `lab down` on this machine, in a state folder of their own beside any other lab."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroups, process
from lab.cluster import Lab

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs Linux root"),
]
# Ten on request (INTERNLM2_LAB_ROUNDS=10): a round takes about 20 s on 2 cores.
ROUNDS = int(os.environ.get("INTERNLM2_LAB_ROUNDS", "2"))
POD = """{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sleeper"}, "spec": {"containers": [
 {"name": "c", "image": "internlm2-trainer:0.1.0", "command": ["sleep", "600"]}]}}"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = tempfile.mkdtemp(prefix="ilm-")  # pytest's own are too long for Unix sockets
    made = Lab(folder)
    yield made
    made.down()
    shutil.rmtree(folder, ignore_errors=True)


def leftovers(lab: Lab) -> dict[str, set[str]]:
    """Return what this lab has on the machine, by kind: all sets are empty when it left nothing."""
    key, state = lab.names.key, str(lab.state)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    netns = Path("/run/netns")
    return {
        "processes": {f"{pid} {command}" for pid, command in running() if state in command or uses(pid, state)},
        "namespaces": {p.name for p in netns.iterdir() if key in p.name} if netns.is_dir() else set(),
        "mounts": {line for line in mounts if state in line or key in line},
        "cgroups": {str(path) for path in cgroups.ROOT.glob(f"**/*{key}*")},
        "interfaces": {p.name for p in Path("/sys/class/net").iterdir()} - INTERFACES,
        "files": {str(path) for path in lab.state.iterdir()} if lab.state.is_dir() else set(),
    }


INTERFACES = {path.name for path in Path("/sys/class/net").iterdir()}


def running() -> Iterator[tuple[int, str]]:
    """Yield pid and command line of every process but this one."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def uses(pid: int, state: str) -> bool:
    """Return whether a process lives on mounts of the lab: a container's root, a node's namespace."""
    try:
        return state in Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return False


def test_ups_and_downs_in_a_row_leave_nothing_behind(lab: Lab) -> None:
    for _ in range(ROUNDS):
        lab.up()
        process.wait_until(lambda: runs_a_pod(lab), what="a pod", seconds=60)
        while_up = leftovers(lab)
        lab.down()
        assert {kind: bool(found) for kind, found in while_up.items()} == {
            "processes": True,
            "namespaces": True,
            "mounts": True,
            "cgroups": True,
            "interfaces": False,
            "files": True,
        }
        assert leftovers(lab) == {kind: set() for kind in while_up}


def runs_a_pod(lab: Lab) -> bool:
    lab.kubectl("apply", "-f", "-", input=POD)
    return bool(lab.get("pod", "sleeper")["status"]["phase"] == "Running")


def test_a_second_up_restarts_only_what_died_and_one_after_a_reboot_everything(lab: Lab) -> None:
    lab.up()
    before = process.recorded(lab.state)
    process.kill([before["kube-scheduler"]])
    lab.up()
    after = process.recorded(lab.state)
    assert {name for name, pid in after.items() if before[name] != pid} == {"kube-scheduler"}

    lab.kubectl("create", "configmap", "of-before")
    process.kill_until_gone(lambda: set(process.recorded(lab.state).values()), what="the daemons")
    for space in {f"ilm-{lab.names.key}-{name}" for name in ("sw", *lab.node_names)}:
        process.run("ip", "netns", "del", space)
    lab.up()
    assert "of-before" not in lab.kubectl("get", "configmaps", "-o", "name")


def test_down_sweeps_an_up_that_was_killed_half_way(lab: Lab) -> None:
    command = [sys.executable, "-m", "lab", "--state", str(lab.state), "up"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as half:
        process.wait_until(lambda: "n1-containerd" in process.recorded(lab.state), what="a first node", seconds=60)
        half.kill()
    assert leftovers(lab)["processes"]
    lab.down()
    assert not any(leftovers(lab).values())
