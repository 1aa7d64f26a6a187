"""A stage as JSON: what is read back is what was written, and a mistake is told with field, value and cure."""

import json
from dataclasses import replace
from typing import Any

import pytest

from internlm2_spec.config import (
    Checkpoint,
    Data,
    DataSource,
    Guard,
    Model,
    Optimizer,
    Refused,
    Stage,
    parse,
    to_json,
)

STAGE = Stage(
    name="a",
    model=Model(layers=1, hidden=8, heads=2, kv_heads=1, ffn=8, vocab=16),
    data=Data("file:///corpus"),
    checkpoint=Checkpoint("file:///run"),
    sequence_length=8,
    global_batch_tokens=16,
    steps=100,
)
MIXED = replace(
    STAGE,
    data=Data(sources=(DataSource("s3://b/short", 3, max_document_tokens=4095), DataSource("s3://b/long"))),
    optimizer=Optimizer(schedule="WSD", decay_steps=10, decay="Linear", moments="Reset"),
    guard=Guard(non_finite="Stop", spike="Report", window=9),
    init_from="before",
)


@pytest.mark.parametrize("stage", [STAGE, MIXED], ids=["a lone url", "a mixture"])
def test_a_stage_is_read_back_as_it_was_written(stage: Stage) -> None:
    assert parse(to_json(stage)) == stage


def test_a_lone_url_is_a_mixture_of_one() -> None:
    assert STAGE.data.mixture == (DataSource("file:///corpus"),)
    assert [source.weight for source in MIXED.data.mixture] == [3, 1]


U = {"url": "s3://b/c"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": {}}, "data: neither url nor sources; set exactly one of them"),
    "a url and sources": ({"data": U | {"sources": [U]}}, "data: both url and sources; set exactly one of them"),
    "sources that are no list": (
        {"data": {"sources": U}},
        "data.sources: {'url': 's3://b/c'} is not a list; write a list",
    ),
    "a source without url": ({"data": {"sources": [U, {}]}}, "data.sources[1].url: missing; write url"),
    "a source's unknown field": (
        {"data": {"sources": [U | {"share": 1}]}},
        "data.sources[0].share: unknown field; use one of url, weight, minDocumentTokens, maxDocumentTokens",
    ),
    "a weight of zero": (
        {"data": {"sources": [U, U | {"weight": 0}]}},
        "data.sources[1].weight: 0 is no share; use a whole number from 1 to 10000, or leave the source out",
    ),
    "a weight that is a fraction": (
        {"data": {"sources": [U | {"weight": 0.5}]}},
        "data.sources[0].weight: 0.5 is not a int; write a int",
    ),
    "bounds that cross": (
        {"data": {"sources": [U | {"minDocumentTokens": 9, "maxDocumentTokens": 8}]}},
        "data.sources[0].maxDocumentTokens: 8 is below minDocumentTokens 9; use 9 or more",
    ),
    "a schedule of another name": (
        {"optimizer": {"schedule": "Step"}},
        "optimizer.schedule: 'Step' is not known; use one of Cosine, WSD, Constant",
    ),
    "a warm-up and a decay longer than the stage": (
        {"optimizer": {"schedule": "WSD", "warmupSteps": 60, "decaySteps": 41}},
        "optimizer.warmupSteps: warmupSteps 60 and decaySteps 41 are more than steps 100;"
        " shorten them to 100 in all, or raise steps",
    ),
    "a window of one": ({"guard": {"window": 1}}, "guard.window: 1 is too small; use 2 or more"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(json.dumps(json.loads(to_json(STAGE)) | changes))
    assert str(caught.value) == message
