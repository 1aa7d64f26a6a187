"""How the node agent is started: flags, each with its meaning; wrong ones are one line and exit code 2."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EXAMPLE: Final = """\
what it does:
  Reads the kernel's log for faults of GPUs, NVSwitches and memory, looks at disks, links, the clock and what the
  device plugin offers, and writes one condition of its own node: GPUHealthy, with a reason and the newest events.
  It changes nothing else. docs/agent.md says what each right is for.

example, beside a real API server and with a file in place of the kernel's log:
  KUBECONFIG=~/.kube/config python -m internlm2_operator.agent --node gpu-1 --kmsg ./kmsg --state ./state.json
  echo "4,1,1000000,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus." >> ./kmsg
  kubectl get node gpu-1 -o jsonpath='{.status.conditions[?(@.type=="GPUHealthy")]}'

over:
  A fault stays until the node boots anew, the driver is loaded anew, or somebody says that it was dealt with:
  kubectl annotate node gpu-1 --overwrite training.internlm.io/health-reset=$(date -u +%Y-%m-%dT%H:%M:%SZ)
"""


@dataclass(frozen=True, slots=True)
class Options:
    """`sys` and `mountinfo` are where links and mounts are read, `roots` where a disk's path is mounted for us."""

    node: str
    kmsg: Path
    boot_id: Path
    state: Path
    resource: str
    disks: tuple[str, ...]
    disk_root: str
    free_percent: float
    links: tuple[str, ...]
    sys_net: Path
    writes_per_second: float
    heartbeat_seconds: float
    node_seconds: float
    clock_seconds: float
    port: int
    verbose: bool


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read flags; exits with 2 and one line when they make no sense."""
    parser = _parser(environment)
    found = parser.parse_args(arguments)
    if not found.node:
        parser.error("--node: empty; give the name of this node, or set NODE_NAME")
    if any(not path.startswith("/") for path in found.disk):
        parser.error(f"--disk: {next(p for p in found.disk if p[:1] != '/')} is relative; give an absolute path")
    if any("/" in name or not name for name in found.link):
        parser.error("--link: not an interface; give a name as in /sys/class/net, for example eth0")
    return Options(
        node=found.node,
        kmsg=found.kmsg,
        boot_id=found.boot_id,
        state=found.state,
        resource=found.resource,
        disks=tuple(found.disk),
        disk_root=found.disk_root.rstrip("/"),
        free_percent=found.free_percent,
        links=tuple(found.link),
        sys_net=found.sys_net,
        writes_per_second=found.writes_per_second,
        heartbeat_seconds=found.heartbeat_seconds,
        node_seconds=found.node_seconds,
        clock_seconds=found.clock_seconds,
        port=found.port,
        verbose=found.verbose,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m internlm2_operator.agent",
        description="Tells the cluster whether the GPUs of this node are healthy, as Node condition GPUHealthy.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--node", default=environment.get("NODE_NAME", ""), help="name of this node (NODE_NAME)")
    add("--kmsg", type=Path, default=Path("/dev/kmsg"), help="the kernel's log, or a file or FIFO with such records")
    add(
        "--boot-id", type=Path, default=Path("/proc/sys/kernel/random/boot_id"), help="file that changes with each boot"
    )
    add(
        "--state",
        type=Path,
        default=Path("/var/lib/internlm2-agent/state.json"),
        help="where it remembers what it read",
    )
    add("--resource", default="nvidia.com/gpu", help="extended resource whose devices are counted")
    add("--disk", action="append", default=[], metavar="PATH", help="file system to watch; may be repeated")
    add("--disk-root", default="", metavar="DIR", help="folder under which the host's paths are mounted")
    add("--free-percent", type=_percent, default=5.0, help="a disk with less free is full, default 5")
    add("--link", action="append", default=[], metavar="NAME", help="network interface to watch; may be repeated")
    add("--sys-net", type=Path, default=Path("/sys/class/net"), help="where interfaces are read")
    add("--writes-per-second", type=_positive, default=2.0, help="most writes of the condition, default 2")
    add("--heartbeat-seconds", type=_positive, default=300.0, help="a condition that stays is written so often")
    add("--node-seconds", type=_positive, default=30.0, help="so often the own Node object is read, default 30")
    add("--clock-seconds", type=_positive, default=60.0, help="so often the clock is compared, default 60")
    add("--port", type=int, default=8081, help="port of /metrics and /healthz, default 8081")
    add("--verbose", action="store_true", help="log debug lines")
    return parser


def _positive(text: str) -> float:
    return _within(text, 0.001, 86400.0)


def _percent(text: str) -> float:
    return _within(text, 0.0, 50.0)


def _within(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g} to {most:g}")
    return value
