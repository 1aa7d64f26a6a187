"""The lab's network: one namespace for the control plane with a bridge, one per node, a veth pair between."""

import os
import subprocess
from pathlib import Path

from lab.process import run
from lab.settings import Names, index

BRIDGE = "br0"


def exists(netns: str) -> bool:
    """Return whether a network namespace of this name is there and alive.

    After a reboot or a crash the file can be there without a namespace behind it.
    """
    path = Path("/run/netns") / netns
    done = subprocess.run(["nsenter", f"--net={path}", "true"], capture_output=True, check=False)
    return path.exists() and done.returncode == 0


def make_control(names: Names, nodes: list[str]) -> None:
    """Make the control plane's namespace: the router of all nodes and the home of every server."""
    sw = names.control_netns
    if exists(sw):
        return
    delete(sw)
    run("ip", "netns", "add", sw)
    _batch(
        sw,
        [
            "link set lo up",
            f"link add {BRIDGE} type bridge forward_delay 0",
            f"link set {BRIDGE} address 02:00:00:00:00:fe",
            f"addr add {names.ROUTER}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
            *(f"route add {names.node_pod_cidr(node)} via {names.node_address(node)}" for node in nodes),
        ],
    )
    _forward(sw)


def make_node(names: Names, node: str, nodes: list[str]) -> None:
    """Make a node's namespace and plug it into the bridge.

    The MAC address is fixed: a repaired node must not wait until its peers' ARP entries go stale.
    """
    netns, sw = names.netns(node), names.control_netns
    if exists(netns):
        return
    delete(netns)
    # A namespace dies some time after its last process; its cable would still be plugged in.
    subprocess.run(["ip", "-n", sw, "link", "del", node], capture_output=True, check=False)
    run("ip", "netns", "add", netns)
    run("ip", "-n", sw, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", netns)
    _batch(sw, [f"link set {node} master {BRIDGE} up"])
    _batch(
        netns,
        [
            "link set lo up",
            f"link set eth0 address 02:00:00:00:00:{index(node):02x}",
            f"addr add {names.node_address(node)}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {names.ROUTER}",
            *(f"route add {names.node_pod_cidr(o)} via {names.node_address(o)}" for o in nodes if o != node),
        ],
    )
    _forward(netns)


def set_link(names: Names, node: str, *, up: bool) -> None:
    """Plug a node in or out at the bridge's side."""
    run("ip", "-n", names.control_netns, "link", "set", node, "up" if up else "down")


def all_of(names: Names) -> list[str]:
    """Return the names of this lab's namespaces, dead files included."""
    folder = Path("/run/netns")
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(f"ilm-{names.key}-")) if folder.is_dir() else []


def delete(netns: str) -> None:
    """Delete a namespace, also one that a reboot left as a plain file."""
    path = Path("/run/netns") / netns
    subprocess.run(["ip", "netns", "del", netns], capture_output=True, check=False)
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)
    path.unlink(missing_ok=True)


def drop_mount_point() -> None:
    """Undo what the first `ip netns add` of a machine does: /run/netns mounted on itself.

    Only when it is empty, so another user of network namespaces keeps it.
    """
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()) and os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        if not os.path.ismount(folder):
            folder.rmdir()


def _batch(netns: str, lines: list[str]) -> None:
    run("ip", "-n", netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def _forward(netns: str) -> None:
    run("nsenter", f"--net=/run/netns/{netns}", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
