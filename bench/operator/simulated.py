"""What is not real here: kubelets that only say that a pod runs, trainers that all tell the same, an S3 server
that holds no checkpoint. Each does as little as it can, because it shares the cores with what is measured."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from bench.operator.client import MERGE, Answered, Client, Object
from internlm2_spec import contract
from internlm2_spec.contract import FIRST_INCARNATION, Progress, TrainPhase
from tests.api.stage import node_of

WORKERS: Final = 16
STEP_SECONDS: Final = 10.0
LOOPBACK: Final = "127.0.0.1"

Member = tuple[str, int, int, int]
"""Job as namespace/name, attempt, slot, replacement."""


@dataclass(slots=True)
class Seen:
    """A pod as its kubelet sees it."""

    namespace: str
    name: str
    member: Member
    node: str
    born: float  # monotonic time at which the watch brought it
    running: bool


class Kubelets:
    """Follows the pods of jobs and lets each run as soon as it is there. Pods are not bound: the operator pins them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._let = asyncio.Event()
        self._let.set()
        self.pods: dict[str, Seen] = {}  # by uid
        self.born: dict[Member, float] = {}
        self.gone: dict[str, float] = {}  # by name: when the watch told of the end

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        return [group.create_task(self._follow()), *(group.create_task(self._work()) for _ in range(WORKERS))]

    def pause(self) -> None:
        """Let new pods wait: what is measured now is their creation alone."""
        self._let.clear()

    def resume(self) -> None:
        self._let.set()

    def running(self) -> int:
        return sum(pod.running for pod in self.pods.values())

    async def _follow(self) -> None:
        async for event in self._client.watch("/api/v1/pods", contract.LABEL_JOB):
            raw = event["object"]
            uid = raw["metadata"].get("uid")
            if event["type"] == "DELETED":
                if (pod := self.pods.pop(uid, None)) is not None:
                    self.gone[pod.name] = time.monotonic()
            elif uid not in self.pods:
                new = self.pods[uid] = _seen(raw)
                self.born[new.member] = new.born
                self._waiting.put_nowait(uid)

    async def _work(self) -> None:
        while True:
            uid = await self._waiting.get()
            await self._let.wait()
            if (pod := self.pods.get(uid)) is None or pod.running:
                continue
            path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status"
            with contextlib.suppress(Answered):  # it was deleted meanwhile
                await self._client("PATCH", path, running(), kind=MERGE)
                pod.running = True


def running() -> Object:
    """Return the status of a pod that runs."""
    state = {"running": {"startedAt": _now()}}
    container = {"name": "trainer", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": state}
    return {"status": {"phase": "Running", "podIP": LOOPBACK, "containerStatuses": [container]}}


async def serve_trainers() -> web.AppRunner:
    """Answer for every trainer: a step each STEP_SECONDS, saved every ten."""
    began = time.time()

    async def progress(_: web.Request) -> web.Response:
        step = int((time.time() - began) / STEP_SECONDS) + 1
        at = began + (step - 1) * STEP_SECONDS
        told = Progress(
            phase=TrainPhase.STEP, rank=0, world=1, attempt=1, incarnation=FIRST_INCARNATION, started_step=0, step=step,
            step_time=at, started_time=began, first_step_time=began, loss=2.0, tokens_per_second=1000.0 + step, mfu=0.4,
            checkpoint_step=None, checkpoint_time=None,
        )  # fmt: skip
        return web.Response(text=told.to_json())

    return await _serve(web.get("/progress", progress), contract.METRICS_PORT)


async def serve_store(port: int) -> web.AppRunner:
    """Answer listings: every data index is there, no checkpoint is."""

    async def listing(request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        entry = f"<Contents><Key>{prefix}</Key><Size>2</Size></Contents>" if prefix.endswith("index.json") else ""
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
        return web.Response(text=body, content_type="application/xml")

    return await _serve(web.get("/{bucket}", listing), port)


async def _serve(route: Any, port: int) -> web.AppRunner:
    app = web.Application()
    app.add_routes([route])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
    except OSError as error:
        raise SystemExit(f"port {port}: {error}; end what listens there") from error
    return runner


def _seen(raw: Object) -> Seen:
    meta = raw["metadata"]
    labels = meta["labels"]
    attempt, slot = int(labels[contract.LABEL_ATTEMPT]), int(labels[contract.LABEL_SLOT])
    replacement = int(labels.get(contract.LABEL_REPLACEMENT, "0"))
    member = (f"{meta['namespace']}/{labels[contract.LABEL_JOB]}", attempt, slot, replacement)
    now = time.monotonic()
    return Seen(
        meta["namespace"], meta["name"], member, node_of(raw), now, raw.get("status", {}).get("phase") == "Running"
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
