"""Where each trainer stands, asked of the trainers themselves."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from internlm2_operator.cluster import bodies
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_spec import contract
from internlm2_spec.contract import Progress

# A connection that is not taken is told apart from an answer that does not come.
TIMEOUT: Final = aiohttp.ClientTimeout(total=1, sock_connect=0.8)
AT_ONCE: Final = 64
MAX_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answers:
    """What pods said, by uid; `mute` are those that neither answered nor refused in time.

    Of those, `taken` are pods whose kernel took the connection: there is a way to them, and their process is stopped.
    A first one may have been open from before, and proves nothing.
    """

    said: Mapping[str, Progress]
    mute: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()


class ProgressReader:
    """Asks pods for `/progress`, so many at once; a pod that does not answer is simply left out."""

    def __init__(self, session: aiohttp.ClientSession, port: int = contract.METRICS_PORT) -> None:
        self._session = session
        self._port = port
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, pods: Iterable[PodRecord]) -> Answers:
        asked = [pod for pod in pods if pod.ip]
        answers = await asyncio.gather(*(self._one(pod.ip) for pod in asked))
        by_uid = [(pod.uid, answer) for pod, answer in zip(asked, answers, strict=True)]
        said = {uid: answer for uid, answer in by_uid if isinstance(answer, Progress)}
        late = {uid: answer for uid, answer in by_uid if isinstance(answer, TimeoutError)}
        taken = (uid for uid, error in late.items() if not isinstance(error, aiohttp.ConnectionTimeoutError))
        return Answers(said, frozenset(late), frozenset(taken))

    async def _one(self, ip: str) -> Progress | TimeoutError | None:
        host = f"[{ip}]" if ":" in ip else ip
        url = f"http://{host}:{self._port}/progress"
        try:
            # The answer is a user's: it must send us nowhere, and be small.
            async with self._slots, self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as answer:
                text = await bodies.read(answer, MAX_BYTES)
                return Progress.from_json(text.decode()) if answer.status == 200 else None
        except TimeoutError as error:
            return error
        except (aiohttp.ClientError, OSError, ValueError):
            return None
