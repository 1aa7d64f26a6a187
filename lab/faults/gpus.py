"""Simulated GPUs that fail: seen by the DCGM exporter, by the device plugin, or in the simulated kernel log."""

import http.client
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab import process
from lab.faults.record import Kind, Record, need
from lab.node import KERNEL_LOG
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.node import Node

# Facility 0, the kernel's; priority warning. What NVIDIA's driver writes, as internlm2_operator.health.kernel reads it.
RECORD: Final = "4,{sequence},{microseconds},-;{text}\n"
XID_TEXTS: Final = {
    31: "pid='<unknown>', name=<unknown>, Ch 00000008, intr 10000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0",
    48: "pid='<unknown>', name=<unknown>, DBE (double bit error) ECC error has been detected",
    79: "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    95: "pid='<unknown>', name=<unknown>, Uncontained ECC error",
}
LOADING: Final = "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15 (simulated)"


def xid(lab: "Lab", what: Record) -> Record:
    """The driver reports an XID on one GPU, seen in the exporter's metrics and by the device plugin."""
    node, gpu = _device(lab, what)
    number = int(need(what, "xid", "79"))
    begin = time.time()
    _driver(node.gpu_socket, f"xid?gpu={gpu}&xid={number}")
    return {"fault": "xid", "time": begin, "node": node.name, "gpu": gpu, "xid": number}


def xid_log(lab: "Lab", what: Record) -> Record:
    """The driver reports an XID on one GPU in the kernel's log, and nowhere else."""
    node, gpu = _device(lab, what)
    number = int(need(what, "xid", "79"))
    text = XID_TEXTS.get(number, "simulated by the lab")
    begin = time.time()
    _log(node, f"NVRM: Xid (PCI:{_pci(gpu)}): {number}, {text}")
    return {"fault": "xid-log", "time": begin, "node": node.name, "gpu": gpu, "xid": number}


def gpu_lost(lab: "Lab", what: Record) -> Record:
    """A GPU falls off the bus: its series vanish and the device plugin calls it unhealthy."""
    node, gpu = _device(lab, what)
    begin = time.time()
    _driver(node.gpu_socket, f"gpu-lost?gpu={gpu}")
    return {"fault": "gpu-lost", "time": begin, "node": node.name, "gpu": gpu}


def gpu_unhealthy(lab: "Lab", what: Record) -> Record:
    """The device plugin calls a GPU unhealthy and nobody says why: the node offers one less."""
    node, gpu = _device(lab, what)
    begin = time.time()
    _driver(node.gpu_socket, f"unhealthy?gpu={gpu}")
    return {"fault": "gpu-unhealthy", "time": begin, "node": node.name, "gpu": gpu}


def _heal(lab: "Lab", record: Record) -> None:
    _driver(lab.node(record["node"]).gpu_socket, f"heal?gpu={record['gpu']}")


def _reload(lab: "Lab", record: Record) -> None:
    """Load the driver anew, as who repairs such a GPU does, and wait until the node agent says that it is well."""
    _log(lab.node(record["node"]), LOADING)
    process.wait_until(lambda: _says_well(lab, record["node"]), what=f"{record['node']} GPUHealthy", seconds=60)


def _says_well(lab: "Lab", name: str) -> bool:
    conditions = lab.get("node", name)["status"]["conditions"]
    return not any(c["type"] == "GPUHealthy" and c["status"] == "False" for c in conditions)


KINDS: Final = {
    "xid": Kind(xid, _heal),
    "xid-log": Kind(xid_log, _reload),
    "gpu-lost": Kind(gpu_lost, _heal),
    "gpu-unhealthy": Kind(gpu_unhealthy, _heal),
}


def _device(lab: "Lab", what: Record) -> "tuple[Node, int]":
    node, gpu = lab.node(need(what, "node", "n2")), int(what.get("gpu", 0))
    if not 0 <= gpu < lab.versions.gpus_per_node:
        raise LabError(f"--gpu: {gpu} is not on {node.name}; use 0 to {lab.versions.gpus_per_node - 1}")
    return node, gpu


def _pci(gpu: int) -> str:
    """Return a device's address as the kernel writes it; simgpu gives the same in the exporter's longer form."""
    return f"0000:{gpu + 1:02x}:00"


def _log(node: "Node", text: str) -> None:
    """Append one record to the file that stands for the node's kernel log."""
    path = node.inside(KERNEL_LOG)
    sequence = path.read_text().count("\n")
    line = RECORD.format(sequence=sequence, microseconds=int(time.monotonic() * 1e6), text=text)
    with path.open("a") as file:
        file.write(line)


def _driver(path: Path, request: str) -> None:
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
