"""`internlm2 ui`: pages over HTTP. Everything is read at the time of a request, with the rights of who asks."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import aiohttp
from aiohttp import web

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli.ui import html, pages, problems, viewer
from internlm2_operator.cluster import errors, gateway, viewers
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.cluster.history import History
from internlm2_operator.cluster.records import node as record_of
from internlm2_spec.config import Refused

# Each answer may hold the list of a large cluster: no more than so many at a time, others wait.
AT_ONCE: Final = 8
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A browser asks a person by the first, programs know the second.
_CHALLENGE: Final = ('Basic realm="internlm2: any name, and a token as the password", charset="UTF-8"', "Bearer")


class NoToken(Exception):
    """Nobody to ask on behalf of."""


Open = Callable[[web.Request], AbstractAsyncContextManager[Gateway]]


@dataclass(frozen=True, slots=True)
class Site:
    """Where pages lie and whose rights they are read with.

    `base` is the path of the first page. `home` is the namespace shown to who may not list all. `shared` says that
    every request brings its own token. `history` is asked only about a job that the viewer could read.
    """

    open: Open
    base: str
    home: str
    shared: bool
    history: History | None = None


Ask = Callable[[Gateway, web.Request, Site, datetime], Awaitable[pages.Page | None]]


# What pages are made of


async def _all_jobs(api: Gateway, namespace: str) -> tuple[list[InternLM2Job], list[str]]:
    """Return the jobs, and of each that cannot be read why; one of a newer release must not hide all others."""
    found, unreadable = [], []
    async for page in api.pages(gateway.jobs_of(namespace).path):
        for raw in page.get("items") or ():
            try:
                found.append(InternLM2Job.from_object(raw))
            except Refused as error:
                unreadable.append(f"{raw['metadata']['namespace']}/{raw['metadata']['name']}: {error}")
    return found, unreadable


async def _jobs(api: Gateway, request: web.Request, site: Site, now: datetime) -> pages.Page | None:
    namespace, notes = request.query.get("namespace", "").strip(), []
    if namespace and not viewer.is_name(namespace):
        return None
    try:
        found, unreadable = await _all_jobs(api, namespace)
    except errors.Forbidden:
        if namespace or not site.home:
            raise
        namespace = site.home
        notes = [f"You may not list the jobs of all namespaces. These are those of {namespace}; name another above."]
        found, unreadable = await _all_jobs(api, namespace)
    return pages.jobs(found, now, namespace=namespace, notes=notes, unreadable=unreadable)


async def _job_of(api: Gateway, request: web.Request) -> InternLM2Job | None:
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    if not (viewer.is_name(namespace) and viewer.is_name(name)):
        return None
    return InternLM2Job.from_object(await api.job(namespace, name))


async def _job(api: Gateway, request: web.Request, site: Site, now: datetime) -> pages.Page | None:
    found = await _job_of(api, request)
    if found is None or site.history is None:
        return pages.job(found, now) if found else None
    try:
        return pages.job(found, now, await site.history.of(found.namespace, found.name, *pages.life(found, now)))
    except errors.Retry as error:
        # Others are not told where the Prometheus of this cluster is.
        return pages.job(found, now, missing="Prometheus does not answer." if site.shared else str(error))


async def _fault(api: Gateway, request: web.Request, _: Site, __: datetime) -> pages.Page | None:
    found = await _job_of(api, request)
    return pages.fault(found, request.match_info["id"]) if found else None


async def _nodes(api: Gateway, _: web.Request, __: Site, now: datetime) -> pages.Page | None:
    records = [record_of(raw).record async for page in api.pages(gateway.NODES.path) for raw in page.get("items") or ()]
    return pages.all_nodes(records, now)


async def _node(api: Gateway, request: web.Request, _: Site, now: datetime) -> pages.Page | None:
    name = request.match_info["name"]
    if not viewer.is_name(name):
        return None
    record = record_of(await api.node(name)).record
    try:
        found, _unreadable = await _all_jobs(api, "")
    except errors.Forbidden:  # whoever may read nodes need not know whose jobs had faults there
        found = []
    return pages.node(record, found, now)


ROUTES: Final[tuple[tuple[str, Ask], ...]] = (
    ("", _jobs),
    ("jobs/{namespace}/{name}", _job),
    ("jobs/{namespace}/{name}/faults/{id}", _fault),
    ("nodes", _nodes),
    ("nodes/{name}", _node),
)


# HTTP


def application(site: Site) -> web.Application:
    """Return the pages under `site.base`, and /healthz for a kubelet."""
    app = web.Application(middlewares=[_guarded(site)])
    busy = asyncio.Semaphore(AT_ONCE)
    for path, ask in ROUTES:
        app.router.add_get(site.base + path, _answering(site, ask, busy))
    app.router.add_get(f"{site.base}style.css", _style)
    app.router.add_get("/healthz", _healthz)
    return app


def _guarded(site: Site) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not site.shared and not viewer.local(request.host):
            return web.Response(status=421, text="this is not the host of these pages\n", headers=_HEADERS)
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            answer = web.Response(status=error.status, text=f"{error.reason}\n")
        answer.headers.update(_HEADERS)
        return answer

    return guard


def _answering(site: Site, ask: Ask, busy: asyncio.Semaphore) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        now, code = datetime.now(UTC), 200
        page: pages.Page | None = None
        try:
            async with busy, site.open(request) as api:
                page = await ask(api, request, site, now)
        except NoToken:
            code, page = problems.unknown(problems.NO_TOKEN, shared=True)
        except (errors.ClusterError, Refused) as error:
            code, page = problems.problem(error, shared=site.shared)
        if page is None:
            code, page = problems.absent(f"There is no page {request.path.removeprefix(site.base)}.")
        depth = request.path.removeprefix(site.base).count("/")
        place = html.Place("../" * depth or "./", now, reloads="reload" in request.query)
        done = web.Response(status=code, text=html.render(page, place), content_type="text/html", charset="utf-8")
        if code == 401 and site.shared:
            for challenge in _CHALLENGE:
                done.headers.add("WWW-Authenticate", challenge)
        return done

    return answer


async def _style(_: web.Request) -> web.Response:
    return web.Response(text=html.STYLE, content_type="text/css", charset="utf-8")


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


# The process


async def run(*, port: int, shared: bool, namespace: str | None, context: str | None, prometheus_url: str) -> None:
    """Serve until SIGINT or SIGTERM.

    Alone, pages are read with the kubeconfig of who started this, on the loopback alone, under a path that nobody else
    on the machine can guess. Shared, each request brings its own token and this process has no rights.

    Raises:
        Refused: the port is taken, or there is no cluster.
    """
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        history = None
        if prometheus_url:
            history = History(prometheus_url, await stack.enter_async_context(aiohttp.ClientSession()))
        if shared:
            where = await viewers.place(context)
            site = Site(lambda request: _theirs(request, where), "/", namespace or "", shared=True, history=history)
        else:
            home = namespace or gateway.current_namespace(context)
            api = await stack.enter_async_context(await gateway.connect(gateway.unobserved, context))
            base = f"/{secrets.token_urlsafe(16)}/"
            site = Site(lambda _: contextlib.nullcontext(api), base, home, shared=False, history=history)
        runner = web.AppRunner(application(site), access_log=None)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        try:
            await web.TCPSite(runner, None if shared else "127.0.0.1", port).start()
        except OSError as error:
            raise Refused(
                "--port", wrong=f"{port}: {os.strerror(error.errno or 0)}", right="name a free one, or 0 for any"
            ) from error
        host = "0.0.0.0" if shared else "127.0.0.1"
        print(f"http://{host}:{runner.addresses[0][1]}{site.base}", flush=True)
        print("read-only; Ctrl-C ends it", file=sys.stderr)
        await ended.wait()


@contextlib.asynccontextmanager
async def _theirs(request: web.Request, where: viewers.Where) -> AsyncIterator[Gateway]:
    token = viewer.token(request.headers.get("Authorization", ""))
    if token is None:
        raise NoToken
    async with viewers.bearing(token, where) as api:
        yield api
