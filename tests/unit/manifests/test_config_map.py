"""The configuration of a stage."""

from internlm2_operator.manifests.config_map import config_map
from internlm2_spec.config import parse
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import job


def test_config_map_of_the_first_stage() -> None:
    assert_golden("config_map", config_map(job(), 0))


def test_trainer_reads_back_what_the_operator_wrote() -> None:
    made = job(stages=2)
    assert parse(config_map(made, 1)["data"]["job.json"]) == made.stage_config(1)
