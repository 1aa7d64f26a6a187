"""XIDs and lost GPUs travel from exporters through a real Prometheus to a cordon on a real API server."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import pytest

from internlm2_operator.cluster.prometheus import Prometheus
from internlm2_operator.health import condition
from internlm2_operator.health.edges import Sample
from internlm2_spec import contract
from tests.api.apiserver import ApiServer, wait_for
from tests.api.gpus import Exporter, Monitoring, monitoring
from tests.api.rest import Object, Rest
from tests.api.stage import OperatorProcess, Stage, install_rights, on_stage, operating
from tests.servers import S3Server

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    with monitoring(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture(scope="module")
def process(
    api: ApiServer, prometheus: Monitoring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    folder = tmp_path_factory.mktemp("operator")
    with operating(install_rights(api, folder), folder, f"--prometheus-url={prometheus.url}") as operator:
        yield operator


@pytest.fixture
def stage(api: ApiServer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Nodes only: GPU faults need no job."""
    idle = S3Server(tmp_path_factory.mktemp("idle"))
    name = f"gpus-{abs(hash(request.node.name)) % 10**6}"
    with on_stage(Rest(api), idle, name, secret=False, data=False) as ready:
        yield ready


def test_a_fatal_xid_cordons_its_node_and_an_application_xid_does_not(
    process: OperatorProcess, prometheus: Monitoring, stage: Stage
) -> None:
    """The application's XID comes first: by the time the fatal one is answered, it has been judged too."""
    program, fatal = prometheus.watch(*stage.make_nodes("program", "fatal"))
    wait_for(lambda: process.metric("internlm2_operator_prometheus_up") == 1, what="first sample")
    program.raise_xid(31)
    wait_for(lambda: "Xid31: blame user, no cordon" in process.log.read_text(), what="verdict on XID 31")
    fatal.raise_xid(79, gpu=1)
    note = wait_for(lambda: _note(stage, fatal.node), what="cordon")
    assert (note["cause"], note["gpu"]) == ("Xid79", fatal.gpu(1))
    assert _note(stage, program.node) is None


def test_a_gpu_that_vanishes_while_its_exporter_answers_cordons_its_node(
    process: OperatorProcess, prometheus: Monitoring, stage: Stage
) -> None:
    (exporter,) = prometheus.watch(*stage.make_nodes("a"))
    samples = process.metric('internlm2_operator_source_rounds_total{source="prometheus"}')
    wait_for(
        lambda: process.metric('internlm2_operator_source_rounds_total{source="prometheus"}') > samples + 1,
        what="a sample with the GPU",
    )
    exporter.lost.add(exporter.gpu(0))
    note = wait_for(lambda: _note(stage, exporter.node), what="cordon")
    assert (note["cause"], note["gpu"]) == ("GpuMissing", exporter.gpu(0))


def test_an_xid_that_came_while_the_operator_was_down_is_seen_by_the_next(
    process: OperatorProcess, prometheus: Monitoring, stage: Stage
) -> None:
    (exporter,) = prometheus.watch(*stage.make_nodes("a"))
    process.kill()
    exporter.raise_xid(79)
    process.start()
    assert wait_for(lambda: _note(stage, exporter.node), what="cordon")["cause"] == "Xid79"


def test_a_fault_in_the_condition_of_the_node_agent_cordons_its_node(process: OperatorProcess, stage: Stage) -> None:
    (node,) = stage.make_nodes("a")
    seen = condition.event("Xid95", "0000:3b:00", datetime.now(UTC), "Uncontained ECC error")
    said = condition.condition([seen])
    path = f"/api/v1/nodes/{node}"
    kept = [c for c in stage.rest("GET", path)["status"]["conditions"] if c["type"] != condition.TYPE]
    own = {"type": condition.TYPE, "status": said.status, "reason": said.reason, "message": said.message}
    stage.rest.merge(f"{path}/status", {"status": {"conditions": [*kept, own]}})
    note = wait_for(lambda: _note(stage, node), what="cordon")
    assert (note["cause"], note["gpu"], note["action"]) == ("Xid95", "0000:3b:00", "cordon-reset")
    assert note["rule"] == "one signal that proves it"
    assert process.healthy()


def test_a_pod_that_writes_the_metrics_of_another_nodes_gpus_is_heard_only_where_nobody_says_who_may(
    prometheus: Monitoring,
) -> None:
    """What the samples hold is asserted; the queries are those of the operator, the answers a real Prometheus'."""
    (exporter,) = prometheus.watch("victim")
    (forger,) = prometheus.scrape(Exporter("victim", name="forger"))
    forger.raise_xid(79)

    def sample(match: str) -> Sample:
        async def ask() -> Sample:
            async with aiohttp.ClientSession() as session:
                return await Prometheus(prometheus.url, session, match).sample()

        return asyncio.run(ask())

    gpu = ("victim", exporter.gpu(0))
    wait_for(lambda: (*gpu, 79) in sample("").counts, what="what the forger says")
    believed = sample(f'job!="dcgm-{forger.name}"')
    assert {xid for key, xid in believed.xids.items() if key[:2] == gpu} == {0}
    assert (*gpu, 79) not in believed.counts
    assert {xid for key, xid in sample("").xids.items() if key[:2] == gpu} == {0, 79}
    assert believed.scraped["victim"] > 0


def _note(stage: Stage, node: str) -> Object | None:
    """Return the note of a cordon of ours."""
    found = stage.rest("GET", f"/api/v1/nodes/{node}")
    text = found["metadata"].get("annotations", {}).get(contract.ANNOTATION_FAULT)
    note: Object | None = json.loads(text) if text else None
    return note
