"""A real headless Chromium, spoken to by its DevTools protocol: what a page looks like, what axe-core finds in it."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from lab import deps
from lab.settings import LabError, versions

DEADLINE_SECONDS: Final = 120.0  # of a busy machine
# Everything that axe-core knows, best practices among it; what it cannot decide is not a finding.
_AXE: Final = """axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations.map(
  v => v.impact + ' ' + v.id + ': ' + v.nodes.map(n => n.html).join(' | '))))"""


class Browser:
    """One page. `errors` are what its console and its content policy complained about since it was opened."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, axe: str) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._axe = axe
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while (message := await self._hear()).get("id") != number:
            pass
        if "error" in message:
            raise LabError(f"{method}: {message['error']['message']}")
        found: dict[str, Any] = message["result"]
        return found

    async def _hear(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=DEADLINE_SECONDS)
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])
        return message

    async def look(
        self, *, scheme: Literal["light", "dark"], width: int, height: int, headers: Mapping[str, str] | None = None
    ) -> None:
        """Choose how pages are seen from now on, and what is sent with each request."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Network.setExtraHTTPHeaders", headers=dict(headers or {}))

    async def open(self, url: str) -> None:
        """Go to a page and wait until all of it is there."""
        self.errors.clear()
        done = await self.call("Page.navigate", url=url)
        if "errorText" in done:
            raise LabError(f"{url}: {done['errorText']}")
        while (await self._hear()).get("method") != "Page.loadEventFired":
            pass

    async def value(self, expression: str) -> Any:
        """Return what JavaScript makes of an expression; a promise is waited for."""
        done = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise LabError(f"{expression[:80]}: {done['exceptionDetails']}")
        return done["result"].get("value")

    async def press(self, key: str, code: int) -> None:
        """Press a key, `code` being its virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def findings(self) -> list[str]:
        """Return what axe-core finds wrong, each with its impact, rule and elements."""
        await self.value(self._axe)
        found: list[str] = json.loads(await self.value(_AXE))
        return found

    async def picture(self) -> bytes:
        """Return the whole page as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


def can_browse() -> bool:
    """Say whether Chromium is there or can be installed."""
    return os.geteuid() == 0 or all(Path(path).exists() for path in versions().browser_files)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium, installed when it is missing, with a profile of its own that goes with it.

    Raises:
        LabError: it is not there and cannot be installed, or does not start.
    """
    chosen = versions()
    deps.install_browser(chosen)
    axe = deps.axe(chosen).read_text(encoding="utf-8")
    # Its helpers write into the profile a moment longer than it lives itself.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chosen.browser_files[0], "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            env=os.environ | {"HOME": profile},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                port = await _port(Path(profile) / "DevToolsActivePort", process)
                async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                    url = (await answer.json())["webSocketDebuggerUrl"]
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    opened = Browser(socket, axe)
                    for domain in ("Page", "Log", "Network", "Runtime"):
                        await opened.call(f"{domain}.enable")
                    yield opened
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _port(told: Path, process: asyncio.subprocess.Process) -> int:
    """Return the port that Chromium chose, once it has written it down."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (port := _first_line(told)) is None:
                if process.returncode is not None:
                    raise LabError(f"chromium: exit {process.returncode}")
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise LabError(f"chromium: no DevTools port within {DEADLINE_SECONDS:.0f} s") from error
    return int(port)


def _first_line(path: Path) -> str | None:
    """Return the first line of a file, None while it is not all there."""
    line, end, _ = path.read_text().partition("\n") if path.exists() else ("", "", "")
    return line if end else None
