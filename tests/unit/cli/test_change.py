"""What a change of a job says."""

import pytest

from internlm2_operator.cli import change
from internlm2_spec.config import Refused
from tests.unit.plan.world import job


@pytest.mark.parametrize(
    ("least", "most", "wanted"), [(2, None, {"min": 2}), (None, 8, {"max": 8}), (2, 8, {"min": 2, "max": 8})]
)
def test_only_what_was_given_is_written(least: int | None, most: int | None, wanted: dict[str, int]) -> None:
    assert change.sizes(least, most) == {"nodes": wanted}


def test_nothing_to_change_is_a_mistake() -> None:
    with pytest.raises(Refused, match="both are missing"):
        change.sizes(None, None)


def test_every_difference_is_told_in_the_words_of_the_manifest() -> None:
    answer = change.told(job(low=2, high=2), job(low=2, high=4, suspend=True))
    assert answer.lines == ("internlm2job.training.internlm.io/demo: nodes.max 2 -> 4, suspend false -> true",)
    assert change.told(job(), job()).lines == ("internlm2job.training.internlm.io/demo: unchanged",)
