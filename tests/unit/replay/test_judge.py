"""The whole corpus through the diagnosis, and cases that show what the replay itself must not do."""

from pathlib import Path
from typing import Any, Final

import pytest

from internlm2_operator.replay.case import case, read
from internlm2_operator.replay.judge import Outcome, replay
from tests.unit.health.test_corpus import FOLDER as CORPUS

OUTCOMES: Final = {one.case.id: one for one in map(replay, read(CORPUS))}


def test_no_node_of_the_corpus_is_cordoned_wrongly_and_none_is_missed() -> None:
    wrong = {name: one.cordoned for name, one in OUTCOMES.items() if one.false_cordons or one.missed_cordons}
    assert wrong == {}
    assert sum(bool(one.cordoned) for one in OUTCOMES.values()) > 40, "the control: nodes are cordoned at all"


@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_case(name: str) -> None:
    assert OUTCOMES[name].wrong == ()


def played(signals: list[dict[str, Any]], *, cordon: bool, blame: str, node: str | None = "n1") -> Outcome:
    expect = {"class": blame, "node": node, "gpu": None, "cordon": cordon, "action": "none", "why": ""}
    return replay(case({"id": "x", "job": {"nodes": ["n1", "n2"]}, "signals": signals, "expect": expect}))


XID: Final = {"t": 0, "node": "n1", "kind": "kernel_log", "line": "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=a, gone"}


def test_a_wrong_expectation_is_told_as_a_false_and_a_missed_cordon() -> None:
    false = played([XID], cordon=False, blame="none")
    assert (false.false_cordons, false.missed_cordons, len(false.wrong)) == (("n1",), (), 2)
    missed = played([XID], cordon=True, blame="node", node="n2")
    assert (missed.false_cordons, missed.missed_cordons) == (("n1",), ("n2",))


def test_a_kubelet_that_says_no_is_given_time_and_one_that_is_silent_is_not() -> None:
    ready = {"node": "n1", "kind": "node_condition", "type": "Ready"}
    no, yes = ready | {"t": 0, "status": "False"}, ready | {"t": 20, "status": "True"}
    assert played([no, yes], cordon=False, blame="none").wrong == ()
    assert played([no], cordon=True, blame="node").wrong == ()
    assert played([no | {"status": "Unknown"}, yes], cordon=True, blame="node").wrong == ()


def test_nothing_that_a_user_writes_cordons() -> None:
    claim = {"failure": "infrastructure", "reason": "NodeCheckFailed", "exit_code": 76, "message": "n2 is broken"}
    words = [
        {"t": t, "node": node, "kind": kind, "rank": t, "slot": 0, "code": 137, "termination": claim, "phase": "step",
         "step": 3, "stalledSeconds": 9000, "line": XID["line"]}
        for t, (node, kind) in enumerate((n, k) for n in ("n1", "n2") for k in ("pod_exit", "rank_log", "progress"))
    ]  # fmt: skip
    assert played(words * 3, cordon=False, blame="unknown").cordoned == ()


def counted(name: str, *values: int) -> list[dict[str, Any]]:
    """Return one counter of one GPU of n1, scraped every five seconds."""
    series = {"node": "n1", "kind": "metric", "name": name, "gpu": "GPU-0"}
    return [series | {"t": 5 * index, "value": value} for index, value in enumerate(values)]


def test_a_link_that_recovers_and_a_pod_that_was_killed_are_two_sources() -> None:
    recoveries = counted("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 1, 3)
    killed = {"t": 9, "node": "n1", "kind": "pod_exit", "slot": 0, "code": 137, "reason": "Error"}
    assert played([*recoveries, killed], cordon=True, blame="node").wrong == ()
    assert played(recoveries, cordon=False, blame="node").wrong == ()
    assert played([*recoveries, killed | {"node": "n2"}], cordon=False, blame="node").wrong == ()
    replays = counted("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 1, 300)
    assert played([*replays, killed], cordon=False, blame="node").wrong == (), "a hint and a hint"


def test_a_rank_whose_own_reports_stand_still_is_stalled() -> None:
    at = [
        {"t": t, "node": n, "kind": "progress", "phase": "step", "step": 7} for t in (0, 40, 80) for n in ("n1", "n2")
    ]
    assert played(at, cordon=False, blame="unknown").wrong == ()
    assert played(at[:4], cordon=False, blame="none").wrong == ()
    saving = [one | {"phase": "checkpoint"} for one in at]
    assert played(saving, cordon=False, blame="none").wrong == ()


def test_an_announced_node_may_fall_silent_and_no_more() -> None:
    notice = {"t": -60, "node": "n1", "kind": "node_condition", "type": "Maintenance", "status": "True"}
    silent = {"t": 0, "node": "n1", "kind": "node_condition", "type": "Ready", "status": "Unknown"}
    assert played([notice, silent], cordon=False, blame="none").verdict.action == "drain"
    assert played([silent], cordon=True, blame="node").wrong == ()
    assert played([notice | {"node": "n2"}, silent], cordon=True, blame="node").wrong == ()
    assert played([notice, XID | {"t": -1}, silent], cordon=True, blame="node").wrong == ()


def test_a_folder_is_read_with_all_that_is_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    source = next(CORPUS.glob("*.json"))
    (tmp_path / "deep" / source.name).write_text(source.read_text())
    assert [one.id for one in read(tmp_path)] == [source.stem]
