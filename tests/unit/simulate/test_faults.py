"""The published tables add up to what their papers say."""

import pytest

from internlm2_operator.simulate.faults import ACME, LLAMA3, Cause, Kind, Mix


def test_llama3_has_466_interruptions_of_which_419_were_not_planned() -> None:
    assert LLAMA3.total == 466
    assert sum(c.count for c in LLAMA3.causes if c.kind is not Kind.PLANNED) == 419


def test_acme_has_the_infrastructure_rows_of_its_table() -> None:
    assert ACME.total == 281


@pytest.mark.parametrize(
    ("kind", "gpus", "times"),
    [(Kind.XID, 1000, 1), (Kind.XID, 500, 0.5), (Kind.PLANNED, 1000, 1), (Kind.PLANNED, 500, 1)],
)
def test_faults_grow_with_the_gpus_and_plans_do_not(kind: Kind, gpus: int, times: float) -> None:
    cause = Cause("one", kind, 10)
    mix = Mix("mine", "nowhere", gpus=1000, days=1, causes=(cause,))
    assert mix.per_second(cause, gpus) == pytest.approx(10 / 86400 * times)
