"""What trainers, or programs in their place, answer when they are asked where they stand."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from internlm2_operator.cluster.progress import MAX_BYTES, Answers, ProgressReader
from internlm2_spec.contract import Progress
from tests.unit.plan.world import trained_world
from tests.unit.spec.test_contract import STEPPING

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
POD = next(p for p in trained_world().pods if p.slot == 0)


def asked(answer: Answer) -> tuple[Progress | None, list[str]]:
    """Return what a pod is heard to say, and the paths at which it was asked."""
    paths: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        return await answer(request)

    async def ask() -> Answers:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                pod = dataclasses.replace(POD, ip="127.0.0.1")
                return await ProgressReader(session, runner.addresses[0][1]).read([pod])
        finally:
            await runner.cleanup()

    return asyncio.run(ask()).said.get(POD.uid), paths


def says(text: str, **more: Any) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, **more)

    return answer


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("/secret")


async def hangs(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    raise AssertionError


IGNORED: dict[str, Answer] = {
    "words": says("well"),
    "a step that is a text": says(STEPPING.to_json().replace('"step": 7', '"step": "7"')),
    "brackets without end": says("[" * 4000),
    "more than there is to say": says(STEPPING.to_json() + " " * MAX_BYTES),
    "an error": says(STEPPING.to_json(), status=503),
    "the way to another page": elsewhere,
    "nothing": hangs,
}


@pytest.mark.parametrize("answer", IGNORED.values(), ids=IGNORED)
def test_a_pod_is_not_heard_that_answers(answer: Answer) -> None:
    assert asked(answer) == (None, ["/progress"])


def test_a_trainer_is_heard() -> None:
    assert asked(says(STEPPING.to_json())) == (STEPPING, ["/progress"])
