"""The lab's watch reads every step of a pod once, whatever its kubelet does meanwhile."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import kube_config

from lab.watch import JobWatch
from tests.api.apiserver import ApiServer
from tests.api.kubelet import Kubelet
from tests.api.rest import Rest
from tests.api.stage import Stage, make_pod, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api


@pytest.fixture
def stage(rest: Rest, store: S3Server) -> Iterator[Stage]:
    with on_stage(rest, store, "watched") as ready:
        yield ready


def test_log_that_was_refused_or_broke_off_is_followed_again_and_no_step_is_told_twice(
    api: ApiServer, rest: Rest, stage: Stage, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    with Kubelet(api) as kubelet:
        kubelet.answers[:] = [None, log(1, 2), log(1, 2, 3), *[log(1, 2, 3, 4)] * 1000]
        (node,) = stage.make_nodes("k")
        rest.merge(f"/api/v1/nodes/{node}/status", {"status": kubelet.status()})
        make_pod(rest, stage.name, "member", node, "Running", attempt=1, slot=0)
        with JobWatch("job", stage.name) as watch:
            watch.wait(lambda seen: seen.last_step == 4, seconds=60, what="the last step")
            asked = len(kubelet.asked)
            watch.wait(lambda _: len(kubelet.asked) > asked, seconds=60, what="another look at the log")
        assert [step.step for step in watch.seen.steps] == [1, 2, 3, 4]


def log(*steps: int) -> bytes:
    """Return what a rank says of these steps."""
    told = [json.dumps({"step": step, "lossHex": (1.0 / step).hex(), "time": float(step)}) for step in steps]
    return "".join(f"{line}\n" for line in told).encode()
