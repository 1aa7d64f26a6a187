"""What the API server refuses at admission: each row says which part of the manifest, and the words a user reads."""

import json
from typing import Any, Final

import pytest
from kubernetes import client

from tests.api.apiserver import ApiServer
from tests.api.jobs import GONE, job, stage
from tests.api.refusal import Row, refusal

pytestmark = pytest.mark.api

SIZES: Final = {"layers": 4, "hidden": 512, "heads": 8, "kvHeads": 4, "ffn": 1024, "vocab": 4096}
P: Final = "stages.0.parallel"
ONE_NODE: Final = {"min": 1, "max": 1, "gpusPerNode": 8}
EIGHT_NODES: Final = {"min": 8, "max": 8, "gpusPerNode": 8}


def inline(**sizes: int) -> dict[str, Any]:
    """A change of the job to a model given by its sizes."""
    return {"model": {"config": SIZES | sizes}}


# Changes to the valid job; then what the message must hold: the field, the value and the cure.
REFUSED: Final[dict[str, Row]] = {
    "an unknown preset": (
        {"model.preset": "internlm2-9b"},
        ("spec.model.preset", '"internlm2-9b"', 'supported values: "internlm2-tiny"'),
    ),
    "no model": ({"model": {}}, ("spec.model", "neither preset nor config", "set exactly one")),
    "preset and config": (
        {"model.config": SIZES},
        ("spec.model", "both preset and config", "set exactly one"),
    ),
    "weights of a stage that is still to run": (
        {"model.initFrom": "pretrain"},
        ("spec.model.initFrom", "model.initFrom pretrain is a stage of this job", "name a stage of other weights"),
    ),
    "no section model": ({"model": GONE}, ("spec.model", "Required value")),
    "hidden that heads do not divide": (
        inline(hidden=500),
        ("spec.model.config.hidden", "hidden 500", "heads 8", "multiple of 16"),
    ),
    "an odd head size": (inline(hidden=520), ("spec.model.config.hidden", "hidden 520", "multiple of 16")),
    "kv heads that do not divide the heads": (
        inline(kvHeads=3),
        ("spec.model.config.kvHeads", "kvHeads 3", "heads 8", "divisor of 8"),
    ),
    "a vocabulary of one": (inline(vocab=1), ("spec.model.config.vocab", "greater than or equal to 8")),
    "a model size that is missing": (
        {"model": {"config": {k: v for k, v in SIZES.items() if k != "ffn"}}},
        ("spec.model.config.ffn", "Required value"),
    ),
    "tensor that does not divide the kv heads of a preset": (
        {f"{P}.tensor": 12, f"{P}.zero.shard": 1, "nodes": {"min": 3, "max": 3, "gpusPerNode": 8}},
        ("stage pretrain", "parallel.tensor 12", "kvHeads 8", "divisor of 8, or a multiple of it that divides 32"),
    ),
    "tensor that does not divide inline kv heads": (
        {**inline(), f"{P}.tensor": 16, f"{P}.zero.shard": 1},
        ("stage pretrain", "parallel.tensor 16", "kvHeads 4", "divisor of 4"),
    ),
    "tensor that does not divide the vocabulary": (
        inline(vocab=4097),
        ("parallel.tensor 2", "vocab 4097", "divisor of 4097"),
    ),
    "tensor that does not divide the feed-forward width": (
        inline(ffn=1023),
        ("parallel.tensor 2", "ffn 1023", "divisor of 1023"),
    ),
    "tensor zero": ({f"{P}.tensor": 0}, ("stages[0].parallel.tensor", "greater than or equal to 1")),
    "a pipeline of more stages than layers": (
        {**inline(layers=3), f"{P}.pipeline": 4, f"{P}.zero.shard": 1},
        ("stage pretrain", "pipeline 4 with 1F1B makes 4 stages", "3 layers", "use pipeline 3 or less"),
    ),
    "two stages a rank of more than the layers": (
        {f"{P}.pipeline": 32, f"{P}.zero.shard": 1, f"{P}.schedule": "ZBVZeroBubble", "nodes": EIGHT_NODES},
        ("stage pretrain", "pipeline 32 with ZBVZeroBubble makes 64 stages", "32 layers", "use pipeline 16 or less"),
    ),
    "a schedule that is unknown": (
        {f"{P}.schedule": "DualPipe"},
        ("stages[0].parallel.schedule", '"DualPipe"', '"GPipe", "1F1B"'),
    ),
    "ZeRO 2 under a pipeline": (
        {f"{P}.pipeline": 2, f"{P}.zero": {"stage": 2, "shard": 4}},
        ("stages[0].parallel.zero.stage", "stage 2", "pipeline 2", "use 1 or 3"),
    ),
    "ZeRO 3 with a zero bubble": (
        {f"{P}.pipeline": 2, f"{P}.zero": {"stage": 3, "shard": 4}, f"{P}.schedule": "ZBVZeroBubble"},
        ("stages[0].parallel.zero.stage", "stage 3", "ZBVZeroBubble", "use 1, or schedule 1F1B"),
    ),
    "compile with a zero bubble": (
        {f"{P}.pipeline": 2, f"{P}.zero.shard": 4, f"{P}.compile": True, f"{P}.schedule": "InterleavedZeroBubble"},
        ("stages[0].parallel.compile", "InterleavedZeroBubble", "use false, or schedule 1F1B"),
    ),
    "selective recompute of what is compiled": (
        {f"{P}.compile": True, f"{P}.recompute": "Selective"},
        ("stages[0].parallel.recompute", "Selective", "use None or Full, or compile false"),
    ),
    "more than all layers": (
        {f"{P}.recomputeFraction": 1.5},
        ("stages[0].parallel.recomputeFraction", "less than or equal to 1"),
    ),
    "fewer micro-batches than pipeline ranks": (
        {
            f"{P}.pipeline": 8,
            f"{P}.zero.shard": 1,
            f"{P}.microBatch": 256,
            "nodes": {"min": 2, "max": 2, "gpusPerNode": 8},
        },
        ("stage pretrain", "pipeline 8 has only 4 micro-batches", "use a globalBatchTokens of 8388608 or more"),
    ),
    "rounds of different lengths": (
        {
            f"{P}.pipeline": 4,
            f"{P}.zero.shard": 1,
            f"{P}.schedule": "Interleaved1F1B",
            "nodes": ONE_NODE,
            "stages.0.globalBatchTokens": 4096 * 9,
        },
        ("stage pretrain", "Interleaved1F1B cannot go round pipeline 4 with 9", "multiple of 16384, or schedule 1F1B"),
    ),
    "an exchange of heads that context does not hold": (
        {f"{P}.context": 2, f"{P}.ulysses": 4, f"{P}.zero.shard": 1},
        ("stages[0].parallel.ulysses", "parallel.ulysses 4 does not divide", "context 2", "another divisor of 2"),
    ),
    "an exchange of parts of KV heads": (
        {f"{P}.tensor": 8, f"{P}.context": 2, f"{P}.ulysses": 2, f"{P}.zero.shard": 1},
        ("stage pretrain", "parallel.ulysses 2", "1 of 8 at tensor 8", "is a ring"),
    ),
    "ZeRO stage 4": ({f"{P}.zero.stage": 4}, ("stages[0].parallel.zero.stage", "4", "supported values", "3")),
    "a recompute that is unknown": (
        {f"{P}.recompute": "Some"},
        ("stages[0].parallel.recompute", '"Some"', '"None", "Selective", "Full"'),
    ),
    "ranks at nodes.min that do not divide": (
        {"nodes.min": 3, "nodes.max": 4},
        ("nodes.min 3 x 8 GPUs = 24 ranks", "tensor 2", "zero.shard 8", "use a multiple of 16 ranks"),
    ),
    "ranks at nodes.max that do not divide": (
        {"nodes.max": 5},
        ("nodes.max 5 x 8 GPUs = 40 ranks", "tensor 2", "zero.shard 8", "use a multiple of 16 ranks"),
    ),
    "fewer ranks than the layout needs": (
        {"nodes": {"min": 1, "max": 1, "gpusPerNode": 4}},
        ("nodes.min 1 x 4 GPUs = 4 ranks", "use a multiple of 16 ranks or smaller degrees"),
    ),
    "a batch that does not divide at nodes.min": (
        {"stages.0.globalBatchTokens": 4096 * 12},
        ("globalBatchTokens 49152", "data 8 = 32768 at nodes.min 2", "use a multiple of 32768"),
    ),
    "a batch that does not divide at nodes.max": (
        {"stages.0.globalBatchTokens": 4096 * 8},
        ("globalBatchTokens 32768", "data 16 = 65536 at nodes.max 4", "use a multiple of 65536"),
    ),
    "a batch that the micro-batch does not divide": (
        {f"{P}.microBatch": 3},
        ("globalBatchTokens 4194304", "microBatch 3", "use a multiple of"),
    ),
    "a batch of more than a gibi of tokens": (
        {"stages.0.globalBatchTokens": 2**31},
        ("stages[0].globalBatchTokens", "less than or equal to 1073741824"),
    ),
    "min above max": (
        {"nodes.min": 6},
        ("spec.nodes.min", "nodes.min 6 is above nodes.max 4", "lower nodes.min or raise nodes.max"),
    ),
    "no nodes": ({"nodes.min": 0}, ("spec.nodes.min", "greater than or equal to 1")),
    "more nodes than a cluster has": ({"nodes.max": 6000}, ("spec.nodes.max", "less than or equal to 5000")),
    "a fraction of a node": ({"nodes.min": 1.5}, ("spec.nodes.min", "must be of type integer")),
    "a hundred spares": ({"nodes.spares": 100}, ("spec.nodes.spares", "less than or equal to 64")),
    "nodes without max": ({"nodes.max": GONE}, ("spec.nodes.max", "Required value")),
    "an S3 checkpoint without a Secret": (
        {"checkpoint.secretName": GONE},
        ("checkpoint.secretName is missing", "s3://bucket/run", "AWS_ACCESS_KEY_ID"),
    ),
    "S3 data without a Secret": (
        {"checkpoint": {"url": "file:///mnt/run"}},
        ("data at s3://bucket/corpus", "checkpoint.secretName is missing", "name the Secret"),
    ),
    "an S3 source without a Secret": (
        {
            "checkpoint": {"url": "file:///mnt/run"},
            "stages.0.data": {"sources": [{"url": "file:///a"}, {"url": "s3://bucket/b"}]},
        },
        ("data at s3://bucket/b", "checkpoint.secretName is missing", "name the Secret"),
    ),
    "a checkpoint URL of an unknown scheme": (
        {"checkpoint.url": "gs://bucket/run"},
        ("spec.checkpoint.url", "gs://bucket/run", "write s3://BUCKET/PATH or file:///PATH"),
    ),
    "a checkpoint URL that is a path": (
        {"checkpoint.url": "/mnt/run"},
        ("spec.checkpoint.url", "/mnt/run", "file:///PATH"),
    ),
    "a file URL with a host": (
        {"checkpoint.url": "file://mnt/run"},
        ("spec.checkpoint.url", "file://mnt/run", "file:///PATH"),
    ),
    "an S3 URL without a bucket": (
        {"checkpoint.url": "s3:///run"},
        ("spec.checkpoint.url", "s3:///run", "s3://BUCKET"),
    ),
    "data of an unknown scheme": (
        {"stages.0.data.url": "https://example.com/corpus"},
        ("stages[0].data.url", "https://example.com/corpus", "write s3://BUCKET/PATH"),
    ),
    "no data": (
        {"stages.0.data": {}},
        ("stages[0].data", "neither url nor sources", "set exactly one"),
    ),
    "a url and sources": (
        {"stages.0.data.sources": [{"url": "s3://bucket/b"}]},
        ("stages[0].data", "both url s3://bucket/corpus and sources", "set exactly one"),
    ),
    "a source of an unknown scheme": (
        {"stages.0.data": {"sources": [{"url": "s3://bucket/a"}, {"url": "ftp://b"}]}},
        ("stages[0].data.sources[1].url", "ftp://b", "write s3://BUCKET/PATH"),
    ),
    "a source without weight": (
        {"stages.0.data": {"sources": [{"url": "s3://bucket/a", "weight": 0}]}},
        ("stages[0].data.sources[0].weight", "0", "greater than or equal to 1"),
    ),
    "a weight that is a fraction": (
        {"stages.0.data": {"sources": [{"url": "s3://bucket/a", "weight": 0.7}]}},
        ("stages[0].data.sources[0].weight", "must be of type integer"),
    ),
    "a source of documents of no length": (
        {"stages.0.data": {"sources": [{"url": "s3://b/c", "minDocumentTokens": 9, "maxDocumentTokens": 8}]}},
        ("data.sources[0].maxDocumentTokens", "8 is below minDocumentTokens 9", "use 9 or more"),
    ),
    "thirty-three sources": (
        {"stages.0.data": {"sources": [{"url": f"s3://bucket/{i}"} for i in range(33)]}},
        ("stages[0].data.sources", "must have at most 32 items"),
    ),
    "an endless URL": ({"checkpoint.url": "s3://b/" + "x" * 600}, ("spec.checkpoint.url", "may not be more than 512")),
    "a checkpoint every zero steps": ({"checkpoint.everySteps": 0}, ("checkpoint.everySteps", "greater than or equal")),
    "keeping one checkpoint only": ({"checkpoint.keep": 1}, ("checkpoint.keep", "greater than or equal to 2")),
    "a kept checkpoint that is never written": (
        {"checkpoint.everySteps": 50, "checkpoint.keepEverySteps": 70},
        ("checkpoint.keepEverySteps", "70 is not a multiple of everySteps 50", "use a multiple of 50, or 0 for none"),
    ),
    "a copy in memory every minus one steps": (
        {"checkpoint.memoryEverySteps": -1},
        ("checkpoint.memoryEverySteps", "greater than or equal to 0"),
    ),
    "no stages": ({"stages": []}, ("spec.stages", "at least 1 items")),
    "seventeen stages": (
        {"stages": [stage(name=f"s{i}") for i in range(17)]},
        ("spec.stages", "must have at most 16 items"),
    ),
    "two stages of one name": (
        {"stages": [stage(), stage()]},
        ("stage pretrain", "the name pretrain more than once", "give each stage its own name"),
    ),
    "a stage name that is no folder": (
        {"stages.0.name": "../up"},
        ("stages[0].name", '"../up"', "should match"),
    ),
    "a stage of an unknown kind": ({"stages.0.kind": "Dream"}, ("stages[0].kind", '"Dream"', '"Pretrain"')),
    "no steps": ({"stages.0.steps": 0}, ("stages[0].steps", "greater than or equal to 1")),
    "a sequence that tensor does not divide": (
        {"stages.0.sequenceLength": 4095},
        ("stages[0].sequenceLength", "4095", "parallel.tensor 2", "use a multiple of 2"),
    ),
    "a sequence without two chunks for each rank of a ring": (
        {"stages.0.sequenceLength": 4098, f"{P}.tensor": 1, f"{P}.context": 2, f"{P}.zero.shard": 1},
        ("stages[0].sequenceLength", "4098 has no two equal chunks", "ring of 2", "use a multiple of 4"),
    ),
    "a warm-up that is longer than the stage": (
        {"stages.0.optimizer": {"warmupSteps": 101}},
        ("stages[0].optimizer.warmupSteps", "101 is above steps 100", "raise steps"),
    ),
    "a least rate above the highest": (
        {"stages.0.optimizer": {"lr": 0.001, "minLr": 0.01}},
        ("stages[0].optimizer.minLr", "0.01 is above optimizer.lr 0.001", "lower minLr"),
    ),
    "WSD without a decay": (
        {"stages.0.optimizer": {"schedule": "WSD"}},
        ("optimizer.decaySteps", "decaySteps is 0 with schedule WSD", "about a tenth of steps"),
    ),
    "a decay of a cosine": (
        {"stages.0.optimizer": {"decaySteps": 10}},
        ("optimizer.decaySteps", "decaySteps is 10 with schedule Cosine", "0 with the others"),
    ),
    "a warm-up and a decay that are longer than the stage": (
        {"stages.0.optimizer": {"schedule": "WSD", "warmupSteps": 60, "decaySteps": 41}},
        ("optimizer.decaySteps", "41 with warmupSteps 60 is more than steps 100", "use at most 40"),
    ),
    "an unknown schedule": (
        {"stages.0.optimizer": {"schedule": "Step"}},
        ("optimizer.schedule", '"Step"', '"Cosine", "WSD", "Constant"'),
    ),
    "an unknown answer to a spike": (
        {"stages.0.guard": {"spike": "Pray"}},
        ("stages[0].guard.spike", '"Pray"', '"RollBack", "Report", "Off"'),
    ),
    "a spike over too few losses": (
        {"stages.0.guard": {"window": 2}},
        ("stages[0].guard.window", "greater than or equal to 8"),
    ),
    "a rate of zero": ({"stages.0.optimizer": {"lr": 0}}, ("optimizer.lr", "greater than 0")),
    "a beta of one": ({"stages.0.optimizer": {"beta2": 1}}, ("optimizer.beta2", "less than 1")),
    "a second failing stage, which is named": (
        {"stages": [stage(), stage(name="long", globalBatchTokens=4096 * 8)]},
        ("stage long", "globalBatchTokens 32768", "use a multiple of 65536"),
    ),
    "an unknown health mode": ({"health": {"mode": "Off"}}, ("spec.health.mode", '"Off"', '"Enforce", "Observe"')),
    "an unknown node check": (
        {"health": {"check": {"firstStart": "Deep"}}},
        ("spec.health.check.firstStart", '"Deep"', '"None", "Quick", "Full"'),
    ),
    "a hang that every step is": (
        {"health": {"hang": {"multiple": 1.5}}},
        ("spec.health.hang.multiple", "greater than or equal to 2"),
    ),
    "a hang of a second": (
        {"health": {"hang": {"floorSeconds": 1}}},
        ("spec.health.hang.floorSeconds", "greater than or equal to 10"),
    ),
    "more than all nodes": ({"health": {"maxCordonPercent": 101}}, ("maxCordonPercent", "less than or equal to 100")),
    "negative restarts": ({"failurePolicy": {"maxRestarts": -1}}, ("maxRestarts", "greater than or equal to 0")),
    "a window of a second": ({"failurePolicy": {"windowSeconds": 1}}, ("windowSeconds", "greater than or equal to 60")),
    "a GPU that is no extended resource": (
        {"nodes.resourceName": "gpu"},
        ("nodes.resourceName", "gpu is no extended resource", "for example nvidia.com/gpu"),
    ),
    "a manager without a domain": (
        {"managedBy": "somebody"},
        ("spec.managedBy", "somebody is not DOMAIN/NAME", "training.internlm.io/operator"),
    ),
    "a time to live before the end": (
        {"ttlSecondsAfterFinished": -1},
        ("spec.ttlSecondsAfterFinished", "-1", "greater than or equal to 0"),
    ),
    "a name that is no label": (
        {"metadata.name": "n" * 64},
        ("metadata.name", "64 characters", "use at most 63"),
    ),
    "a name with a dot": ({"metadata.name": "a.b"}, ("metadata.name a.b", "start with a letter")),
    "a name that starts with a digit": ({"metadata.name": "7b"}, ("metadata.name 7b", "start with a letter")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, admin: client.ApiClient) -> None:
    """The message holds field, value and cure."""
    changes, expected = REFUSED[name]
    message = refusal(admin, job(changes))
    assert [part for part in expected if part not in message] == [], message


def test_kubectl_apply_shows_one_line_with_field_value_and_cure(api: ApiServer) -> None:
    done = api.kubectl("apply", "-f", "-", stdin=json.dumps(job({"nodes.min": 8})), check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'The InternLM2Job "job" is invalid: spec.nodes.min: Invalid value: '
        "nodes.min 8 is above nodes.max 4; lower nodes.min or raise nodes.max"
    )


def test_kubectl_apply_names_a_misspelled_field(api: ApiServer) -> None:
    done = api.kubectl("apply", "-f", "-", stdin=json.dumps(job({"checkpoint.evrySteps": 5})), check=False)
    assert done.returncode == 1
    assert 'unknown field "spec.checkpoint.evrySteps"' in done.stderr
