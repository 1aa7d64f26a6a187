"""The scene of the measurements, set once: a cluster with nodes and running jobs, and what plays the rest of it."""

import asyncio
import contextlib
import functools
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.operator import objects
from bench.operator.client import Client, many, say, until
from bench.operator.gauge import Gauge
from bench.operator.objects import JOBS, NAMESPACE, PODS
from bench.operator.plane import ControlPlane, OperatorUnderLoad
from bench.operator.simulated import Kubelets, Member, Seen, serve_store, serve_trainers
from internlm2_spec import contract
from tests.api.apiserver import free_ports
from tests.api.stage import install_rights

LONGEST_REPLACEMENT_SECONDS: Final = 120.0
BATCH: Final = 50  # jobs
AHEAD: Final = 1000  # pods that may wait for their kubelets


@dataclass(frozen=True, slots=True)
class Sizes:
    """How big the cluster is, and how many pods each job has."""

    nodes: int
    jobs: int
    members: int
    big: int  # pods of the one big job
    cordons: int

    @property
    def pods(self) -> int:
        return self.jobs * self.members


@dataclass(slots=True)
class Scene:
    """Everything that a measurement needs."""

    sizes: Sizes
    client: Client
    plane: ControlPlane
    operator: OperatorUnderLoad
    kubelets: Kubelets
    gauge: Gauge
    chance: random.Random
    taken: set[str] = field(default_factory=set)  # pods that were deleted once

    async def start_operator(self) -> None:
        self.operator.start()
        await asyncio.to_thread(self.operator.wait_until_leading)

    async def make_nodes(self) -> float:
        """Register all nodes; returns nodes per second, which is the bare client's rate of creation."""
        calls = [
            functools.partial(self.client, "POST", "/api/v1/nodes", objects.node(n)) for n in range(self.sizes.nodes)
        ]
        return len(calls) / await many("nodes", calls)

    async def make_jobs(self) -> dict[str, float]:
        """Make all jobs and wait until every pod runs; jobs wait for the kubelets to keep up."""
        names = [f"job-{number:04}" for number in range(self.sizes.jobs)]
        began = time.monotonic()
        for start in range(0, len(names), BATCH):
            calls = [self._make_job(name) for name in names[start : start + BATCH]]
            await many("jobs", calls)
            # A pod that no kubelet lets run for two minutes is taken to be unschedulable, and rightly so.
            made = (start + len(calls)) * self.sizes.members
            if not await until(
                functools.partial(self._running, made - AHEAD), what=f"{made} pods", seconds=300,
                far=self.kubelets.running,
            ):  # fmt: skip
                self.operator.give_up("jobs do not get their pods")
        if not await until(
            functools.partial(self._running, self.sizes.pods), what=f"{self.sizes.pods} pods", seconds=300,
            far=self.kubelets.running,
        ):  # fmt: skip
            self.operator.give_up("jobs do not get their pods")
        seconds = time.monotonic() - began
        return {"seconds": round(seconds, 1), "podsPerSecond": round(self.sizes.pods / seconds, 1)}

    def _running(self, count: int) -> bool:
        return self.kubelets.running() >= count

    def _make_job(self, name: str) -> Callable[[], Awaitable[object]]:
        return lambda: self.client("POST", JOBS, objects.job(name, self.sizes.members))

    def a_member(self) -> Seen:
        """Return a running pod that is not slot 0, of a job that nothing happened to lately."""
        now = time.monotonic()
        while True:
            pod = self.chance.choice(list(self.kubelets.pods.values()))
            if pod.running and pod.member[2] and now - pod.born > 15 and pod.name not in self.taken:
                return pod

    async def replaced(self, pod: Seen) -> float | None:
        """Let a pod vanish; returns the seconds until the operator's next one is there."""
        began = time.monotonic()
        self.taken.add(pod.name)
        await self._vanish(pod)
        return await self.appears(pod, began)

    async def _vanish(self, pod: Seen) -> None:
        """Remove the object at once: with a grace, all members would first be given time for a checkpoint."""
        await self.client("DELETE", f"{PODS}/{pod.name}", {"gracePeriodSeconds": 0})

    async def appears(self, pod: Seen, since: float) -> float | None:
        """Return the seconds from `since` until a pod has the member's place, None when it takes too long."""
        job, attempt, slot, replacement = pod.member
        # A replacement that vanishes is made again under its own name.
        wanted: tuple[Member, ...] = (
            pod.member, (job, attempt, slot, replacement + 1), (job, attempt + 1, slot, 0),
        )  # fmt: skip
        while time.monotonic() - since < LONGEST_REPLACEMENT_SECONDS:
            made = [at for member in wanted if (at := self.kubelets.born.get(member, 0.0)) > since]
            if made:
                return min(made) - since
            await asyncio.sleep(0.02)
        return None

    async def replaced_as_listed(self, pod: Seen, act: Callable[[], Awaitable[object]]) -> float | None:
        """Let a pod vanish, then `act`; return the seconds from there until a LIST of the job shows a new pod.

        The harness's own watch may be as far behind as the operator's when there is much to bring.
        """
        label = f"{contract.LABEL_JOB}%3D{pod.member[0].partition('/')[2]}"
        before = await self._uids(label)
        await self._vanish(pod)
        since = time.monotonic()
        await act()
        while time.monotonic() - since < LONGEST_REPLACEMENT_SECONDS:
            if await self._uids(label) - before:
                return time.monotonic() - since
            await asyncio.sleep(0.1)
        return None

    async def _uids(self, label: str) -> set[str]:
        found = await self.client("GET", f"{PODS}?labelSelector={label}&resourceVersion=0")
        return {item["metadata"]["uid"] for item in found["items"]}


@contextlib.asynccontextmanager
async def stage(sizes: Sizes) -> AsyncIterator[Scene]:
    """Start everything but the operator, and end everything."""
    with tempfile.TemporaryDirectory(prefix="internlm2-operator-") as name:
        folder = Path(name)
        plane = ControlPlane(folder)
        operator: OperatorUnderLoad | None = None
        store_port = free_ports(1)[0]
        pages = [await serve_trainers(), await serve_store(store_port)]
        try:
            say("starting etcd and kube-apiserver")
            await asyncio.to_thread(plane.start)
            await asyncio.to_thread(plane.install_crd)
            operator = OperatorUnderLoad(await asyncio.to_thread(install_rights, plane, folder), folder)
            async with Client(plane) as client, asyncio.TaskGroup() as group:
                await client("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
                secret = objects.secret(f"http://127.0.0.1:{store_port}")
                await client("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
                kubelets = Kubelets(client)
                tasks = kubelets.start(group)
                gauge = Gauge(client, plane, operator)
                yield Scene(sizes, client, plane, operator, kubelets, gauge, random.Random(1))
                for task in tasks:
                    task.cancel()
        finally:
            if operator is not None:
                operator.kill()
            plane.stop()
            for page in pages:
                await page.cleanup()
