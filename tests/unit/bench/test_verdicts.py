"""The stream of signals is judged, not only counted."""

import itertools
from datetime import timedelta

from bench.health.verdicts import START, Judge, Line, lines


def line(code: int, seconds: float = 0.0) -> Line:
    text = f"NVRM: Xid (PCI:0000:3b:00): {code}, pid=1, name=python, words"
    return Line("n1", START + timedelta(seconds=seconds), text)


def test_a_proof_convicts_and_a_programs_code_does_not() -> None:
    judge = Judge()
    judge.hear(line(31))
    assert judge.convicted == 0
    judge.hear(line(79))
    assert judge.convicted == 1
    judge.hear(line(31, seconds=1))
    assert judge.convicted == 1, "the node was mended: its old fault convicts nobody"


def test_a_seed_is_a_stream_of_many_nodes_and_codes() -> None:
    first = list(itertools.islice(lines(3), 2000))
    assert first == list(itertools.islice(lines(3), 2000))
    assert first != list(itertools.islice(lines(4), 2000))
    assert len({one.node for one in first}) > 500
    judge = Judge()
    for one in first:
        judge.hear(one)
    assert 0 < judge.convicted < len(first)
