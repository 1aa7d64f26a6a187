"""The pods of a node check."""

from datetime import UTC, datetime

from internlm2_operator.health.node import CheckNote
from internlm2_operator.manifests.check_pod import check_pod
from internlm2_operator.manifests.node import checked_patch
from internlm2_operator.plan.check import Check, Depth, MakePod
from tests.unit.manifests.golden import assert_golden

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHECK = Check(("n1", "n2"), Depth.FULL, "nvidia.com/gpu", T0, "first start of job default/demo", job="default/demo")
ALONE = Check(("n1",), Depth.QUICK, "nvidia.com/gpu", T0, "Xid48: Suspected")


def test_rank_0_hosts_the_store_and_says_who_takes_part() -> None:
    assert_golden("check_rank_0", check_pod(MakePod(CHECK, 0, "n1", 8), namespace="system", image="trainer:1"))


def test_the_others_come_to_it() -> None:
    member = MakePod(CHECK, 1, "n2", 4, store="10.0.0.1", domain="leaf-7")
    assert_golden("check_rank_1", check_pod(member, namespace="system", image="trainer:1"))


def test_alone_there_is_no_store() -> None:
    (container,) = check_pod(MakePod(ALONE, 0, "n1", 8), namespace="s", image="i")["spec"]["containers"]
    assert container["command"][4:] == ["--name", "n1", "-o", "json"]


def test_the_note_is_all_that_is_applied_to_a_node() -> None:
    note = CheckNote(T0, "quick", passed=False, evidence=("compute: slow",), uid="u1")
    assert_golden("checked", checked_patch("n1", note))
