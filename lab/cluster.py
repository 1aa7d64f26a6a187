"""The whole lab as one object: start it, stop it, talk to it, break it, repair it."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lab import build, certs, cgroups, control, deps, faults, image, network, process
from lab.node import Node
from lab.settings import CHECKOUT, LabError, Names, cache_dir, require_root, state_dir, versions

MARKER = "lab.json"


class Lab:
    """A lab in one state folder; a second folder is a second lab that shares nothing with it."""

    def __init__(self, state: str | Path | None = None) -> None:
        self.names = Names(state_dir(str(state) if state else None))
        self.state = self.names.state
        self.versions = versions()
        self.node_names = tuple(f"n{i}" for i in range(1, self.versions.nodes + 1))

    @cached_property
    def binaries(self) -> dict[str, Path]:
        return build.binaries(self.versions)

    @cached_property
    def control(self) -> control.Control:
        return control.Control(self.names, self.binaries, tuple(n for n in self.node_names if self.node(n).gpus))

    def node(self, name: str) -> Node:
        """Return one node.

        Raises:
            LabError: no such node.
        """
        if name not in self.node_names:
            raise LabError(f"--node: {name!r} is not a node of the lab; use one of {', '.join(self.node_names)}")
        return Node(name, self.names, self.versions, self.binaries, self.node_names)

    # Talking to it.

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that talks to the lab: kubeconfig, S3, Prometheus, binaries in PATH."""
        folders = [f"{sys.prefix}/bin", *(str(self.binaries[name].parent) for name in ("kubectl", "helm"))]
        path = ":".join([*folders, os.environ.get("PATH", process.PATH)])
        ours = [str(CHECKOUT / part) for part in ("operator", "trainer", "")]
        modules = ":".join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | self.names.environment() | {"PATH": path, "PYTHONPATH": modules}

    def run_in_network(
        self, argv: Sequence[str], *, input: str | None = None, capture: bool = True, seconds: float | None = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command where the API server, S3 and Prometheus can be reached.

        Raises:
            LabError: the lab does not run.
        """
        if not network.exists(self.names.control_netns):
            raise LabError(f"the lab at {self.state} does not run; start it with `python -m lab up`")
        command = process.nsenter(self.names.control_netns, *argv)
        return subprocess.run(
            command,
            input=input,
            capture_output=capture,
            text=True,
            timeout=seconds,
            env=self.environment(),
            check=False,
        )

    def kubectl(self, *args: str, input: str | None = None, seconds: float = 120) -> str:
        """Run kubectl and return what it printed.

        Raises:
            LabError: with kubectl's own message.
        """
        return self._tool("kubectl", args, input, seconds)

    def helm(self, *args: str, input: str | None = None, seconds: float = 300) -> str:
        """Run helm and return what it printed; errors as `kubectl`."""
        return self._tool("helm", args, input, seconds)

    def get(self, *args: str) -> Any:
        """Return `kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def _tool(self, name: str, args: Sequence[str], stdin: str | None, seconds: float) -> str:
        done = self.run_in_network([str(self.binaries[name]), *args], input=stdin, seconds=seconds)
        if done.returncode:
            raise LabError(f"{name} {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    # Starting and stopping.

    def up(self) -> None:
        """Start whatever does not run, and wait until every node is Ready and announces its GPUs. Idempotent."""
        require_root()
        deps.install_debian(self.versions)
        build.build(self.versions)
        with self._locked():
            if not network.exists(self.names.control_netns):
                self._sweep()  # a crash or a reboot left things of a lab that is no more
            self._claim()
            certs.write(self.names)
            self.control.write_files()
            network.make_control(self.names, list(self.node_names))
            self._start()

    def _start(self) -> None:
        absent = [node for name in self.node_names if not (node := self.node(name)).runs()]
        (self.state / "pause.tar").write_bytes(image.pause(self.binaries["pause"]))
        (self.state / "host.tar").write_bytes(image.host())
        for server in control.FIRST:
            self.control.start(server)
        with ThreadPoolExecutor(max_workers=len(self.node_names)) as pool:
            list(pool.map(Node.prepare, absent))
            loading = [pool.submit(node.load_images) for node in absent]
            process.wait_until(self.answers, what="kube-apiserver", seconds=60)
            for server in control.THEN:
                self.control.start(server)
            for work in loading:
                work.result()
            list(pool.map(Node.join, absent))
        self.kubectl("apply", "--server-side", "-f", "-", input=_list(control.dns_objects(self.names)))
        process.wait_until(self._ready, what="nodes Ready with their GPUs", seconds=90, every=0.3)

    def down(self) -> None:
        """Stop the lab and remove everything it made; also after a crash, and when nothing is there."""
        require_root()
        with self._locked():
            self._sweep()
        self._lock_path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Kill by pid file, by network namespace and by control group; then remove namespaces, groups and files."""
        nodes = self._nodes_ever()
        groups = [self.names.cgroup(node) for node in nodes]
        spaces = network.all_of(self.names)

        def mine() -> set[int]:
            found = set(process.recorded(self.state).values())
            return found.union(*(process.in_netns(s) for s in spaces), *(cgroups.processes(g) for g in groups))

        process.kill_until_gone(mine, what="lab down")
        for space in spaces:
            network.delete(space)
        network.drop_mount_point()
        for group in groups:
            process.wait_until(partial(cgroups.remove, group), what=f"cgroup {group}", seconds=20, every=0.05)
        self._remove_files()

    def _nodes_ever(self) -> list[str]:
        """Return the nodes of this lab and of any earlier size of it."""
        prefix = f"ilm-{self.names.key}-"
        found = {path.name.removeprefix(prefix) for path in cgroups.ROOT.glob(f"*/{prefix}*")}
        found |= {path.name.removeprefix(prefix) for path in cgroups.ROOT.glob(f"{prefix}*")}
        return sorted(found | set(self.node_names))

    def _remove_files(self) -> None:
        if not (self.state / MARKER).exists():
            return
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        inside = [mount for mount in mounts if mount.startswith(f"{self.state}/")]
        if inside:  # deleting through a bind mount would delete what it shows
            raise LabError(f"{inside[0]}: still mounted; unmount it and run `lab down` again")
        shutil.rmtree(self.state)

    def _claim(self) -> None:
        """Mark the state folder as this lab's; a lab of another checkout or environment makes way.

        Its containers show the other checkout's files, so nothing of it could be used.

        Raises:
            LabError: the folder holds something that is no lab.
        """
        mine = {"checkout": str(CHECKOUT), "python": sys.prefix, "nodes": len(self.node_names)}
        marker = self.state / MARKER
        if marker.exists():
            theirs = json.loads(marker.read_text())
            if theirs == mine:
                return
            other = next(f"{key} {theirs.get(key)}" for key in mine if theirs.get(key) != mine[key])
            print(f"lab: the lab with {other} makes way for this one", file=sys.stderr)
            self._sweep()
        if self.state.exists() and any(self.state.iterdir()):
            raise LabError(f"--state: {self.state} is not empty and not a lab's; use another folder")
        self.state.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(mine))

    @property
    def _lock_path(self) -> Path:
        return cache_dir() / f"lab-{self.names.key}.lock"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one `up`, `down` or `heal` at a time work on this lab."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Looking at it.

    def answers(self) -> bool:
        """Return whether the API server is ready."""
        command = [str(self.binaries["kubectl"]), "get", "--raw", "/readyz"]
        return self.run_in_network(command, seconds=20).returncode == 0

    def _ready(self) -> bool:
        try:
            self.get("serviceaccount", "default", "-n", "default")
            nodes = self.nodes()
        except LabError:
            return False
        broken = {fault.get("node") for fault in faults.recorded(self.state)}
        whole = set(self.node_names) - broken
        return all(name in nodes and self.node_is_ready(name, nodes[name]) for name in whole)

    def nodes(self) -> dict[str, Any]:
        """Return the Node objects by name."""
        return {node["metadata"]["name"]: node for node in self.get("nodes")["items"]}

    def node_is_ready(self, name: str, node: dict[str, Any] | None = None) -> bool:
        """Return whether a node is Ready and announces all of the GPUs that it has as healthy."""
        status = (node or self.get("node", name))["status"]
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
        return ready and int(status.get("allocatable", {}).get("nvidia.com/gpu", 0)) == self.node(name).gpus

    def status(self) -> dict[str, Any]:
        """Return which daemons run, the nodes, and the injected faults; works on a lab that is down."""
        daemons = process.recorded(self.state)
        report: dict[str, Any] = {"state": str(self.state), "daemons": daemons, "faults": faults.recorded(self.state)}
        report["nodes"] = {}
        if "kube-apiserver" in daemons:
            with contextlib.suppress(LabError):
                report["nodes"] = {name: _summary(node) for name, node in self.nodes().items()}
        return report

    # Breaking and repairing it.

    def fault(self, kind: str, **what: Any) -> dict[str, Any]:
        """Inject a fault (see `faults.KINDS`); return what was done, with the wall-clock time of it."""
        return faults.inject(self, kind, **what)

    def undo(self, record: dict[str, Any]) -> None:
        """End one fault, as `fault` returned it; a cordon of its node stays."""
        with self._locked():
            faults.undo(self, record)

    def heal(self, node: str | None = None) -> list[dict[str, Any]]:
        """Undo the injected faults, of one node or all, and return them.

        As the lab's repair person this also removes the operator's cordon from what was repaired.
        """
        with self._locked():
            return faults.heal(self, node)


def _summary(node: dict[str, Any]) -> dict[str, Any]:
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
    return {
        "ready": conditions.get("Ready") == "True",
        "gpus": node["status"].get("allocatable", {}).get("nvidia.com/gpu", "0"),
        "cordoned": bool(node["spec"].get("unschedulable")),
    }


def _list(items: list[dict[str, object]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
