"""Which nodes something is said about, whatever came before."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.health.condition import event
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.unwell import MAX_LABELS, Unwell
from tests.examples import few

T0 = datetime(2026, 11, 25, tzinfo=UTC)
FAULT = event("Xid79", "0000:3b:00", T0)
ROOM = "example.com/room"


def node(name: str, *, ready: bool = True, faulty: bool = False, rack: str = "r1", room: str = "") -> NodeRecord:
    labels = ((ROOM, room), (RACK, rack))
    return NodeRecord(name, ready, T0, 8, labels=labels, health=(FAULT,) if faulty else ())


STATES = st.builds(
    node,
    st.sampled_from(["a", "b", "c"]),
    ready=st.booleans(),
    faulty=st.booleans(),
    rack=st.sampled_from(["r1", "r2"]),
)


@few
@given(st.lists(st.one_of(STATES, st.sampled_from(["a", "b", "c"])), max_size=12), st.integers(0, 12))
def test_the_index_is_what_a_walk_over_all_nodes_would_find(steps: Sequence[NodeRecord | str], asked: int) -> None:
    """A name is the node's deletion; the label is asked for the first time after `asked` steps."""
    unwell, nodes = Unwell(), dict[str, NodeRecord]()
    for number, step in enumerate(steps):
        if number == asked:
            unwell.silent(RACK, "r1")
        if isinstance(step, str):
            nodes.pop(step, None)
            unwell.drop(step)
        else:
            nodes[step.name] = step
            unwell.put(step)
    assert {n.name: n for n in unwell.told()} == {n.name: n for n in nodes.values() if n.health}
    for rack in ("r1", "r2"):
        want = {n.name: n for n in nodes.values() if not n.ready and (RACK, rack) in n.labels}
        assert {n.name: n for n in unwell.silent(RACK, rack)} == want


def test_healthy_nodes_cost_nothing() -> None:
    unwell = Unwell()
    for number in range(1000):
        unwell.put(node(f"n{number}"))
    unwell.put(node("n7", faulty=True))
    assert [n.name for n in unwell.told()] == ["n7"]
    assert not unwell.silent(RACK, "r1")


def test_labels_that_users_name_do_not_fill_the_memory() -> None:
    unwell = Unwell()
    unwell.put(node("a", ready=False, room="east"))
    for number in range(10 * MAX_LABELS):
        unwell.silent(f"example.com/label-{number}", "x")
    assert len(unwell._domains) <= MAX_LABELS
    assert [n.name for n in unwell.silent(ROOM, "east")] == ["a"]
    unwell.put(replace(node("a", ready=False), labels=((ROOM, "west"),)))
    assert [len(unwell.silent(ROOM, room)) for room in ("east", "west")] == [0, 1]
