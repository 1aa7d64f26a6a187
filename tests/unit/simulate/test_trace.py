"""Traces: drawn ones follow their rates and their seed, read ones are told what is wrong with them."""

import pytest

from internlm2_operator.simulate.faults import LLAMA3, Kind
from internlm2_operator.simulate.trace import Occurrence, draw, read_csv
from internlm2_spec.config import Refused


def drawn(seed: int, days: float = 54) -> tuple[Occurrence, ...]:
    return draw(LLAMA3, nodes=2048, gpus_per_node=8, days=days, seed=seed)


def test_as_many_faults_are_drawn_as_were_counted() -> None:
    counts = [len(drawn(seed)) for seed in range(40)]
    assert sum(counts) / 40 == pytest.approx(466, rel=0.03)
    assert len(set(counts)) > 10  # a Poisson process, not the same number each time


def test_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_trace_is_in_time_order_and_ends_with_its_days() -> None:
    trace = drawn(0, days=10)
    assert [o.at for o in trace] == sorted(o.at for o in trace)
    assert 0 < trace[0].at < trace[-1].at < 10 * 86400
    assert {o.node for o in trace} <= set(range(2048))


def test_file_is_read_in_time_order_with_hours_as_seconds() -> None:
    lines = ["time,node,kind,cause", "2,1,node,power", "0.5,0,xid,"]
    assert read_csv(lines, nodes=2) == (
        Occurrence(1800, 0, Kind.XID, "xid"),
        Occurrence(7200, 1, Kind.NODE, "power"),
    )


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "header: no column time; start with time,node,kind or time,node,kind,cause"),
        (["time,kind"], "header: no column node; start with time,node,kind or time,node,kind,cause"),
        (["time,node,kind", "x,0,xid"], "line 2, time: 'x'; write hours after the start, 0 or more"),
        (["time,node,kind", "-1,0,xid"], "line 2, time: '-1'; write hours after the start, 0 or more"),
        (["time,node,kind", "inf,0,xid"], "line 2, time: 'inf'; write hours after the start, 0 or more"),
        (["time,node,kind", "1,2,xid"], "line 2, node: '2'; write a whole number from 0 to 1"),
        (["time,node,kind", "1,0.5,xid"], "line 2, node: '0.5'; write a whole number from 0 to 1"),
        (["time,node,kind", "1"], "line 2, node: ''; write a whole number from 0 to 1"),
        (
            ["time,node,kind", "1,0,xid", "1,0,flood"],
            "line 3, kind: 'flood'; write one of process, hang, silent, xid, suspect, node, planned",
        ),
    ],
)
def test_mistake_in_a_file_is_told_with_its_line(lines: list[str], told: str) -> None:
    with pytest.raises(Refused) as refused:
        read_csv(lines, nodes=2)
    assert str(refused.value) == told
