"""What a cordon writes, and what takes it off."""

from internlm2_operator.health.cordon import Cordon
from internlm2_operator.health.history import History
from internlm2_operator.health.node import FaultNote, HeldNote
from internlm2_operator.health.uncordon import Uncordon
from internlm2_operator.manifests.node import cordon_patch, held_patch, uncordon_patch
from internlm2_spec.contract import ANNOTATION_FAULT, TAINT_FAULT
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import T0, note

FOREIGN = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
OLD = {"key": TAINT_FAULT, "value": "Xid62", "effect": "NoSchedule"}
NODE = {"metadata": {"resourceVersion": "42"}, "spec": {"taints": [FOREIGN, OLD]}}


def test_cordon_adds_a_taint_to_those_of_others_and_the_note() -> None:
    patch = cordon_patch(Cordon("n1", note(), History().cordoned("Xid79", "", T0)), NODE)
    assert_golden("cordon", patch)
    assert [taint["key"] for taint in patch["spec"]["taints"]] == [FOREIGN["key"], TAINT_FAULT]


def test_note_reads_back_from_the_annotation() -> None:
    patch = cordon_patch(Cordon("n1", note(), History().cordoned("Xid79", "", T0)), NODE)
    assert FaultNote.from_json(patch["metadata"]["annotations"][ANNOTATION_FAULT]) == note()


def test_uncordon_takes_off_what_is_ours_from_a_node_that_nobody_changed() -> None:
    history = History().cordoned("Xid95", "cordon-reset", T0).lifted(T0)
    assert_golden("uncordon", uncordon_patch(Uncordon("n1", history, T0), NODE))


def test_a_cordon_that_is_not_made_leaves_a_note_alone() -> None:
    assert_golden("held", held_patch(HeldNote("ObserveMode", "Xid79", T0, "cordon-reboot", "one signal", ("XID 79",))))
