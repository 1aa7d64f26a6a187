"""The chart: what helm renders, a real API server takes, and the operator's rights are what its calls need."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab.settings import CHECKOUT
from tests.api.apiserver import ApiServer, tools

pytestmark = pytest.mark.api

CHART: Final = CHECKOUT / "charts/internlm2-operator"
NAMESPACE: Final = "internlm2-system"
SUBJECT: Final = f"system:serviceaccount:{NAMESPACE}:internlm2-operator"


class Helm:
    """The helm binary, with its caches in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self._binary = tools("helm")["helm"]
        self._env = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self._binary), *args]
        return subprocess.run(argv, capture_output=True, text=True, env=self._env, timeout=120, check=False)

    def template(self, *args: str) -> list[dict[str, Any]]:
        """Return the objects that the chart renders to."""
        done = self("template", "internlm2", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.29.0", *args)
        assert done.returncode == 0, done.stderr
        return [body for body in yaml.safe_load_all(done.stdout) if body]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """A helm that leaves nothing behind."""
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def installed(helm: Helm, api: ApiServer) -> list[dict[str, Any]]:
    """The objects of the chart, applied strictly into a namespace that enforces the restricted pod standard."""
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    bodies = helm.template()
    for body in (space, *bodies):
        api.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    return bodies


def one(bodies: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (body,) = [body for body in bodies if body["kind"] == kind]
    return body


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_passes_the_restricted_pod_standard(api: ApiServer, installed: list[dict[str, Any]]) -> None:
    """Admission of the real API server judges the pod that the Deployment would make."""
    template = one(installed, "Deployment")["spec"]["template"]
    template["spec"].pop("serviceAccountName")
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "operator", "namespace": NAMESPACE}}
    api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    # The control: the same pod as root is refused, so the standard is really enforced.
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    done = api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
    assert "violates PodSecurity" in done.stderr


ALLOWED: Final = {
    "list internlm2jobs.training.internlm.io",
    "watch internlm2jobs.training.internlm.io",
    "patch internlm2jobs.training.internlm.io --subresource=status",
    "create pods",
    "delete pods",
    "create services",
    "patch configmaps",
    "get secrets",
    "patch nodes",
    "create events",
    f"update leases.coordination.k8s.io -n {NAMESPACE}",
}
FORBIDDEN: Final = {
    "delete internlm2jobs.training.internlm.io",
    "patch internlm2jobs.training.internlm.io",
    "create internlm2jobs.training.internlm.io",
    "list secrets",
    "watch secrets",
    "delete nodes",
    "update nodes",
    "create pods --subresource=exec",
    "delete services",
    "delete configmaps",
    "update leases.coordination.k8s.io -n default",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "list customresourcedefinitions.apiextensions.k8s.io",
}


@pytest.mark.parametrize(
    ("verb", "expected"), [*((v, "yes") for v in sorted(ALLOWED)), *((v, "no") for v in sorted(FORBIDDEN))]
)
def test_right(verb: str, expected: str, api: ApiServer, installed: list[dict[str, Any]]) -> None:
    """The API server answers for the service account of the chart."""
    assert installed
    done = api.kubectl("auth", "can-i", *verb.split(), f"--as={SUBJECT}", check=False)
    assert done.stdout.strip() == expected


def test_no_right_is_a_wildcard(installed: list[dict[str, Any]]) -> None:
    rules = [rule for body in installed if body["kind"] in ("Role", "ClusterRole") for rule in body["rules"]]
    assert [rule for rule in rules if "*" in json.dumps(rule)] == []


def test_values_reach_the_pod(helm: Helm) -> None:
    values = ("prometheus.url=http://p:9090", "watchNamespace=train", "image.tag=1.2.3", "verbose=true")
    body = one(helm.template(*(f"--set={value}" for value in values)), "Deployment")
    (container,) = body["spec"]["template"]["spec"]["containers"]
    env: Mapping[str, str] = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert (env["PROMETHEUS_URL"], env["WATCH_NAMESPACE"]) == ("http://p:9090", "train")
    assert container["image"] == "internlm2-operator:1.2.3"
    assert container["args"][-1] == "--verbose"


def test_pod_monitor_is_off_unless_asked_for(helm: Helm) -> None:
    assert [body for body in helm.template() if body["kind"] == "PodMonitor"] == []
    assert one(helm.template("--set=podMonitor.enabled=true"), "PodMonitor")["spec"]["podMetricsEndpoints"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("prometheus.ulr=http://p", "ulr"),
        ("prometheus.url=p:9090", "/prometheus/url"),
        ("workers=0", "/workers"),
        ("image.digest=sha256:1", "/image/digest"),
        ("replicas=2", "replicas"),
    ],
)
def test_a_wrong_value_is_refused_by_name(value: str, expected: str, helm: Helm) -> None:
    done = helm("template", "internlm2", str(CHART), f"--set={value}")
    assert done.returncode != 0
    assert expected in done.stderr


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    done = helm("template", "internlm2", str(CHART), "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert ">=1.29" in done.stderr
