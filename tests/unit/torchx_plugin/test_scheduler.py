"""What torchx may ask of the scheduler, and what it may not."""

from typing import Any

import pytest
from torchx.schedulers.api import Stream

from internlm2_torchx.scheduler import create_scheduler
from tests.unit.plan.world import T0


@pytest.mark.parametrize(
    "asked", [{"since": T0}, {"until": T0}, {"streams": Stream.STDERR}], ids=lambda one: next(iter(one))
)
def test_a_part_of_a_log_is_not_passed_off_as_the_whole(asked: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="leave since, until and streams out"):
        create_scheduler("session").log_iter("default:job", "trainer", **asked)


def test_its_options_are_the_manifest_and_the_namespace() -> None:
    options = {name: option.is_required for name, option in create_scheduler("session").run_opts()}
    assert options == {"job": True, "namespace": False}
