"""InternLM2Job reads an object of the API server and hands each stage to the trainer."""

from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.api import model
from internlm2_operator.api.job import InternLM2Job, refusal
from internlm2_spec import config, presets
from tests.api.jobs import job, stage

META = {"uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 3, "resourceVersion": "17"}


def read(changes: dict[str, object] | None = None) -> InternLM2Job:
    """Read the valid job, changed, as the API server holds it."""
    body = job(changes)
    return InternLM2Job.from_object(body | {"metadata": body["metadata"] | META})


def test_identity_is_read() -> None:
    one = read()
    assert (one.key, one.uid, one.generation, one.resource_version, one.deleting) == (
        "default/job",
        "u",
        3,
        "17",
        False,
    )


def test_an_object_that_is_being_deleted_says_so() -> None:
    assert read({"metadata.name": "job"}).deleting is False
    body = job()
    meta = body["metadata"] | META | {"deletionTimestamp": "2026-01-02T03:04:06Z"}
    assert InternLM2Job.from_object(body | {"metadata": meta}).deleting is True


def test_the_trainer_reads_what_a_stage_is_written_as() -> None:
    one = read({"stages": [stage(name="a"), stage(name="b")], "checkpoint.everySteps": 7})
    first, second = one.stage_config(0), one.stage_config(1)
    assert config.parse(config.to_json(second)) == second
    assert (first.init_from, second.init_from) == (None, "a")
    assert second.checkpoint == config.Checkpoint(url="s3://bucket/run", every_steps=7)
    assert second.parallel == config.Parallel(tensor=2, zero=config.Zero(shard=8))


def test_the_first_stage_starts_from_imported_weights() -> None:
    one = read({"stages": [stage(name="a"), stage(name="b")], "model.initFrom": "imported"})
    assert [one.stage_config(i).init_from for i in (0, 1)] == ["imported", "a"]


def test_defaults_of_the_api_are_those_of_the_trainer() -> None:
    bare = {"name": "a", "data": {"url": "s3://b/c"}, "sequenceLength": 8, "globalBatchTokens": 1024, "steps": 1}
    made = read({"stages": [bare]}).stage_config(0)
    assert (made.optimizer, made.parallel, made.seed) == (config.Optimizer(), config.Parallel(), 1024)


def test_every_preset_is_known_to_the_api() -> None:
    assert set(presets.PRESETS) == set(model.PresetName.__args__)  # type: ignore[attr-defined]
    assert read({"model.preset": "internlm2-20b"}).spec.resolved_model() == presets.PRESETS["internlm2-20b"]


def test_an_object_of_another_shape_is_refused_with_its_path() -> None:
    with pytest.raises(config.Refused, match="stages"):
        read({"stages": "none"})


def test_a_refusal_is_told_once_beside_the_other_conditions() -> None:
    refused, now = config.Refused("stages.0.kind", wrong="'SFT'", right="upgrade"), datetime(2026, 1, 2, tzinfo=UTC)
    other = {"type": "Complete", "status": "False", "reason": "InProgress", "message": ""}
    body = job() | {"metadata": META, "status": {"conditions": [other]}}
    told = refusal(body, refused, now)
    assert told is not None
    assert [c["type"] for c in told["conditions"]] == ["Validated", "Complete"]
    assert told["conditions"][0]["message"] == "stages.0.kind: 'SFT'; upgrade"
    assert refusal(body | {"status": told}, refused, now + timedelta(hours=1)) is None


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    assert read({"checkpoint.fromTheFuture": 1}).spec.checkpoint.keep == 5


def test_a_volume_is_passed_on_unchanged() -> None:
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "x"}}
    assert read({"template": {"volumes": [volume]}}).spec.template.volumes[0].to_object() == volume
