"""The operator's registry is the catalogue."""

from internlm2_operator.runtime.metrics import Metrics
from internlm2_spec import metrics as catalogue


def test_every_metric_of_the_catalogue_is_registered_and_no_other() -> None:
    registered = {family.name: (family.type, family.documentation) for family in Metrics().registry.collect()}
    listed = {each.name.removesuffix("_total"): (each.kind, each.meaning) for each in catalogue.OPERATOR}
    assert registered == listed
