"""What a cordon writes."""

from internlm2_operator.health.cordon import Cordon
from internlm2_operator.health.node import FaultNote
from internlm2_operator.manifests.node import cordon_patch
from internlm2_spec.contract import ANNOTATION_FAULT
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import note


def test_cordon_adds_a_taint_and_the_note() -> None:
    assert_golden("cordon", cordon_patch(Cordon("n1", note())))


def test_note_reads_back_from_the_annotation() -> None:
    patch = cordon_patch(Cordon("n1", note()))
    assert FaultNote.from_json(patch["metadata"]["annotations"][ANNOTATION_FAULT]) == note()
