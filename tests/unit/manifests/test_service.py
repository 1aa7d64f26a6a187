"""The headless Service."""

from internlm2_operator.manifests.service import service
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import job


def test_service_names_members_before_they_are_ready() -> None:
    assert_golden("service", service(job()))
