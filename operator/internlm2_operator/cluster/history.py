"""Loss and MFU of one job over time, as Prometheus kept them."""

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp

from internlm2_operator.cluster.prometheus import ask, result
from internlm2_spec.metrics import TRAIN_PREFIX

POINTS: Final = 240  # more than a page has room for
SHORTEST_STEP: Final = 5.0  # seconds
TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
MAX_BYTES: Final = 1024 * 1024

Points = tuple[tuple[float, float], ...]
"""(seconds since the epoch, value), ascending."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was asked for, in seconds since the epoch, and what came.

    `step` is the seconds from point to point; a longer gap is a time without figures.
    """

    since: float
    until: float
    step: float
    loss: Points = ()
    mfu: Points = ()


class History:
    """The range queries of one Prometheus."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def of(self, namespace: str, job: str, since: datetime, until: datetime) -> Past:
        """Return what there is of a job between two moments.

        Raises:
            Retry: Prometheus is away, slow, or answers something else.
        """
        start, end = since.timestamp(), until.timestamp()
        step = max(SHORTEST_STEP, math.ceil((end - start) / POINTS))
        whose = f"{{namespace={json.dumps(namespace)}, training_job={json.dumps(job)}}}"
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        loss, mfu = await asyncio.gather(
            *(self._points(f"max({TRAIN_PREFIX}{name}{whose} > 0)", times) for name in ("loss", "mfu_ratio"))
        )
        return Past(start, end, step, loss, mfu)

    async def _points(self, query: str, times: Mapping[str, str]) -> Points:
        url, form = f"{self._url}/api/v1/query_range", {"query": query, **times}
        return await ask(self._session, url, form, _points, within=TIMEOUT, limit=MAX_BYTES)


def _points(body: Mapping[str, Any]) -> Points:
    """Read the one series of a matrix, or none."""
    found = ((float(at), float(value)) for one in result(body, "matrix") for at, value in one["values"])
    return tuple((at, value) for at, value in found if math.isfinite(value))
