"""Questions to Prometheus: one batch over all GPU exporters, answered as one `Sample`."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import aiohttp

from internlm2_operator.cluster import bodies, errors
from internlm2_operator.health.edges import COUNTERS, HEALTH, Sample
from internlm2_operator.health.series import XID, XID_COUNT, Series, sort

TIMEOUT: Final = aiohttp.ClientTimeout(total=4)  # below the 5 s between two batches
LOOK_BACK: Final = 120.0


def queries(match: str = "") -> dict[str, str]:
    """Return the batch; `match` are label matchers that series of GPU exporters fit, and those of users' pods do not.

    What is asked for is added up there to the labels that are read here: exporters add a dozen more.
    """
    also = f", {match}" if match else ""
    series = f'{{__name__=~"DCGM_FI_DEV_(XID_ERRORS|GPU_TEMP)"{also}}}'
    counters = f'{{__name__=~"{"|".join((*COUNTERS, HEALTH))}"{also}}}'
    # Targets that had GPU series lately: also those whose exporter is silent now.
    exporters = f"count by (job, instance) (last_over_time({series}[15m]))"
    return {
        "gpus": f"group by (Hostname, node, UUID) ({series})",
        "recent": f"group by (Hostname, node, job, instance) (last_over_time({series}[15m]))",
        "xids": f"max by (__name__, Hostname, node, UUID, job, instance) ({XID}{{{match}}})",
        "counts": f"max by (__name__, Hostname, node, UUID, xid) ({XID_COUNT}{{{match}}})",
        "counters": f"max by (__name__, Hostname, node, UUID) ({counters})",
        "up": f"up and on (job, instance) {exporters}",
        "scraped": f"timestamp(up and on (job, instance) {exporters})",
    }


_UUID: Final = re.compile(r"[!-~]{1,100}")
# The counters of 40,000 GPUs are 46 MB.
MAX_BYTES: Final = 64 * 1024 * 1024

_UNREADABLE: Final = (
    TimeoutError, aiohttp.ClientError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
)  # fmt: skip

Labelled = tuple[Mapping[str, str], float]
Told = TypeVar("Told")


class Prometheus:
    """The HTTP API of one Prometheus; `match` as in `queries`."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, match: str = "", timeout: aiohttp.ClientTimeout = TIMEOUT
    ) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._queries = queries(match)
        self._timeout = timeout

    async def sample(self, *, ago: float = 0.0) -> Sample:
        """Return what Prometheus knew `ago` seconds before now.

        Raises:
            Retry: Prometheus is away, slow, or answers something else than vectors of a size that GPUs can have.
        """
        at = time.time() - ago
        answers = await asyncio.gather(*(self._query(text, at) for text in self._queries.values()))
        vectors = {name: series for name, (series, _) in zip(self._queries, answers, strict=True)}
        complete = all(whole for _, whole in answers)
        try:
            return sample_of(vectors, datetime.fromtimestamp(at, UTC), complete=complete)
        except (TypeError, AttributeError) as error:
            raise errors.Retry(f"prometheus: labels that are no texts: {error}") from error

    async def _query(self, text: str, at: float) -> tuple[list[Labelled], bool]:
        """Return the series of one query, and whether Prometheus says that these are all."""
        form = {"query": text, "time": f"{at:.3f}"}

        def read(body: Mapping[str, Any]) -> tuple[list[Labelled], bool]:
            return list(vector(body)), not body.get("warnings")

        return await ask(self._session, f"{self._url}/api/v1/query", form, read, within=self._timeout, limit=MAX_BYTES)


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    form: Mapping[str, str],
    read: Callable[[Mapping[str, Any]], Told],
    *,
    within: aiohttp.ClientTimeout,
    limit: int,
) -> Told:
    """Send a query and return what `read` makes of the answer, of at most `limit` bytes `within` a time.

    Raises:
        Retry: Prometheus is away, slow, or answers something that `read` cannot.
    """
    try:
        async with session.post(url, data=form, timeout=within) as answer:
            return read(json.loads(await bodies.read(answer, limit)))
    except _UNREADABLE as error:
        # The shape is Prometheus' to keep; a proxy's page, or another server's, has any.
        raise errors.Retry(f"prometheus: {type(error).__name__}: {str(error)[:200]}") from error


def result(body: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the series of an answer of this kind.

    Raises:
        ValueError: Prometheus refused the query, or the result is of another kind.
    """
    if body.get("status") != "success" or body["data"]["resultType"] != kind:
        raise ValueError(f"{body.get('errorType', f'not a {kind}')}: {body.get('error', '')}")
    series: list[dict[str, Any]] = body["data"]["result"]
    return series


def vector(body: Mapping[str, Any]) -> Iterator[Labelled]:
    """Read the series of an instant vector.

    Raises:
        ValueError: as `result` does.
    """
    for series in result(body, "vector"):
        yield series["metric"], float(series["value"][1])


def sample_of(answers: Mapping[str, Sequence[Labelled]], at: datetime, *, complete: bool = True) -> Sample:
    """Put the answers of `queries` together. Series without a node or a UUID are somebody else's.

    A node has as many exporters as there are targets that name it, two while one replaces the other: it is down when
    none of them answers.
    """
    nodes = {_target(labels): name for labels, _ in answers["recent"] if (name := node_of(labels))}
    up = {_target(labels) for labels, value in answers["up"] if value != 0}
    answering = {nodes[target] for target in up if target in nodes}
    scraped: dict[str, float] = {}
    for labels, when in answers["scraped"]:
        if (target := _target(labels)) in up and (node := nodes.get(target)):
            scraped[node] = max(when, scraped.get(node, when))
    asked = {nodes[target] for labels, _ in answers["up"] if (target := _target(labels)) in nodes}
    found = sort(_series(labels, value) for name in ("xids", "counts", "counters") for labels, value in answers[name])
    return Sample(
        at=at,
        scraped=scraped,
        down=frozenset(asked - answering),
        gpus=frozenset(gpu for labels, _ in answers["gpus"] if all(gpu := (node_of(labels), _uuid(labels)))),
        xids=found.xids,
        counts=found.counts,
        counters=found.counters,
        complete=complete,
    )


def node_of(labels: Mapping[str, str]) -> str:
    """Return the node of a series: DCGM's own label, else the one that relabelling usually adds."""
    return labels.get("Hostname") or labels.get("node") or ""


def _series(labels: Mapping[str, str], value: float) -> Series:
    where = " ".join(_target(labels))
    return Series(labels.get("__name__", ""), node_of(labels), _uuid(labels), value, labels.get("xid", ""), where)


def _uuid(labels: Mapping[str, str]) -> str:
    """Return the GPU's UUID, empty for a text that none is: it goes into annotations and events."""
    uuid = labels.get("UUID", "")
    return uuid if _UUID.fullmatch(uuid) else ""


def _target(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("job", ""), labels.get("instance", "")
