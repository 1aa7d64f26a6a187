"""Everything that the chart renders and that the operator makes fits the schemas of three Kubernetes releases.

The oldest that node agent and policies work on, one between, and the one that the other tests run.
"""

import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from internlm2_operator.manifests.check_pod import check_pod
from internlm2_operator.manifests.config_map import config_map
from internlm2_operator.manifests.network_policy import network_policy
from internlm2_operator.manifests.pod import pod
from internlm2_operator.manifests.service import service
from internlm2_operator.plan.actions import CreatePod
from tests.api import schemas
from tests.api.apiserver import tools
from tests.api.helm import Helm
from tests.api.test_chart import MEMBER
from tests.unit.plan.world import job

pytestmark = pytest.mark.api

RELEASES: Final = ("v1.30.14", "v1.33.5", "v1.35.4")
EVERYTHING: Final = (
    "--set=agent.enabled=true", "--set=agent.links={eth0}", "--set=nodeCheck.image=trainer:1",
    "--set=dcgmCounters.enabled=true", "--set=namespaces={a,b}", "--set=ui.enabled=true",
    '--set-json=networkPolicy.egress=[{"to":[{"ipBlock":{"cidr":"0.0.0.0/0","except":["169.254.0.0/16"]}}]}]',
)  # fmt: skip


def made() -> list[dict[str, Any]]:
    """Return one of each kind of object that the operator makes."""
    member = CreatePod(stage=0, attempt=1, slot=0, replacement=0, size=1, node="n1")
    return [
        pod(job(), member),
        service(job()),
        config_map(job(), 0),
        network_policy(job()),
        check_pod(MEMBER, namespace="checks", image="i"),
    ]


@pytest.fixture(scope="module", params=RELEASES)
def conform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Conform":
    return Conform(request.param, tmp_path_factory.mktemp("schemas"))


class Conform:
    """kubeconform with the schemas of one release."""

    def __init__(self, release: str, folder: Path) -> None:
        self.minor = release.removeprefix("v").rpartition(".")[0]
        self._folder = folder
        self._argv = [str(tools("kubeconform")["kubeconform"]), "-strict", "-schema-location",
                      schemas.write(release, folder), "-skip", "PodMonitor,ServiceMonitor"]  # fmt: skip

    def __call__(self, bodies: list[dict[str, Any]]) -> str:
        """Return what is wrong with these objects."""
        path = self._folder / "bodies.yaml"
        path.write_text(yaml.safe_dump_all(bodies))
        return subprocess.run([*self._argv, str(path)], capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["the defaults", "everything"])
def test_the_chart_fits(values: tuple[str, ...], conform: Conform, tmp_path: Path) -> None:
    bodies = Helm(tmp_path).template(f"--kube-version={conform.minor}.0", *values)
    assert len(bodies) > 15
    assert conform(bodies) == ""


def test_what_the_operator_makes_fits(conform: Conform) -> None:
    assert conform(made()) == ""


def test_a_misspelled_field_and_a_wrong_type_do_not_fit(conform: Conform) -> None:
    """The control."""
    wrong, misspelled = made()[:2]
    wrong["spec"]["terminationGracePeriodSeconds"] = "long"
    misspelled["spec"]["clusterIp"] = "None"
    said = conform([wrong, misspelled])
    assert "terminationGracePeriodSeconds" in said
    assert "clusterIp" in said
