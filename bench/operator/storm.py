"""More events than this machine's API server could write: put into etcd, from where it watches them.

A put of the bytes that are there already is a new version, and so an event of every watch. Pods alternate
between two versions that a decision reads; a node's event is a heartbeat that nobody decides on. Both went
through the API server once, so what the watches carry is real.
"""

import asyncio
import base64
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from bench.operator.client import MERGE, Client, many, say
from bench.operator.objects import NAMESPACE, PODS, node_name
from bench.operator.simulated import Kubelets

WORKERS: Final = 4
TOGETHER: Final = 20
CHANGING_PODS: Final = 500
HEARTBEATS: Final = 1000


@dataclass(frozen=True, slots=True)
class Put:
    """Versions of one key, written in turn."""

    key: str
    values: tuple[str, ...]


class Etcd:
    """The part of etcd's HTTP API that a storm needs; keys and values travel as base64."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, key: str) -> Put:
        encoded = base64.b64encode(key.encode()).decode()
        found = await self._call("range", {"key": encoded})
        return Put(encoded, (found["kvs"][0]["value"],))

    async def put(self, puts: Sequence[Put], turn: int) -> None:
        """Write one version of each in one transaction: a request for each key would cost more than the event."""
        rows = [{"request_put": {"key": put.key, "value": put.values[turn % len(put.values)]}} for put in puts]
        await self._call("txn", {"success": rows})

    async def _call(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(f"{self._url}/v3/kv/{what}", json=body) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found


async def prepare(client: Client, etcd: Etcd, kubelets: Kubelets, nodes: int) -> list[Put]:
    """Return what will be written: pods in two versions, nodes as they are."""
    pods = [pod.name for pod in kubelets.pods.values() if pod.running and pod.namespace == NAMESPACE][:CHANGING_PODS]
    puts: dict[str, Put] = {}

    async def pod(name: str) -> None:
        key = f"/registry/pods/{NAMESPACE}/{name}"
        calm = await etcd.get(key)
        await client("PATCH", f"{PODS}/{name}/status", {"status": {"message": "storm"}}, kind=MERGE)
        loud = await etcd.get(key)
        puts[name] = Put(calm.key, (calm.values[0], loud.values[0]))

    async def node(name: str) -> None:
        puts[name] = await etcd.get(f"/registry/minions/{name}")

    names = [node_name(number) for number in range(min(nodes, HEARTBEATS))]
    await many("storm's pods", [functools.partial(pod, name) for name in pods])
    await many("storm's nodes", [functools.partial(node, name) for name in names])
    return list(puts.values())


async def rage(etcd: Etcd, puts: Sequence[Put], *, rate: int, seconds: float) -> float:
    """Write `rate` events a second for `seconds`; return how many a second were written."""
    began = told = time.monotonic()
    done = 0

    async def worker() -> None:
        nonlocal done, told
        while (now := time.monotonic()) - began < seconds:
            if done > rate * (now - began):
                await asyncio.sleep(0.005)
                continue
            turn, at = divmod(done, len(puts))
            batch = puts[at : at + TOGETHER]
            done += len(batch)
            await etcd.put(batch, turn + 1)
            if now - told > 10:
                told = now
                say(f"storm: {done / (now - began):.0f} events/s, {now - began:.0f} of {seconds:.0f} s")

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())
    return done / (time.monotonic() - began)
