"""From a signal to a cordon: real operator, node agent, API server, Prometheus and S3 server; GPUs are simulated.

Seconds are counted from the moment before the signal is given. A file stands for /dev/kmsg, which the agent looks at
every 50 ms and would be woken by. There are no kubelets: the harness says that a pod has ended.
"""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.health.figures import Sample, against
from bench.health.listener import CORDONED, ENDED, SAID, SUSPECTED, Listener
from bench.operator.client import say
from bench.operator.gauge import spread
from internlm2_operator.health import condition
from internlm2_operator.health.node import FaultNote
from tests.api.agent import LOST, AgentProcess, install_agent, make_node
from tests.api.apiserver import ApiServer
from tests.api.gpus import Exporter, Monitoring, monitoring
from tests.api.rest import Rest
from tests.api.stage import OperatorProcess, Stage, install_rights, node_of, on_stage, operating
from tests.servers import S3Server, s3_server

SCRAPE_SECONDS: Final = 5
# `scraped`: the exporter was asked. `signal`: by the operator's note, the kernel's record or the sample of Prometheus.
# `heard`: a bare watch knew of the agent's condition, or of the pod's end. The verdict may come before that.
ARROWS: Final = ("scraped", "signal", "heard", "verdict", "cordon")
PATIENCE_SECONDS: Final = 60.0
AT_ONCE_P95: Final = 1.0
PROMETHEUS_P95: Final = 7.0
SIMULATED: Final = ("GPUs", "kernel log", "kubelets", "GPU exporter")


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that runs while paths are measured."""

    folder: Path
    api: ApiServer
    rest: Rest
    store: S3Server
    prometheus: Monitoring
    operator: OperatorProcess
    heard: Listener
    chance: random.Random

    def pause(self, seconds: float) -> None:
        """Rest for up to so long, so that no clock of anybody beats with ours."""
        time.sleep(self.chance.uniform(0.2, seconds))

    def cordon(self, node: str, signal: float) -> dict[str, float]:
        """Wait for a node's cordon; return its arrows in seconds after `signal`.

        Signal and verdict are those of the operator's note, the cordon is when a bare watch heard of it.
        """
        cordoned = self.heard.wait(CORDONED, node, seconds=PATIENCE_SECONDS)
        note = FaultNote.from_json(self.heard.note(node))
        assert note is not None, "a cordon without a note of ours"
        times = {"signal": note.signal_at, "verdict": note.verdict_at}
        return {arrow: at.timestamp() - signal for arrow, at in times.items()} | {"cordon": cordoned - signal}

    def remove(self, node: str) -> None:
        """Take a node away: the breaker would count it."""
        self.rest("DELETE", f"/api/v1/nodes/{node}")


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """Start everything."""
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-health-")))
        folders = {name: top / name for name in ("api", "operator", "prometheus", "s3")}
        for folder in folders.values():
            folder.mkdir()
        api = ApiServer(folders["api"])
        stack.callback(api.stop)
        api.start()
        api.install_crd()
        install_agent(api, folders["operator"])
        prometheus = stack.enter_context(monitoring(folders["prometheus"], SCRAPE_SECONDS))
        store = stack.enter_context(s3_server(folders["s3"]))
        rights = install_rights(api, folders["operator"])
        flag = f"--prometheus-url={prometheus.url}"
        operator = stack.enter_context(operating(rights, folders["operator"], flag))
        heard = stack.enter_context(Listener(api))
        yield Scene(top, api, Rest(api), store, prometheus, operator, heard, random.Random(0))


def by_agent(scene: Scene, number: int) -> dict[str, float]:
    """A line in the kernel's log: XID 79, which convicts alone."""
    node = f"agent-{number}"
    folder = scene.folder / node
    folder.mkdir()
    make_node(scene.rest, node)
    agent = AgentProcess(scene.api, scene.rest, folder, node)
    try:
        agent.start()
        scene.pause(2.0)
        signal = time.time()
        agent.log(LOST)
        reached = scene.cordon(node, signal)
        return {"heard": scene.heard.wait(SAID, node, seconds=PATIENCE_SECONDS) - signal} | reached
    finally:
        agent.kill()
        scene.remove(node)


def by_pod(scene: Scene, number: int) -> dict[str, float]:
    """A pod that is killed on a node whose link is down.

    What a pod leaves behind is its user's word and convicts nobody alone; with what the node's agent says it does.
    """
    with on_stage(scene.rest, scene.store, f"pod-{number}") as stage:
        stage.make_nodes("a", "b")
        stage.make_job(name=f"job-{number}", nodes={"min": 1, "max": 1, "gpusPerNode": 2})
        ((name, pod),) = stage.wait_for_pods(1).items()
        stage.run_pods()
        node = node_of(pod)
        _link_down(stage, node)
        scene.heard.wait(SUSPECTED, node, seconds=PATIENCE_SECONDS)
        scene.pause(2.0)
        signal = time.time()
        stage.end_pod(name, code=137)
        reached = scene.cordon(node, signal)
        del reached["signal"]  # the link went down before
        return {"heard": scene.heard.wait(ENDED, name, seconds=PATIENCE_SECONDS) - signal} | reached


def _link_down(stage: Stage, node: str) -> None:
    said = condition.condition([condition.event("LinkDown", "ib0", datetime.now(UTC))])
    path = f"/api/v1/nodes/{node}"
    others = [c for c in stage.rest("GET", path)["status"]["conditions"] if c["type"] != condition.TYPE]
    own = {"type": condition.TYPE, "status": said.status, "reason": said.reason, "message": said.message}
    stage.rest.merge(f"{path}/status", {"status": {"conditions": [*others, own]}})


class Told(Exporter):
    """An exporter that remembers when it was first scraped after an XID, in seconds since the epoch."""

    scraped = 0.0

    def text(self) -> str:
        page = super().text()
        if not self.scraped and "_COUNT{" in page:
            self.scraped = time.time()
        return page


def exporters(scene: Scene, count: int) -> list[Told]:
    """Make nodes whose GPUs Prometheus has scraped, and the operator has asked for, several times."""
    made = [Told(f"gpu-{number}") for number in range(count)]
    for exporter in made:
        make_node(scene.rest, exporter.node, gpus=2)
    scene.prometheus.scrape(*made)
    time.sleep(3 * SCRAPE_SECONDS)
    return made


def by_prometheus(scene: Scene, exporter: Told) -> dict[str, float]:
    """XID 79 in DCGM's metrics, at any moment between two scrapes."""
    scene.pause(2 * SCRAPE_SECONDS)
    signal = time.time()
    exporter.raise_xid(79)
    try:
        return scene.cordon(exporter.node, signal) | {"scraped": exporter.scraped - signal}
    finally:
        scene.remove(exporter.node)


def measure(runs: int) -> dict[str, Any]:
    """Run each path so many times, one run after the other."""
    numbers = range(runs)
    with scene() as here:
        found = {
            "agent": _path("agent", (partial(by_agent, here, n) for n in numbers), AT_ONCE_P95),
            "pod": _path("pod", (partial(by_pod, here, n) for n in numbers), AT_ONCE_P95),
            "prometheus": _path("prometheus", (partial(by_prometheus, here, e) for e in exporters(here, runs)),
                                PROMETHEUS_P95),
        }  # fmt: skip
        assert here.operator.healthy(), "the operator fell ill"
    return {"simulated": list(SIMULATED), "scrapeSeconds": SCRAPE_SECONDS, **found}


def _path(name: str, runs: Iterable[Callable[[], Sample]], p95: float) -> dict[str, Any]:
    """Make the runs of one path; one that came to no cordon is a sample without arrows."""
    samples: list[Sample] = []
    loads: list[float] = []
    for number, run in enumerate(runs, start=1):
        loads.append(os.getloadavg()[0])
        try:
            samples.append({arrow: round(seconds, 4) for arrow, seconds in run().items()})
        except TimeoutError as error:
            samples.append({})
            say(f"{name} {number}: {error}")
        else:
            say(f"{name} {number}: {samples[-1]}")
    return against(samples, ARROWS, {"cordon": p95}) | {"load": spread(loads)}
