"""A bare client of the API server, the measure of what the machine can do without an operator."""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from tests.api.apiserver import TOKEN, ApiServer

Object = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
AT_ONCE: Final = 32
TOLD_EVERY_SECONDS: Final = 5.0


class Answered(Exception):
    """The API server answered with something else than success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text[:300]}")
        self.code = code


class Client:
    """Requests with the rights of an admin over connections that stay open."""

    def __init__(self, server: ApiServer) -> None:
        self._url = server.url
        trust = ssl.create_default_context(cafile=str(server.folder / "certs" / "apiserver.crt"))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=60),
            read_bufsize=2**21,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def __call__(self, method: str, path: str, body: Object | None = None, *, kind: str = "") -> Object:
        """Return the decoded answer.

        Raises:
            Answered: it is no success.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind or "application/json"}
        async with self._session.request(method, self._url + path, data=data, headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 400:
                raise Answered(answer.status, text.decode(errors="replace"))
            found: Object = json.loads(text)
            return found

    async def text(self, path: str) -> str:
        """Return a page that is not JSON."""
        async with self._session.get(self._url + path) as answer:
            return await answer.text()

    async def watch(self, path: str, label: str = "") -> AsyncIterator[Object]:
        """Yield events from the state of now on, which comes first as ADDED; a stream that ends is taken up again.

        The API server ends the stream of a client that does not keep up.
        """
        version = ""
        while True:
            more = (f"&resourceVersion={version}" if version else "") + (f"&labelSelector={label}" if label else "")
            async for event in self._stream(f"{path}?watch=true&allowWatchBookmarks=true{more}"):
                if event["type"] == "ERROR":
                    raise Answered(int(event["object"].get("code", 0)), str(event["object"]))
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event
            say(f"{path}: the stream ended at {version}")

    async def _stream(self, path: str) -> AsyncIterator[Object]:
        endless = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._url + path, timeout=endless) as answer:
            rest = b""
            while chunk := await answer.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)


async def many(what: str, calls: Sequence[Callable[[], Awaitable[object]]], *, at_once: int = AT_ONCE) -> float:
    """Make calls, so many at once, and return the seconds that all took; says how far it is."""
    began = told = time.monotonic()
    left = iter(enumerate(calls, start=1))

    async def worker() -> None:
        nonlocal told
        for number, call in left:
            await call()
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                told = time.monotonic()
                say(f"{what}: {number} of {len(calls)}, {number / (told - began):.0f}/s")

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(calls))):
            group.create_task(worker())
    return time.monotonic() - began


async def until(
    ready: Callable[[], bool], *, what: str, seconds: float, far: Callable[[], object] = lambda: ""
) -> bool:
    """Wait until `ready`, False when it is not in time; says every few seconds for what, and how `far` it is."""
    began = told = time.monotonic()
    while not ready():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        if now - began > seconds:
            say(f"{what}: not within {seconds:.0f} s")
            return False
        if now - told > TOLD_EVERY_SECONDS:
            told = now
            say(f"{what}: {far()} after {now - began:.0f} of at most {seconds:.0f} s")
    return True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
