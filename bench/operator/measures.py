"""The measurements, in the order in which they are made. Each returns figures and the harness's own limit beside."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from bench.operator import gauge, objects, storm
from bench.operator.client import MERGE, STRATEGIC, Answered, Client, many, say, until
from bench.operator.objects import JOBS, NAMESPACE, PODS, node_name
from bench.operator.scene import Scene
from internlm2_spec import contract

Figures = dict[str, Any]
BIG: Final = "big"
BARE: Final = "bare"


async def steady(scene: Scene, seconds: float) -> Figures:
    """Measure what the operator costs when nothing happens but training: writes, LISTs, cores, memory."""
    before = await scene.gauge.read()
    await _wait("steady state", seconds)
    after = await scene.gauge.read()
    return {
        "seconds": seconds,
        "writesPerSecond": gauge.writes_per_second(before, after),
        "lists": gauge.lists(before, after),
        "cores": gauge.shares(before, after),
        **scene.gauge.memory(),
    }


async def events(scene: Scene, *, rate: float, seconds: float) -> Figures:
    """Measure from event to action: `rate` events a second, one in 25 of them a pod that vanishes."""
    before = await scene.gauge.read()
    latencies: list[float | None] = []
    late = 0.0
    began = time.monotonic()
    told = began
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            late = max(late, time.monotonic() - due)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_event(scene, number, latencies))
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"events: {number} of {int(rate * seconds)}")
        sent = time.monotonic() - began
    after = await scene.gauge.read()
    return {
        "eventsPerSecond": round(int(rate * seconds) / sent, 1),
        "sentLateSeconds": round(late, 3),
        "eventToAction": gauge.spread([seconds for seconds in latencies if seconds is not None]),
        "unanswered": latencies.count(None),
        "queueWait": gauge.quantiles(before, after, "queue_wait_seconds", "job"),
        "reconcile": gauge.quantiles(before, after, "reconcile_seconds", "job"),
        "writesPerSecond": gauge.writes_per_second(before, after),
        "cores": gauge.shares(before, after),
        **scene.gauge.memory(),
    }


async def _event(scene: Scene, number: int, latencies: list[float | None]) -> None:
    """Send one: of 25 events 15 are heartbeats of nodes, 9 changes of pods, and one is a pod that vanishes."""
    match number % 25:
        case 0:
            latencies.append(await scene.replaced(scene.a_member()))
        case kind if kind < 10:
            body = {"status": {"message": f"event {number}"}}
            with contextlib.suppress(Answered):  # it was deleted a moment ago
                await scene.client("PATCH", f"{PODS}/{scene.a_member().name}/status", body, kind=MERGE)
        case _:
            path = f"/api/v1/nodes/{node_name(scene.chance.randrange(scene.sizes.nodes))}/status"
            await scene.client("PATCH", path, objects.heartbeat(_now()), kind=STRATEGIC)


async def creation(scene: Scene) -> Figures:
    """Measure one big job's pods per second, and a bare client's with the very same pods."""
    pods = scene.sizes.big
    template = await scene.client("GET", f"{PODS}/{scene.a_member().name}")
    body = {key: template[key] for key in ("apiVersion", "kind", "spec")}
    scene.kubelets.pause()

    def bare(number: int) -> Callable[[], Awaitable[object]]:
        meta = {"name": f"{BARE}-{number}", "namespace": NAMESPACE, "labels": {BARE: "true"}}
        return lambda: scene.client("POST", PODS, body | {"metadata": meta})

    before = await scene.gauge.read()
    alone = await many("bare pods", [bare(number) for number in range(pods)])
    between = await scene.gauge.read()
    await scene.client("DELETE", f"{PODS}?labelSelector={BARE}%3Dtrue", {"gracePeriodSeconds": 0})
    began = time.monotonic()
    await scene.client("POST", JOBS, objects.job(BIG, pods))
    key = f"{NAMESPACE}/{BIG}"

    def born() -> list[float]:
        return [pod.born for pod in scene.kubelets.pods.values() if pod.member[0] == key]

    start = await scene.gauge.read()
    await until(lambda: len(born()) >= pods, what="the big job's pods", seconds=120)
    end = await scene.gauge.read()
    times = sorted(born())
    await _remove_big(scene, key)
    scene.kubelets.resume()
    return {
        "pods": len(times),
        "podsPerSecond": round(len(times) / max(times[-1] - times[0], 1e-9), 1) if times else 0.0,
        "fromJobToLastPodSeconds": round(times[-1] - began, 2) if times else None,
        "barePodsPerSecond": round(pods / alone, 1),
        "bareCores": gauge.shares(before, between),
        "cores": gauge.shares(start, end),
    }


async def _remove_big(scene: Scene, key: str) -> None:
    """Delete the job and, in the garbage collector's place, its pods."""
    await scene.client("DELETE", f"{JOBS}/{BIG}")
    await asyncio.sleep(1)
    await scene.client("DELETE", f"{PODS}?labelSelector={contract.LABEL_JOB}%3D{BIG}", {"gracePeriodSeconds": 0})
    await until(
        lambda: all(pod.member[0] != key for pod in scene.kubelets.pods.values()), what="big job gone", seconds=120
    )


async def start(scene: Scene) -> Figures:
    """Kill the operator, let a pod vanish, start it: seconds from the start of the process to the pod's replacement."""
    scene.operator.kill()
    seconds = await scene.replaced_as_listed(scene.a_member(), scene.start_operator)
    settled = await _until_idle(scene)
    memory = scene.gauge.memory()
    return {"toFirstActionSeconds": _rounded(seconds), "toIdleSeconds": settled, **memory}


async def flood(scene: Scene, *, rate: int, seconds: float) -> Figures:
    """Measure what is left to do after a storm: seconds until a pod that vanishes at its end is replaced."""
    async with aiohttp.ClientSession() as session:
        etcd = storm.Etcd(scene.plane.etcd_url, session)
        puts = await storm.prepare(scene.client, etcd, scene.kubelets, scene.sizes.nodes)
        before = await scene.gauge.read()
        achieved = await storm.rage(etcd, puts, rate=rate, seconds=seconds)
    after = await scene.gauge.read()
    pod, ended = scene.a_member(), time.monotonic()
    lag = await scene.replaced_as_listed(pod, lambda: asyncio.sleep(0))
    # How far the API server, or this harness, is behind itself: when a bare watch heard of the same end.
    await until(lambda: pod.name in scene.kubelets.gone, what="a bare watch hears of it", seconds=60)
    return {
        "eventsPerSecond": round(achieved, 1),
        "seconds": seconds,
        "lagSeconds": _rounded(lag),
        "bareWatchLagSeconds": _rounded(scene.kubelets.gone.get(pod.name, time.monotonic()) - ended),
        "queueWait": gauge.quantiles(before, after, "queue_wait_seconds", "job"),
        "cores": gauge.shares(before, after),
        **scene.gauge.memory(),
    }


async def cordons(scene: Scene) -> Figures:
    """Let nodes fall silent, and measure until the last of them is cordoned."""
    # Only a node with pods of ours is our business.
    used = sorted({pod.node for pod in scene.kubelets.pods.values()})
    wanted = set(scene.chance.sample(used, min(scene.sizes.cordons, len(used))))
    silent: dict[str, float] = {}
    cordoned: dict[str, float] = {}
    seen: set[str] = set()

    async def silence(name: str) -> None:
        silent[name] = time.monotonic()
        body = {"status": {"conditions": objects.conditions("Unknown", _now())}}
        await scene.client("PATCH", f"/api/v1/nodes/{name}/status", body, kind=STRATEGIC)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch_cordons(scene.client, cordoned, seen))
        await until(lambda: len(seen) >= scene.sizes.nodes, what="all nodes seen", seconds=60)
        before = await scene.gauge.read()
        told = await many("nodes fall silent", [functools.partial(silence, name) for name in sorted(wanted)])
        await until(lambda: wanted <= cordoned.keys(), what="cordons", seconds=180)
        after = await scene.gauge.read()
        watching.cancel()
    done = [name for name in wanted if name in cordoned]
    last = max((cordoned[name] for name in done), default=time.monotonic())
    return {
        "nodes": len(wanted),
        "cordoned": len(done),
        "seconds": round(last - min(silent.values()), 2),
        "signalsTookSeconds": round(told, 2),
        "signalToCordon": gauge.spread([cordoned[name] - silent[name] for name in done]),
        "cores": gauge.shares(before, after),
    }


async def _watch_cordons(client: Client, cordoned: dict[str, float], seen: set[str]) -> None:
    async for event in client.watch("/api/v1/nodes"):
        name = event["object"]["metadata"]["name"]
        seen.add(name)
        if event["object"]["spec"].get("unschedulable"):
            cordoned.setdefault(name, time.monotonic())


async def _until_idle(scene: Scene) -> float | None:
    """Return the seconds until the operator's queue has been empty for a second."""
    began = time.monotonic()
    quiet = 0

    while quiet < 5:
        if time.monotonic() - began > 120:
            return None
        depth = (await asyncio.to_thread(scene.operator.samples)).get("internlm2_operator_queue_depth", 1.0)
        # Jobs that run come back every half minute, each at its own time: a few always wait for that.
        quiet = quiet + 1 if depth <= scene.sizes.jobs + 10 else 0
        await asyncio.sleep(0.2)
    return round(time.monotonic() - began, 1)


async def _wait(what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        say(f"{what}: {left:.0f} s still")
        await asyncio.sleep(min(10.0, left))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
