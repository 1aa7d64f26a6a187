"""The registries of operator and agent are the catalogue."""

from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from internlm2_operator.agent.metrics import Metrics as AgentMetrics
from internlm2_operator.runtime.metrics import Metrics
from internlm2_spec import metrics as catalogue

BOTH = {
    "operator": (Metrics().registry, catalogue.OPERATOR),
    "agent": (AgentMetrics().registry, catalogue.AGENT),
}


@pytest.mark.parametrize(("registry", "metrics"), BOTH.values(), ids=BOTH)
def test_every_metric_of_the_catalogue_is_registered_and_no_other(
    registry: CollectorRegistry, metrics: Sequence[catalogue.Metric]
) -> None:
    registered = {family.name: (family.type, family.documentation) for family in registry.collect()}
    assert registered == {each.name.removesuffix("_total"): (each.kind, each.meaning) for each in metrics}
