"""What the chart installs for Grafana and Prometheus: the committed files, when asked for."""

import json
from typing import Any, Final

import pytest
import yaml

from tests.api.apiserver import ApiServer
from tests.api.helm import CHART, NAMESPACE, Helm
from tests.api.test_chart import one

pytestmark = pytest.mark.api

NAMES: Final = ("faults", "fleet", "job", "operator")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


def boards(bodies: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the ConfigMaps of dashboards by name."""
    maps = (body for body in bodies if body["kind"] == "ConfigMap" and "-dashboard-" in body["metadata"]["name"])
    return {body["metadata"]["name"]: body for body in maps}


def test_both_are_off_unless_asked_for(helm: Helm) -> None:
    bodies = helm.template()
    assert boards(bodies) == {}
    assert "PrometheusRule" not in {body["kind"] for body in bodies}


def test_each_dashboard_is_a_config_map_that_the_sidecar_finds(helm: Helm, api: ApiServer) -> None:
    """The JSON comes out as it was committed, and the API server takes it."""
    api.kubectl("create", "namespace", NAMESPACE, check=False)
    found = boards(helm.template("--set=dashboards.enabled=true", "--set=dashboards.annotations.grafana_folder=F"))
    assert sorted(found) == [f"internlm2-operator-dashboard-{name}" for name in NAMES]
    for name, body in zip(NAMES, (found[key] for key in sorted(found)), strict=True):
        assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert body["metadata"]["annotations"] == {"grafana_folder": "F"}
        (text,) = body["data"].values()
        assert text == (CHART / f"dashboards/{name}.json").read_text()
        api.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(body))


def test_the_labels_of_the_sidecar_are_yours(helm: Helm) -> None:
    values = '--set-json=dashboards={"enabled":true,"labels":{"grafana_dashboard":null,"mine":"yes"}}'
    for body in boards(helm.template(values)).values():
        assert body["metadata"]["labels"]["mine"] == "yes"
        assert "grafana_dashboard" not in body["metadata"]["labels"]


def test_the_rules_are_the_committed_ones_and_link_to_your_runbooks(helm: Helm) -> None:
    url = "https://example.org/runbooks"
    values = (f"--set=prometheusRule.runbooks={url}", "--set=prometheusRule.labels.release=monitoring")
    body = one(helm.template("--set=prometheusRule.enabled=true", *values), "PrometheusRule")
    text = (CHART / "alerts/alerts.yaml").read_text().replace("docs/runbooks.md#", f"{url}#")
    assert body["spec"] == yaml.safe_load(text)
    assert body["metadata"]["labels"]["release"] == "monitoring"
    assert text.count(f"{url}#internlm2") == 8
