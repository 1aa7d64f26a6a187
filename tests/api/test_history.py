"""What a page is told of a job's past by a real Prometheus."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import pytest

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.history import POINTS, History, Past
from tests.api import story
from tests.api.apiserver import free_ports

SINCE, UNTIL = (datetime.fromtimestamp(at, UTC) for at in (story.START, story.START + story.HOUR))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with story.told_to_prometheus(tmp_path_factory.mktemp("history")) as url:
        yield url


def past(url: str, namespace: str = story.NAMESPACE, job: str = story.JOB) -> Past:
    async def ask() -> Past:
        async with aiohttp.ClientSession() as session:
            return await History(url, session).of(namespace, job, SINCE, UNTIL)

    return asyncio.run(ask())


def test_a_jobs_loss_and_mfu_are_those_that_were_scraped(prometheus: str) -> None:
    found = past(prometheus)
    assert found.step == story.HOUR / POINTS
    for points, name in ((found.loss, "loss"), (found.mfu, "mfu_ratio")):
        told = story.TRAINER[name]
        assert len(points) > POINTS / 2
        assert [(at, value) for at, value in points if value != pytest.approx(told(round(at - story.START)))] == []


@pytest.mark.parametrize(("namespace", "job"), [("elsewhere", story.JOB), (story.NAMESPACE, "another")])
def test_a_job_that_was_never_scraped_has_none(prometheus: str, namespace: str, job: str) -> None:
    found = past(prometheus, namespace, job)
    assert (found.loss, found.mfu) == ((), ())


def test_where_nobody_listens_and_where_somebody_else_does_is_said(prometheus: str) -> None:
    with pytest.raises(errors.Retry, match="prometheus: ClientConnectorError"):
        past(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(errors.Retry, match="prometheus: "):
        past(f"{prometheus}/nowhere")
