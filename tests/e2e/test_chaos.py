"""Ten faults in a row on one job; `make chaos` is a hundred."""

import os
from typing import Final

import pytest

from lab.chaos import judge
from lab.chaos.__main__ import shake, undisturbed
from lab.chaos.deck import deal
from lab.chaos.options import STEPS_PER_FAULT, TAIL_STEPS
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(1800)  # the faults themselves last minutes

SEED: Final = int(os.environ.get("INTERNLM2_SEED", "20261126"))
# Those that are over soon; each once.
KINDS: Final = (
    "process-kill", "process-stop", "agent-kill", "node-kill", "xid-79-log", "s3-down", "prometheus-down",
    "apiserver-restart", "operator-kill", "dns-down",
)  # fmt: skip


def test_ten_faults_in_a_row_end_like_an_undisturbed_run(world: World) -> None:
    calm = undisturbed(world.lab, len(KINDS) * STEPS_PER_FAULT + TAIL_STEPS)
    ended = shake(world.lab, deal(SEED, len(KINDS), KINDS), calm)
    assert judge.problems(ended) == (), f"seed {SEED}"
    assert {outcome.planned.name for outcome in ended.outcomes} == set(KINDS)
