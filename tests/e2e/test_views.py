"""What people look at after a fault in the lab: dashboards with the figures of the record, and pages in a browser."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from dashboards import snapshot
from dashboards.ask import Prometheus
from internlm2_operator.runtime.books import BOOK_SECONDS
from internlm2_spec.contract import ANNOTATION_FAULT
from lab import scene, screens
from lab.browser import can_browse
from lab.control import SCRAPE_SECONDS
from lab.watch import JobWatch
from tests.api.apiserver import wait_for
from tests.api.ui import pages
from tests.e2e.world import World

JOB: Final = "seen"
# The accounts are written and scraped, at both ends of a fault.
GRAIN: Final = 2 * (BOOK_SECONDS + SCRAPE_SECONDS)


@dataclass(frozen=True, slots=True)
class Lived:
    """A job that lost a node and trains again; `began` is the second before it."""

    watch: JobWatch
    began: float
    node: str


@pytest.fixture(scope="module")
def lived(world: World) -> Iterator[Lived]:
    began = time.time()
    with world.job(JOB, stages__0__steps=4000) as watch:
        watch.wait(lambda s: s.checkpoint >= 5 and s.midway(), seconds=240, what="first checkpoint")
        _, node = watch.seen.member(first=False)
        world.lab.fault("node-kill", node=node)
        watch.wait(lambda s: bool(s.cordoned), seconds=300, what="node-kill healed")
        resumed = watch.seen.last_step
        watch.wait(lambda s: s.last_step >= resumed + 15, seconds=240, what="steps after the fault")
        yield Lived(watch, began, node)


def test_panels_have_data_and_say_what_the_record_of_the_fault_says(lived: Lived) -> None:
    prometheus, began, status = Prometheus(os.environ["PROMETHEUS_URL"]), lived.began, lived.watch.seen.status
    (fault,) = lived.watch.seen.faults

    def told() -> dict[str, dict[str, float]]:
        over = snapshot.window(began, time.time(), SCRAPE_SECONDS)
        found = snapshot.asked(prometheus, "default", JOB, over)
        return {
            answer.panel["title"]: {s.labels.get("arrow", s.labels.get("spent_on", "")): s.last for s in group}
            for answer in found["faults"] + found["job"]
            for group in answer.series[:1]
        }

    # A restart whose reason is not known yet is counted two minutes after it.
    arrows = wait_for(lambda: told()["Latency of each arrow, mean"], seconds=180, what="arrows in Prometheus")
    assert arrows == {arrow: pytest.approx(seconds) for arrow, seconds in fault["seconds"].items()}
    panels = told()
    assert panels["Faults"] == {"": 1}
    assert panels["Steps done twice"] == {"": fault["stepsLost"]}
    lost = panels["GPU-hours by account"]["fault"] * 3600 / gpus(status)
    assert lost == pytest.approx(fault["seconds"]["total"], abs=GRAIN + fault["seconds"].get("verdict", 0.0))

    def silent() -> list[str]:
        over = snapshot.window(began, time.time(), SCRAPE_SECONDS)
        return snapshot.silent(prometheus, "default", JOB, over)

    # The score of a node comes a minute after its cordon.
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not silent(), seconds=90, what="data for every panel")
    assert silent() == []


@pytest.mark.skipif(not can_browse(), reason="Chromium is not there, and only root can install it")
def test_pages_lead_from_the_jobs_to_the_fault_and_its_node_and_say_what_is_recorded(lived: Lived) -> None:
    with pages(Path(os.environ["KUBECONFIG"]), f"--prometheus-url={os.environ['PROMETHEUS_URL']}") as url:
        seen = asyncio.run(walked(url, f"default/{JOB}"))
    assert [*seen] == ["jobs", "job", "fault", "node"]
    assert {name: page.findings for name, page in seen.items() if page.findings} == {}

    assert [name in seen["job"].text for name in ("Loss: ", "MFU, causal: ")] == [True] * 2
    (fault,) = lived.watch.seen.faults
    assert [fault["cause"] in seen[name].text for name in ("jobs", "job", "fault", "node")] == [True] * 4
    assert [lived.node in seen[name].text for name in ("job", "fault", "node")] == [True] * 3
    assert [line for line in fault["evidence"] if line not in seen["fault"].text] == []
    node = json.loads(scene.kubectl("get", "node", lived.node, "-o", "json"))
    note = json.loads(node["metadata"]["annotations"][ANNOTATION_FAULT])
    assert note["rule"] in seen["node"].text
    assert f"default/{JOB}" in seen["node"].text


@dataclass(frozen=True, slots=True)
class Page:
    """What can be read on a page, and what axe-core and the console complain about."""

    text: str
    findings: list[str]


async def walked(url: str, job: str) -> dict[str, Page]:
    """Follow the links of `internlm2 ui` to a job, its fault and the node."""
    return {
        name: Page(await chromium.value("document.body.innerText"), [*await chromium.findings(), *chromium.errors])
        async for name, chromium in screens.walk(url, job)
    }


def gpus(status: dict[str, Any]) -> int:
    """Return the GPUs of the attempt: manifests/demo.yaml has two a node."""
    return int(status["size"]) * 2
