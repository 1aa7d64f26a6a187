"""The two pages of a process of ours: /healthz for the kubelet, /metrics for Prometheus."""

from collections.abc import Callable

import prometheus_client
from aiohttp import web


async def serve(port: int, registry: prometheus_client.CollectorRegistry, sick: Callable[[], str]) -> web.AppRunner:
    """Start serving on all addresses; the caller cleans the runner up. `sick` says why we should be restarted."""

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
