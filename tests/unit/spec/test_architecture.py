"""What a checkpoint says about its model, and whether a stage may start from it."""

import json
from dataclasses import replace

import pytest

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Checkpoint, Data, Refused, Stage
from internlm2_spec.presets import PRESETS

SEVEN = PRESETS["internlm2-7b"]
STAGE = Stage("a", SEVEN, Data("file:///d"), Checkpoint("file:///c"), 4096, 4096, 1, rope_base=1e6)


def test_it_is_what_the_stage_trains_and_survives_json() -> None:
    of = Architecture.of(STAGE)

    assert of == Architecture(SEVEN, 1e6, 4096, None, None)
    assert Architecture.from_extra(json.loads(json.dumps(of.to_extra())), "here") == of


@pytest.mark.parametrize("extra", [{}, {"architecture": None}, {"architecture": {"model": {}}}, {"architecture": 3}])
def test_a_checkpoint_without_it_is_refused(extra: dict[str, object]) -> None:
    with pytest.raises(Refused, match="here: does not say which model it is of; save it again with this version"):
        Architecture.from_extra(extra, "here")


def test_heads_that_leave_every_shape_the_same_are_noticed() -> None:
    of = Architecture.of(STAGE)
    of.check(SEVEN, "initFrom")

    # (24 + 2 x 12) heads of 128 have as many rows as (32 + 2 x 8).
    with pytest.raises(Refused, match="initFrom: was saved with heads 32, and the model has 24; start from a"):
        of.check(replace(SEVEN, heads=24, kv_heads=12), "initFrom")
