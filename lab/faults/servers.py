"""The servers that a cluster's users share: S3, Prometheus, the API server, DNS. Away, slow, or telling lies."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from internlm2_spec.contract import MANIFEST_NAME
from lab.control import S3_PROXY
from lab.faults.record import Kind, Record, need
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

DOWN: Final = {
    "s3-down": "versitygw",
    "prometheus-down": "prometheus",
    "apiserver-kill": "kube-apiserver",
    "dns-down": "coredns",
}
# Bytes a second in each direction, and the share of large pieces in which one bit is another.
SLOW: Final = ("--bytes-per-second", "400000", "--delay", "0.3")
LYING: Final = ("--flip", "0.2")


def _down(kind: str) -> Callable[["Lab", Record], Record]:
    def kill(lab: "Lab", _: Record) -> Record:
        begin = time.time()
        pid = lab.control.kill(DOWN[kind])
        if pid is None:
            raise LabError(f"{kind}: {DOWN[kind]} does not run; `python -m lab fault heal` starts it")
        return {"fault": kind, "time": begin, "pid": pid}

    return kill


def _up(kind: str) -> Callable[["Lab", Record], None]:
    def start(lab: "Lab", _: Record) -> None:
        lab.control.start(DOWN[kind])

    return start


def _behind_proxy(kind: str, arguments: tuple[str, ...]) -> Callable[["Lab", Record], Record]:
    """Put a proxy of ours in the S3 server's place, and the server behind it; connections break as at a restart."""

    def replace(lab: "Lab", _: Record) -> Record:
        begin = time.time()
        lab.control.kill(S3_PROXY)
        lab.control.kill("versitygw")
        lab.control.start(S3_PROXY, *arguments)
        lab.control.start("versitygw")
        return {"fault": kind, "time": begin}

    return replace


def _in_front(lab: "Lab", _: Record) -> None:
    lab.control.kill(S3_PROXY)
    lab.control.kill("versitygw")
    lab.control.start("versitygw")


def bit_rot(lab: "Lab", what: Record) -> Record:
    """Turn one bit of a shard of the newest checkpoint under an S3 prefix, in the server's folder."""
    prefix = need(what, "prefix", "internlm2/demo")
    manifests = sorted((lab.names.state / "s3" / prefix).glob(f"*/step-*/{MANIFEST_NAME}"))
    if not manifests:
        raise LabError(f"--prefix: {prefix} holds no checkpoint; write bucket/job")
    newest = manifests[-1].parent
    victim = max((path for path in newest.iterdir() if path.name != MANIFEST_NAME), key=lambda p: p.stat().st_size)
    begin = time.time()
    at = _flip(victim)
    return {"fault": "bit-rot", "time": begin, "object": str(victim.relative_to(lab.names.state / "s3")), "byte": at}


def _flip(path: Path) -> int:
    at = random.Random(path.name).randrange(path.stat().st_size // 2, path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return at


KINDS: Final = {
    **{kind: Kind(_down(kind), _up(kind)) for kind in DOWN},
    "s3-slow": Kind(_behind_proxy("s3-slow", SLOW), _in_front),
    "s3-corrupt": Kind(_behind_proxy("s3-corrupt", LYING), _in_front),
    "bit-rot": Kind(bit_rot),
}
