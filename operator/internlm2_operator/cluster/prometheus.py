"""Questions to Prometheus: one batch over all GPU exporters, answered as one `Sample`."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.edges import Sample

TIMEOUT: Final = aiohttp.ClientTimeout(total=4)  # below the 5 s between two batches
LOOK_BACK: Final = 120.0

_SERIES: Final = '{__name__=~"DCGM_FI_DEV_(XID_ERRORS|GPU_TEMP)"}'
# Targets that had GPU series lately: also those whose exporter is silent now.
_EXPORTERS: Final = f"count by (job, instance) (last_over_time({_SERIES}[15m]))"
QUERIES: Final[Mapping[str, str]] = {
    "gpus": f"group by (Hostname, node, UUID, job, instance) ({_SERIES})",
    "recent": f"group by (Hostname, node, job, instance) (last_over_time({_SERIES}[15m]))",
    "xids": "DCGM_FI_DEV_XID_ERRORS",
    "counts": "DCGM_EXP_XID_ERRORS_COUNT",
    "up": f"up and on (job, instance) {_EXPORTERS}",
    "scraped": f"timestamp(up and on (job, instance) {_EXPORTERS})",
}

Series = tuple[Mapping[str, str], float]


class Prometheus:
    """The HTTP API of one Prometheus."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def sample(self, *, ago: float = 0.0) -> Sample:
        """Return what Prometheus knew `ago` seconds before now.

        Raises:
            Retry: Prometheus is away, slow, or answers something else than a vector.
        """
        at = time.time() - ago
        answers = await asyncio.gather(*(self._query(text, at) for text in QUERIES.values()))
        return sample_of(dict(zip(QUERIES, answers, strict=True)), datetime.fromtimestamp(at, UTC))

    async def _query(self, text: str, at: float) -> list[Series]:
        form = {"query": text, "time": f"{at:.3f}"}
        try:
            async with self._session.post(f"{self._url}/api/v1/query", data=form, timeout=TIMEOUT) as answer:
                body = await answer.json()
                return list(vector(body))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            raise errors.Retry(f"prometheus: {type(error).__name__}: {error}") from error


def vector(body: Mapping[str, Any]) -> Iterator[Series]:
    """Read the series of an instant vector.

    Raises:
        ValueError: Prometheus refused the query, or the result is no vector.
    """
    if body.get("status") != "success" or body["data"]["resultType"] != "vector":
        raise ValueError(f"{body.get('errorType', 'not a vector')}: {body.get('error', '')}")
    for series in body["data"]["result"]:
        yield series["metric"], float(series["value"][1])


def sample_of(answers: Mapping[str, Sequence[Series]], at: datetime) -> Sample:
    """Put the answers of `QUERIES` together. Series without a node or a UUID are somebody else's."""
    nodes = {_target(labels): name for labels, _ in answers["recent"] if (name := node_of(labels))}
    up = {nodes[_target(labels)]: value for labels, value in answers["up"] if _target(labels) in nodes}
    scraped = {nodes[_target(labels)]: value for labels, value in answers["scraped"] if _target(labels) in nodes}
    down = frozenset(node for node, value in up.items() if value == 0)
    return Sample(
        at=at,
        scraped={node: when for node, when in scraped.items() if node not in down},
        down=down,
        gpus=frozenset(gpu for labels, _ in answers["gpus"] if (gpu := _gpu(labels))),
        xids={gpu: int(value) for labels, value in answers["xids"] if (gpu := _gpu(labels))},
        counts={
            (*gpu, int(labels["xid"])): value
            for labels, value in answers["counts"]
            if (gpu := _gpu(labels)) and labels.get("xid", "").isdigit()
        },
    )


def node_of(labels: Mapping[str, str]) -> str:
    """Return the node of a series: DCGM's own label, else the one that relabelling usually adds."""
    return labels.get("Hostname") or labels.get("node") or ""


def _gpu(labels: Mapping[str, str]) -> tuple[str, str] | None:
    node, uuid = node_of(labels), labels.get("UUID", "")
    return (node, uuid) if node and uuid else None


def _target(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("job", ""), labels.get("instance", "")
