"""Machines that are lost or cut off, and their disks."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lab import network, process
from lab.faults.record import Kind, Record, need
from lab.node import SMALL_DISK, SMALL_DISK_MIB

if TYPE_CHECKING:
    from lab.cluster import Lab

FILLER: Final = "filled-by-the-lab"


def node_kill(lab: "Lab", what: Record) -> Record:
    """A machine is lost: its link goes down first, so that no peer gets a FIN or RST; then every process dies."""
    node = lab.node(need(what, "node", "n2"))
    link = what.get("link", "down")
    begin = time.time()
    if link == "down":
        network.set_link(lab.names, node.name, up=False)
    process.kill_until_gone(node.processes, what=node.name)
    return {"fault": "node-kill", "time": begin, "node": node.name, "link": link}


def replace_machine(lab: "Lab", name: str) -> None:
    """Give a dead node a fresh machine of the same name. Its old pods go first, or the new kubelet starts them."""
    node = lab.node(name)
    pods = lab.get("pods", "-A", "--field-selector", f"spec.nodeName={name}")["items"]
    for pod in pods:
        where = ("-n", pod["metadata"]["namespace"], pod["metadata"]["name"])
        lab.kubectl("delete", "pod", *where, "--force", "--grace-period=0", "--ignore-not-found", "--wait=false")
    node.prepare()
    node.load_images()
    node.join()


def _replace_dead(lab: "Lab", record: Record) -> None:
    if not lab.node(record["node"]).runs():
        replace_machine(lab, record["node"])


def partition(lab: "Lab", what: Record) -> Record:
    """Cut a node's network, until it is healed; everything on it goes on, alone."""
    node = lab.node(need(what, "node", "n2"))
    begin = time.time()
    network.set_link(lab.names, node.name, up=False)
    return {"fault": "partition", "time": begin, "node": node.name}


def _reconnect(lab: "Lab", record: Record) -> None:
    network.set_link(lab.names, record["node"], up=True)


def disk_full(lab: "Lab", what: Record) -> Record:
    """Fill the tmpfs of 8 MiB that the lab gives every node, on which the node agent keeps its memory."""
    node = lab.node(need(what, "node", "n2"))
    begin = time.time()
    with suppress(OSError), node.inside(f"{SMALL_DISK}/{FILLER}").open("wb", buffering=0) as file:
        for _ in range(SMALL_DISK_MIB * 256 + 1):  # in pages, up to the last one
            file.write(bytes(4096))
    return {"fault": "disk-full", "time": begin, "node": node.name}


def _free(lab: "Lab", record: Record) -> None:
    lab.node(record["node"]).inside(f"{SMALL_DISK}/{FILLER}").unlink(missing_ok=True)


KINDS: Final = {
    "node-kill": Kind(node_kill, _replace_dead),
    "partition": Kind(partition, _reconnect),
    "disk-full": Kind(disk_full, _free),
}
