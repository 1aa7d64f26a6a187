"""What bringing one event to its sink costs: kopf's handlers of events beside the operator's own watch.

    python -m bench.watches [--pods 1000] [--events 20000] [--output bench/results/watches.json]

A server that does nothing else plays pods changing as fast as they are read; each contestant runs in a process of
its own and counts. Measured is that process's CPU time from the first event to the last, and its memory.
"""

import argparse
import asyncio
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import kopf
import yaml
from aiohttp import web

from bench import record
from internlm2_operator.cluster import gateway
from internlm2_operator.runtime import watch
from internlm2_operator.runtime.follow import Follower
from internlm2_spec import contract

CONTESTANTS: Final = ("kopf", "own")
SECONDS: Final = 300


class Counter:
    """A sink that ends the measurement after so many changes."""

    def __init__(self, events: int) -> None:
        self.done = asyncio.Event()
        self._left = events
        self._cpu = 0.0
        self._began = 0.0
        self._events = events

    def take(self, kind: str, _: dict[str, Any]) -> bool:
        if kind != "MODIFIED":
            return True
        if self._left == self._events:
            self._cpu, self._began = time.process_time(), time.perf_counter()
        self._left -= 1
        if self._left == 0:
            self._cpu, self._began = time.process_time() - self._cpu, time.perf_counter() - self._began
            self.done.set()
        return True

    def result(self) -> dict[str, float]:
        return {
            "cpuMicrosecondsPerEvent": round(self._cpu / self._events * 1e6, 1),
            "eventsPerSecond": round(self._events / self._began),
            "peakMib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }


async def by_kopf(counter: Counter) -> None:
    """Take the events with a handler of kopf, set as the operator sets it for jobs."""
    mine = kopf.OperatorRegistry()

    async def handle(event: Any, **_: Any) -> None:
        counter.take(event["type"] or "", dict(event["object"]))

    kopf.on.event("v1", "pods", id="pod", registry=mine)(handle)
    kopf.on.login(id="login", registry=mine)(watch.login)
    settings = watch.settings()
    settings.watching.label_selectors["v1", "pods"] = contract.LABEL_JOB
    running = asyncio.create_task(kopf.operator(registry=mine, settings=settings, clusterwide=True))
    await asyncio.wait([running, asyncio.create_task(counter.done.wait())], return_when=asyncio.FIRST_COMPLETED)


async def by_ourselves(counter: Counter) -> None:
    """Take the events with the operator's own watch."""
    async with await gateway.connect(gateway.unobserved) as api:
        follower = Follower(api, gateway.pods_of(""), take=counter.take, bury=lambda _: 0)
        await follower.list()
        running = asyncio.create_task(follower.run())
        await asyncio.wait([running, asyncio.create_task(counter.done.wait())], return_when=asyncio.FIRST_COMPLETED)


def pod(number: int, version: int) -> dict[str, Any]:
    """Return a pod about as big as a real one of a job."""
    labels = {contract.LABEL_JOB: f"job-{number // 10}", "filler": "x" * 40}
    env = [{"name": f"VARIABLE_{i}", "value": "v" * 20} for i in range(25)]
    meta = {"name": f"pod-{number}", "namespace": "default", "uid": f"uid-{number}", "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta | {"resourceVersion": str(version), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "trainer", "image": "trainer", "env": env}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }


def server(pods: int, events: int) -> web.Application:
    """Return an API server that knows pods alone, and sends each watch `events` changes at once."""
    change = b"".join(
        json.dumps({"type": "MODIFIED", "object": pod(n, pods + n)}).encode() + b"\n" for n in range(pods)
    )

    async def listing(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") is None:
            items = [pod(number, number + 1) for number in range(pods)]
            return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": str(pods)}, "items": items})
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        await asyncio.sleep(5)  # whoever starts with a list has dealt with it by then
        for _ in range(events // pods):
            await answer.write(change)
        await asyncio.sleep(SECONDS)
        return answer

    app = web.Application()
    app.router.add_get("/api/v1/pods", listing)
    for path, body in _discovery().items():
        app.router.add_get(path, functools.partial(_answer, body))
    return app


async def _answer(body: dict[str, Any], _: web.Request) -> web.Response:
    return web.json_response(body)


def _discovery() -> dict[str, dict[str, Any]]:
    """What kopf asks for before it watches."""
    verbs = ["list", "watch", "patch", "get"]

    def resource_of(plural: str, kind: str, namespaced: bool) -> dict[str, Any]:
        return {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}

    group, version = "apiextensions.k8s.io", {"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"}
    core = [resource_of("pods", "Pod", True), resource_of("namespaces", "Namespace", False)]
    return {
        "/api": {"versions": ["v1"]},
        "/apis": {"groups": [{"name": group, "versions": [version], "preferredVersion": version}]},
        "/api/v1": {"groupVersion": "v1", "resources": core},
        f"/apis/{group}/v1": {
            "groupVersion": f"{group}/v1",
            "resources": [resource_of("customresourcedefinitions", "CustomResourceDefinition", False)],
        },
    }


async def contest(pods: int, events: int) -> dict[str, Any]:
    """Run each contestant against a fresh server."""
    results: dict[str, Any] = {}
    for name in CONTESTANTS:
        print(f"{name}: {events} events", file=sys.stderr, flush=True)
        runner = web.AppRunner(server(pods, events), access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        with tempfile.TemporaryDirectory() as folder:
            path = _kubeconfig(folder, f"http://127.0.0.1:{runner.addresses[0][1]}")
            argv = [sys.executable, "-m", "bench.watches", "--child", name, "--events", str(events // pods * pods)]
            child = await asyncio.create_subprocess_exec(
                *argv, stdout=subprocess.PIPE, env=os.environ | {"KUBECONFIG": str(path)}
            )
            told, _ = await asyncio.wait_for(child.communicate(), SECONDS)
        if child.returncode:
            raise SystemExit(f"{name} ended with {child.returncode}")
        results[name] = json.loads(told)
        await runner.cleanup()
    return results


def _kubeconfig(folder: str, url: str) -> Path:
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "users": [{"name": "bench", "user": {"token": "none"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
    path = Path(folder, "kubeconfig")
    path.write_text(yaml.safe_dump(body))
    return path


async def child(take: Callable[[Counter], Awaitable[None]], events: int) -> NoReturn:
    """Be one contestant, and end at once: kopf's own way out waits for the task of every object."""
    counter = Counter(events)
    await take(counter)
    print(json.dumps(counter.result()), flush=True)
    os._exit(0)


def main() -> int:
    """Measure, write the figures and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.watches", description=__doc__.split("\n")[0])
    parser.add_argument("--pods", type=int, default=1000, help="pods that change in turn (default 1000)")
    parser.add_argument("--events", type=int, default=20000, help="changes (default 20000)")
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    record.add_output(parser, "watches")
    options = parser.parse_args()
    if options.child:
        asyncio.run(child(by_kopf if options.child == "kopf" else by_ourselves, options.events))
    results = asyncio.run(contest(options.pods, options.events))
    record.write(options.output, "bench.watches", {"pods": options.pods, "events": options.events} | results)
    for name, result in results.items():
        print(name, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
