"""Where each trainer stands, asked of the trainers themselves."""

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp

from internlm2_operator.plan.snapshot import PodRecord
from internlm2_spec import contract
from internlm2_spec.contract import Progress

TIMEOUT: Final = aiohttp.ClientTimeout(total=1)
AT_ONCE: Final = 64


class ProgressReader:
    """Asks pods for `/progress`, so many at once; a pod that does not answer is simply left out."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, pods: Iterable[PodRecord]) -> dict[str, Progress]:
        """Return the answers by pod uid."""
        asked = [pod for pod in pods if pod.ip]
        answers = await asyncio.gather(*(self._one(pod.ip) for pod in asked))
        return {pod.uid: answer for pod, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _one(self, ip: str) -> Progress | None:
        host = f"[{ip}]" if ":" in ip else ip
        url = f"http://{host}:{contract.METRICS_PORT}/progress"
        try:
            async with self._slots, self._session.get(url, timeout=TIMEOUT) as answer:
                return Progress.from_json(await answer.text()) if answer.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return None
