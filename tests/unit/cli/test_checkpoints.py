"""The table of checkpoints."""

from internlm2_operator.cli import checkpoints
from internlm2_operator.cluster.checkpoints import Stored
from tests.unit.plan.world import T0, after, job


def test_the_newest_that_is_whole_is_marked_by_stage() -> None:
    found = [
        Stored("a", 15, 2048, "x is missing", T0, 4),
        Stored("a", 10, 2048, "", T0, 4),
        Stored("a", 5, 2048, "", T0, 4),
        Stored("b", 3, 0, "not a manifest"),
    ]
    answer = checkpoints.told(job(), found, after(300))
    rows = [line.split("   ") for line in answer.lines]
    assert rows[1][0] == "a"
    states = [one["newest"] for one in answer.data]
    assert states == [False, True, False, False]
    assert "corrupt: x is missing" in answer.lines[1]
    assert "verified" in answer.lines[3]
    assert answer.lines[4].split()[-1] == "-"
    assert answer.names[1] == "s3://bucket/run/a/step-00000010"


def test_an_empty_store_is_a_line() -> None:
    assert checkpoints.told(job(), [], T0).lines == ("no checkpoints at s3://bucket/run",)
