"""The two pages of the operator: /healthz for the kubelet, /metrics for Prometheus."""

import time
from collections.abc import Callable
from typing import Final

import prometheus_client
from aiohttp import web

STALE_SECONDS: Final = 90.0


class Pulse:
    """When the operator last looked at the cluster, in monotonic seconds.

    A LIST that failed counts as a look: restarting the operator does not bring the API server back,
    it only adds the kubelet's back-off to the outage. What must not go unnoticed is a loop that
    hangs, and a watch that is blind while LISTs succeed.
    """

    def __init__(self) -> None:
        self.looked = time.monotonic()
        self.blind_since: float | None = None

    def sick(self, now: float) -> str:
        """Return why the process should be restarted, empty when it should not."""
        if now - self.looked > STALE_SECONDS:
            return f"no look at the cluster for {now - self.looked:.0f} s"
        if self.blind_since is not None and now - self.blind_since > STALE_SECONDS:
            return f"the watch has missed changes for {now - self.blind_since:.0f} s"
        return ""


async def serve(port: int, registry: prometheus_client.CollectorRegistry, sick: Callable[[], str]) -> web.AppRunner:
    """Start serving on all addresses; the caller cleans the runner up."""

    async def healthz(_: web.Request) -> web.Response:
        why = sick()
        return web.Response(text=why or "ok", status=500 if why else 200)

    async def metrics(_: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
