"""What can be broken in the lab, and how each break is undone.

Every injection is recorded in `faults.json` of the state folder, so `heal` undoes exactly what was done. Times are
wall-clock seconds since the epoch, taken just before the break.
"""

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internlm2_spec.contract import ANNOTATION_FAULT, TAINT_FAULT
from lab import network, process, victims
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

SERVERS = {"s3-down": "versitygw", "prometheus-down": "prometheus", "apiserver-kill": "kube-apiserver"}
# They heal themselves: the kubelet or torchrun starts a new process.
TRANSIENT = ("process-kill", "operator-kill")

Record = dict[str, Any]


def recorded(state: Path) -> list[Record]:
    """Return the injections that nobody has undone yet."""
    try:
        found: list[Record] = json.loads((state / "faults.json").read_text())
    except FileNotFoundError:
        return []
    return found


def _save(state: Path, records: list[Record]) -> None:
    scratch = state / f".faults.{os.getpid()}.json"
    scratch.write_text(json.dumps(records, indent=1))
    scratch.replace(state / "faults.json")


def inject(lab: "Lab", kind: str, **what: Any) -> Record:
    """Break something; return and record what was done.

    Raises:
        LabError: an unknown kind, or a node, GPU or pod that is not there.
    """
    if kind not in KINDS:
        raise LabError(f"fault: {kind!r} is not known; use one of {', '.join(KINDS)}")
    done = KINDS[kind](lab, {key: value for key, value in what.items() if value is not None})
    if kind not in TRANSIENT:
        _save(lab.state, [*recorded(lab.state), done])
    return done


def node_kill(lab: "Lab", what: Record) -> Record:
    """A machine is lost: its link goes down first, so that no peer gets a FIN or RST; then every process dies."""
    node = lab.node(_need(what, "node", "n2"))
    link = what.get("link", "down")
    begin = time.time()
    if link == "down":
        network.set_link(lab.names, node.name, up=False)
    process.kill_until_gone(node.processes, what=node.name)
    return {"fault": "node-kill", "time": begin, "node": node.name, "link": link}


def xid(lab: "Lab", what: Record) -> Record:
    """The driver reports an XID on one GPU."""
    node = lab.node(_need(what, "node", "n2"))
    gpu, number = int(what.get("gpu", 0)), int(_need(what, "xid", "79"))
    begin = time.time()
    _gpu(node.gpu_socket, f"xid?gpu={gpu}&xid={number}")
    return {"fault": "xid", "time": begin, "node": node.name, "gpu": gpu, "xid": number}


def gpu_lost(lab: "Lab", what: Record) -> Record:
    """A GPU falls off the bus: its series vanish and the device plugin calls it unhealthy."""
    node = lab.node(_need(what, "node", "n2"))
    gpu = int(what.get("gpu", 0))
    begin = time.time()
    _gpu(node.gpu_socket, f"gpu-lost?gpu={gpu}")
    return {"fault": "gpu-lost", "time": begin, "node": node.name, "gpu": gpu}


def process_kill(lab: "Lab", what: Record) -> Record:
    """SIGKILL one training process in a pod."""
    pod = victims.training_pod(lab, what.get("pod"))
    pid = victims.rank_process(lab, pod)
    begin = time.time()
    process.kill([pid])
    return {"fault": "process-kill", "time": begin, **victims.where(pod), "pid": pid}


def operator_kill(lab: "Lab", what: Record) -> Record:
    """SIGKILL the operator; its kubelet starts it again."""
    pod = victims.operator_pod(lab, what.get("pod"))
    pids = victims.container_inits(lab, pod)
    begin = time.time()
    process.kill(pids)
    return {"fault": "operator-kill", "time": begin, **victims.where(pod), "pids": pids}


def _server_kill(kind: str) -> Callable[["Lab", Record], Record]:
    def kill(lab: "Lab", _: Record) -> Record:
        begin = time.time()
        pid = lab.control.kill(SERVERS[kind])
        if pid is None:
            raise LabError(f"{kind}: {SERVERS[kind]} does not run; `python -m lab fault heal` starts it")
        return {"fault": kind, "time": begin, "pid": pid}

    return kill


KINDS: dict[str, Callable[["Lab", Record], Record]] = {
    "node-kill": node_kill,
    "xid": xid,
    "gpu-lost": gpu_lost,
    "process-kill": process_kill,
    "operator-kill": operator_kill,
    **{kind: _server_kill(kind) for kind in SERVERS},
}


def heal(lab: "Lab", only: str | None = None) -> list[Record]:
    """Undo what was injected, on one node or everywhere; return what was undone."""
    if only is not None:
        lab.node(only)  # refuses a name that is not there
    records = [r for r in recorded(lab.state) if only is None or r.get("node") == only]
    for server in ("kube-apiserver", "versitygw", "prometheus"):
        lab.control.start(server)
    process.wait_until(lab.answers, what="kube-apiserver", seconds=60)
    broken = sorted({record["node"] for record in records if "node" in record})
    dead = [name for name in broken if not lab.node(name).runs()]
    for name in dead:
        _replace_machine(lab, name)
    for record in records:
        if "gpu" in record and record["node"] not in dead:
            _gpu(lab.node(record["node"]).gpu_socket, f"heal?gpu={record['gpu']}")
    _save(lab.state, [r for r in recorded(lab.state) if r not in records])
    for name in [only] if only else lab.node_names:
        _take_back(lab, name)
        process.wait_until(partial(lab.node_is_ready, name), what=f"{name} Ready", seconds=60, every=0.3)
    return records


def _replace_machine(lab: "Lab", name: str) -> None:
    """Give a dead node a fresh machine of the same name. Its old pods go first, or the new kubelet starts them."""
    pods = lab.get("pods", "-A", "--field-selector", f"spec.nodeName={name}")["items"]
    for pod in pods:
        where = ("-n", pod["metadata"]["namespace"], pod["metadata"]["name"])
        lab.kubectl("delete", "pod", *where, "--force", "--grace-period=0", "--ignore-not-found", "--wait=false")
    node = lab.node(name)
    node.prepare()
    node.load_images()
    node.join()


def _take_back(lab: "Lab", name: str) -> None:
    """Remove the operator's cordon from a repaired node: unschedulable, taint and annotation."""
    node = lab.get("node", name)
    spec, meta = node["spec"], node["metadata"]
    taints = [taint for taint in spec.get("taints", []) if taint["key"] != TAINT_FAULT]
    marked = ANNOTATION_FAULT in meta.get("annotations", {}) or len(taints) != len(spec.get("taints", []))
    if not marked:
        return
    # The node controller owns its own taints: they are written back as they were, ours only is left out.
    keep = [taint for taint in taints if taint["key"] != "node.kubernetes.io/unschedulable"]
    patch = {
        "metadata": {"annotations": {ANNOTATION_FAULT: None}},
        "spec": {"unschedulable": None, "taints": keep or None},
    }
    lab.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps(patch))


def _need(what: Record, key: str, example: str) -> Any:
    if key not in what:
        raise LabError(f"--{key}: missing; write for example --{key} {example}")
    return what[key]


def _gpu(path: Path, request: str) -> None:
    """Ask a node's simulated GPU driver for a change, over its Unix socket.

    Raises:
        LabError: the driver refused, or does not run.
    """
    connection = http.client.HTTPConnection("simgpu", timeout=10)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(path))
        connection.request("POST", f"/control/{request}")
        answer = connection.getresponse()
        text = answer.read().decode().strip()
    except OSError as error:
        raise LabError(f"{path}: the node's GPU driver does not answer ({error}); is the node up?") from error
    finally:
        connection.close()
    if answer.status != 204:
        raise LabError(text)
